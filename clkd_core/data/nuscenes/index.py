"""All scenes of a nuScenes version -> the sidecar, once.

Scenes are looked up here and computed in other processes, each leaving a file of its own; an
interrupted run goes on with those that are missing, unless the tables, the images or the options
have changed meanwhile. The sidecar appears when all are there.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.nuscenes.devkit import open_nuscenes
from clkd_core.data.nuscenes.motion import CanBus, open_can_bus
from clkd_core.data.nuscenes.scene_rows import SceneRows, collect_scene, image_name
from clkd_core.data.nuscenes.scenes import build_keyframes, count_gaps, load_egos
from clkd_core.data.nuscenes.splits import split_scenes
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, write_sidecar_lines
from clkd_core.data.sidecar_images import (
    SKIP_WORD,
    ImageFiles,
    refuse_missing,
    stat_image_files,
)
from clkd_core.data.world.workers import worker_pool
from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.progress import progress
from clkd_core.types import CAMERAS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_FORMAT = 1
"""Raised when a change makes unfinished work of earlier versions unusable."""
_AHEAD = 3
"""Scenes per process that are looked up before one is done; each is about a megabyte."""


@dataclass(frozen=True, kw_only=True)
class IndexCounts:
    """What was indexed."""

    sidecar: Path
    scenes: int
    keyframes: int
    train: int
    """Keyframes of the split."""
    val: int
    labelled: int
    """Keyframes with an action, that is with 3 s of future."""
    from_can: int
    """Keyframes whose speed comes from the CAN bus; the others' from poses."""
    gaps: int
    """Pairs of keyframes that are not 0.5 s apart; no future goes across."""
    missing_images: int
    """Image files that were left out."""
    without_image: int
    """Keyframes that were left out with them."""

    def describe(self) -> str:
        """In one sentence."""
        speeds = f"{self.from_can} speeds from the CAN bus, the others from poses"
        text = (
            f"{self.scenes} scenes, {self.keyframes} keyframes ({self.train} train, "
            f"{self.val} val), {self.labelled} with a label, {speeds}"
        )
        if self.gaps:
            text += f", {self.gaps} gaps without a trajectory"
        if self.missing_images:
            text += (
                f", {self.missing_images} missing images left out and with them "
                f"{self.without_image} keyframes"
            )
        return text


def index_nuscenes(
    root: Path,
    version: str,
    *,
    out: Path | None = None,
    skip_missing: bool = False,
    senna_questions: bool = False,
    workers: int | None = None,
) -> IndexCounts:
    """Write the sidecar of a version.

    Args:
        root: folder of the data set.
        version: its version folder, e.g. ``v1.0-trainval``.
        out: where the sidecar goes in place of ``root``, for sets that cannot be written; it gets
            links to the set's image folders.
        skip_missing: leave out images whose files are missing.
        senna_questions: ask Senna's questions of every keyframe.
        workers: processes; one for every core when None.

    Raises:
        ConfigError: the devkit is not installed.
        DataError: the tables cannot be used, images are missing (the first ten are named), none
            is there at all, or the sidecar cannot be written.
    """
    nusc = open_nuscenes(root, version)
    files = stat_image_files(_image_files(nusc, root))
    if not skip_missing or not files.sizes.any():
        refuse_missing(files, way_out="" if skip_missing else SKIP_WORD)
    if not files.count:
        raise DataError(f"{root / version}: no keyframe has an image of {', '.join(CAMERAS)}")
    base = root if out is None else out
    job = _Job(
        base=base,
        can_bus=open_can_bus(root),
        senna_questions=senna_questions,
        has_boxes=bool(nusc.sample_annotation),
    )
    missing = frozenset(os.path.relpath(name, root) for name in files.missing)
    if out is not None:
        _link_images(root, out, files)
    work = _work_folder(base, version, _work_key(root, version, job, missing))
    splits = split_scenes(root, version, [scene["name"] for scene in nusc.scene])

    def look_up(i: int) -> _Task:
        rows = _without(collect_scene(nusc, nusc.scene[i]), missing)
        return _Task(rows, splits[rows.name], job, _done_file(work, i))

    todo = [i for i in range(len(nusc.scene)) if not _done_file(work, i).is_file()]
    _run_scenes(todo, look_up, min(workers or os.cpu_count() or 1, len(todo)))
    counts = _gather(work, len(nusc.scene), base / version / SIDECAR, len(missing))
    shutil.rmtree(work, ignore_errors=True)
    return counts


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What a process must know of the whole."""

    base: Path
    """What image paths are relative to."""
    can_bus: CanBus | None
    senna_questions: bool
    has_boxes: bool
    """Whether anybody annotated agents; nobody did in nuScenes' test set."""


@dataclass(frozen=True)
class _Task:
    """One scene, as it is sent to a process."""

    rows: SceneRows
    split: str
    job: _Job
    path: Path
    """Of the file that it leaves."""


def _image_files(nusc: "NuScenes", root: Path) -> list[list[str]]:
    """N times C paths of all keyframes' images."""
    rows = []
    for sample in nusc.sample:
        tokens = [sample["data"].get(camera) for camera in CAMERAS]
        names = [t and image_name(nusc.get("sample_data", t)) for t in tokens]
        rows.append([os.path.join(root, name) if name else "" for name in names])
    return rows


