"""The labelled keyframes of bags shown another keyframe's images, from whichever bag holds them.

The images wait on disk: raw ones of a whole drive do not fit into memory.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from clkd_core.data.bags.frames import load_labels
from clkd_core.data.bags.topics import BagTopics
from clkd_core.metrics.baselines.shuffled import choose_sources, with_images_of
from clkd_core.metrics.frames import FrameRow
from clkd_core.runtime.bag_run import (
    AskedFrame,
    Decider,
    ReplayConfig,
    answer_frame,
    read_asked_frames,
)
from clkd_core.types import CameraImage, SurroundFrame

Place = tuple[Path, int]
"""A bag, and the stamp of one of its labels [ns]."""

_KEYFRAMES = ReplayConfig(keyframes_only=True)


def choose_bag_sources(
    bags: Sequence[Path], names: BagTopics | None = None, *, seed: int
) -> dict[Path, dict[int, Place]]:
    """Whose images each labelled keyframe is shown; see :func:`choose_sources`.

    A label that names no scene belongs to the scene of its bag.

    Returns:
        By bag and label stamp; empty dictionaries where there is no other keyframe at all.

    Raises:
        DataError: a bag cannot be read, or a label is none.
    """
    labelled = {bag: load_labels(bag, names) for bag in bags}
    places: list[Place] = [
        (bag, label.stamp_ns) for bag, labels in labelled.items() for label in labels
    ]
    scenes = [label.scene or str(bag) for bag, labels in labelled.items() for label in labels]
    sources = choose_sources(scenes, seed=seed)
    chosen: dict[Path, dict[int, Place]] = {bag: {} for bag in labelled}
    if sources is not None:
        for (bag, stamp_ns), source in zip(places, sources, strict=True):
            chosen[bag][stamp_ns] = places[source]
    return chosen


def answer_shuffled(
    bag: Path, sources: Mapping[int, Place], engine: Decider, *, names: BagTopics | None = None
) -> Iterator[FrameRow]:
    """A bag's labelled keyframes, each answered on the images that ``sources`` says.

    Raises:
        DataError: a bag cannot be read.
    """
    with kept_frames(set(sources.values()), names) as kept:
        for asked in read_asked_frames(bag, config=_KEYFRAMES, names=names):
            source = sources.get(asked.row.stamp_ns)
            shown = None if source is None else kept.frame(source)
            yield answer_frame(show_instead(asked, shown), engine)


def show_instead(asked: AskedFrame, shown: SurroundFrame | None) -> AskedFrame:
    """The frame with another one's images; nothing to look at where one of the two is missing."""
    if asked.frame is None:
        return asked
    if shown is None:
        return AskedFrame(replace(asked.row, reason="no images of another keyframe"), None)
    return AskedFrame(asked.row, with_images_of(asked.frame, shown))


@contextmanager
def kept_frames(places: Collection[Place], names: BagTopics | None) -> Iterator["KeptFrames"]:
    """The frames at the places, read from their bags now and gone at the end."""
    wanted: dict[Path, set[int]] = {}
    for bag, stamp_ns in places:
        wanted.setdefault(bag, set()).add(stamp_ns)
    with tempfile.TemporaryDirectory(prefix="clkd-shuffled-") as folder:
        kept = KeptFrames(Path(folder))
        for bag, stamps in wanted.items():
            for asked in read_asked_frames(bag, config=_KEYFRAMES, names=names):
                if asked.frame is not None and asked.row.stamp_ns in stamps:
                    kept.add((bag, asked.row.stamp_ns), asked.frame)
        yield kept


class KeptFrames:
    """Frames whose images lie in a folder."""

    def __init__(self, folder: Path) -> None:
        """Keep them in ``folder``, which exists."""
        self._folder = folder
        self._images: dict[Place, dict[str, Path]] = {}

    def add(self, place: Place, frame: SurroundFrame) -> None:
        """Keep the images of a frame."""
        number = len(self._images)
        self._images[place] = {
            camera: self._write(f"{number}-{camera}", image)
            for camera, image in frame.images.items()
        }

    def frame(self, place: Place) -> SurroundFrame | None:
        """The images of the frame at a place; None where the bag had no images for that label."""
        files = self._images.get(place)
        if files is None:
            return None
        images = {camera: _read(file, place[1]) for camera, file in files.items()}
        return SurroundFrame(stamp_ns=place[1], images=images)

    def _write(self, name: str, image: CameraImage) -> Path:
        if image.encoded is not None:
            file = self._folder / name
            file.write_bytes(image.encoded)
            return file
        file = self._folder / f"{name}.npy"
        np.save(file, np.asarray(image.pixels))
        return file


def _read(file: Path, stamp_ns: int) -> CameraImage:
    if file.suffix == ".npy":
        return CameraImage(stamp_ns=stamp_ns, pixels=np.load(file))
    return CameraImage(stamp_ns=stamp_ns, encoded=file.read_bytes())
