"""What people and other stacks see of a plan, as plain functions and once over the wire."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fakes import one_hot, wait_until
from hypothesis import given
from hypothesis import strategies as st
from ros_graph import Graph, running_graph

from clkd_core.types import FUTURE_STEPS, STEP_S, Decision, MetaAction, Plan, PlanMode, Trajectory
from clkd_ros import convert, messages, visuals

STAMP_NS = 1_533_151_603_512_404_123
TIMES_S = np.arange(1, FUTURE_STEPS + 1) * STEP_S
CURVE = [(2, 0), (4, 0.5), (6, 1.5), (7.5, 3), (8.5, 5), (9, 7)]


def trajectory(points: Any) -> Trajectory:
    return Trajectory(xy_m=np.asarray(points, np.float32))


def plan(points: Any = CURVE, mode: PlanMode = PlanMode.FOLLOWING, *reasons: str) -> Plan:
    return Plan(
        stamp_ns=STAMP_NS,
        trajectory=trajectory(points),
        inference_ms=3.0,
        decision_stamp_ns=STAMP_NS if mode is PlanMode.FOLLOWING else None,
        degraded=reasons,
        mode=mode,
    )


def decision(text: str = "DECELERATE, STRAIGHT") -> Decision:
    action = MetaAction.from_text(text)
    return Decision(
        stamp_ns=STAMP_NS, action=action, probabilities=one_hot(action), inference_ms=1.0
    )


def send_and_hear(graph: Graph, topic: str, msg: Any) -> list[Any]:
    """What a subscriber gets of one message."""
    publisher = graph.tester.create_publisher(type(msg), topic, 1)
    heard = graph.listen(type(msg), topic)
    wait_until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
    publisher.publish(msg)
    wait_until(lambda: bool(heard), f"a message on {topic}")
    return heard


def test_markers_first_delete_what_was_there_and_keep_their_names() -> None:
    many = [
        visuals.markers_to_msg(plan(), decision()),
        visuals.markers_to_msg(plan(mode=PlanMode.STOPPING), None),
    ]
    for array in many:
        assert [marker.action for marker in array.markers] == [3, 0, 0, 0]
        assert [marker.header.frame_id for marker in array.markers] == ["base_link"] * 4
        assert {convert.stamp_ns_from_msg(m.header.stamp) for m in array.markers} == {STAMP_NS}
    names = [[(marker.ns, marker.id) for marker in array.markers[1:]] for array in many]
    assert names[0] == names[1]
    assert len(set(names[0])) == 3


def test_markers_draw_the_plan_from_the_vehicle_on_and_end_by_themselves() -> None:
    _, line, dots, text = visuals.markers_to_msg(plan(), decision()).markers
    assert [(point.x, point.y, point.z) for point in line.points] == [
        (0.0, 0.0, 0.0),
        *[(float(np.float32(x)), float(np.float32(y)), 0.0) for x, y in CURVE],
    ]
    assert list(dots.points) == list(line.points)[1:]
    assert [marker.type for marker in (line, dots, text)] == [4, 7, 9]
    for marker in (line, dots, text):
        assert marker.lifetime.sec > 0
        assert min(marker.scale.x, marker.scale.y, marker.scale.z) > 0
        assert (marker.color.a, marker.pose.orientation.w) == (1.0, 1.0)


def test_each_mode_has_a_colour_of_its_own() -> None:
    colours = set()
    for mode in PlanMode:
        markers = visuals.markers_to_msg(plan(mode=mode), None).markers[1:]
        colours |= {(m.color.r, m.color.g, m.color.b) for m in markers}
    assert len(colours) == len(PlanMode)


def test_text_tells_the_decision_and_why_it_is_not_simply_followed() -> None:
    text = visuals.plan_text
    assert text(plan(), decision()) == "DECELERATE, STRAIGHT"
    assert text(plan(CURVE, PlanMode.FOLLOWING, "no odometry"), decision()) == (
        "DECELERATE, STRAIGHT\nno odometry"
    )
    assert text(plan(mode=PlanMode.WITHOUT_DECISION), None) == "WITHOUT DECISION"
    assert text(plan(CURVE, PlanMode.STOPPING, "no decision for 3.0 s"), None) == (
        "STOPPING\nno decision for 3.0 s"
    )
    assert text(plan(mode=PlanMode.STOPPING), decision()) == "DECELERATE, STRAIGHT\nSTOPPING"


def test_text_from_the_network_stays_short() -> None:
    reasons = ["x" * 100_000, "many\n" * 1000, *map(str, range(50))]
    text = visuals.plan_text(plan(CURVE, PlanMode.FOLLOWING, *reasons), decision())
    lines = text.split("\n")
    assert len(lines) == 8
    assert max(map(len, lines)) == 80
    assert lines[-1] == "and 1046 more"


def slow_motion(points: np.ndarray) -> list[tuple[float, float]]:
    """Speed and acceleration, point by point in plain words."""
    places = [(0.0, 0.0), *[(float(x), float(y)) for x, y in points]]
    chord = [math.dist(a, b) / STEP_S for a, b in pairwise(places)]
    inner = [(chord[k] - chord[k - 1]) / STEP_S for k in range(1, len(chord))]
    change = [inner[0], *inner, inner[-1]]
    speed = [max(0.0, chord[0] - change[0] * STEP_S / 2)]
    speed += [(chord[k - 1] + chord[k]) / 2 for k in range(1, len(chord))]
    speed += [max(0.0, chord[-1] + change[-1] * STEP_S / 2)]
    return list(zip(speed, change, strict=True))


@given(
    st.lists(
        st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)),
        min_size=FUTURE_STEPS,
        max_size=FUTURE_STEPS,
    )
)
def test_motion_agrees_with_a_slow_version_and_speeds_are_never_negative(points: Any) -> None:
    motion = visuals.compute_motion(trajectory(points))
    found = np.stack([motion.speed_mps, motion.acceleration_mps2], axis=1)
    np.testing.assert_allclose(found, slow_motion(trajectory(points).xy_m), atol=1e-9)
    assert motion.speed_mps.min() >= 0
    assert np.isfinite(np.concatenate([motion.yaw_rad, motion.yaw_rate_radps])).all()
    assert motion.yaw_rad[0] == 0
    np.testing.assert_array_equal(motion.xy_m[1:], trajectory(points).xy_m)


def test_motion_is_exact_where_the_acceleration_is_constant() -> None:
    x_m = 5.0 * TIMES_S + 0.5 * 1.5 * TIMES_S**2
    motion = visuals.compute_motion(trajectory(np.stack([x_m, 0 * x_m], axis=1)))
    times_s = np.concatenate([[0.0], TIMES_S])
    np.testing.assert_allclose(motion.speed_mps, 5.0 + 1.5 * times_s, atol=1e-5)
    np.testing.assert_allclose(motion.acceleration_mps2, 1.5, atol=1e-5)
    np.testing.assert_array_equal(motion.yaw_rate_radps, np.zeros(7))


@pytest.mark.parametrize("rate_radps", [0.3, -0.3, 2.5])
def test_motion_is_exact_on_a_circle_also_through_half_a_turn(rate_radps: float) -> None:
    radius_m, turned_rad = 8.0 / rate_radps, rate_radps * TIMES_S
    points = radius_m * np.stack([np.sin(turned_rad), 1 - np.cos(turned_rad)], axis=1)
    motion = visuals.compute_motion(trajectory(points))
    np.testing.assert_allclose(motion.yaw_rad, [0, *turned_rad], atol=1e-5)
    np.testing.assert_allclose(motion.yaw_rate_radps, rate_radps, atol=1e-5)
    chord_mps = 2 * abs(radius_m) * math.sin(abs(rate_radps) * STEP_S / 2) / STEP_S
    np.testing.assert_allclose(motion.speed_mps, chord_mps, rtol=1e-5)


def test_motion_of_a_standing_car_is_zero_and_braking_ends_at_rest() -> None:
    standing = visuals.compute_motion(trajectory([(0, 0)] * 6))
    assert not any(np.any(values) for values in standing)
    x_m = [3.0, 5.0, 6.0, 6.0, 6.0, 6.0]
    braking = visuals.compute_motion(trajectory([(x, 0) for x in x_m]))
    np.testing.assert_allclose(braking.speed_mps, [7, 5, 3, 1, 0, 0, 0])
    np.testing.assert_allclose(braking.acceleration_mps2, [-4, -4, -4, -4, 0, 0, 0])


def test_autowares_form_needs_its_package() -> None:
    if messages.autoware_trajectory_class() is not None:
        pytest.skip("autoware_planning_msgs is there")
    with pytest.raises(ValueError, match="autoware_planning_msgs cannot be imported"):
        visuals.autoware_trajectory_to_msg(plan())


def test_markers_arrive_over_the_wire_as_they_were_sent() -> None:
    sent = visuals.markers_to_msg(plan(CURVE, PlanMode.STOPPING, "no decision"), None)
    with running_graph() as graph:
        heard = send_and_hear(graph, "/planner/markers", sent)
    assert [marker.text for marker in heard[0].markers] == ["", "", "", "STOPPING\nno decision"]
    assert [marker.ns for marker in heard[0].markers] == [marker.ns for marker in sent.markers]
    assert list(heard[0].markers[1].points) == list(sent.markers[1].points)


@pytest.mark.ros
def test_autoware_gets_now_and_six_points_over_the_wire() -> None:
    pytest.importorskip("autoware_planning_msgs", reason="autoware_planning_msgs is not sourced")
    sent = visuals.autoware_trajectory_to_msg(plan())
    with running_graph() as graph:
        msg = send_and_hear(graph, "/planner/autoware_trajectory", sent)[0]
    assert convert.stamp_ns_from_msg(msg.header.stamp) == STAMP_NS
    assert msg.header.frame_id == "base_link"
    motion = visuals.compute_motion(plan().trajectory)
    for index, point in enumerate(msg.points):
        assert point.time_from_start.sec + point.time_from_start.nanosec / 1e9 == index * STEP_S
        assert (point.pose.position.x, point.pose.position.y) == tuple(motion.xy_m[index])
        yaw_rad = 2 * math.atan2(point.pose.orientation.z, point.pose.orientation.w)
        assert yaw_rad == pytest.approx(motion.yaw_rad[index])
        assert point.longitudinal_velocity_mps == pytest.approx(motion.speed_mps[index])
        assert point.acceleration_mps2 == pytest.approx(motion.acceleration_mps2[index])
        assert point.heading_rate_rps == pytest.approx(motion.yaw_rate_radps[index])
    assert len(msg.points) == 7
