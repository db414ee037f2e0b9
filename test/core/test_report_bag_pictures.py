"""A gallery from a bag: the right pixels, and where the bag says the camera looks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from report_rows import make_row

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import write_bag
from clkd_core.data.bags.messages import (
    Pose,
    camera_info_to_msg,
    image_to_msg,
    transform_to_msg,
    transforms_to_msg,
)
from clkd_core.errors import DataError
from clkd_core.report.bag_pictures import (
    camera_info_topic_beside,
    load_front_camera,
    make_gallery_from_bags,
)
from clkd_core.report.pictures import read_gallery
from clkd_core.types import CameraImage

K = np.array([[400.0, 0, 400], [0, 400, 225], [0, 0, 1]])
STEP_NS = 100_000_000
START_NS = 1_000_000_000
LENS_TURN = (-0.5, 0.5, -0.5, 0.5)
"""Ego from camera: z forward becomes x forward, x right becomes y left negated."""


def write_small_bag(path: Path, *, parent: str | None = topics.EGO_FRAME) -> Path:
    """Ten front images that grow brighter; the camera is 1 m ahead and 1.5 m up, by two hops."""
    with write_bag(path) as bag:
        info = camera_info_to_msg("CAM_FRONT", START_NS, K, 800, 450)
        bag.write(topics.camera_info_topic("CAM_FRONT"), topics.CAMERA_INFO, START_NS, info)
        if parent is not None:
            hops = [
                transform_to_msg(START_NS, parent, "mast", Pose(xyz_m=(1.0, 0.0, 1.0))),
                transform_to_msg(
                    START_NS,
                    "mast",
                    "cam_front",
                    Pose(xyz_m=(0.0, 0.0, 0.5), quaternion_xyzw=LENS_TURN),
                ),
            ]
            bag.write(topics.TF_STATIC, topics.TF_MESSAGE, START_NS, transforms_to_msg(hops))
        for number in range(10):
            stamp_ns = START_NS + number * STEP_NS
            _, jpeg = cv2.imencode(".jpg", np.full((90, 160, 3), 20 * number, np.uint8))
            image = CameraImage(stamp_ns=stamp_ns, encoded=jpeg.tobytes())
            msg = image_to_msg("CAM_FRONT", image)
            bag.write(topics.image_topic("CAM_FRONT"), topics.COMPRESSED_IMAGE, stamp_ns, msg)
    return path


def test_the_front_camera_is_found_through_a_chain_of_transforms(tmp_path: Path) -> None:
    camera = load_front_camera(write_small_bag(tmp_path / "bag"))
    assert camera is not None
    pixels = camera.project(np.array([[11.0, 0.0, 0.0], [11.0, 2.5, 0.0]]), 800)
    np.testing.assert_allclose(pixels, [[400, 285], [300, 285]], atol=1e-6)


@pytest.mark.parametrize("parent", [None, "somewhere", "cam_front"])
def test_a_camera_that_hangs_nowhere_is_none(tmp_path: Path, parent: str | None) -> None:
    assert load_front_camera(write_small_bag(tmp_path / "bag", parent=parent)) is None


def test_the_gallery_shows_the_pixels_of_the_stamp(tmp_path: Path) -> None:
    bag = write_small_bag(tmp_path / "bag")
    rows = [make_row(2), make_row(3)]  # stamps 1.0 s and 1.5 s
    assert make_gallery_from_bags(tmp_path, rows, [bag]) == 2
    gallery = read_gallery(tmp_path)
    for number, brightness in ((0, 0), (1, 100)):
        jpeg = gallery[number]["CAM_FRONT"]
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert pixels[-50:].mean() == pytest.approx(brightness, abs=3)


def test_camera_info_stands_beside_the_image() -> None:
    assert camera_info_topic_beside("/a/image_raw/compressed") == "/a/camera_info"
    assert camera_info_topic_beside("/a/image_raw") == "/a/camera_info"


def test_a_missing_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        load_front_camera(tmp_path / "nothing")
