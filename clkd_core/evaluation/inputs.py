"""What is judged, cut into tasks: a set's scenes, or bags. Each task knows what it is made of."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.bags.files import find_bags
from clkd_core.data.bags.frames import count_image_sets
from clkd_core.data.bags.topics import BagTopics
from clkd_core.data.sidecar import SIDECAR, Keyframes, load_keyframes
from clkd_core.data.sidecar_images import (
    ImageFiles,
    describe_missing,
    leave_out_missing,
    list_image_files,
    refuse_missing,
    stat_image_files,
)
from clkd_core.errors import ConfigError, DataError
from clkd_core.evaluation.config import JudgeConfig
from clkd_core.evaluation.judging.work import BagWork, SceneWork, Work
from clkd_core.metrics.baselines.shuffled import choose_sources
from clkd_core.runtime.shuffled_bags import choose_bag_sources


@dataclass(frozen=True, kw_only=True)
class Task:
    """A piece of work that stands alone."""

    name: str
    """The scene's or the bag's, for people."""
    fingerprint: str
    """Changes with the input, the checkpoint and every option that the outcome depends on."""
    work: Work


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that is judged in one run."""

    what: str
    """For people: the set with version and split, or the bags."""
    tasks: tuple[Task, ...]
    """In the order in which their results are put together."""
    notes: tuple[str, ...] = ()
    """What a reader must know, e.g. that images are missing."""
    keyframes: Keyframes | None = None
    """Of a set: all keyframes, in the order of the tasks."""
    bags: tuple[Path, ...] = ()
    names: BagTopics | None = None
    """Which topic of the bags is what; ours when None."""


def open_set(
    root: Path, version: str | None, split: str, config: JudgeConfig, *, skip_missing: bool
) -> Inputs:
    """A set in sidecar form; every scene is a task.

    Args:
        root: folder of the set.
        version: folder inside it; None takes the only one that has a sidecar.
        split: ``train`` or ``val``.
        config: how it is judged.
        skip_missing: go on without image files that are missing or empty.

    Raises:
        ConfigError: several versions are there and none is named.
        DataError: the set is missing, damaged or empty, or images are missing.
    """
    version = version or find_version(root)
    keyframes = load_keyframes(root, version, split)
    files = stat_image_files(list_image_files(keyframes))
    notes: tuple[str, ...] = ()
    if files.missing:
        if not skip_missing:
            refuse_missing(files)
        notes = (describe_missing(files),)
        keyframes = _lazy(leave_out_missing(keyframes))
        files = stat_image_files(list_image_files(keyframes))
    scenes = keyframes.scenes
    ordered = [i for places in _by_scene(scenes).values() for i in places]
    cutter = _SetCutter(keyframes, files, config)
    tasks = [
        Task(name=scene, fingerprint=cutter.fingerprint(places), work=cutter.work(places))
        for scene, places in _by_scene(scenes).items()
    ]
    return Inputs(
        what=f"{root} {version} {split}",
        tasks=tuple(tasks),
        notes=notes,
        keyframes=keyframes.subset(ordered),
    )


def open_bags(paths: Sequence[Path], names: BagTopics | None, config: JudgeConfig) -> Inputs:
    """Bags and folders of bags; every bag is a task.

    Raises:
        DataError: a bag is missing or damaged, or has no camera images.
    """
    bags = list(dict.fromkeys(bag for path in paths for bag in find_bags(path)))
    for bag in bags:
        count_image_sets(bag, names)  # a wrong bag is found before the model is loaded
    sources = choose_bag_sources(bags, names, seed=config.seed)
    tasks = []
    for bag in bags:
        work = BagWork(bag=bag, names=names, sources=sources[bag])
        tasks.append(Task(name=str(bag), fingerprint=_bag_fingerprint(work, config), work=work))
    what = ", ".join(str(bag) for bag in bags)
    return Inputs(what=what, tasks=tuple(tasks), bags=tuple(bags), names=names)


