"""Messages to core types and back, as plain functions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fakes import jpeg_bytes, one_hot

from clkd_core.errors import FrameError
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.runtime.health import Health
from clkd_core.types import META_ACTIONS, Decision, Plan, PlanMode, RouteCommand, Trajectory
from clkd_ros import convert, messages
from clkd_ros.raw_images import converter_name

STAMP_NS = 1_533_151_603_512_404_123


def raw_image(pixels: np.ndarray, encoding: str, padding: int = 0) -> messages.Image:
    """A sensor_msgs/Image of (H, W) or (H, W, K) uint8 pixels, with bytes of padding a row."""
    msg = messages.Image()
    msg.header.stamp = convert.stamp_to_msg(STAMP_NS)
    msg.height, msg.width = pixels.shape[:2]
    rows = pixels.reshape(msg.height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    msg.step, msg.encoding = padded.shape[1], encoding
    msg.data = padded.tobytes()
    return msg


RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
OPAQUE = np.full((2, 3, 1), 255, np.uint8)
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[:, :, ::-1], RGB),
        ("rgba8", np.concatenate([RGB, OPAQUE], 2), RGB),
        ("bgra8", np.concatenate([RGB[:, :, ::-1], OPAQUE], 2), RGB),
        ("mono8", GREY, np.repeat(GREY[:, :, None], 3, 2)),
    ],
)
def test_raw_image_becomes_rgb_whatever_its_encoding_and_padding(
    encoding: str, pixels: np.ndarray, expected: np.ndarray, padding: int
) -> None:
    image = convert.image_from_raw_msg(raw_image(pixels, encoding, padding))
    assert image.stamp_ns == STAMP_NS
    assert image.pixels is not None
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize("encoding", ["lab8", "", "8SC1", "x" * 5000])
def test_raw_image_of_another_encoding_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(FrameError, match=f"encoding '{encoding[:60]}") as caught:
        convert.image_from_raw_msg(raw_image(GREY, encoding))
    assert len(str(caught.value)) < 400


def test_raw_image_that_only_cv_bridge_can_read_is_refused_by_our_own_conversion() -> None:
    if converter_name() == "cv_bridge":
        pytest.skip("cv_bridge is in use and reads bayer_rggb8")
    with pytest.raises(FrameError, match="bayer_rggb8"):
        convert.image_from_raw_msg(raw_image(GREY, "bayer_rggb8"))


@pytest.mark.parametrize(
    ("field", "value"), [("height", 0), ("width", 2**31), ("height", 2**32 - 1), ("step", 1)]
)
def test_raw_image_with_absurd_sides_is_refused_before_memory_is_taken(
    field: str, value: int
) -> None:
    msg = raw_image(RGB, "rgb8")
    setattr(msg, field, value)
    with pytest.raises(FrameError):
        convert.image_from_raw_msg(msg)


def test_raw_image_with_too_few_bytes_is_refused() -> None:
    msg = raw_image(RGB, "rgb8")
    msg.data = b"\x00" * 17
    with pytest.raises(FrameError, match="17 bytes"):
        convert.image_from_raw_msg(msg)


def test_compressed_image_keeps_its_bytes_and_its_stamp() -> None:
    msg = messages.CompressedImage()
    msg.header.stamp = convert.stamp_to_msg(STAMP_NS)
    msg.data = jpeg_bytes()
    image = convert.image_from_compressed_msg(msg)
    assert (image.stamp_ns, image.encoded) == (STAMP_NS, jpeg_bytes())


def test_compressed_image_of_insane_size_is_refused() -> None:
    msg = messages.CompressedImage()
    msg.data = bytes(convert.MAX_ENCODED_BYTES + 1)
    with pytest.raises(FrameError, match="33554433 bytes"):
        convert.image_from_compressed_msg(msg)


def odometry(speed_mps: float, yaw_rate_radps: float = 0.1) -> messages.Odometry:
    msg = messages.Odometry()
    msg.header.stamp = convert.stamp_to_msg(STAMP_NS)
    msg.twist.twist.linear.x = speed_mps
    msg.twist.twist.angular.z = yaw_rate_radps
    return msg


def test_ego_state_is_read_and_nan_is_refused() -> None:
    ego = convert.ego_state_from_msg(odometry(4.5))
    assert (ego.stamp_ns, ego.speed_mps, ego.yaw_rate_radps) == (STAMP_NS, 4.5, 0.1)
    lost = odometry(1.0)
    lost.pose.pose.position.x = math.nan
    for bad in (odometry(math.nan), odometry(1.0, math.inf), lost):
        with pytest.raises(FrameError, match=r"expected (a )?finite number"):
            convert.ego_state_from_msg(bad)


def test_route_command_is_one_of_the_five_phrases_or_refused() -> None:
    for command in RouteCommand:
        assert convert.route_command_from_msg(messages.String(data=command.value)) is command
    with pytest.raises(FrameError, match="'make a u-turn'"):
        convert.route_command_from_msg(messages.String(data="make a u-turn"))


@pytest.mark.parametrize("action", META_ACTIONS, ids=lambda action: action.text)
def test_decision_survives_the_message(action) -> None:
    decision = Decision(
        stamp_ns=STAMP_NS,
        action=action,
        probabilities=one_hot(action),
        inference_ms=12.5,
        degraded=("no odometry",),
    )
    msg = convert.decision_to_msg(decision, node_response_ms=20.0)
    back = convert.decision_from_msg(msg)
    assert (back.stamp_ns, back.action, back.degraded) == (STAMP_NS, action, ("no odometry",))
    assert (back.inference_ms, msg.node_response_ms) == (12.5, 20.0)
    np.testing.assert_array_equal(back.probabilities, one_hot(action))


def test_stale_and_late_decisions_survive_the_message_and_one_that_is_both_is_refused() -> None:
    decision = Decision(
        stamp_ns=STAMP_NS,
        action=META_ACTIONS[3],
        probabilities=one_hot(META_ACTIONS[3]),
        inference_ms=90.0,
    )
    for flags in ({"late": True}, {"stale": True, "degraded": ("no answer within 80 ms",)}):
        flagged = replace(decision, **flags)
        msg = convert.decision_to_msg(flagged, node_response_ms=95.0)
        back = convert.decision_from_msg(msg)
        assert (back.late, back.stale) == (flagged.late, flagged.stale)
        assert back.degraded == flagged.degraded
    msg.late = True
    with pytest.raises(FrameError, match="stale and late"):
        convert.decision_from_msg(msg)


def test_decision_with_an_unknown_action_or_negative_time_is_refused() -> None:
    for field, value in (("speed", 4), ("path", 5), ("inference_ms", -1.0)):
        msg = messages.MetaAction()
        setattr(msg, field, value)
        with pytest.raises(FrameError):
            convert.decision_from_msg(msg)


def curve() -> Plan:
    points = [(2, 0), (4, 0.5), (6, 1.5), (7.5, 3), (8.5, 5), (9, 7)]
    return Plan(
        stamp_ns=STAMP_NS,
        trajectory=Trajectory(xy_m=np.asarray(points, np.float32)),
        inference_ms=3.0,
        decision_stamp_ns=STAMP_NS - 5,
    )


def test_plan_survives_the_message() -> None:
    back = convert.plan_from_msg(convert.plan_to_msg(curve()))
    np.testing.assert_array_equal(back.trajectory.xy_m, curve().trajectory.xy_m)
    assert (back.stamp_ns, back.decision_stamp_ns) == (STAMP_NS, STAMP_NS - 5)
    assert back.mode is PlanMode.FOLLOWING


@pytest.mark.parametrize("mode", [PlanMode.WITHOUT_DECISION, PlanMode.STOPPING])
def test_plan_that_follows_nothing_survives_the_message_and_has_no_decision(
    mode: PlanMode,
) -> None:
    alone = Plan(
        stamp_ns=STAMP_NS,
        trajectory=curve().trajectory,
        inference_ms=math.nan,
        degraded=("no decision yet",),
        mode=mode,
    )
    msg = convert.plan_to_msg(alone)
    back = convert.plan_from_msg(msg)
    assert (msg.decision_stamp.sec, msg.decision_stamp.nanosec) == (0, 0)
    assert (back.mode, back.decision_stamp_ns, back.degraded) == (mode, None, alone.degraded)


def test_plan_modes_are_the_constants_of_the_message() -> None:
    for mode in PlanMode:
        assert getattr(messages.PlannedTrajectory, mode.name) == mode


@pytest.mark.parametrize(
    ("mode", "decision_ns", "error"),
    [
        (3, 0, "plan has mode 3, expected below 3"),
        (255, STAMP_NS, "plan has mode 255"),
        (0, 0, "plan is FOLLOWING and its decision stamp is absent"),
        (1, STAMP_NS, "plan is WITHOUT_DECISION and its decision stamp is 15331516"),
        (2, STAMP_NS, "plan is STOPPING and its decision stamp is 15331516"),
    ],
)
def test_plan_of_an_unknown_mode_or_one_that_its_decision_contradicts_is_refused(
    mode: int, decision_ns: int, error: str
) -> None:
    msg = convert.plan_to_msg(curve())
    msg.mode, msg.decision_stamp = mode, convert.stamp_to_msg(decision_ns)
    with pytest.raises(FrameError, match=error):
        convert.plan_from_msg(msg)


def test_trajectory_of_other_length_or_step_or_with_nan_is_refused() -> None:
    short, uneven, slow, nan = (convert.plan_to_msg(curve()) for _ in range(4))
    short.x_m, short.y_m = short.x_m[:5], short.y_m[:5]
    uneven.y_m = uneven.y_m[:5]
    slow.step_s = 0.2
    nan.x_m = [math.nan] * 6
    for bad in (short, uneven, slow, nan):
        with pytest.raises(FrameError):
            convert.trajectory_from_msg(bad)


def test_path_points_along_the_curve_and_a_standing_car_keeps_its_heading() -> None:
    path = convert.path_to_msg(curve())
    first, last = path.poses[0].pose, path.poses[-1].pose
    assert (path.header.frame_id, len(path.poses)) == ("base_link", 6)
    assert (first.orientation.z, first.orientation.w) == (0.0, 1.0)
    yaw_rad = 2 * math.atan2(last.orientation.z, last.orientation.w)
    assert yaw_rad == pytest.approx(math.atan2(2, 0.5))
    points = np.asarray([(0, 3)] + [(0, 3.01)] * 5, np.float32)
    headings = convert.compute_headings_rad(Trajectory(xy_m=points))
    assert headings == pytest.approx([math.pi / 2] * 6)


def test_stamp_is_read_from_the_first_bytes_of_either_endianness() -> None:
    little = b"\x00\x01\x00\x00" + (7).to_bytes(4, "little") + (9).to_bytes(4, "little")
    big = b"\x00\x00\x00\x00" + (7).to_bytes(4, "big") + (9).to_bytes(4, "big")
    assert convert.stamp_ns_from_cdr(little) == convert.stamp_ns_from_cdr(big) == 7_000_000_009
    with pytest.raises(FrameError, match="11 bytes"):
        convert.stamp_ns_from_cdr(little[:11])


def test_frame_result_of_a_dropped_keyframe_has_no_answer_and_no_times() -> None:
    row = FrameRow(scene="s", case_name="fog", stamp_ns=STAMP_NS, label=META_ACTIONS[7])
    msg = convert.frame_result_to_msg(row)
    assert (msg.label, msg.answer, msg.answered, msg.in_time) == (7, 255, False, False)
    assert math.isnan(msg.response_ms)
    assert math.isnan(msg.l2_mean_m)


def test_frame_result_of_an_answered_keyframe_is_in_time() -> None:
    row = FrameRow(
        scene="s",
        case_name="regular",
        stamp_ns=STAMP_NS,
        label=META_ACTIONS[7],
        answer=META_ACTIONS[7],
        outcome=Outcome.ANSWERED,
        response_ms=40.0,
        plan=curve().trajectory,
        truth=curve().trajectory,
    )
    msg = convert.frame_result_to_msg(row)
    assert (msg.answer, msg.in_time, msg.l2_mean_m) == (7, True, 0.0)


def test_diagnostics_tell_rate_drops_and_percentiles() -> None:
    health = Health()
    calm = convert.health_to_msg("/vlm", health.report(), stamp_ns=STAMP_NS, extra={})
    health.count_answer(10.0)
    health.count_drop("replaced by a newer frame")
    msg = convert.health_to_msg(
        "/vlm", health.report(), stamp_ns=STAMP_NS, extra={"silent cameras": "CAM_BACK"}
    )
    values = {value.key: value.value for value in msg.status[0].values}
    assert values["latency_p99_ms"] == "10.00"
    assert values["dropped: replaced by a newer frame"] == "1"
    assert values["silent cameras"] == "CAM_BACK"
    assert calm.status[0].level == messages.DiagnosticStatus.OK
    assert msg.status[0].level == messages.DiagnosticStatus.WARN
