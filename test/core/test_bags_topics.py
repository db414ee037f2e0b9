"""clkd_core.data.bags.topics: other people's names for what we read and play."""

from pathlib import Path

import numpy as np
import pytest
from fakes import jpeg_bytes

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, write_bag
from clkd_core.data.bags.frames import count_image_sets, load_labels, read_frames
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    future_to_msg,
    image_to_msg,
    label_to_msg,
    odometry_to_msg,
    route_command_to_msg,
)
from clkd_core.data.bags.ros_types import header_to_msg, message_class
from clkd_core.data.bags.topics import BagTopics, load_topics, rename_topics
from clkd_core.errors import ConfigError, DataError
from clkd_core.runtime.decode import decode_frame
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    EgoState,
    RouteCommand,
    Trajectory,
)

START_NS = 1_600_000_000_000_000_000
STEP_NS = 100_000_000
FUTURE = Trajectory(xy_m=np.ones((6, 2), np.float32))
THEIRS = """
images:
  CAM_FRONT: /front/compressed
  CAM_BACK: /rear/raw
odometry: /localization/odom
route_command: /navigation/phrase
true_meta_action: /labels/action
true_trajectory: /labels/path
"""


def mapping(tmp_path: Path, text: str) -> BagTopics:
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    return load_topics(path)


def raw_image(stamp_ns: int, height: int = 36, width: int = 64, encoding: str = "bgr8") -> object:
    return message_class(topics.IMAGE)(
        header=header_to_msg(stamp_ns, "rear"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=3 * width,
        data=np.full(3 * height * width, 77, np.uint8),
    )


def write_foreign(bag: BagWriter, steps: int = 3) -> None:
    """Two cameras, one of them raw, and all the rest under other names than ours."""
    names = [topics.STRING, "/navigation/phrase"]
    bag.write(names[1], names[0], START_NS - 1, route_command_to_msg(RouteCommand.LEFT))
    for step in range(steps):
        now = START_NS + step * STEP_NS
        ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=4.0), Pose())
        bag.write("/localization/odom", topics.ODOMETRY_TYPE, now, ego)
        image = image_to_msg("CAM_FRONT", CameraImage(stamp_ns=now, encoded=jpeg_bytes()))
        bag.write("/front/compressed", topics.COMPRESSED_IMAGE, now, image)
        bag.write("/rear/raw", topics.IMAGE, now, raw_image(now))
    label = Label(stamp_ns=START_NS, scene="s", case_name="fog", action=META_ACTIONS[3])
    bag.write("/labels/action", topics.META_ACTION, START_NS, label_to_msg(label))
    future = future_to_msg(START_NS, FUTURE)
    bag.write("/labels/path", topics.PLANNED_TRAJECTORY, START_NS, future)


