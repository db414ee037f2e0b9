"""clkd_core.data.bags.files and bag_frames: what is written is read back, damage is named."""

import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import QosDurability

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, open_bag, write_bag
from clkd_core.data.bags.frames import count_image_sets, load_labels, read_frames
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    camera_info_to_msg,
    future_to_msg,
    image_to_msg,
    label_to_msg,
    odometry_to_msg,
    route_command_to_msg,
    transform_to_msg,
    transforms_to_msg,
)
from clkd_core.data.bags.ros_types import header_to_msg, load_typestore, message_class
from clkd_core.data.bags.topics import BagTopics
from clkd_core.errors import ConfigError, DataError
from clkd_core.runtime.sync import SyncConfig
from clkd_core.types import (
    CAMERAS,
    CameraImage,
    EgoState,
    MetaAction,
    RouteCommand,
    Trajectory,
)

START_NS = 1_000_000_000_000
STEP_NS = 100_000_000
FUTURE = Trajectory(xy_m=np.stack([np.arange(1.0, 7.0), np.zeros(6)], 1).astype(np.float32))


def label_at(stamp_ns: int) -> Label:
    action = MetaAction.from_text("STOP, LEFT_TURN")
    return Label(stamp_ns=stamp_ns, scene="drive-7", case_name="fog", action=action, future=FUTURE)


def write_drive(bag: BagWriter, steps: int = 6, *, cameras: tuple[str, ...] = CAMERAS) -> None:
    """A small drive: images every 100 ms, odometry with them, a label at every fifth."""
    route = route_command_to_msg(RouteCommand.LEFT)
    bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS - 1, route)
    for step in range(steps):
        now = START_NS + step * STEP_NS
        ego = EgoState(stamp_ns=now, speed_mps=float(step), yaw_rate_radps=-0.5)
        pose = Pose.planar(1.0, 2.0, 0.3)
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, now, odometry_to_msg(ego, pose))
        for camera in cameras:
            image = CameraImage(stamp_ns=now, encoded=f"{camera} {step}".encode())
            msg = image_to_msg(camera, image)
            bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, now, msg)
        if step % 5 == 0:
            write_label(bag, label_at(now))


def write_label(bag: BagWriter, label: Label) -> None:
    assert label.future is not None
    stamp = label.stamp_ns
    bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, stamp, label_to_msg(label))
    future = future_to_msg(stamp, label.future)
    bag.write(topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, stamp, future)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_written_is_read_back(tmp_path: Path, storage: Any) -> None:
    with write_bag(tmp_path / "bag", storage=storage) as bag:
        write_drive(bag)
    frames = list(read_frames(tmp_path / "bag"))
    assert [one.frame.stamp_ns for one in frames] == [START_NS + i * STEP_NS for i in range(6)]
    for step, (frame, label) in enumerate(frames):
        assert frame.images["CAM_BACK"].encoded == f"CAM_BACK {step}".encode()
        assert frame.ego == EgoState(
            stamp_ns=frame.stamp_ns, speed_mps=float(step), yaw_rate_radps=-0.5
        )
        assert frame.command is RouteCommand.LEFT and frame.degraded_reasons == ()
        assert (label is not None) == (step in (0, 5))
    first = frames[0].label
    assert first is not None and first.future is not None
    assert (first.scene, first.case_name, first.action.text) == (
        "drive-7",
        "fog",
        "STOP, LEFT_TURN",
    )
    assert np.array_equal(first.future.xy_m, FUTURE.xy_m)
    assert count_image_sets(tmp_path / "bag") == 6
    assert [one.stamp_ns for one in load_labels(tmp_path / "bag")] == [
        START_NS,
        START_NS + 5 * STEP_NS,
    ]


