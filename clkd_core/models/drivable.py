"""Which trajectories a vehicle can drive, and the drivable one beside one that it cannot.

A trajectory is six points ``STEP_S`` apart, the vehicle stands at the origin and points along x.
What is known of the motion between the points is measured like this, for any number N of them:

- speed of a step: its length over ``STEP_S``; the mean speed over the step.
- acceleration: from the present speed to the first step's over half a step, because a mean speed
  belongs to the middle of its step; then from step to step over a whole one.
- jerk: from one acceleration to the next, over the time between the middles of their spans. The
  present acceleration is not known, so the first one may be any.
- curvature at a point: 2 sin(turn / 2) over the distance between the middles of the two segments
  that meet there: exact on a circle's points, and growing with the turn up to a reversal. At
  the origin the turn is that of the first segment against x.
- lateral acceleration at a point: curvature times the squared mean of the two speeds.

A segment shorter than ``MIN_SEGMENT_M`` has no direction: a standing vehicle does not turn.
Driving is forward: a vehicle that rolls backwards counts as standing.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import FUTURE_STEPS, STEP_S

MIN_SEGMENT_M = 0.1
"""Shorter segments have no direction; in one step that is 0.2 m/s."""

ROUNDING = 0.005
"""A limit counts as kept up to so much of its unit: points are float32, and 100 m ahead their last
digit is worth 0.002 1/m of a slow vehicle's curvature and 0.001 m/s^3 of jerk."""

_HALF_STEP_S = STEP_S / 2
_FIRST_SPAN_S = 0.75 * STEP_S  # middle of the first half step to the end of the first step
_TIGHTER = 0.999  # what is made drivable keeps this much of a limit, and rounding the rest

Floats = NDArray[np.float64]


class PathMotion(NamedTuple):
    """The motion along N trajectories."""

    speed_mps: Floats
    """(N, T)."""
    accel_mps2: Floats
    """(N, T); the first is NaN where the present speed is unknown."""
    jerk_mps3: Floats
    """(N, T - 1); ditto."""
    curvature_pm: Floats
    """(N, T) >= 0."""
    lateral_mps2: Floats
    """(N, T) >= 0."""


def measure_motion(xy_m: NDArray[np.float32], speed_mps: NDArray[np.float32]) -> PathMotion:
    """See the module.

    Args:
        xy_m: (N, T, 2) metres, ego frame of now.
        speed_mps: (N,) present speed; NaN where it is unknown.

    Raises:
        ValueError: the shapes disagree.
    """
    points, now = _checked(xy_m, speed_mps)
    steps = np.diff(points, axis=1, prepend=0.0)
    lengths = np.hypot(steps[..., 0], steps[..., 1])
    speeds = lengths / STEP_S
    first = (speeds[:, :1] - now[:, None]) / _HALF_STEP_S
    accel = np.concatenate([first, np.diff(speeds, axis=1) / STEP_S], axis=1)
    jerk = np.diff(accel, axis=1) / _spans()
    curvature = _curvatures(steps, lengths)
    joint = (speeds + np.concatenate([speeds[:, :1], speeds[:, :-1]], axis=1)) / 2
    return PathMotion(speeds, accel, jerk, curvature, curvature * joint**2)


def is_drivable(
    xy_m: NDArray[np.float32], speed_mps: NDArray[np.float32], vehicle: VehicleConfig
) -> NDArray[np.bool_]:
    """(N,) whether every limit is kept; arguments and errors as in :func:`measure_motion`."""
    broken = list(broken_limits(xy_m, speed_mps, vehicle).values())
    return np.asarray(~np.any(broken, axis=0), np.bool_)


