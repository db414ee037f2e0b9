"""What a bag of a nuScenes scene is made of: images with their sweeps, poses, mountings.

Read from the tables that the devkit has loaded; image files are looked for and not opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.bags.messages import Pose
from clkd_core.data.nuscenes.motion import CAN_MAX_AGE_NS, compute_twists, open_can_bus
from clkd_core.data.nuscenes.scene_rows import LIDAR, image_name
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, EgoState

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

Row = Mapping[str, Any]

POSE_CHANNELS = frozenset({*CAMERAS, LIDAR})
"""Sensors whose every measurement has an ego pose that goes into the bag."""

_NS_PER_US = 1000


@dataclass(frozen=True, kw_only=True)
class SceneImage:
    """One camera image, keyframe or sweep."""

    camera: str
    stamp_ns: int
    path: Path
    sample_token: str
    """Of its keyframe; a sweep belongs to the keyframe that is near."""
    is_keyframe: bool


@dataclass(frozen=True, kw_only=True)
class Mounting:
    """Where a camera sits and how it sees."""

    ego_from_camera: Pose
    k: NDArray[np.float64]
    """(3, 3) intrinsics [px]."""
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Every ego pose of a scene with the speeds there, in the order of time."""

    poses: tuple[Pose, ...]
    """Ego in nuScenes' map frame."""
    egos: tuple[EgoState, ...]
    """Same length."""
    from_can_bus: int
    """How many of the speeds come from the CAN bus; the others are differences of poses."""


@dataclass(frozen=True, kw_only=True)
class BagScene:
    """One scene as the tables have it."""

    name: str
    images: tuple[SceneImage, ...]
    """Of all cameras in the order of their stamps; only files that are there."""
    motion: Motion
    mountings: Mapping[str, Mounting]
    """By camera name, cameras without an image left out."""


def group_rows(nusc: "NuScenes", scenes: Sequence[Row]) -> dict[str, list[Row]]:
    """The camera and LIDAR rows of ``sample_data`` by scene token; one pass over the table."""
    wanted = {scene["token"]: list[Row]() for scene in scenes}
    scene_of = {sample["token"]: sample["scene_token"] for sample in nusc.sample}
    for row in nusc.sample_data:
        scene = scene_of[row["sample_token"]]
        if scene in wanted and row["channel"] in POSE_CHANNELS:
            wanted[scene].append(row)
    return wanted


def list_images(root: Path, rows: Sequence[Row], *, keyframes_only: bool) -> list[SceneImage]:
    """The camera images of a scene in the order of their stamps, whether their files exist or not.

    Raises:
        DataError: a row names a file outside of the set.
    """
    images = [
        _image(row, root)
        for row in rows
        if row["channel"] in CAMERAS and (row["is_key_frame"] or not keyframes_only)
    ]
    return sorted(images, key=lambda image: (image.stamp_ns, image.camera))


def read_bag_scene(
    nusc: "NuScenes", scene: Row, rows: Sequence[Row], *, keyframes_only: bool
) -> BagScene:
    """Put together what a bag of this scene holds.

    Args:
        nusc: the tables.
        scene: row of the table ``scene``.
        rows: its rows of ``sample_data`` as :func:`group_rows` found them.
        keyframes_only: leave sweeps out; poses all stay.

    Raises:
        DataError: a row does not say what is needed, or names a file outside of the set; a CAN
            bus file is damaged.
    """
    root, name = Path(nusc.dataroot), str(scene["name"])
    cameras = [row for row in rows if row["channel"] in CAMERAS]
    images = list_images(root, rows, keyframes_only=keyframes_only)
    can_bus = open_can_bus(root)
    return BagScene(
        name=name,
        images=tuple(image for image in images if is_there(image.path)),
        motion=_read_motion(
            nusc, rows, can_bus.load_twists(name) if can_bus else np.empty((0, 3))
        ),
        mountings={
            camera: _mounting(nusc, [row for row in cameras if row["channel"] == camera])
            for camera in CAMERAS
            if any(row["channel"] == camera for row in cameras)
        },
    )


def is_there(path: Path) -> bool:
    """Whether an image file exists and holds something."""
    return path.is_file() and path.stat().st_size > 0


def _image(row: Row, root: Path) -> SceneImage:
    return SceneImage(
        camera=row["channel"],
        stamp_ns=int(row["timestamp"]) * _NS_PER_US,
        path=root / image_name(row),
        sample_token=row["sample_token"],
        is_keyframe=bool(row["is_key_frame"]),
    )


