"""Messages to the core's types and back: pure functions, no node, no torch.

What comes from the network is not trusted: a message that cannot be used is a ``FrameError``.
"""

import math
import struct
from array import array
from collections.abc import Mapping

import numpy as np

from clkd_core.errors import FrameError
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.runtime.health import DROPPED, FLAGGED, HealthReport
from clkd_core.types import (
    STEP_S,
    CameraImage,
    Decision,
    EgoState,
    MetaAction,
    PathAction,
    Plan,
    PlanMode,
    RouteCommand,
    SpeedAction,
    Trajectory,
)
from clkd_ros import messages
from clkd_ros.raw_images import rgb_from_msg

EGO_FRAME_ID = "base_link"
"""Frame of every trajectory: x forward, y left."""

MAX_ENCODED_BYTES = 32 * 1024 * 1024
"""A larger "compressed" image is refused; a 1600 x 900 JPEG has about 0.2 MB."""

NO_ANSWER = 255
"""``FrameResult.answer`` of a keyframe that was not answered."""

_NS_PER_S = 1_000_000_000
_MIN_HEADING_STEP_M = 0.05
"""Steps shorter than this keep the heading of the one before: a standing car does not turn."""


def stamp_ns_from_msg(stamp: messages.TimeMsg) -> int:
    """Nanoseconds since the epoch."""
    return int(stamp.sec) * _NS_PER_S + int(stamp.nanosec)


def stamp_to_msg(stamp_ns: int) -> messages.TimeMsg:
    """Inverse of :func:`stamp_ns_from_msg`."""
    sec, nanosec = divmod(stamp_ns, _NS_PER_S)
    return messages.TimeMsg(sec=sec, nanosec=nanosec)


def stamp_ns_from_cdr(cdr: bytes) -> int:
    """Header stamp of a serialized message that begins with a header; nothing else is read.

    The evaluator looks at 60 images a second in this way, and at no pixel.

    Raises:
        FrameError: the message is too short to hold a stamp.
    """
    if len(cdr) < 12:
        raise FrameError(f"serialized message of {len(cdr)} bytes, expected a header")
    sec, nanosec = struct.unpack_from("<iI" if cdr[1] & 1 else ">iI", cdr, 4)
    return int(sec) * _NS_PER_S + int(nanosec)


def image_from_compressed_msg(msg: messages.CompressedImage) -> CameraImage:
    """One view, still encoded; whether the bytes are an image is found out by the engine.

    Raises:
        FrameError: more than ``MAX_ENCODED_BYTES`` came.
    """
    if len(msg.data) > MAX_ENCODED_BYTES:
        raise FrameError(
            f"compressed image of {len(msg.data)} bytes, expected at most {MAX_ENCODED_BYTES}"
        )
    encoded = memoryview(msg.data).tobytes()
    return CameraImage(stamp_ns=stamp_ns_from_msg(msg.header.stamp), encoded=encoded)


def image_from_raw_msg(msg: messages.Image) -> CameraImage:
    """One view as RGB pixels; row padding is removed.

    Raises:
        FrameError: an encoding other than rgb8, bgr8, rgba8, bgra8, mono8 and what cv_bridge adds
            where it is used, absurd sides, or fewer bytes than the sides need.
    """
    pixels = rgb_from_msg(msg)
    return CameraImage(stamp_ns=stamp_ns_from_msg(msg.header.stamp), pixels=pixels)


def ego_state_from_msg(msg: messages.Odometry) -> EgoState:
    """Speed and rate of turn in the child frame, which is the ego frame.

    The pose must be a number, too: an odometry that lost its place is not believed its speed.

    Raises:
        FrameError: a value is NaN or infinite.
    """
    place, turn = msg.pose.pose.position, msg.pose.pose.orientation
    pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
    if not all(math.isfinite(value) for value in pose):
        raise FrameError("odometry pose has a NaN or infinite value, expected finite numbers")
    return EgoState(
        stamp_ns=stamp_ns_from_msg(msg.header.stamp),
        speed_mps=float(msg.twist.twist.linear.x),
        yaw_rate_radps=float(msg.twist.twist.angular.z),
    )


