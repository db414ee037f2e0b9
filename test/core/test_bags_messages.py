"""clkd_core.data.bags.messages: there and back through CDR, and never another error than ours."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clkd_core.data.bags import topics
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    ego_from_msg,
    future_from_msg,
    future_to_msg,
    image_from_msg,
    image_to_msg,
    label_from_msg,
    label_to_msg,
    odometry_to_msg,
    route_command_from_msg,
    route_command_to_msg,
)
from clkd_core.data.bags.ros_types import header_to_msg, load_typestore, message_class
from clkd_core.errors import DataError, FrameError
from clkd_core.types import META_ACTIONS, CameraImage, EgoState, RouteCommand, Trajectory

LOG_NS = 77
stamps = st.integers(-(2**31) * 10**9, (2**31) * 10**9 - 1)
set_stamps = stamps.filter(bool)
finite = st.floats(-1e6, 1e6)
anything = st.floats(allow_nan=True, allow_infinity=True)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def sent(msg: Any, msgtype: str) -> Any:
    """As it comes out of a bag."""
    store = load_typestore()
    return store.deserialize_cdr(store.serialize_cdr(msg, msgtype), msgtype)


@given(stamp_ns=set_stamps, encoded=st.binary(max_size=200), image_format=names)
def test_encoded_image_comes_back_whatever_its_bytes_and_format(
    stamp_ns: int, encoded: bytes, image_format: str
) -> None:
    image = CameraImage(stamp_ns=stamp_ns, encoded=encoded)
    msg = sent(image_to_msg("CAM_BACK", image, image_format), topics.COMPRESSED_IMAGE)
    assert image_from_msg(msg, LOG_NS) == image
    assert (msg.format, msg.header.frame_id) == (image_format, "cam_back")


@given(
    height=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 9),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    encoding=st.sampled_from(["rgb8", "bgr8", "mono8", "8UC3", "rgba8"]) | names,
    data=st.binary(max_size=400),
)
def test_raw_image_is_pixels_of_its_size_or_a_frame_error(
    height: int, width: int, step: int, encoding: str, data: bytes
) -> None:
    msg = message_class(topics.IMAGE)(
        header=header_to_msg(0, "x"),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(data, np.uint8),
    )
    try:
        image = image_from_msg(sent(msg, topics.IMAGE), LOG_NS)
    except FrameError as err:
        assert len(str(err)) < 300
        return
    assert image.pixels is not None and image.pixels.shape == (height, width, 3)
    assert image.stamp_ns == LOG_NS


@given(
    stamp_ns=set_stamps, speed=finite, rate=finite, x=finite, y=finite, yaw=st.floats(-4.0, 4.0)
)
def test_odometry_comes_back(
    stamp_ns: int, speed: float, rate: float, x: float, y: float, yaw: float
) -> None:
    ego = EgoState(stamp_ns=stamp_ns, speed_mps=speed, yaw_rate_radps=rate)
    msg = sent(odometry_to_msg(ego, Pose.planar(x, y, yaw)), topics.ODOMETRY_TYPE)
    assert ego_from_msg(msg, LOG_NS) == ego
    assert (msg.header.frame_id, msg.child_frame_id) == ("odom", "base_link")


@given(values=st.lists(anything, min_size=9, max_size=9))
def test_odometry_with_any_numbers_is_an_ego_state_or_a_frame_error(values: list[float]) -> None:
    msg = odometry_to_msg(EgoState(stamp_ns=0, speed_mps=0.0), Pose())
    place, turn = msg.pose.pose.position, msg.pose.pose.orientation
    place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = values[:7]
    msg.twist.twist.linear.x, msg.twist.twist.angular.z = values[7:]
    bad = not all(map(math.isfinite, values))
    if bad:
        with pytest.raises(FrameError, match="expected"):
            ego_from_msg(sent(msg, topics.ODOMETRY_TYPE), LOG_NS)
        return
    ego = ego_from_msg(sent(msg, topics.ODOMETRY_TYPE), LOG_NS)
    assert (ego.stamp_ns, ego.speed_mps, ego.yaw_rate_radps) == (LOG_NS, *values[7:])


@given(text=st.sampled_from([c.value for c in RouteCommand]).map(lambda t: f" {t}\n") | names)
def test_phrase_is_one_of_the_five_or_a_frame_error_of_one_screen(text: str) -> None:
    msg = sent(message_class(topics.STRING)(data=text * 1), topics.STRING)
    if text.strip() in {command.value for command in RouteCommand}:
        command = route_command_from_msg(msg)
        assert sent(route_command_to_msg(command), topics.STRING).data == text.strip()
        return
    with pytest.raises(FrameError, match="expected 'go straight'") as caught:
        route_command_from_msg(msg)
    assert len(str(caught.value)) < 600


def test_phrase_of_a_million_letters_is_quoted_in_part() -> None:
    msg = message_class(topics.STRING)(data="turn left " * 100_000)
    with pytest.raises(FrameError) as caught:
        route_command_from_msg(msg)
    assert len(str(caught.value)) < 300


@given(stamp_ns=stamps, scene=names, case_name=names, index=st.integers(0, 19))
def test_label_comes_back(stamp_ns: int, scene: str, case_name: str, index: int) -> None:
    label = Label(stamp_ns=stamp_ns, scene=scene, case_name=case_name, action=META_ACTIONS[index])
    assert label_from_msg(sent(label_to_msg(label), topics.META_ACTION)) == label


@given(speed=st.integers(0, 255), path=st.integers(0, 255))
def test_label_of_any_numbers_is_an_action_or_a_data_error(speed: int, path: int) -> None:
    msg = label_to_msg(Label(stamp_ns=1, scene="", case_name="", action=META_ACTIONS[0]))
    msg.speed, msg.path = speed, path
    if speed < 4 and path < 5:
        assert label_from_msg(sent(msg, topics.META_ACTION)).action.index == 5 * speed + path
        return
    with pytest.raises(DataError, match=f"speed {speed}, path {path}, expected 0..3 and 0..4"):
        label_from_msg(sent(msg, topics.META_ACTION))


points = arrays.arrays(
    np.float32, (6, 2), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


@given(stamp_ns=stamps, xy_m=points)
def test_true_trajectory_comes_back(stamp_ns: int, xy_m: np.ndarray) -> None:
    msg = sent(future_to_msg(stamp_ns, Trajectory(xy_m=xy_m)), topics.PLANNED_TRAJECTORY)
    found_ns, found = future_from_msg(msg)
    assert found_ns == stamp_ns and np.array_equal(found.xy_m, xy_m)


@given(
    x=st.lists(st.floats(width=32), max_size=9),
    y=st.lists(st.floats(width=32), max_size=9),
    step_s=st.floats(width=32) | st.just(0.5),
)
def test_true_trajectory_of_any_numbers_is_six_finite_points_or_a_data_error(
    x: list[float], y: list[float], step_s: float
) -> None:
    msg = future_to_msg(1, Trajectory(xy_m=np.zeros((6, 2), np.float32)))
    msg.x_m, msg.y_m, msg.step_s = np.array(x, np.float32), np.array(y, np.float32), step_s
    good = len(x) == len(y) == 6 and all(map(math.isfinite, x + y)) and step_s == 0.5
    if good:
        future_from_msg(sent(msg, topics.PLANNED_TRAJECTORY))
    elif not math.isclose(step_s, 0.5):
        with pytest.raises(DataError, match=r"true trajectory .* expected"):
            future_from_msg(sent(msg, topics.PLANNED_TRAJECTORY))


@given(
    x=finite,
    y=finite,
    z=finite,
    turn=st.tuples(*[st.floats(-1.0, 1.0)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_pose_and_its_matrix_are_one(
    x: float, y: float, z: float, turn: tuple[float, float, float, float]
) -> None:
    unit = np.array(turn) / np.linalg.norm(turn)
    pose = Pose(xyz_m=(x, y, z), quaternion_xyzw=tuple(unit.tolist()))
    matrix = pose.matrix
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3))
    back = Pose.from_matrix(matrix)
    assert back.xyz_m == pose.xyz_m
    assert np.allclose(back.matrix, matrix)
    assert abs(np.dot(back.quaternion_xyzw, unit)) == pytest.approx(1.0)