def test_foreign_bag_is_read_through_a_file(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_foreign(bag)
    names = mapping(tmp_path, THEIRS)
    assert count_image_sets(tmp_path / "bag", names) == 3
    (label,) = load_labels(tmp_path / "bag", names)
    frames = list(read_frames(tmp_path / "bag", names, labels=[label]))
    assert [seen.label is label for seen in frames] == [True, False, False]
    assert label.future is not None and np.array_equal(label.future.xy_m, FUTURE.xy_m)
    for frame, _ in frames:
        assert frame.ego is not None and frame.ego.speed_mps == 4.0
        assert frame.command is RouteCommand.LEFT
        assert decode_frame(frame, (18, 32)).present.tolist() == [
            c in frame.images for c in CAMERAS
        ]
        assert frame.degraded_reasons == (
            "no image from CAM_FRONT_LEFT CAM_FRONT_RIGHT CAM_BACK_LEFT CAM_BACK_RIGHT",
        )


def test_camera_that_a_mapping_does_not_name_is_absent_although_the_bag_has_it(
    tmp_path: Path,
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_foreign(bag)
        for camera in CAMERAS:
            msg = image_to_msg(camera, CameraImage(stamp_ns=START_NS, encoded=jpeg_bytes()))
            bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, START_NS, msg)
    names = mapping(tmp_path, "images: {CAM_FRONT: /front/compressed}")
    for frame, _ in read_frames(tmp_path / "bag", names):
        assert set(frame.images) == {"CAM_FRONT"}


def test_what_a_file_leaves_out_keeps_our_names_and_may_be_absent(tmp_path: Path) -> None:
    assert mapping(tmp_path, "") == BagTopics()
    names = mapping(tmp_path, "odometry: /odom")
    assert names.images == BagTopics().images and names.route_command == topics.ROUTE_COMMAND
    with write_bag(tmp_path / "bag") as bag:
        write_foreign(bag)
    names = mapping(tmp_path, "images: {CAM_FRONT: /front/compressed}")
    frames = [seen.frame for seen in read_frames(tmp_path / "bag", names)]
    assert frames[0].ego is None and frames[0].command is None


def test_topic_that_is_named_and_not_in_the_bag_is_an_error_that_says_what_is(
    tmp_path: Path,
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_foreign(bag)
    text = THEIRS.replace("/front/", "/frnt/").replace("/localization/odom", "/odom")
    names = mapping(tmp_path, text)
    wanted = r"bag has no /frnt/compressed, /odom, which the topic mapping names; it has /front/"
    for read in (count_image_sets, load_labels, lambda *words: list(read_frames(*words))):
        with pytest.raises(DataError, match=wanted):
            read(tmp_path / "bag", names)


def test_every_mistake_in_a_mapping_is_reported_at_once(tmp_path: Path) -> None:
    text = """
        images: {CAM_ROOF: /roof, CAM_FRONT: front, CAM_BACK: /same, CAM_BACK_LEFT: /same}
        odometri: /odom
        route_command: 5
    """
    with pytest.raises(ConfigError) as caught:
        mapping(tmp_path, text)
    said = str(caught.value)
    assert "unknown key 'odometri', did you mean 'odometry'?" in said
    assert "'route_command' is 5, expected text" in said
    with pytest.raises(ConfigError) as caught:
        mapping(tmp_path, text.replace("odometri: /odom", "").replace(": 5", ": /r"))
    said = str(caught.value)
    assert "topics.yaml: bag topics name cameras ['CAM_ROOF'], expected some of" in said
    assert "topic of CAM_FRONT is 'front', expected a name like '/x/y'" in said
    assert "topic '/same' is given for CAM_BACK, CAM_BACK_LEFT, expected one of them" in said


@pytest.mark.parametrize(
    "text", ["images: {}", "images: [/a]", "- images", "images: {CAM_BACK: }"]
)
def test_mapping_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"topics\.yaml"):
        mapping(tmp_path, text)


def test_topic_of_another_type_is_named_with_its_mapped_name(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_foreign(bag)
    names = mapping(
        tmp_path, "images: {CAM_FRONT: /localization/odom}\nodometry: /front/compressed"
    )
    with pytest.raises(DataError, match=r"/localization/odom is a nav_msgs/msg/Odometry, exp"):
        count_image_sets(tmp_path / "bag", names)


def test_topics_are_played_under_our_names_and_raw_images_beside_the_compressed_ones(
    tmp_path: Path,
) -> None:
    types = {
        "/front/compressed": topics.COMPRESSED_IMAGE,
        "/rear/raw": topics.IMAGE,
        "/localization/odom": topics.ODOMETRY_TYPE,
        "/navigation/phrase": topics.STRING,
        "/tf": topics.TF_MESSAGE,
        "/lidar": "sensor_msgs/msg/PointCloud2",
        # Ours by name, and not what the mapping names:
        "/odometry": topics.ODOMETRY_TYPE,
        "/cam_back_left/image_raw/compressed": topics.COMPRESSED_IMAGE,
        "/cam_back/image_raw": topics.IMAGE,
    }
    assert rename_topics(types, mapping(tmp_path, THEIRS)) == {
        "/front/compressed": "/cam_front/image_raw/compressed",
        "/rear/raw": "/cam_back/image_raw",
        "/localization/odom": "/odometry",
        "/navigation/phrase": "/route_command",
        "/tf": "/tf",
        "/lidar": "/lidar",
    }


def test_mapping_that_swaps_our_own_names_swaps_them() -> None:
    front, back = topics.image_topic("CAM_FRONT"), topics.image_topic("CAM_BACK")
    types = dict.fromkeys((front, back), topics.COMPRESSED_IMAGE)
    swapped = BagTopics(images={"CAM_FRONT": back, "CAM_BACK": front})
    assert rename_topics(types, swapped) == {front: back, back: front}
    assert swapped.foreign == {front, back}
    assert rename_topics(types, BagTopics()) == {front: front, back: back}


@pytest.mark.parametrize("name", ["usb_cam", "autoware"])
def test_shipped_mappings_say_what_they_are_for(root: Path, name: str) -> None:
    path = root / "config" / "topics" / f"{name}.yaml"
    assert load_topics(path).foreign
    assert path.read_text().startswith("# Topic mapping for ")