def route_command_from_msg(msg: messages.String) -> RouteCommand:
    """The phrase as a command.

    Raises:
        FrameError: it is none of the five phrases.
    """
    try:
        return RouteCommand(msg.data.strip())
    except ValueError as err:
        wanted = ", ".join(repr(command.value) for command in RouteCommand)
        raise FrameError(f"route command is {msg.data[:60]!r}, expected {wanted}") from err


def decision_to_msg(decision: Decision, *, node_response_ms: float) -> messages.MetaAction:
    """A decision as it is published.

    Args:
        decision: what the engine said.
        node_response_ms: camera set complete in the node, decision published [ms].
    """
    msg = messages.MetaAction()
    msg.header = header_at(decision.stamp_ns)
    msg.speed, msg.path = int(decision.action.speed), int(decision.action.path)
    msg.probability = np.asarray(decision.probabilities, np.float32)
    msg.inference_ms = float(decision.inference_ms)
    msg.node_response_ms = float(node_response_ms)
    msg.degraded = bool(decision.degraded)
    msg.stale, msg.late = bool(decision.stale), bool(decision.late)
    msg.reason = "; ".join(decision.degraded)
    return msg


def action_from_msg(msg: messages.MetaAction) -> MetaAction:
    """The action alone, from a decision or a label.

    Raises:
        FrameError: speed or path is not one of the constants.
    """
    if not (msg.speed < len(SpeedAction) and msg.path < len(PathAction)):
        raise FrameError(
            f"meta-action has speed {msg.speed} and path {msg.path}, expected below "
            f"{len(SpeedAction)} and {len(PathAction)}"
        )
    return MetaAction(SpeedAction(int(msg.speed)), PathAction(int(msg.path)))


def decision_from_msg(msg: messages.MetaAction) -> Decision:
    """Inverse of :func:`decision_to_msg`, but for the node's own response time.

    Raises:
        FrameError: the action or the inference time is none, or it is stale and late.
    """
    if msg.inference_ms < 0:
        raise FrameError(f"decision has inference_ms {msg.inference_ms}, expected 0 or more")
    flagged = msg.degraded or msg.stale
    return Decision(
        stamp_ns=stamp_ns_from_msg(msg.header.stamp),
        action=action_from_msg(msg),
        probabilities=np.asarray(msg.probability, np.float32),
        inference_ms=float(msg.inference_ms),
        degraded=(msg.reason or "no reason given",) if flagged else (),
        stale=bool(msg.stale),
        late=bool(msg.late),
    )


def plan_to_msg(plan: Plan) -> messages.PlannedTrajectory:
    """A plan as it is published."""
    msg = messages.PlannedTrajectory()
    msg.header = header_at(plan.stamp_ns)
    msg.step_s = STEP_S
    msg.x_m = array("f", plan.trajectory.xy_m[:, 0].tolist())
    msg.y_m = array("f", plan.trajectory.xy_m[:, 1].tolist())
    msg.inference_ms = float(plan.inference_ms)
    msg.mode = int(plan.mode)
    msg.decision_stamp = stamp_to_msg(plan.decision_stamp_ns or 0)
    msg.degraded = bool(plan.degraded)
    msg.reason = "; ".join(plan.degraded)
    return msg


def trajectory_from_msg(msg: messages.PlannedTrajectory) -> Trajectory:
    """The points alone, from a plan or a label.

    Raises:
        FrameError: not six points, another step than 0.5 s, or a value that is not finite.
    """
    if not math.isclose(msg.step_s, STEP_S, rel_tol=1e-3):
        raise FrameError(f"trajectory has step_s {msg.step_s}, expected {STEP_S}")
    if len(msg.x_m) != len(msg.y_m):
        raise FrameError(f"trajectory has {len(msg.x_m)} x_m and {len(msg.y_m)} y_m")
    xy_m = np.stack([np.asarray(msg.x_m, np.float32), np.asarray(msg.y_m, np.float32)], axis=1)
    return Trajectory(xy_m=xy_m)


