"""DriveLM and CODA-LM as keyframes whose images are there, each with what was left out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import REGULAR, Keyframe
from clkd_core.data.language.coda_lm import (
    SOURCE,
    coda_keyframes,
    find_coda_files,
    read_coda_lm,
)
from clkd_core.data.language.drivelm import DriveLmFrame, TagCount, read_drivelm
from clkd_core.data.language.files.annotations import Skips
from clkd_core.data.language.files.images import find_nuscenes_image, image_faults
from clkd_core.data.sidecar import SIDECAR, SPLITS, load_keyframes
from clkd_core.errors import DataError
from clkd_core.progress import progress


@dataclass(kw_only=True)
class Source:
    """One of the data sets that are merged."""

    name: str
    keyframes: list[Keyframe] = field(default_factory=list)
    own_split: Mapping[str, str] = field(default_factory=dict)
    """By scene; a scene that is not there has none of its own."""
    inputs: list[Path] = field(default_factory=list)
    """The JSON files."""
    skips: Skips = field(default_factory=Skips)
    notes: dict[str, Any] = field(default_factory=dict)
    """What else is to be told of it, by name."""

    def drop_idle_keyframes(self) -> None:
        """Leave out and count the keyframes with neither question nor action."""
        kept = []
        for keyframe in self.keyframes:
            if keyframe.questions or keyframe.action is not None:
                kept.append(keyframe)
            else:
                self.skips.add("keyframe has neither question nor action", keyframe.sample_token)
        self.keyframes = kept


def load_drivelm(
    paths: Iterable[Path],
    images: Sequence[Path],
    *,
    nuscenes: tuple[Path, str] | None = None,
    skip_missing: bool = False,
) -> Source:
    """DriveLM's keyframes, all regular ones.

    Args:
        paths: JSON files, or folders whose ``*.json`` are DriveLM's.
        images: where images may lie, looked at before the folders of the files and their parents.
        nuscenes: root and version of our set of nuScenes, from which a keyframe takes ego state,
            command, future, action, agents and history by its token.
        skip_missing: go on without the keyframes that have a missing image.

    Raises:
        DataError: a file or an image cannot be used, or the set of nuScenes has other images.
    """
    source = Source(name="drivelm", inputs=_drivelm_files(paths))
    frames = _read_once(source)
    roots = _folders(images, source.inputs, up=2)
    keyframes = [_drivelm_keyframe(frame, roots) for frame in frames]
    faults = image_faults(path for k in keyframes for path in k.image_paths.values())
    _count_faults(source, faults, skip_missing=skip_missing)
    for keyframe in keyframes:
        if any(path in faults for path in keyframe.image_paths.values()):
            source.skips.add("keyframe has an unusable image", keyframe.sample_token)
        else:
            source.keyframes.append(keyframe)
    if nuscenes is not None:
        _join_nuscenes(source, *nuscenes)
    source.notes["object_tags"] = dict(vars(_count_tags(source.keyframes)))
    return source


def load_coda_lm(
    folders: Sequence[Path], images: Sequence[Path], *, skip_missing: bool = False
) -> Source:
    """CODA-LM's keyframes, all corner cases.

    Args:
        folders: see :func:`~clkd_core.data.language.coda_lm.find_coda_files`.
        images: where images may lie, looked at before the folders and those above.
        skip_missing: go on without the scenes whose image cannot be used.

    Raises:
        DataError: a file or an image cannot be used.
    """
    files = dict(file for folder in folders for file in find_coda_files(folder))
    source = Source(name=SOURCE, inputs=list(files))
    shown_files = progress(files.items(), total=len(files), desc="CODA-LM", unit="files")
    scenes = read_coda_lm(shown_files, source.skips)
    source.own_split = {scene.token: scene.split for scene in scenes if scene.split is not None}
    # CODA/CODA-LM/Train/val_0001.json is about CODA/val/images/0001.jpg
    roots = _folders(images, source.inputs, up=3)
    source.keyframes, faults = coda_keyframes(scenes, roots, source.skips)
    _count_faults(source, faults, skip_missing=skip_missing)
    return source


def _folders(images: Sequence[Path], files: Sequence[Path], *, up: int) -> list[Path]:
    """``images``, then the folders of the files and those above, each once."""
    above = [
        folder for depth in range(up) for file in files for folder in file.parents[depth:][:1]
    ]
    return list(dict.fromkeys((*images, *above)))


def _drivelm_files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} has no *.json, expected DriveLM's files")
        files += found
    return list(dict.fromkeys(files))


def _read_once(source: Source) -> list[DriveLmFrame]:
    """Keyframes of all files; of those with the same token the first counts."""
    frames: dict[str, DriveLmFrame] = {}
    for path in progress(source.inputs, desc="DriveLM", unit="files"):
        for frame in read_drivelm(path, source.skips):
            if frame.token in frames:
                source.skips.add("keyframe comes a second time", f"{path}: {frame.token}")
            frames.setdefault(frame.token, frame)
    return list(frames.values())


def _drivelm_keyframe(frame: DriveLmFrame, roots: Sequence[Path]) -> Keyframe:
    return Keyframe(
        sample_token=frame.token,
        scene=frame.scene,
        case_name=REGULAR,
        stamp_ns=frame.stamp_ns,
        image_paths={i.camera: find_nuscenes_image(roots, i.camera, i.name) for i in frame.images},
        image_stamps_ns={i.camera: i.stamp_ns for i in frame.images},
        ego=None,
        command=None,
        future=None,
        action=None,
        agents=(),
        questions=frame.questions,
    )


def _count_faults(source: Source, faults: Mapping[Path, str], *, skip_missing: bool) -> None:
    for path, fault in faults.items():
        source.skips.add(f"image {fault.partition(' (')[0]}", str(path))
    if faults and not skip_missing:
        named = ", ".join(f"{path} {fault}" for path, fault in list(faults.items())[:3])
        raise DataError(
            f"{source.name}: {len(faults)} image files cannot be used, first {named}; "
            "--images names folders to look in, --skip-missing goes on without them"
        )


def _join_nuscenes(source: Source, root: Path, version: str) -> None:
    """Take all that the set knows of a keyframe but its images, questions and names."""
    known = {k.sample_token: k for k in _all_keyframes(root, version)}
    joined = 0
    for place, ours in enumerate(source.keyframes):
        theirs = known.get(ours.sample_token)
        if theirs is not None:
            _check_same_images(ours, theirs, root)
            source.keyframes[place] = _joined(ours, theirs)
            joined += 1
    source.notes["joined_with_nuscenes"] = joined
    source.inputs.append(root / version / SIDECAR)


def _joined(ours: Keyframe, theirs: Keyframe) -> Keyframe:
    return replace(
        theirs,
        scene=ours.scene,
        case_name=ours.case_name,
        stamp_ns=ours.stamp_ns,
        image_paths=ours.image_paths,
        image_stamps_ns=ours.image_stamps_ns,
        questions=ours.questions,
        region=None,
    )


def _check_same_images(ours: Keyframe, theirs: Keyframe, root: Path) -> None:
    for camera, stamp_ns in ours.image_stamps_ns.items():
        known_ns = theirs.image_stamps_ns.get(camera, stamp_ns)
        if known_ns != stamp_ns:
            raise DataError(
                f"keyframe {ours.sample_token}: its {camera} image is of {stamp_ns} in DriveLM "
                f"and of {known_ns} in {root}, expected the same one"
            )


def _all_keyframes(root: Path, version: str) -> Iterator[Keyframe]:
    """Of both splits, of which one may be empty."""
    empty: list[DataError] = []
    for split in SPLITS:
        try:
            yield from load_keyframes(root, version, split)
        except DataError as err:
            if f"no keyframe of split {split!r}" not in str(err) or empty:
                raise
            empty.append(err)


def _count_tags(keyframes: Iterable[Keyframe]) -> TagCount:
    tags = TagCount()
    for pair in (pair for keyframe in keyframes for pair in keyframe.questions):
        tags.add(pair.question)
        tags.add(pair.answer)
    return tags