def find_version(root: Path) -> str:
    """The only folder of a set that has a sidecar.

    Raises:
        ConfigError: there are several.
        DataError: there is none.
    """
    found = sorted(path.parent.name for path in root.glob(f"*/{SIDECAR}"))
    if not found:
        raise DataError(f"{root} has no */{SIDECAR}, expected a set of keyframes")
    if len(found) > 1:
        raise ConfigError(f"{root} holds {', '.join(found)}: name one with --version")
    return found[0]


def _lazy(keyframes: object) -> Keyframes:
    assert isinstance(keyframes, Keyframes)  # what comes from a sidecar stays lazy
    return keyframes


def _by_scene(scenes: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, scene in enumerate(scenes):
        places.setdefault(scene, []).append(place)
    return places


class _SetCutter:
    """Makes tasks out of scenes."""

    def __init__(self, keyframes: Keyframes, files: ImageFiles, config: JudgeConfig) -> None:
        self._keyframes = keyframes
        self._files = files
        self._config = config
        self._labelled = keyframes.action_indices >= 0
        self._sources = _sources_of(keyframes, self._labelled, config.seed)
        with_labels = keyframes.subset(np.flatnonzero(self._labelled))
        self._agents_known = any(keyframe.agents for keyframe in with_labels)

    def work(self, places: Sequence[int]) -> SceneWork:
        return SceneWork(
            keyframes=self._keyframes.subset(places),
            sources=self._keyframes.subset(self._shown(places)),
            agents_known=self._agents_known,
        )

    def fingerprint(self, places: Sequence[int]) -> str:
        """Over the records and the image files of the scene and of what it is shown."""
        shown = self._shown(places)
        digest = _Fingerprint(self._config)
        digest.add([self._agents_known, len(places), len(shown)])
        digest.add_bytes(_records(self._keyframes.subset([*places, *shown])))
        for place in [*places, *shown]:
            sizes, times = (a[place].tolist() for a in (self._files.sizes, self._files.mtimes_ns))
            digest.add([self._files.names[place], sizes, times])
        return digest.hexdigest()

    def _shown(self, places: Sequence[int]) -> list[int]:
        if self._sources is None:
            return []
        return [int(self._sources[place]) for place in places if self._labelled[place]]


def _sources_of(
    keyframes: Keyframes, labelled: NDArray[np.bool_], seed: int
) -> NDArray[np.int64] | None:
    """(N,) whose images each labelled keyframe is shown, a labelled one as well; -1 for others."""
    places = np.flatnonzero(labelled)
    scenes = keyframes.scenes
    chosen = choose_sources([scenes[place] for place in places], seed=seed)
    if chosen is None:
        return None
    sources = np.full(len(keyframes), -1, np.int64)
    sources[places] = places[chosen]
    return sources


def _records(keyframes: Keyframes) -> Iterable[bytes]:
    """The lines of the sidecar, as they stand."""
    starts = keyframes.file.index.starts
    try:
        with keyframes.file.path.open("rb") as file:
            for line in keyframes.lines.tolist():
                file.seek(int(starts[line]))
                yield file.read(int(starts[line + 1] - starts[line]))
    except OSError as err:
        raise DataError(f"cannot read {keyframes.file.path}: {err.strerror or err}") from err


def _bag_fingerprint(work: BagWork, config: JudgeConfig) -> str:
    digest = _Fingerprint(config)
    digest.add(None if work.names is None else asdict(work.names))
    digest.add([[stamp, str(bag), at] for stamp, (bag, at) in work.sources.items()])
    for bag in dict.fromkeys([work.bag, *(bag for bag, _ in work.sources.values())]):
        files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
        stats = [(file.name, file.stat()) for file in files if file.is_file()]
        digest.add([str(bag), [[n, s.st_size, s.st_mtime_ns] for n, s in stats]])
    return digest.hexdigest()


class _Fingerprint:
    """A hash over a config, JSON values and bytes, each with its length."""

    def __init__(self, config: JudgeConfig) -> None:
        self._digest = hashlib.sha256()
        self.add({name: value for name, value in asdict(config).items() if name != "checkpoint"})

    def add(self, value: object) -> None:
        self.add_bytes([json.dumps(value, sort_keys=True, default=str).encode()])

    def add_bytes(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._digest.update(len(part).to_bytes(8, "little"))
            self._digest.update(part)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