def _link_images(root: Path, out: Path, files: ImageFiles) -> None:
    """Let the images' paths below ``root`` be paths below ``out``, too."""
    tops = {Path(os.path.relpath(n, root)).parts[0] for row in files.names for n in row if n}
    for top in sorted(tops):
        link, target = out / top, (root / top).resolve()
        try:
            out.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink() and not link.exists():
                link.symlink_to(target, target_is_directory=True)
        except OSError as err:
            raise DataError(f"cannot write {link}: {err.strerror or err}") from err
        if link.resolve() != target:
            raise DataError(f"{link} is there and is not {target}, expected nothing or a link")


def _work_key(root: Path, version: str, job: _Job, missing: frozenset[str]) -> str:
    """Changes when unfinished work would not be what is wanted now."""
    sources = [root / version] + ([job.can_bus.folder] if job.can_bus else [])
    files = [path for folder in sources for path in sorted(folder.glob("*.json"))]
    parts = {
        "format": _FORMAT,
        "files": [[path.name, *_size_and_time(path)] for path in files],
        "missing": hashlib.sha256("\n".join(sorted(missing)).encode()).hexdigest(),
        "senna_questions": job.senna_questions,
    }
    return json.dumps(parts, sort_keys=True)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _work_folder(base: Path, version: str, key: str) -> Path:
    work = base / version / f".{SIDECAR}.growing"
    mark = work / "work.json"
    try:
        if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        what = f"cannot write {work}: {err.strerror or err}"
        raise DataError(f"{what}; `clkd data nuscenes --out` writes elsewhere") from err
    write_text_atomic(mark, key)
    return work


def _without(rows: SceneRows, missing: frozenset[str]) -> SceneRows:
    images = tuple(
        {camera: image for camera, image in images.items() if image[0] not in missing}
        for images in rows.images
    )
    return replace(rows, images=images)


def _run_scenes(todo: Sequence[int], look_up: Callable[[int], _Task], workers: int) -> None:
    """Leave a file for each of the scenes."""
    if workers <= 1:
        done: Iterator[int] = (_write_scene(look_up(i)) for i in todo)
    else:
        done = _in_processes(map(look_up, todo), workers)
    for _ in progress(done, total=len(todo), desc="nuScenes", unit="scenes"):
        pass


def _in_processes(tasks: Iterator[_Task], workers: int) -> Iterator[int]:
    """Yields once for every scene that is done; few are looked up ahead of their turn."""
    try:
        with worker_pool(workers) as pool:
            running: set[Future[int]] = set()
            for task in tasks:
                running.add(pool.submit(_write_scene, task))
                if len(running) >= _AHEAD * workers:
                    running = yield from _finish(running)
            while running:
                running = yield from _finish(running)
    except BrokenProcessPool as err:
        raise DataError("a process was killed, probably for want of memory; run it again") from err


def _finish(running: set[Future[int]]) -> Generator[int, None, set[Future[int]]]:
    """Waits for one of them at least; yields for each that is done, returns the others."""
    finished, left = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        yield future.result()
    return left


def _done_file(work: Path, number: int) -> Path:
    return work / f"{number:06}.jsonl"


def _write_scene(task: _Task) -> int:
    """A line of counts, then a line for each keyframe; returns how many keyframes there are."""
    rows, job = task.rows, task.job
    egos = load_egos(rows, job.can_bus)
    keyframes = build_keyframes(rows, job.base, egos)
    if job.senna_questions:
        keyframes = [_with_questions(keyframe, job.has_boxes) for keyframe in keyframes]
    counts = {
        task.split: len(keyframes),
        "labelled": sum(k.action is not None for k in keyframes),
        "from_can": sum(
            told and bool(images) for told, images in zip(egos.from_can, rows.images, strict=True)
        ),
        "gaps": count_gaps(rows),
        "without_image": len(rows.tokens) - len(keyframes),
    }
    records = [keyframe_to_json(k, split=task.split, root=job.base) for k in keyframes]
    lines = [json.dumps(line) for line in [counts, *records]]
    write_text_atomic(task.path, "\n".join(lines) + "\n")
    return len(keyframes)


def _with_questions(keyframe: Keyframe, has_boxes: bool) -> Keyframe:
    from clkd_core.data.senna.questions import build_questions

    return replace(keyframe, questions=build_questions(keyframe, agents_known=has_boxes))


def _gather(work: Path, scenes: int, sidecar: Path, missing_images: int) -> IndexCounts:
    totals: Counter[str] = Counter()

    def lines() -> Iterator[bytes]:
        for number in range(scenes):
            with _done_file(work, number).open("rb") as file:
                totals.update(json.loads(file.readline()))
                yield from (line.rstrip(b"\n") for line in file)

    keyframes = write_sidecar_lines(sidecar, lines())
    names = ("train", "val", "labelled", "from_can", "gaps", "without_image")
    return IndexCounts(
        sidecar=sidecar,
        scenes=scenes,
        keyframes=keyframes,
        missing_images=missing_images,
        **{name: totals[name] for name in names},
    )