def plan_from_msg(msg: messages.PlannedTrajectory) -> Plan:
    """Inverse of :func:`plan_to_msg`.

    Raises:
        FrameError: as :func:`trajectory_from_msg`, a negative inference time, an unknown mode, or
            a decision's stamp that contradicts the mode.
    """
    if msg.inference_ms < 0:
        raise FrameError(f"plan has inference_ms {msg.inference_ms}, expected 0 or more")
    if msg.mode >= len(PlanMode):
        raise FrameError(f"plan has mode {msg.mode}, expected below {len(PlanMode)}")
    return Plan(
        stamp_ns=stamp_ns_from_msg(msg.header.stamp),
        trajectory=trajectory_from_msg(msg),
        inference_ms=float(msg.inference_ms),
        decision_stamp_ns=stamp_ns_from_msg(msg.decision_stamp) or None,
        degraded=(msg.reason or "no reason given",) if msg.degraded else (),
        mode=PlanMode(int(msg.mode)),
    )


def path_to_msg(plan: Plan) -> messages.Path:
    """The plan as a ``nav_msgs/Path`` in the ego frame, headings along the points."""
    msg = messages.Path()
    msg.header = header_at(plan.stamp_ns)
    msg.poses = [
        _pose(plan.stamp_ns, float(x_m), float(y_m), yaw_rad)
        for (x_m, y_m), yaw_rad in zip(
            plan.trajectory.xy_m, compute_headings_rad(plan.trajectory), strict=True
        )
    ]
    return msg


def compute_headings_rad(trajectory: Trajectory) -> list[float]:
    """Direction of travel at each point, from the point before (the origin before the first)."""
    headings: list[float] = []
    last_xy, yaw_rad = np.zeros(2), 0.0
    for xy in trajectory.xy_m.astype(np.float64):
        step = xy - last_xy
        if float(np.hypot(*step)) >= _MIN_HEADING_STEP_M:
            yaw_rad, last_xy = math.atan2(step[1], step[0]), xy
        headings.append(yaw_rad)
    return headings


def frame_result_to_msg(row: FrameRow) -> messages.FrameResult:
    """The evaluator's verdict on one labelled keyframe."""
    distances_m = row.point_distances_m
    msg = messages.FrameResult()
    msg.header = header_at(row.stamp_ns)
    msg.scene, msg.case_name = row.scene, row.case_name
    msg.label = row.label.index if row.label else NO_ANSWER
    msg.answered = row.answered
    msg.answer = row.answer.index if row.answer else NO_ANSWER
    msg.stale, msg.degraded = row.stale, row.degraded
    msg.inference_ms, msg.response_ms = float(row.inference_ms), float(row.response_ms)
    msg.in_time = row.outcome is Outcome.ANSWERED
    msg.l2_mean_m = math.nan if distances_m is None else float(distances_m.mean())
    return msg


def health_to_msg(
    node_name: str, health: HealthReport, *, stamp_ns: int, extra: Mapping[str, str]
) -> messages.DiagnosticArray:
    """A node's state for ``/diagnostics``; WARN once anything was dropped or flagged."""
    status = messages.DiagnosticStatus()
    troubled = bool(health.drops or health.flags)
    status.level = messages.DiagnosticStatus.WARN if troubled else messages.DiagnosticStatus.OK
    status.name = node_name
    status.message = f"{health.answered} answered, {sum(health.drops.values())} dropped"
    values = {"rate_hz": f"{health.rate_hz:.2f}", "answered": str(health.answered)}
    for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"):
        values[name] = f"{getattr(health, name):.2f}"
    values |= {f"{DROPPED}{reason}": str(count) for reason, count in health.drops.items()}
    values |= {f"{FLAGGED}{reason}": str(count) for reason, count in health.flags.items()}
    values |= extra
    status.values = [messages.KeyValue(key=key, value=text) for key, text in values.items()]
    msg = messages.DiagnosticArray()
    msg.header.stamp = stamp_to_msg(stamp_ns)
    msg.status = [status]
    return msg


def header_at(stamp_ns: int) -> messages.Header:
    """Ego frame at a stamp."""
    return messages.Header(stamp=stamp_to_msg(stamp_ns), frame_id=EGO_FRAME_ID)


def _pose(stamp_ns: int, x_m: float, y_m: float, yaw_rad: float) -> messages.PoseStamped:
    msg = messages.PoseStamped()
    msg.header = header_at(stamp_ns)
    msg.pose.position.x, msg.pose.position.y = x_m, y_m
    msg.pose.orientation.z = math.sin(yaw_rad / 2)
    msg.pose.orientation.w = math.cos(yaw_rad / 2)
    return msg