def broken_limits(
    xy_m: NDArray[np.float32], speed_mps: NDArray[np.float32], vehicle: VehicleConfig
) -> dict[str, NDArray[np.bool_]]:
    """(N,) by name of the vehicle's limit: whether it is broken somewhere.

    A trajectory that holds NaN breaks all; arguments and errors as in :func:`measure_motion`.
    """
    motion = measure_motion(xy_m, speed_mps)
    # A vehicle that is too fast already has to be let slow down.
    top = np.fmax(vehicle.max_speed_mps, np.asarray(speed_mps, np.float64))[:, None]
    accel = np.nan_to_num(motion.accel_mps2)  # unknown is within any limit
    excess = {
        "max_speed_mps": motion.speed_mps - top,
        "max_accel_mps2": accel - vehicle.max_accel_mps2,
        "max_brake_mps2": -accel - vehicle.max_brake_mps2,
        "max_jerk_mps3": np.abs(np.nan_to_num(motion.jerk_mps3)) - vehicle.max_jerk_mps3,
        "max_lateral_accel_mps2": motion.lateral_mps2 - vehicle.max_lateral_accel_mps2,
        "max_curvature_pm": motion.curvature_pm - vehicle.max_curvature_pm,
    }
    lost = ~np.isfinite(np.asarray(xy_m)).all(axis=(1, 2))
    return {name: lost | (rows > ROUNDING).any(axis=1) for name, rows in excess.items()}