def test_latched_topics_are_recorded_as_latched_and_others_are_not(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_drive(bag)
        info = camera_info_to_msg("CAM_BACK", START_NS, np.eye(3), 16, 9)
        bag.write(topics.camera_info_topic("CAM_BACK"), topics.CAMERA_INFO, START_NS, info)
        fixed = transform_to_msg(START_NS, "base_link", "cam_back", Pose())
        bag.write(topics.TF_STATIC, topics.TF_MESSAGE, START_NS, transforms_to_msg([fixed]))
    with open_bag(tmp_path / "bag") as read:
        durability = {topic: read.qos_profiles(topic)[0].durability for topic in read.types}
    latched = {t for t, value in durability.items() if value is QosDurability.TRANSIENT_LOCAL}
    assert latched == {"/route_command", "/cam_back/camera_info", "/tf_static"}


def test_our_messages_are_in_the_typestore_with_their_constants() -> None:
    meta_action = message_class(topics.META_ACTION)
    assert (meta_action.STOP, meta_action.LEFT_CHANGE) == (3, 4)
    assert topics.FRAME_RESULT in load_typestore().types


def test_label_message_is_one_hot_and_carries_no_latency() -> None:
    msg = label_to_msg(label_at(5))
    assert msg.probability.tolist().index(1.0) == MetaAction.from_text("STOP, LEFT_TURN").index
    assert msg.probability.sum() == 1.0 and math.isnan(msg.inference_ms)


def test_failed_writing_leaves_the_old_bag_and_no_debris(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_drive(bag)
    with pytest.raises(RuntimeError), write_bag(tmp_path / "bag") as bag:
        write_drive(bag, 2)
        raise RuntimeError("power cut")
    assert count_image_sets(tmp_path / "bag") == 6
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_writing_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError, match="holds files and is no bag"), write_bag(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_missing_and_foreign_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing-here does not exist, expected a folder"):
        list(read_frames(tmp_path / "nothing-here"))
    with pytest.raises(DataError, match=r"no metadata.yaml: no bag, or its recording was cut"):
        list(read_frames(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes.txt is damaged or cut off"):
        list(read_frames(tmp_path / "notes.txt"))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_truncated_bag_is_a_data_error_that_names_it(
    tmp_path: Path, storage: Any, part: float
) -> None:
    with write_bag(tmp_path / "bag", storage=storage) as bag:
        write_drive(bag, 40)
    (file,) = [p for p in (tmp_path / "bag").iterdir() if p.suffix in (".mcap", ".db3")]
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(DataError, match=r"bag .*bag.* is damaged or cut off") as caught:
        list(read_frames(tmp_path / "bag"))
    assert "\n" not in str(caught.value)


def test_messages_that_the_bag_counts_and_does_not_hold_are_missed(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag", storage="sqlite3") as bag:
        write_drive(bag)
    with sqlite3.connect(tmp_path / "bag" / "bag.db3") as database:
        database.execute("DELETE FROM messages WHERE id > 40")
    with pytest.raises(DataError, match="messages are missing"):
        list(read_frames(tmp_path / "bag"))


def test_label_belongs_to_one_frame_only(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for step in range(4):
            now = START_NS + step * 30_000_000
            msg = image_to_msg("CAM_FRONT", CameraImage(stamp_ns=now, encoded=b"x"))
            topic = topics.image_topic("CAM_FRONT")
            bag.write(topic, topics.COMPRESSED_IMAGE, now, msg)
        write_label(bag, label_at(START_NS + 30_000_000))
    names = BagTopics(images={"CAM_FRONT": topics.image_topic("CAM_FRONT")})
    sync = SyncConfig(tolerance_ms=10.0)
    frames = list(read_frames(tmp_path / "bag", names, sync=sync))
    assert [one.label is not None for one in frames].count(True) == 1


def test_bytes_turned_inside_a_bag_never_escape_as_another_error(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_drive(bag, 10)
    file = tmp_path / "bag" / "bag.mcap"
    good = file.read_bytes()
    rng = np.random.default_rng(4)
    for _ in range(40):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 40):
            data[at] = rng.integers(0, 256)
        file.write_bytes(bytes(data))
        try:
            list(read_frames(tmp_path / "bag"))
        except DataError as err:
            assert "\n" not in str(err)


def test_topic_of_another_type_is_named(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_drive(bag)
        bag.write(topics.TRUE_META_ACTION + "x", topics.STRING, START_NS, string("x"))
    with pytest.raises(
        DataError, match=r"/odometry is a nav_msgs/msg/Odometry, expected std_msgs"
    ):
        list(read_frames(tmp_path / "bag", BagTopics(odometry="/x", route_command="/odometry")))


def string(text: str) -> Any:
    return message_class(topics.STRING)(data=text)


def test_bag_without_cameras_says_what_it_has(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        bag.write("/chatter", topics.STRING, 1, string("hi"))
    with pytest.raises(DataError, match=r"no camera images: topics /chatter; expected /cam_back"):
        count_image_sets(tmp_path / "bag")


def test_nan_odometry_and_unknown_route_degrade_the_frames_they_touch(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_drive(bag, 2)
        bad = odometry_to_msg(EgoState(stamp_ns=START_NS + STEP_NS, speed_mps=1.0), Pose())
        bad.header = header_to_msg(START_NS + 2 * STEP_NS, "odom")
        bad.pose.pose.position.x = math.nan
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, START_NS + 2 * STEP_NS, bad)
        bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS + 2 * STEP_NS, string("fly"))
        for camera in CAMERAS:
            image = image_to_msg(
                camera, CameraImage(stamp_ns=START_NS + 2 * STEP_NS, encoded=b"x")
            )
            topic = topics.image_topic(camera)
            bag.write(topic, topics.COMPRESSED_IMAGE, START_NS + 2 * STEP_NS, image)
    *good, last = [one.frame for one in read_frames(tmp_path / "bag")]
    assert all(frame.degraded_reasons == () for frame in good)
    assert last.degraded_reasons[0].startswith("odometry pose has a NaN")
    assert last.degraded_reasons[1].startswith("route command is 'fly', expected 'go straight'")


def test_raw_images_and_other_topic_names_are_read_through_a_mapping(tmp_path: Path) -> None:
    raw = message_class(topics.IMAGE)(
        header=header_to_msg(START_NS, "any"),
        height=2,
        width=3,
        encoding="mono8",
        is_bigendian=0,
        step=4,
        data=np.arange(8, dtype=np.uint8),
    )
    with write_bag(tmp_path / "bag") as bag:
        bag.write("/left/image", topics.IMAGE, START_NS, raw)
    names = BagTopics(images={"CAM_FRONT": "/left/image"})
    ((frame, label),) = read_frames(tmp_path / "bag", names)
    pixels = frame.images["CAM_FRONT"].pixels
    assert label is None and pixels is not None
    assert pixels[:, :, 1].tolist() == [[0, 1, 2], [4, 5, 6]]
    with pytest.raises(ConfigError, match="CAM_ROOF"):
        BagTopics(images={"CAM_ROOF": "/roof"})


def test_keyframe_that_lost_its_newest_image_keeps_its_label(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for step in range(3):
            for place, camera in enumerate(CAMERAS):
                now = START_NS + step * STEP_NS + place * 7_000_000
                if (step, camera) != (1, "CAM_BACK"):
                    msg = image_to_msg(camera, CameraImage(stamp_ns=now, encoded=b"x"))
                    bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, now, msg)
        write_label(bag, label_at(START_NS + STEP_NS + 35_000_000))
    frames = list(read_frames(tmp_path / "bag"))
    assert [one.label is not None for one in frames] == [False, True, False]
    assert len(frames[1].frame.images) == 5


def test_what_is_logged_with_an_image_is_known_to_its_frame(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for camera in CAMERAS:
            msg = image_to_msg(camera, CameraImage(stamp_ns=START_NS, encoded=b"x"))
            bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, START_NS, msg)
        ego = odometry_to_msg(EgoState(stamp_ns=START_NS, speed_mps=3.0), Pose())
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, START_NS, ego)
    ((frame, _),) = read_frames(tmp_path / "bag")
    assert frame.ego is not None and frame.ego.speed_mps == 3.0


@pytest.mark.parametrize("seed", range(20))
def test_quaternion_of_a_matrix_turns_like_the_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation = q * np.sign(np.diag(r))
    rotation[:, 0] *= np.linalg.det(rotation)
    pose = Pose.from_matrix(np.hstack([rotation, rng.normal(size=(3, 1))]))
    x, y, z, w = pose.quaternion_xyzw
    slow = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    assert np.allclose(slow, rotation, atol=1e-9)
