"""A plan for eyes and for other stacks: markers for RViz, Autoware's trajectory.

``convert.path_to_msg`` is the third form, ``nav_msgs/Path``. Pure functions, no node, no torch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clkd_core.types import STEP_S, Decision, Plan, PlanMode, Trajectory
from clkd_ros import messages
from clkd_ros.convert import compute_headings_rad, header_at

MODE_COLOURS: Mapping[PlanMode, tuple[float, float, float]] = {
    PlanMode.FOLLOWING: (0.1, 0.9, 0.2),
    PlanMode.WITHOUT_DECISION: (1.0, 0.75, 0.0),
    PlanMode.STOPPING: (1.0, 0.15, 0.1),
}
"""RGB [0..1] of a plan's line, points and text: green, amber, red."""

MARKER_LIFETIME_S = 2
"""Markers vanish by themselves this long after the last plan: an old plan must not look alive."""

LINE_WIDTH_M, POINT_DIAMETER_M, TEXT_HEIGHT_M = 0.3, 0.6, 1.0

TEXT_ABOVE_EGO_M = 3.0
"""Over the roof of a car."""

_MAX_LINES, _MAX_LINE_CHARS = 8, 80
_NS_PER_S = 1_000_000_000


class Motion(NamedTuple):
    """How the vehicle moves along a trajectory, at now and at each of its points: T + 1 values."""

    xy_m: NDArray[np.float64]
    """(T + 1, 2) ego frame; the first is the origin."""
    yaw_rad: NDArray[np.float64]
    """(T + 1,) direction of travel, counter-clockwise from x; not wrapped. 0 at the origin."""
    speed_mps: NDArray[np.float64]
    """(T + 1,) along the direction of travel, >= 0."""
    acceleration_mps2: NDArray[np.float64]
    """(T + 1,) change of the speed."""
    yaw_rate_radps: NDArray[np.float64]
    """(T + 1,) change of the direction, counter-clockwise positive."""


def markers_to_msg(plan: Plan, decision: Decision | None) -> messages.MarkerArray:
    """What RViz draws: the plan as line and points in the colour of its mode, and a text.

    The first marker deletes all earlier ones of the topic; the others keep their namespaces and
    ids, and end by themselves after ``MARKER_LIFETIME_S``.

    Args:
        plan: drawn in the ego frame, from the vehicle on.
        decision: what the planner was given for it; None when there was no fresh one.
    """
    line = _marker(plan, "plan", messages.Marker.LINE_STRIP, LINE_WIDTH_M)
    line.points = [messages.Point(), *_points(plan.trajectory)]
    dots = _marker(plan, "plan_points", messages.Marker.SPHERE_LIST, POINT_DIAMETER_M)
    dots.points = _points(plan.trajectory)
    text = _marker(plan, "decision", messages.Marker.TEXT_VIEW_FACING, TEXT_HEIGHT_M)
    text.pose.position.z = TEXT_ABOVE_EGO_M
    text.text = plan_text(plan, decision)
    return messages.MarkerArray(markers=[_delete_all(plan), line, dots, text])


def plan_text(plan: Plan, decision: Decision | None) -> str:
    """The decision, how the plan treats it where it does not follow it, and the plan's reasons.

    Reasons may come from the network: at most 8 lines of 80 characters are kept.
    """
    lines = [decision.action.text] if decision else []
    if decision is None or plan.mode is not PlanMode.FOLLOWING:
        lines.append(plan.mode.name.replace("_", " "))
    lines += [line for reason in plan.degraded for line in reason.split("\n")]
    if len(lines) > _MAX_LINES:
        lines[_MAX_LINES - 1 :] = [f"and {len(lines) - _MAX_LINES + 1} more"]
    return "\n".join(line[:_MAX_LINE_CHARS] for line in lines)


