"""Bags that somebody else got wrong: a clear error or a counted skip, never a wrong number."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import jpeg_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, open_bag, write_bag
from clkd_core.data.bags.frames import load_labels, read_frames
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    future_to_msg,
    image_to_msg,
    label_to_msg,
    odometry_to_msg,
)
from clkd_core.data.bags.ros_types import header_to_msg, message_class
from clkd_core.data.bags.topics import BagTopics
from clkd_core.errors import DataError, FrameError
from clkd_core.runtime.decode import decode_frame
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    EgoState,
    SurroundFrame,
    Trajectory,
)

START_NS = 1_600_000_000_000_000_000
MS = 1_000_000


def write_image(
    bag: BagWriter, camera: str, ms: int, data: bytes = b"x", *, log_ms: int | None = None
) -> None:
    image = CameraImage(stamp_ns=START_NS + ms * MS, encoded=data)
    log_ns = START_NS + (ms if log_ms is None else log_ms) * MS
    bag.write(
        topics.image_topic(camera), topics.COMPRESSED_IMAGE, log_ns, image_to_msg(camera, image)
    )


def write_set(bag: BagWriter, ms: int, *, log_ms: int | None = None) -> None:
    for camera in CAMERAS:
        write_image(bag, camera, ms, log_ms=log_ms)


def write_label(bag: BagWriter, ms: int, index: int = 0, log_ms: int | None = None) -> None:
    stamp_ns = START_NS + ms * MS
    label = Label(stamp_ns=stamp_ns, scene="s", case_name="fog", action=META_ACTIONS[index])
    log_ns = START_NS + (ms if log_ms is None else log_ms) * MS
    bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, log_ns, label_to_msg(label))


def stamps_ms(path: Path) -> list[int]:
    return [(seen.frame.stamp_ns - START_NS) // MS for seen in read_frames(path)]


def labelled_ms(path: Path) -> dict[int, int]:
    """Frame's stamp by label's, both in ms."""
    return {
        (seen.label.stamp_ns - START_NS) // MS: (seen.frame.stamp_ns - START_NS) // MS
        for seen in read_frames(path)
        if seen.label
    }


def test_image_stamps_that_go_back_a_little_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for log_ms, ms in enumerate((0, 100, 50, 200)):
            write_set(bag, ms, log_ms=log_ms)
    assert stamps_ms(tmp_path / "bag") == [0, 100, 200]
    assert "6 images in no set: late" in caplog.text


def test_image_stamps_that_go_back_by_a_second_begin_a_new_round(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for log_ms, ms in enumerate((5000, 5100, 0, 100, 5000)):
            write_set(bag, ms, log_ms=log_ms)
        write_label(bag, 5000, log_ms=9)
    assert stamps_ms(tmp_path / "bag") == [5000, 5100, 0, 100, 5000]
    assert [s.label is not None for s in read_frames(tmp_path / "bag")] == [True] + [False] * 4


def test_duplicated_images_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for log_ms, ms in enumerate((0, 0, 100)):
            write_set(bag, ms, log_ms=log_ms)
    assert stamps_ms(tmp_path / "bag") == [0, 100]
    assert "6 images in no set: duplicate" in caplog.text


def test_odometry_that_goes_backwards_is_taken_by_stamp(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for log_ms, ms in enumerate((80, 60, 95, 70)):
            ego = EgoState(stamp_ns=START_NS + ms * MS, speed_mps=float(ms))
            msg = odometry_to_msg(ego, Pose())
            bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, START_NS + log_ms * MS, msg)
        for ms in (75, 100):
            write_set(bag, ms)
    speeds = [s.frame.ego.speed_mps for s in read_frames(tmp_path / "bag") if s.frame.ego]
    assert speeds == [70.0, 95.0]


def test_labels_that_agree_twice_count_once_and_others_are_refused(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_set(bag, 0)
        write_label(bag, 0)
        write_label(bag, 0, log_ms=5)
    assert len(load_labels(tmp_path / "bag")) == 1
    with write_bag(tmp_path / "bag") as bag:
        write_label(bag, 0, index=0)
        write_label(bag, 0, index=7, log_ms=5)
    wanted = rf"bag: {topics.TRUE_META_ACTION}: two messages of stamp {START_NS} disagree"
    with pytest.raises(DataError, match=wanted):
        load_labels(tmp_path / "bag")


def test_true_trajectories_that_disagree_are_refused_and_lonely_ones_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(bag: BagWriter, value: float, log_ns: int) -> None:
        future = Trajectory(xy_m=np.full((6, 2), value, np.float32))
        msg = future_to_msg(START_NS, future)
        bag.write(topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, log_ns, msg)

    with write_bag(tmp_path / "bag") as bag:
        write(bag, 1.0, START_NS)
        write(bag, 1.0, START_NS + 1)
    assert load_labels(tmp_path / "bag") == []
    assert "1 true trajectories without a label are not used" in caplog.text
    with write_bag(tmp_path / "bag") as bag:
        write(bag, 1.0, START_NS)
        write(bag, 1.5, START_NS + 1)
    with pytest.raises(DataError, match="disagree"):
        load_labels(tmp_path / "bag")


def test_label_that_is_no_action_is_named_with_its_bag_and_topic(tmp_path: Path) -> None:
    msg = label_to_msg(Label(stamp_ns=1, scene="", case_name="", action=META_ACTIONS[0]))
    msg.speed = 9
    with write_bag(tmp_path / "bag") as bag:
        bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, START_NS, msg)
    with pytest.raises(DataError, match=r"bag: /ground_truth/meta_action: label is speed 9"):
        load_labels(tmp_path / "bag")


def test_labels_far_from_every_image_belong_to_no_frame(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for ms in (0, 100, 200):
            write_set(bag, ms)
        for ms in (-500, 50, 141, 9999):
            write_label(bag, ms, log_ms=300)
    assert labelled_ms(tmp_path / "bag") == {}


def test_label_belongs_to_its_nearest_frame_at_any_rate(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for ms in range(0, 330, 33):  # 30 Hz: three frames lie within the tolerance of a label
            write_image(bag, "CAM_FRONT", ms)
        for ms in (99, 170, 260):
            write_label(bag, ms, log_ms=400)
    assert labelled_ms(tmp_path / "bag") == {99: 99, 170: 165, 260: 264}


def test_every_frame_may_have_a_label_also_with_none_exact(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for ms in range(0, 3300, 33):
            write_image(bag, "CAM_FRONT", ms)
            write_label(bag, ms + 1)
    assert labelled_ms(tmp_path / "bag") == {ms + 1: ms for ms in range(0, 3300, 33)}


@given(
    steps=st.lists(st.integers(20, 120), min_size=1, max_size=25),
    labels=st.sets(st.integers(0, 2500), max_size=12),
)
@settings(max_examples=20, deadline=None)
def test_frames_get_their_labels_by_the_rule_of_the_evaluator(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], labels: set[int]
) -> None:
    from clkd_core.runtime.sync import match_stamps

    path = tmp_path_factory.mktemp("bags") / "bag"
    frames = np.cumsum(steps).tolist()
    with write_bag(path) as bag:
        for ms in frames:
            write_image(bag, "CAM_FRONT", ms)
        for ms in labels:
            write_label(bag, ms)
    wanted = match_stamps([ms * MS for ms in frames], [ms * MS for ms in labels])
    assert labelled_ms(path) == {label // MS: frame // MS for label, frame in wanted.items()}


def test_images_and_odometry_without_stamps_have_those_of_the_log(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        ego = odometry_to_msg(EgoState(stamp_ns=0, speed_mps=2.0), Pose())
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, START_NS, ego)
        msg = image_to_msg("CAM_BACK", CameraImage(stamp_ns=0, encoded=b"x"))
        bag.write(topics.image_topic("CAM_BACK"), topics.COMPRESSED_IMAGE, START_NS + 5, msg)
    ((frame, _),) = read_frames(tmp_path / "bag")
    assert frame.stamp_ns == START_NS + 5
    assert frame.ego is not None and frame.ego.stamp_ns == START_NS


def test_zero_bytes_are_a_masked_view_and_six_of_them_a_frame_error(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for camera in CAMERAS:
            write_image(bag, camera, 0, b"" if camera == "CAM_BACK" else jpeg_bytes())
            write_image(bag, camera, 100, b"")
    good, bad = (seen.frame for seen in read_frames(tmp_path / "bag"))
    decoded = decode_frame(good, (18, 32))
    assert decoded.present.sum() == 5
    assert decoded.failures == ("CAM_BACK: zero bytes came, expected a JPEG or PNG",)
    with pytest.raises(FrameError, match="no usable image in the set"):
        decode_frame(bad, (18, 32))


def encoded(kind: str, height: int, width: int) -> bytes:
    ok, data = cv2.imencode(kind, np.full((height, width, 3), 90, np.uint8))
    assert ok
    return bytes(data)


def test_cameras_of_any_size_format_and_encoding_are_decoded(tmp_path: Path) -> None:
    compressed = {
        "CAM_FRONT": ("rgb8; jpeg compressed bgr8", encoded(".jpg", 370, 1226)),
        "CAM_FRONT_LEFT": ("png", encoded(".png", 48, 64)),
        "CAM_FRONT_RIGHT": ("jpeg", encoded(".jpg", 900, 1600)),
        "CAM_BACK": ("", encoded(".jpg", 8, 8)),
    }
    raw = {"CAM_BACK_LEFT": ("mono8", 1), "CAM_BACK_RIGHT": ("bgra8", 4)}
    with write_bag(tmp_path / "bag") as bag:
        for camera, (image_format, data) in compressed.items():
            msg = image_to_msg(camera, CameraImage(stamp_ns=START_NS, encoded=data), image_format)
            bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, START_NS, msg)
        for camera, (encoding, channels) in raw.items():
            msg = raw_message(encoding, channels)
            bag.write(topics.image_topic(camera), topics.IMAGE, START_NS, msg)
    ((frame, _),) = read_frames(tmp_path / "bag")
    decoded = decode_frame(frame, (36, 64))
    assert decoded.present.all() and decoded.failures == ()
    assert np.abs(decoded.views.astype(int) - 90).max() < 8


def raw_message(encoding: str, channels: int, height: int = 30, width: int = 40) -> Any:
    step = width * channels + 6  # padded rows
    return message_class(topics.IMAGE)(
        header=header_to_msg(START_NS, "x"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.full(step * height, 90, np.uint8),
    )


def test_raw_images_that_cannot_be_read_are_counted_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_image(bag, "CAM_FRONT", 0, jpeg_bytes())
        for _ in range(3):
            topic = topics.image_topic("CAM_BACK")
            bag.write(topic, topics.IMAGE, START_NS, raw_message("bayer_rggb8", 1))
    ((frame, _),) = read_frames(tmp_path / "bag")
    assert set(frame.images) == {"CAM_FRONT"}
    assert "3 messages not usable: CAM_BACK: image encoding 'bayer_rggb8'" in caplog.text


def test_a_thousand_kinds_of_nonsense_are_told_in_a_few_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_set(bag, 0)
        for number in range(1000):
            text = message_class(topics.STRING)(data=f"nonsense {number}")
            bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS + number, text)
    with caplog.at_level(logging.WARNING):
        list(read_frames(tmp_path / "bag"))
    assert len(caplog.records) < 20
    assert "988 more messages not usable" in caplog.text


def test_bag_without_a_camera_is_an_error_and_not_an_empty_drive(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_label(bag, 0)
    with pytest.raises(DataError, match="no camera images: topics /ground_truth/meta_action"):
        list(read_frames(tmp_path / "bag"))


def test_two_types_on_one_topic_are_named(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_set(bag, 0)
        bag.write(topics.ODOMETRY, topics.STRING, START_NS, message_class(topics.STRING)(data=""))
    with pytest.raises(DataError, match=r"/odometry is a std_msgs/msg/String, expected nav_msgs"):
        list(read_frames(tmp_path / "bag"))


TYPES = {
    topics.image_topic("CAM_FRONT"): topics.COMPRESSED_IMAGE,
    topics.image_topic("CAM_BACK"): topics.IMAGE,
    topics.ODOMETRY: topics.ODOMETRY_TYPE,
    topics.ROUTE_COMMAND: topics.STRING,
    topics.TRUE_META_ACTION: topics.META_ACTION,
    topics.TRUE_TRAJECTORY: topics.PLANNED_TRAJECTORY,
}


@given(
    messages=st.lists(
        st.tuples(st.sampled_from(list(TYPES)), st.binary(max_size=120)), min_size=1, max_size=6
    )
)
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_messages_are_read_or_a_data_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, messages: Sequence[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("bags") / "bag"
    with write_bag(path) as bag:
        write_image(bag, "CAM_FRONT_LEFT", 0)
        for topic, data in messages:
            bag.write_serialized(START_NS, topic, TYPES[topic], b"\0\1\0\0" + data)
    try:
        frames = [seen.frame for seen in read_frames(path)]
    except DataError as err:
        assert "\n" not in str(err) and "bag" in str(err)
        return
    assert all(isinstance(frame, SurroundFrame) for frame in frames)
    assert all(math.isfinite(frame.ego.speed_mps) for frame in frames if frame.ego)


def test_log_order_of_one_instant_does_not_change_what_a_frame_knows(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_set(bag, 0)
        ego = odometry_to_msg(EgoState(stamp_ns=START_NS, speed_mps=2.0), Pose())
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, START_NS, ego)
        phrase = message_class(topics.STRING)(data="turn left")
        bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS, phrase)
    ((frame, _),) = read_frames(tmp_path / "bag")
    assert frame.degraded_reasons == ()
    with open_bag(tmp_path / "bag") as read:
        assert [topic for topic, *_ in read.raw_messages()][-1] == topics.ROUTE_COMMAND


def test_frames_of_a_mapping_with_one_camera_do_not_wait_for_the_others(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for step in range(4):
            write_set(bag, 100 * step)
            for late_ms in (10, 20):
                ego = EgoState(
                    stamp_ns=START_NS + (100 * step - 10) * MS, speed_mps=float(late_ms)
                )
                msg = odometry_to_msg(ego, Pose())
                log_ns = START_NS + (100 * step + late_ms) * MS
                bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, log_ns, msg)
    names = BagTopics(images={"CAM_FRONT": topics.image_topic("CAM_FRONT")})
    egos = [seen.frame.ego for seen in read_frames(tmp_path / "bag", names)]
    assert egos[0] is None
    assert [ego.stamp_ns - START_NS for ego in egos[1:] if ego] == [
        (100 * step - 110) * MS for step in range(1, 4)
    ]