def _mounting(nusc: "NuScenes", rows: Sequence[Row]) -> Mounting:
    """Of one camera; its rows must agree, as one drive of one vehicle does."""
    first = rows[0]
    tokens = {row["calibrated_sensor_token"] for row in rows}
    if len(tokens) > 1:
        raise DataError(
            f"{first['channel']} of sample {first['sample_token']} has {len(tokens)} calibrations "
            "in one scene, expected one"
        )
    calibration = nusc.get("calibrated_sensor", first["calibrated_sensor_token"])
    k = _numbers(calibration, "calibrated_sensor", "camera_intrinsic", (3, 3))
    width_px, height_px = _side(first, "width"), _side(first, "height")
    pose = _pose(calibration, "calibrated_sensor")
    return Mounting(ego_from_camera=pose, k=k, width_px=width_px, height_px=height_px)


def _side(row: Row, column: str) -> int:
    side = row.get(column)
    if type(side) is not int or not 0 < side < 1 << 16:
        raise DataError(f"sample_data {row['token']}: {column} is {side!r}, expected pixels")
    return side


def _read_motion(nusc: "NuScenes", rows: Sequence[Row], can: NDArray[np.float64]) -> Motion:
    """Poses by stamp, each once, with speeds from the CAN bus where it says something."""
    by_stamp = _poses_by_stamp(nusc, rows)
    if len(by_stamp) < 2:  # nothing to tell a speed from
        return Motion(poses=(), egos=(), from_can_bus=0)
    stamps_ns = np.array(list(by_stamp), np.int64)
    twists = _twists_of_poses(nusc, rows, by_stamp)
    known = _can_twists(stamps_ns, can)
    from_can = np.isfinite(known).all(axis=1)
    twists[from_can] = known[from_can]
    egos = tuple(
        EgoState(stamp_ns=int(stamp), speed_mps=float(speed), yaw_rate_radps=float(rate))
        for stamp, (speed, rate) in zip(stamps_ns, twists, strict=True)
    )
    return Motion(poses=tuple(by_stamp.values()), egos=egos, from_can_bus=int(from_can.sum()))


def _poses_by_stamp(nusc: "NuScenes", rows: Sequence[Row]) -> dict[int, Pose]:
    """In the order of time; of several at one time the first in the table."""
    poses = [nusc.get("ego_pose", row["ego_pose_token"]) for row in rows]
    by_stamp = {_pose_stamp_ns(pose): pose for pose in reversed(poses)}
    return {stamp: _pose(by_stamp[stamp], "ego_pose") for stamp in sorted(by_stamp)}


def _twists_of_poses(
    nusc: "NuScenes", rows: Sequence[Row], poses: Mapping[int, Pose]
) -> NDArray[np.float64]:
    """(N, 2) for each of all poses that of the last LIDAR pose at or before it.

    Differences of the LIDAR's poses alone, as at our keyframes: sensors disagree on one instant
    by more than a speed can bear (design.md, section 4). All poses where there is no LIDAR.
    """
    lidar = _poses_by_stamp(nusc, [row for row in rows if row["channel"] == LIDAR])
    source = lidar if len(lidar) > 1 else poses
    stamps_ns = np.array(list(source), np.int64)
    twists = compute_twists(stamps_ns, np.stack([pose.matrix for pose in source.values()]))
    last = np.searchsorted(stamps_ns, np.array(list(poses), np.int64), side="right") - 1
    return np.asarray(twists[np.maximum(last, 0)])


def _can_twists(stamps_ns: NDArray[np.int64], can: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2) of the last CAN bus pose at or before each stamp; NaN where it is too old or none."""
    twists = np.full((len(stamps_ns), 2), np.nan)
    if not len(can):
        return twists
    can_ns = can[:, 0].astype(np.int64) * _NS_PER_US
    last = np.searchsorted(can_ns, stamps_ns, side="right") - 1
    fresh = (last >= 0) & (stamps_ns - can_ns[np.maximum(last, 0)] <= CAN_MAX_AGE_NS)
    twists[fresh] = can[last[fresh], 1:]
    return twists


def _pose_stamp_ns(row: Row) -> int:
    stamp = row.get("timestamp")
    if type(stamp) is not int or not 0 <= stamp < 2**63 // _NS_PER_US:
        raise DataError(f"ego_pose {row['token']}: timestamp is {stamp!r}, expected microseconds")
    return stamp * _NS_PER_US


def _numbers(row: Row, table: str, column: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        values = np.asarray(row.get(column), np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise DataError(f"{table} {row['token']}: {column} is no finite {shape} array")
    return values


def _pose(row: Row, table: str) -> Pose:
    """nuScenes writes quaternions as w, x, y, z."""
    x, y, z = (float(value) for value in _numbers(row, table, "translation", (3,)))
    turn = _numbers(row, table, "rotation", (4,))
    length = float(np.linalg.norm(turn))
    if not 0.5 < length < 2.0:
        raise DataError(f"{table} {row['token']}: rotation has length {length}, expected 1")
    w, i, j, k = (float(value) for value in turn / length)
    return Pose(xyz_m=(x, y, z), quaternion_xyzw=(i, j, k, w))