def start_speeds(
    xy_m: NDArray[np.float32], vehicle: VehicleConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """From which present speeds each trajectory can be driven: (N,) lowest and (N,) highest.

    Lowest is above highest where it can be driven from none.
    """
    unknown = np.full(len(xy_m), np.nan, np.float32)
    motion = measure_motion(xy_m, unknown)
    spare = vehicle.max_jerk_mps3 * _FIRST_SPAN_S
    most = np.minimum(vehicle.max_accel_mps2, motion.accel_mps2[:, 1] + spare)
    least = np.maximum(-vehicle.max_brake_mps2, motion.accel_mps2[:, 1] - spare)
    low = motion.speed_mps[:, 0] - _HALF_STEP_S * most
    high = motion.speed_mps[:, 0] - _HALF_STEP_S * least
    never = ~is_drivable(xy_m, unknown, vehicle)
    low, high = np.where(never, np.inf, low), np.where(never, -np.inf, high)
    return low.astype(np.float32), high.astype(np.float32)


def make_drivable(
    xy_m: NDArray[np.float32], speed_mps: NDArray[np.float32], vehicle: VehicleConfig
) -> NDArray[np.float32]:
    """Follow each trajectory as well as the vehicle can, point after point.

    The vehicle heads for the next point as fast as it takes to be there in time, with speed and
    heading held within what the limits leave from where it is now. Braking is let in only as far
    as it can be released again before standstill, and speeding up before the highest speed, so
    the jerk limit never stands against another one. A drivable trajectory comes back as it was.

    Args:
        xy_m: (N, T, 2) finite metres, ego frame of now.
        speed_mps: (N,) present speed; NaN where it is unknown, then the first step may have any.
        vehicle: the limits.

    Returns:
        (N, T, 2) float32 metres, :func:`is_drivable`.

    Raises:
        ValueError: the shapes disagree, or a point is NaN or infinite.
    """
    targets, now = _checked(xy_m, speed_mps)
    if not np.isfinite(targets).all():
        raise ValueError("trajectory holds a point that is NaN or infinite, expected metres")
    count = len(targets)
    place, heading, reach = np.zeros((count, 2)), np.zeros(count), np.zeros(count)
    speed, accel = now, np.full(count, np.nan)
    top = np.fmax(vehicle.max_speed_mps, now)
    points = np.empty_like(targets)
    for step in range(FUTURE_STEPS):
        apart = targets[:, step] - place
        ahead = np.cos(heading) * apart[:, 0] + np.sin(heading) * apart[:, 1] > 0
        wanted = np.where(ahead, np.hypot(apart[:, 0], apart[:, 1]), 0.0) / STEP_S
        before = speed
        speed, accel = _next_speed(wanted, before, accel, top, step, vehicle)
        length = speed * STEP_S
        joint = speed if step == 0 else (before + speed) / 2
        most = _most_turn(joint, reach + length / 2, vehicle)
        turn = _wrapped(np.arctan2(apart[:, 1], apart[:, 0]) - heading)
        moves = length >= MIN_SEGMENT_M
        heading = heading + np.where(moves & ahead, np.clip(turn, -most, most), 0.0)
        reach = np.where(moves, length / 2, reach + length)
        place = place + length[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        points[:, step] = place
    return points.astype(np.float32)


def _next_speed(
    wanted: Floats, speed: Floats, accel: Floats, top: Floats, step: int, vehicle: VehicleConfig
) -> tuple[Floats, Floats]:
    """The next step's speed nearest to what is wanted, and the acceleration to it."""
    span_s = _HALF_STEP_S if step == 0 else STEP_S
    known = np.where(np.isfinite(speed), speed, 0.0)
    jerk = _TIGHTER * vehicle.max_jerk_mps3
    since_s = 0.0 if step == 0 else float(_spans()[step - 1])
    low = np.fmax(-_TIGHTER * vehicle.max_brake_mps2, accel - jerk * since_s)
    high = np.fmin(_TIGHTER * vehicle.max_accel_mps2, accel + jerk * since_s)
    low = np.maximum(low, -_releasable(known, jerk, step))
    high = np.minimum(high, _releasable(top - known, jerk, step))
    change = np.clip((wanted - known) / span_s, low, np.maximum(low, high))
    free = ~np.isfinite(speed)  # only ever in the first step
    reached = np.where(free, np.minimum(wanted, top), np.maximum(known + change * span_s, 0.0))
    return reached, np.where(free, np.nan, change)


def _releasable(room_mps: Floats, jerk_mps3: float, step: int) -> Floats:
    """The strongest acceleration that can be released before the speed has changed by the room.

    Released at full jerk it fades over the steps to come; whatever their number m, all of them
    together must not take more than the room, so the least over m holds.
    """
    span_s = _HALF_STEP_S if step == 0 else STEP_S
    first = jerk_mps3 * (_FIRST_SPAN_S if step == 0 else STEP_S)
    fades = np.arange(FUTURE_STEPS + 1)
    faded = fades * first + fades * (fades - 1) / 2 * jerk_mps3 * STEP_S
    most = (room_mps[:, None] + STEP_S * faded) / (span_s + STEP_S * fades)
    return np.asarray(most.min(axis=1), np.float64)


def _most_turn(joint_mps: Floats, gap_m: Floats, vehicle: VehicleConfig) -> Floats:
    """The sharpest turn between two segments whose middles are so far apart [rad]."""
    lateral = vehicle.max_lateral_accel_mps2 / np.maximum(joint_mps, 1e-3) ** 2
    curvature = _TIGHTER * np.minimum(vehicle.max_curvature_pm, lateral)
    return np.asarray(2 * np.arcsin(np.minimum(curvature * gap_m / 2, 1.0)), np.float64)


def _curvatures(steps: Floats, lengths: Floats) -> Floats:
    """(N, T) at the beginning of each step."""
    heading, reach = np.zeros(len(steps)), np.zeros(len(steps))
    rows = []
    for step, length in zip(steps.swapaxes(0, 1), lengths.T, strict=True):
        moves = length >= MIN_SEGMENT_M * (1 - 1e-4)
        along = np.arctan2(step[:, 1], step[:, 0])
        turn = np.abs(_wrapped(along - heading))
        gap = np.where(moves, reach + length / 2, 1.0)
        rows.append(np.where(moves, 2 * np.sin(turn / 2) / gap, 0.0))
        heading = np.where(moves, along, heading)
        reach = np.where(moves, length / 2, reach + length)
    return np.stack(rows, axis=1)


def _spans() -> Floats:
    """(T - 1,) seconds between the middles of the spans of two accelerations."""
    return np.array([_FIRST_SPAN_S] + [STEP_S] * (FUTURE_STEPS - 2))


def _wrapped(angle: Floats) -> Floats:
    """The same angle in -pi to pi."""
    return np.asarray((angle + math.pi) % math.tau - math.pi, np.float64)


def _checked(xy_m: NDArray[np.float32], speed_mps: NDArray[np.float32]) -> tuple[Floats, Floats]:
    points = np.asarray(xy_m, np.float64)
    speeds = np.asarray(speed_mps, np.float64)
    if points.ndim != 3 or points.shape[1:] != (FUTURE_STEPS, 2):
        raise ValueError(f"trajectories are {points.shape}, expected (N, {FUTURE_STEPS}, 2)")
    if speeds.shape != (len(points),):
        raise ValueError(f"speeds are {speeds.shape}, expected ({len(points)},)")
    return points, np.maximum(speeds, 0.0)  # NaN stays NaN
