"""A run's gallery from the bag it was played from: the pixels, and where the camera looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import open_bag
from clkd_core.data.bags.frames import read_frames as read_bag_frames
from clkd_core.data.bags.topics import BagTopics
from clkd_core.metrics.frames import FrameRow
from clkd_core.report.pictures import FRONT, PICTURES, FrontCamera, make_gallery


def make_gallery_from_bags(
    run: Path,
    rows: Sequence[FrameRow],
    bags: Sequence[Path],
    names: BagTopics | None = None,
    *,
    count: int = PICTURES,
) -> int:
    """Read the chosen frames from the bags and draw them; returns how many there are.

    All are drawn as the first bag's front camera sees.

    Raises:
        DataError: a bag cannot be read or the folder not written.
    """
    return make_gallery(
        run,
        rows,
        (each.frame for bag in bags for each in read_bag_frames(bag, names, labels=[])),
        front_camera=load_front_camera(bags[0], names),
        count=count,
    )


def load_front_camera(bag: Path, names: BagTopics | None = None) -> FrontCamera | None:
    """The front camera's CameraInfo and its place on the vehicle.

    Returns:
        None where the bag does not say both.

    Raises:
        DataError: the bag cannot be read.
    """
    image_topic = (names or BagTopics()).images.get(FRONT, topics.image_topic(FRONT))
    info_topic = camera_info_topic_beside(image_topic)
    info: Any = None
    transforms: dict[str, tuple[str, NDArray[np.float64]]] = {}
    with open_bag(bag) as reader:
        for topic, _, msg in reader.messages({info_topic, topics.TF_STATIC}):
            if topic == info_topic:
                info = msg
                continue
            for each in msg.transforms:
                transforms[each.child_frame_id] = (each.header.frame_id, _matrix(each.transform))
    if info is None or not info.width or not info.k[0]:
        return None
    ego_from_camera = _ego_from_frame(info.header.frame_id, transforms)
    if ego_from_camera is None:
        return None
    return FrontCamera(
        camera_matrix=np.asarray(info.k, np.float64).reshape(3, 3),
        width_px=int(info.width),
        camera_from_ego=np.linalg.inv(ego_from_camera),
    )


def camera_info_topic_beside(image_topic: str) -> str:
    """image_transport's rule: ``/cam/image_raw/compressed`` has ``/cam/camera_info``."""
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def _ego_from_frame(
    frame: str, transforms: dict[str, tuple[str, NDArray[np.float64]]]
) -> NDArray[np.float64] | None:
    """Follow the parents up to the ego frame; None where the chain ends or turns in a circle."""
    ego_from_frame = np.eye(4)
    for _ in range(len(transforms) + 1):
        if frame == topics.EGO_FRAME:
            return ego_from_frame
        if frame not in transforms:
            return None
        frame, parent_from_child = transforms[frame]
        ego_from_frame = parent_from_child @ ego_from_frame
    return None


def _matrix(transform: Any) -> NDArray[np.float64]:
    """(4, 4) of a geometry_msgs/Transform; the quaternion is normalised first."""
    turn, place = transform.rotation, transform.translation
    x, y, z, w = np.array([turn.x, turn.y, turn.z, turn.w]) / np.linalg.norm(
        [turn.x, turn.y, turn.z, turn.w]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = (place.x, place.y, place.z)
    return matrix
