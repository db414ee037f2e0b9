"""A KITTI odometry sequence as a bag: one grey camera, poses, calibration, derived labels.

The route is unknown, so there is no route topic. KITTI names no keyframes: labels stand at every
image with 3 s of future, and "keyframes only" takes one image in half a second, from the first.
Images are logged 10 ms after odometry of the same stamp (``topics.IMAGE_DELAY_NS``).

KITTI's poses are those of the camera (x right, y down, z forward). The ego frame is put on the
ground under the camera: how far that is before the rear axle is in no file of the sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, Storage, write_bag
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    camera_info_to_msg,
    image_to_msg,
    label_to_msgs,
    motion_to_msgs,
    transform_to_msg,
    transforms_to_msg,
)
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.errors import DataError
from clkd_core.runtime.decode import read_image_header
from clkd_core.types import FUTURE_STEPS, STEP_S, CameraImage, EgoState, Trajectory

CAMERA = "CAM_FRONT"
PERIOD_NS = 100_000_000
"""KITTI's cameras run at 10 Hz."""
START_NS = 1_317_000_000 * 1_000_000_000
"""First stamp: the sequences carry no date, this is in the weeks when they were recorded."""

_STEPS_PER_POINT = round(STEP_S * 1e9) // PERIOD_NS
CAMERA_HEIGHT_M = 1.65
"""Of the recording car's cameras above the road (Geiger et al. 2013, sensor setup)."""
_EGO_FROM_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class KittiSequence:
    """What the files of one sequence say."""

    name: str
    image_paths: tuple[Path, ...]
    """N files in the order of time."""
    odom_from_ego: NDArray[np.float64]
    """(N, 4, 4) poses, ego axes."""
    k: NDArray[np.float64]
    """(3, 3) intrinsics of the left grey camera [px]."""


def load_kitti_sequence(root: Path) -> KittiSequence:
    """Read poses and calibration and list the images of a sequence folder.

    Raises:
        DataError: a file is missing, holds other than (N, 12) finite poses, or the numbers of
            images and poses differ.
    """
    images = _find_images(root)
    poses = _read_poses(root / "poses.txt")
    if len(poses) != len(images):
        raise DataError(
            f"{root}: {len(images)} images but {len(poses)} poses, expected as many of both"
        )
    return KittiSequence(
        name=root.name, image_paths=images, odom_from_ego=poses, k=_read_intrinsics(root)
    )


def write_kitti_bag(
    sequence: KittiSequence,
    path: Path,
    *,
    storage: Storage = "mcap",
    keyframes_only: bool = False,
) -> Iterator[int]:
    """Write the bag, yielding the number of each image as it is done.

    Args:
        sequence: what to write.
        path: where the bag goes.
        storage: kind of its file.
        keyframes_only: leave out the images that :func:`is_keyframe` denies; poses all stay.

    Raises:
        DataError: an image cannot be read or the bag cannot be written.
    """
    with write_bag(path, storage=storage) as bag:
        _write_fixed(bag, sequence)
        for number in range(len(sequence.image_paths)):
            _write_motion(bag, sequence, number)
            if is_keyframe(number) or not keyframes_only:
                _write_image(bag, sequence, number)
                yield number


def is_keyframe(number: int) -> bool:
    """Whether an image is one of those that are taken when only 2 Hz are wanted."""
    return number % _STEPS_PER_POINT == 0


def compute_ego_state(sequence: KittiSequence, number: int) -> EgoState:
    """Speed and rate of turn since the image before; at the first one until the next."""
    before = max(number - 1, 0)
    step = np.linalg.inv(sequence.odom_from_ego[before]) @ sequence.odom_from_ego[before + 1]
    return EgoState(
        stamp_ns=_stamp_ns(number),
        speed_mps=float(step[0, 3]) / (PERIOD_NS * 1e-9),
        yaw_rate_radps=float(np.arctan2(step[1, 0], step[0, 0])) / (PERIOD_NS * 1e-9),
    )


