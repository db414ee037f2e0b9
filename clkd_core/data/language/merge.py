"""DriveLM as regular and CODA-LM as corner cases, in one set of the form that training reads.

``<out>/<version>/`` holds ``clkd_keyframes.jsonl``, links to the folders of the images below
``images/``, and ``manifest.json``. It appears whole or not at all, and the same inputs and seed
give the same bytes. A scene is in one split only.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.language.files.images import ImageLinks
from clkd_core.data.language.manifest import MANIFEST, build_manifest
from clkd_core.data.language.shares import assign_splits, balance_cases, deal_questions
from clkd_core.data.language.sources import Source, load_coda_lm, load_drivelm
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, write_sidecar
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import replace_folder, write_text_atomic
from clkd_core.progress import progress

IMAGES = "images"
"""Folder of the links below the version's."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """What is merged and how.

    Raises:
        ConfigError: a value is out of its range, or there is nothing to merge.
    """

    out: Path
    version: str = "v1.0"
    drivelm: tuple[Path, ...] = ()
    """JSON files, or folders whose ``*.json`` are DriveLM's."""
    coda_lm: tuple[Path, ...] = ()
    """Folders, see :func:`~clkd_core.data.language.coda_lm.find_coda_files`."""
    images: tuple[Path, ...] = ()
    """Where images may lie, looked at before the folders of the annotations and those above."""
    nuscenes: tuple[Path, str] | None = None
    """Root and version of our set of nuScenes; gives DriveLM's keyframes ego state, command,
    future, action, agents and history by their token."""
    val_frac: float = 0.1
    """Share of the scenes that have no split of their own and go to ``val``; of each source."""
    val_scenes: tuple[str, ...] | None = None
    """The scenes that go to ``val`` in place of that share."""
    regular_per_corner: float | None = None
    """Regular questions per corner question of ``train``; the surplus is left out at random."""
    questions_per_keyframe: int | None = None
    """Keyframes of ``train`` with more come several times, each time with other questions."""
    skip_missing: bool = False
    """Go on without the keyframes whose images cannot be used."""
    seed: int = 1
    """Which scenes are in ``val``, what is left out and who asks what follow from it."""

    def __post_init__(self) -> None:
        if not self.drivelm and not self.coda_lm:
            raise ConfigError("neither DriveLM nor CODA-LM is given, expected at least one")
        if not re.fullmatch(r"\w[\w.-]{0,63}", self.version):
            raise ConfigError(f"version is {self.version!r}, expected the name of a folder")
        if not 0.0 <= self.val_frac < 1.0:
            raise ConfigError(f"val_frac is {self.val_frac}, expected 0 <= share < 1")
        ratio, most = self.regular_per_corner, self.questions_per_keyframe
        if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
            raise ConfigError(f"regular_per_corner is {ratio}, expected a number > 0")
        if most is not None and most < 1:
            raise ConfigError(f"questions_per_keyframe is {most}, expected >= 1")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}, expected >= 0")

    def rules(self) -> dict[str, Any]:
        """The values that decide what is in the set, inputs apart."""
        return {
            "seed": self.seed,
            "val_frac": None if self.val_scenes is not None else self.val_frac,
            "val_scenes": None if self.val_scenes is None else sorted(self.val_scenes),
            "regular_per_corner": self.regular_per_corner,
            "questions_per_keyframe": self.questions_per_keyframe,
            "skip_missing": self.skip_missing,
            "nuscenes": None
            if self.nuscenes is None
            else f"{self.nuscenes[0]}:{self.nuscenes[1]}",
        }


@dataclass(frozen=True)
class Merged:
    """What was written."""

    folder: Path
    """``<out>/<version>``."""
    manifest: dict[str, Any]
    sources: tuple[Source, ...]


def merge(config: MergeConfig) -> Merged:
    """Write the set; one that stood there is replaced when the new one is complete.

    Raises:
        DataError: an annotation cannot be used, images are missing and ``skip_missing`` is not
            set, nothing is left to write, or the folder cannot be written or holds anything else
            than such a set.
        ConfigError: a scene of ``val_scenes`` does not exist.
    """
    folder = config.out / config.version
    _refuse_other_folders(folder)
    sources = _load(config)
    for source in sources:
        source.drop_idle_keyframes()
    splits = assign_splits(
        sources, val_frac=config.val_frac, val_scenes=config.val_scenes, seed=config.seed
    )
    thinned = None
    if config.regular_per_corner is not None:
        thinned = balance_cases(
            sources, splits, regular_per_corner=config.regular_per_corner, seed=config.seed
        )
    if not any(source.keyframes for source in sources):
        raise DataError(f"nothing to write to {folder}: no keyframe is left of the annotations")
    manifest = _write(folder, config, sources, splits, thinned)
    return Merged(folder, manifest, tuple(sources))


def _load(config: MergeConfig) -> list[Source]:
    sources = []
    if config.drivelm:
        sources.append(
            load_drivelm(
                config.drivelm,
                config.images,
                nuscenes=config.nuscenes,
                skip_missing=config.skip_missing,
            )
        )
    if config.coda_lm:
        sources.append(
            load_coda_lm(config.coda_lm, config.images, skip_missing=config.skip_missing)
        )
    return sources


def _write(
    folder: Path,
    config: MergeConfig,
    sources: Sequence[Source],
    splits: Mapping[str, str],
    thinned: Mapping[str, int] | None,
) -> dict[str, Any]:
    links = ImageLinks()
    for source in sources:
        source.keyframes = [_linked(k, links, folder / IMAGES) for k in source.keyframes]
    _refuse_inputs_inside(folder, [*links.folders(), *(p for s in sources for p in s.inputs)])
    with replace_folder(folder) as fresh:
        links.make(fresh / IMAGES)
        records = _records(sources, splits, config)
        count = write_sidecar(fresh / SIDECAR, progress(records, desc="merge", unit="records"))
        manifest = build_manifest(
            sources,
            splits,
            version=config.version,
            rules=config.rules(),
            thinned=thinned,
            sidecar=fresh / SIDECAR,
            records=count,
        )
        write_text_atomic(fresh / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _records(
    sources: Sequence[Source], splits: Mapping[str, str], config: MergeConfig
) -> Iterator[dict[str, Any]]:
    """Judging counts every keyframe once, so only those of ``train`` are dealt."""
    most = config.questions_per_keyframe
    for keyframe in (keyframe for source in sources for keyframe in source.keyframes):
        split = splits[keyframe.scene]
        dealt = [keyframe]
        if most is not None and split == "train":
            dealt = list(deal_questions(keyframe, most, config.seed))
        for one in dealt:
            yield keyframe_to_json(one, split=split, root=config.out)


def _linked(keyframe: Keyframe, links: ImageLinks, folder: Path) -> Keyframe:
    paths = {camera: links.place(path, folder) for camera, path in keyframe.image_paths.items()}
    return replace(keyframe, image_paths=paths)


def _refuse_other_folders(folder: Path) -> None:
    """A set is only ever replaced by a set: never a folder that somebody else filled."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds files but no {MANIFEST}, expected a merged set or an empty folder"
        )


def _refuse_inputs_inside(folder: Path, inputs: Sequence[Path]) -> None:
    """What the set is made from must outlive the set that it replaces."""
    place = folder.resolve()
    for path in inputs:
        real = path.resolve()
        if real == place or place in real.parents:
            raise DataError(f"{path} lies in {folder}, which is about to be replaced")
