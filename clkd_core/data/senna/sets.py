"""Sets of ours made from Senna's files or with Senna's questions; pictures stay where they are.

``<out>/<version>/`` holds the sidecar and ``images``, a link to the folder of the pictures.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.senna.layout import read_records
from clkd_core.data.senna.reading import (
    PictureFolder,
    SampleCounts,
    SennaFile,
    SennaSample,
    build_keyframe,
    count_samples,
    load_samples,
)
from clkd_core.data.senna.writing import merge_questions, survey_scenes
from clkd_core.data.sidecar import (
    SIDECAR,
    SPLITS,
    keyframe_to_json,
    load_keyframes,
    write_sidecar,
)
from clkd_core.data.sidecar_index import index_path, load_index
from clkd_core.errors import DataError
from clkd_core.files import replace_folder
from clkd_core.progress import progress

IMAGES = "images"
"""The link beside the sidecar."""
_SHOWN = 5


@dataclass(frozen=True)
class ImportCounts:
    """What became of the files of one set."""

    keyframes: Mapping[str, int]
    """By split."""
    samples: Mapping[str, SampleCounts]
    """By split, what the files say."""
    missing: tuple[str, ...]
    """Pictures that are not there."""


def import_senna(
    files: Mapping[str, Path], images: Path, out: Path, version: str, *, skip_missing: bool = False
) -> ImportCounts:
    """Bring files in Senna's layout into our form.

    Args:
        files: one per split.
        images: folder of the pictures; nothing outside of it is looked at.
        out: root of the set.
        version: folder of the set below ``out``; one there is replaced.
        skip_missing: go on without pictures that are missing.

    Raises:
        DataError: a file or record cannot be used, a sample is in both splits, pictures are
            missing, or the folder cannot be written.
    """
    folder = _refuse_foreign(out, version)
    pictures = PictureFolder(images)
    read = {split: _read(path) for split, path in files.items()}
    _refuse_in_both(read)
    missing: list[str] = []
    found = {
        split: list(_found_keyframes(file, pictures, folder / IMAGES, missing))
        for split, file in read.items()
    }
    if missing and not skip_missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"{len(missing)} pictures are missing or empty below {images}: "
            f"{', '.join(missing[:_SHOWN])}{more}; --skip-missing goes on without them"
        )
    if not any(found.values()):
        raise DataError(f"no sample of {', '.join(map(str, files.values()))} has a picture")
    keyframes = ((split, k) for split, every in found.items() for k in every)
    _write_set(out, version, images, keyframes)
    return ImportCounts(
        keyframes={split: len(every) for split, every in found.items()},
        samples={split: count_samples(file) for split, file in read.items()},
        missing=tuple(missing),
    )


def add_questions(root: Path, version: str, out: Path) -> tuple[int, int]:
    """Write a set again with the questions that Senna's rules ask.

    Only the sidecar is made anew; tables of nuScenes that lie beside the old one stay there.

    Returns:
        Keyframes, and questions that are new.

    Raises:
        DataError: the set cannot be read, ``out`` is its own root, or cannot be written.
    """
    if out.resolve() == root.resolve():
        raise DataError(f"{out} is the root of the set itself, expected another folder")
    _refuse_foreign(out, version)
    counts = [0, 0]
    _write_set(out, version, root, _with_questions(root, version, out, counts))
    return counts[0], counts[1]


def _with_questions(
    root: Path, version: str, out: Path, counts: list[int]
) -> Iterator[tuple[str, Keyframe]]:
    there = set(load_index(root / version / SIDECAR).splits.tolist())
    for number in sorted(there):
        keyframes = load_keyframes(root, version, SPLITS[number])
        annotated = survey_scenes(keyframes).annotated
        for old in progress(keyframes, desc=f"ask ({SPLITS[number]})", unit="keyframes"):
            questions = merge_questions(old, agents_known=old.scene in annotated)
            counts[0] += 1
            counts[1] += len(questions) - len(old.questions)
            paths = {
                camera: out / version / IMAGES / path.relative_to(root)
                for camera, path in old.image_paths.items()
            }
            yield SPLITS[number], replace(old, questions=questions, image_paths=paths)


def _read(path: Path) -> SennaFile:
    return load_samples(progress(read_records(path), desc=f"read {path.name}", unit="records"))


def _refuse_in_both(read: Mapping[str, SennaFile]) -> None:
    """A sample that is trained on is not evaluated on."""
    splits: dict[str, str] = {}
    for split, file in read.items():
        for token, sample in file.samples.items():
            if splits.setdefault(token, split) != split:
                raise DataError(f"{sample.where}: sample {token[:60]!r} is in {splits[token]} too")


def _found_keyframes(
    file: SennaFile, pictures: PictureFolder, link: Path, missing: list[str]
) -> Iterator[Keyframe]:
    """Keyframes with the pictures that are there; the others' names go to ``missing``."""
    samples = progress(file.samples.values(), desc="look for pictures", unit="samples")
    for sample in samples:
        paths = _found_pictures(sample, pictures, link, missing)
        if paths:
            yield build_keyframe(sample, paths)


def _found_pictures(
    sample: SennaSample, pictures: PictureFolder, link: Path, missing: list[str]
) -> dict[str, Path]:
    paths = {}
    for camera, name in sample.record.images.items():
        relative = pictures.find(name, camera, sample.where)
        if relative is None:
            missing.append(name)
        else:
            paths[camera] = link / relative
    return paths


def _refuse_foreign(out: Path, version: str) -> Path:
    """The set's folder, which is replaced only where it holds such a set and nothing besides."""
    if not re.fullmatch(r"\w[\w.-]{0,63}", version):
        raise DataError(f"version is {version[:80]!r}, expected the name of a folder")
    folder = out / version
    ours = {SIDECAR, index_path(folder / SIDECAR).name, IMAGES}
    if folder.is_dir() and (others := sorted({p.name for p in folder.iterdir()} - ours)):
        raise DataError(f"{folder} holds {others[0]!r}, expected nothing or a set of Senna's")
    if folder.is_dir() and (folder / IMAGES).is_dir() and not (folder / IMAGES).is_symlink():
        raise DataError(f"{folder / IMAGES} is a folder, expected nothing or a set of Senna's")
    return folder


def _write_set(
    out: Path, version: str, images: Path, keyframes: Iterable[tuple[str, Keyframe]]
) -> None:
    records: Iterator[dict[str, Any]] = (
        keyframe_to_json(keyframe, split=split, root=out) for split, keyframe in keyframes
    )
    with replace_folder(out / version) as folder:
        try:
            (folder / IMAGES).symlink_to(images.resolve(), target_is_directory=True)
        except OSError as err:
            raise DataError(f"cannot link {folder / IMAGES}: {err.strerror or err}") from err
        write_sidecar(folder / SIDECAR, records)