def compute_label(sequence: KittiSequence, number: int) -> Label | None:
    """The action by Senna's rule from the next 3 s of poses; None where there are not so many."""
    steps = number + _STEPS_PER_POINT * np.arange(1, FUTURE_STEPS + 1)
    if steps[-1] >= len(sequence.odom_from_ego):
        return None
    ego_from_odom = np.linalg.inv(sequence.odom_from_ego[number])
    xy = (ego_from_odom @ sequence.odom_from_ego[steps])[:, :2, 3]
    return Label(
        stamp_ns=_stamp_ns(number),
        scene=sequence.name,
        case_name="regular",
        action=meta_action_from_future(lidar_from_ego(xy)),
        future=Trajectory(xy_m=xy.astype(np.float32)),
    )


def _stamp_ns(number: int) -> int:
    return START_NS + number * PERIOD_NS


def _write_fixed(bag: BagWriter, sequence: KittiSequence) -> None:
    header = read_image_header(_read_bytes(sequence.image_paths[0]))
    info = camera_info_to_msg(CAMERA, START_NS, sequence.k, header.width, header.height)
    bag.write(topics.camera_info_topic(CAMERA), topics.CAMERA_INFO, START_NS, info)
    place = np.array([[0.0], [0.0], [CAMERA_HEIGHT_M]])
    mounting = Pose.from_matrix(np.hstack([_EGO_FROM_CAMERA, place]))
    fixed = transform_to_msg(START_NS, topics.EGO_FRAME, topics.camera_frame(CAMERA), mounting)
    bag.write(topics.TF_STATIC, topics.TF_MESSAGE, START_NS, transforms_to_msg([fixed]))


def _write_motion(bag: BagWriter, sequence: KittiSequence, number: int) -> None:
    stamp_ns = _stamp_ns(number)
    pose = Pose.from_matrix(sequence.odom_from_ego[number])
    for topic, msgtype, msg in motion_to_msgs(compute_ego_state(sequence, number), pose):
        bag.write(topic, msgtype, stamp_ns, msg)


def _write_image(bag: BagWriter, sequence: KittiSequence, number: int) -> None:
    stamp_ns = _stamp_ns(number)
    log_ns = stamp_ns + topics.IMAGE_DELAY_NS
    encoded = _read_bytes(sequence.image_paths[number])
    image = image_to_msg(CAMERA, CameraImage(stamp_ns=stamp_ns, encoded=encoded), "png")
    bag.write(topics.image_topic(CAMERA), topics.COMPRESSED_IMAGE, log_ns, image)
    label = compute_label(sequence, number)
    for topic, msgtype, msg in label_to_msgs(label) if label else ():
        bag.write(topic, msgtype, log_ns, msg)


def _find_images(root: Path) -> tuple[Path, ...]:
    for name in ("image_l", "image_0"):
        found = tuple(sorted((root / name).glob("*.png")))
        if len(found) > 1:
            return found
    raise DataError(f"{root} has no image_l/*.png or image_0/*.png, expected a KITTI sequence")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise DataError(f"{path}: cannot be read: {err.strerror}") from err


def _read_numbers(path: Path, columns: int) -> NDArray[np.float64]:
    """(N, columns) finite numbers; a leading ``P0:`` is skipped."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read: {err}") from err
    rows = []
    for number, line in enumerate(lines, 1):
        words = [word for word in line.split() if not word.endswith(":")]
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError as err:
            raise DataError(f"{path}:{number}: {err}, expected {columns} numbers") from err
        if len(row) != columns or not np.isfinite(row).all():
            what = "a NaN or infinite value" if len(row) == columns else f"{len(row)} numbers"
            raise DataError(f"{path}:{number}: {what}, expected {columns} finite numbers")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no numbers, expected rows of {columns}")
    return np.array(rows)


def _read_poses(path: Path) -> NDArray[np.float64]:
    """(N, 4, 4) odom-from-ego: the camera's poses with both ends turned to ego axes."""
    rows = _read_numbers(path, 12).reshape(-1, 3, 4)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = _EGO_FROM_CAMERA @ rows[:, :, :3] @ _EGO_FROM_CAMERA.T
    poses[:, :3, 3] = rows[:, :, 3] @ _EGO_FROM_CAMERA.T
    return poses


def _read_intrinsics(root: Path) -> NDArray[np.float64]:
    return np.asarray(_read_numbers(root / "calib.txt", 12)[0].reshape(3, 4)[:, :3])
