"""One labelled instant of a drive, whatever data set it comes from; its images stay on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import DataError, FrameError
from clkd_core.types import (
    CameraImage,
    EgoState,
    MetaAction,
    RouteCommand,
    SurroundFrame,
    Trajectory,
)

REGULAR = "regular"
"""The case name of an ordinary keyframe; every other name is a corner case."""

HISTORY_STEPS = 4
"""Past positions of a keyframe: 2 s at the 2 Hz of nuScenes' keyframes."""


@dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """A driving question about one keyframe with the answer that is right."""

    kind: str
    """What is asked for, by the data set's own word: ``perception``, ``prediction``,
    ``planning``, ``behavior`` (DriveLM); ``general``, ``region``, ``suggestion`` (CODA-LM);
    ``description``."""
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class AgentFuture:
    """Where another road user is now and in the next 3 s."""

    category: str
    """nuScenes category name, e.g. ``vehicle.car``."""
    size_m: tuple[float, float]
    """Length and width."""
    poses: NDArray[np.float32]
    """(T + 1, 3) x, y [m], yaw [rad] in the ego frame of NOW; row 0 is now, then 0.5 s steps."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of one view that the questions are about; a red box is drawn around it."""

    camera: str
    box_xywh_px: tuple[float, float, float, float]
    """Left, top, width, height in the pixels of the image file."""


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """One labelled instant of a drive; the images stay on disk."""

    sample_token: str
    scene: str
    case_name: str
    """``regular`` or the name of the corner case."""
    stamp_ns: int
    """Capture time of the newest image."""
    image_paths: Mapping[str, Path]
    """By camera name; a view that does not exist is absent."""
    image_stamps_ns: Mapping[str, int]
    """Capture time of each image, same keys."""
    ego: EgoState | None
    command: RouteCommand | None
    future: Trajectory | None
    """None where less than 3 s follow."""
    action: MetaAction | None
    """Senna's rule applied to ``lidar_future``, where there is none to ``future``."""
    agents: tuple[AgentFuture, ...]
    questions: tuple[QuestionAnswer, ...]
    history: NDArray[np.float32] | None = None
    """(HISTORY_STEPS, 2) where the ego vehicle was, x, y [m] in the ego frame of NOW, oldest
    first, 0.5 s apart, the last one 0.5 s ago; None where less than 2 s precede."""
    region: Region | None = None
    """What all of ``questions`` are about; None: the whole scene."""
    lidar_future: NDArray[np.float64] | None = None
    """(T, 2) where nuScenes' LIDAR_TOP sensor will be in its own frame of NOW, x right, y forward
    [m]. It is mounted ahead of the ego frame's origin and goes another way in a turn. None where
    nobody knows of such a sensor."""

    @property
    def is_corner(self) -> bool:
        """Whether it counts among the corner cases."""
        return self.case_name != REGULAR


def surround_frame(keyframe: Keyframe) -> SurroundFrame:
    """Read the keyframe's image files into what a decision looks at.

    Nothing is decoded but the view that has a region: a red box is drawn around it.

    Raises:
        DataError: an image file is missing or empty, or the view of the region is missing,
            damaged or elsewhere than the region.
    """
    images = {
        camera: CameraImage(stamp_ns=keyframe.image_stamps_ns[camera], encoded=_read_image(path))
        for camera, path in keyframe.image_paths.items()
    }
    if keyframe.region is not None:
        images[keyframe.region.camera] = _with_box(keyframe, keyframe.region, images)
    return SurroundFrame(
        stamp_ns=keyframe.stamp_ns, images=images, ego=keyframe.ego, command=keyframe.command
    )


def _with_box(
    keyframe: Keyframe, region: Region, images: Mapping[str, CameraImage]
) -> CameraImage:
    from clkd_core.data.regions import draw_region  # loads OpenCV, which few keyframes need

    plain = images.get(region.camera)
    if plain is None or plain.encoded is None:
        raise DataError(
            f"keyframe {keyframe.sample_token}: its region is in {region.camera}, which it lacks"
        )
    try:
        pixels = draw_region(plain.encoded, region.box_xywh_px)
    except FrameError as err:
        raise DataError(f"{keyframe.image_paths[region.camera]}: {err}") from err
    return CameraImage(stamp_ns=plain.stamp_ns, pixels=pixels)


def _read_image(path: Path) -> bytes:
    try:
        encoded = path.read_bytes()
    except OSError as err:
        raise DataError(f"{path}: image cannot be read: {err.strerror}") from err
    if not encoded:
        raise DataError(f"{path}: image is empty")
    return encoded