def autoware_trajectory_to_msg(plan: Plan) -> Any:
    """The plan as ``autoware_planning_msgs/Trajectory``: now and the six points.

    Its frame is the ego frame at ``plan.stamp_ns``. Autoware's own nodes want ``map``: transform
    it on the way. Steering angles and lateral velocity are not planned and stay 0.

    Raises:
        ValueError: ``messages.autoware_trajectory_class`` has none.
    """
    trajectory_class = messages.autoware_trajectory_class()
    if trajectory_class is None:
        raise ValueError("autoware_planning_msgs cannot be imported, expected it to be sourced")
    point_class = messages.message_class("autoware_planning_msgs/msg/TrajectoryPoint")
    msg = trajectory_class(header=header_at(plan.stamp_ns))
    motion = compute_motion(plan.trajectory)
    for index in range(len(motion.speed_mps)):
        point = point_class()
        _fill_point(point, motion, index)
        msg.points.append(point)
    return msg


def compute_motion(trajectory: Trajectory) -> Motion:
    """Speeds, headings and their changes from the points alone.

    Between point k - 1 and k (point 0 is the origin) the mean speed is
    ``c_k = |p_k - p_(k-1)| / STEP_S`` and the heading that of the chord, both taken to hold half
    a step before k. At an inner point the value is the mean of its two neighbours and the rate
    their difference over ``STEP_S``; at both ends the nearest rate is continued, speeds are not
    let below 0, and the heading at the origin is 0, which is what the ego frame means. Exact where
    acceleration and rate of turn are constant.
    """
    xy_m = np.concatenate([np.zeros((1, 2)), trajectory.xy_m.astype(np.float64)])
    chord_mps = np.hypot(*np.diff(xy_m, axis=0).T) / STEP_S
    chord_rad = np.unwrap(np.asarray(compute_headings_rad(trajectory), np.float64))
    speed_mps, acceleration_mps2 = _at_points(chord_mps)
    yaw_rad, yaw_rate_radps = _at_points(chord_rad)
    yaw_rad[0] = 0.0
    speed_mps = np.maximum(speed_mps, 0.0)
    return Motion(xy_m, yaw_rad, speed_mps, acceleration_mps2, yaw_rate_radps)


def _at_points(between: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and rates at the T + 1 points from values at the T middles between them."""
    inner_rate = np.diff(between) / STEP_S
    rate = np.concatenate([inner_rate[:1], inner_rate, inner_rate[-1:]])
    first = between[:1] - rate[0] * STEP_S / 2
    last = between[-1:] + rate[-1] * STEP_S / 2
    return np.concatenate([first, (between[1:] + between[:-1]) / 2, last]), rate


def _fill_point(point: Any, motion: Motion, index: int) -> None:
    sec, nanosec = divmod(round(index * STEP_S * _NS_PER_S), _NS_PER_S)
    point.time_from_start.sec, point.time_from_start.nanosec = sec, nanosec
    point.pose.position.x, point.pose.position.y = map(float, motion.xy_m[index])
    half_rad = motion.yaw_rad[index] / 2
    point.pose.orientation.z = float(np.sin(half_rad))
    point.pose.orientation.w = float(np.cos(half_rad))
    point.longitudinal_velocity_mps = float(motion.speed_mps[index])
    point.acceleration_mps2 = float(motion.acceleration_mps2[index])
    point.heading_rate_rps = float(motion.yaw_rate_radps[index])


def _points(trajectory: Trajectory) -> list[messages.Point]:
    return [messages.Point(x=float(x_m), y=float(y_m)) for x_m, y_m in trajectory.xy_m]


def _marker(plan: Plan, namespace: str, kind: int, size_m: float) -> messages.Marker:
    """One of ours; RViz reads the width of a line from x and the height of a text from z."""
    marker = messages.Marker(header=header_at(plan.stamp_ns), ns=namespace, id=0, type=kind)
    marker.action = messages.Marker.ADD
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    red, green, blue = MODE_COLOURS[plan.mode]
    marker.color = messages.ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.lifetime.sec = MARKER_LIFETIME_S
    return marker


def _delete_all(plan: Plan) -> messages.Marker:
    return messages.Marker(header=header_at(plan.stamp_ns), action=messages.Marker.DELETEALL)
