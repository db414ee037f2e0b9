"""How a vehicle comes to a comfortable stop: how fast along its path, and where the path lies.

Distances are measured along a path from where it began [m], times from when a motion began [s].
"""

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clkd_core.types import FUTURE_STEPS, STEP_S, Trajectory

STEP_TIMES_S: NDArray[np.float64] = STEP_S * np.arange(1, FUTURE_STEPS + 1)
"""(T,) when a trajectory's points are reached [s]."""

MAX_SPEED_MPS = 70.0
"""Beyond 252 km/h either way a speed is taken for a fault."""

_MIN_SEGMENT_M = 0.05
"""Points nearer to the last one than this have no direction: a standing car does not turn."""
_REVERSAL_COS = -1e-6
"""Cosine of a turn between two segments below which it is a reversal; 90 degrees are none."""


class Motion(NamedTuple):
    """How a vehicle moves along its path at one instant."""

    distance_m: float
    """Since the motion began, >= 0."""
    speed_mps: float
    """>= 0."""
    acceleration_mps2: float
    """Along the path; braking is negative."""


class Moving(Protocol):
    """A motion along a path, known for all times to come."""

    def at(self, time_s: float) -> Motion:
        """How it is after so long; times before the beginning count as the beginning."""


class BrakingProfile:
    """Speed over time of a stop whose deceleration and jerk stay within limits; knows no path.

    Three phases of constant jerk: braking grows, holds, and is released so that speed and braking
    end together. The peak ``p`` that a speed ``v`` allows, when braking is ``b`` already, follows
    from the speed lost while it grows and is released: ``v = (p^2 - b^2) / 2j + p^2 / 2j``.

    A profile begun from the state that another one has at some time is the rest of that one, so
    planning anew at every frame ends in the same place as planning once.
    """

    def __init__(
        self,
        speed_mps: float,
        acceleration_mps2: float = 0.0,
        *,
        deceleration_mps2: float,
        jerk_mps3: float,
    ) -> None:
        """Begin from a state of motion.

        Args:
            speed_mps: at the beginning; what is negative counts as standing.
            acceleration_mps2: at the beginning. Acceleration counts as none, and braking as no
                more than the deceleration, or than can be released before standstill.
            deceleration_mps2: never exceeded [m/s^2], > 0.
            jerk_mps3: never exceeded either way [m/s^3], > 0.

        Raises:
            ValueError: a limit is not positive, or a number is not finite.
        """
        given = (speed_mps, acceleration_mps2, deceleration_mps2, jerk_mps3)
        if not all(map(math.isfinite, given)) or min(deceleration_mps2, jerk_mps3) <= 0:
            raise ValueError(
                f"braking from {speed_mps} m/s, {acceleration_mps2} m/s^2 within "
                f"{deceleration_mps2} m/s^2, {jerk_mps3} m/s^3, expected finite and limits > 0"
            )
        speed = max(speed_mps, 0.0)
        braking = min(
            max(-acceleration_mps2, 0.0), deceleration_mps2, math.sqrt(2 * jerk_mps3 * speed)
        )
        peak = min(deceleration_mps2, math.sqrt(jerk_mps3 * speed + braking**2 / 2))
        held = speed - (2 * peak**2 - braking**2) / (2 * jerk_mps3)
        phases = [
            ((peak - braking) / jerk_mps3, -jerk_mps3),
            (held / peak if peak > 0 else 0.0, 0.0),
            (peak / jerk_mps3, jerk_mps3),
        ]
        self._knots = [(0.0, Motion(0.0, speed, -braking), 0.0)]
        """(when a phase begins, how the vehicle moves then, jerk); the last one is standstill."""
        self._lay(phases)

    def _lay(self, phases: list[tuple[float, float]]) -> None:
        begin_s, motion, _ = self._knots.pop()
        for duration_s, jerk in phases:
            self._knots.append((begin_s, motion, jerk))
            duration_s = max(duration_s, 0.0)  # rounding
            begin_s, motion = begin_s + duration_s, _move(motion, jerk, duration_s)
        self._knots.append((begin_s, Motion(motion.distance_m, 0.0, 0.0), 0.0))

    @property
    def stop_s(self) -> float:
        """When the vehicle stands."""
        return self._knots[-1][0]

    @property
    def stop_m(self) -> float:
        """Where the vehicle stands."""
        return self._knots[-1][1].distance_m

    def at(self, time_s: float) -> Motion:
        """See :class:`Moving`."""
        time_s = max(time_s, 0.0)
        begin_s, motion, jerk = next(knot for knot in reversed(self._knots) if knot[0] <= time_s)
        now = _move(motion, jerk, time_s - begin_s)
        return now._replace(distance_m=min(now.distance_m, self.stop_m))


def _move(start: Motion, jerk: float, time_s: float) -> Motion:
    """The state after a time of constant jerk."""
    distance, speed, acceleration = start
    return Motion(
        distance + time_s * (speed + time_s * (acceleration / 2 + time_s * jerk / 6)),
        max(speed + time_s * (acceleration + time_s * jerk / 2), 0.0),  # rounding
        acceleration + time_s * jerk,
    )


class PlannedMotion:
    """The motion that a trajectory's points ask for.

    Between two points the mean speed is known, so speed is taken as linear from the middle of one
    step to the middle of the next, and its slope as the acceleration. Beyond the last point the
    vehicle goes on as fast as over the last step. Speeds end at ``MAX_SPEED_MPS``.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        """In the ego frame of the trajectory, where the motion begins."""
        points = np.vstack([np.zeros(2), trajectory.xy_m.astype(np.float64)])
        lengths = np.hypot(*np.diff(points, axis=0).T)
        self._speeds = np.minimum(lengths / STEP_S, MAX_SPEED_MPS)
        self._distances = np.concatenate([[0.0], np.cumsum(self._speeds * STEP_S)])

    def at(self, time_s: float) -> Motion:
        """See :class:`Moving`."""
        time_s = max(time_s, 0.0)
        beyond_s = time_s - STEP_TIMES_S[-1]
        if beyond_s >= 0:
            speed = float(self._speeds[-1])
            return Motion(float(self._distances[-1]) + speed * beyond_s, speed, 0.0)
        step = min(max(int(time_s / STEP_S - 0.5), 0), FUTURE_STEPS - 2)
        slope = float(self._speeds[step + 1] - self._speeds[step]) / STEP_S
        speed = float(self._speeds[step]) + slope * (time_s - (step + 0.5) * STEP_S)
        times_s = np.concatenate([[0.0], STEP_TIMES_S])
        distance = float(np.interp(time_s, times_s, self._distances))
        return Motion(distance, min(max(speed, 0.0), MAX_SPEED_MPS), slope)


class StoppingPath:
    """The line of a trajectory from the vehicle on, without end: beyond the points it is straight.

    Directions along it are linear between the points, from straight ahead at the vehicle: right at
    a circle's points and between them, and without a jump at any. A point too near to the last one
    is passed over; where a point lies backwards of the last segment the line ends before it,
    because a vehicle that moves forward cannot follow.
    """

    def __init__(self, trajectory: Trajectory) -> None:
        """In the ego frame of the trajectory."""
        points = _forward_points(trajectory.xy_m.astype(np.float64))
        steps = np.diff(points, axis=0)
        lengths = np.hypot(steps[:, 0], steps[:, 1])
        along = np.unwrap(np.concatenate([[0.0], np.arctan2(steps[:, 1], steps[:, 0])]))[1:]
        self._points = points
        self._distances = np.concatenate([[0.0], np.cumsum(lengths)])
        """(K,) of each point from the vehicle [m]."""
        self._end_rad = float(along[-1]) if len(along) else 0.0
        between = (along[:-1] + along[1:]) / 2
        self._headings = np.concatenate([[0.0], between, along[-1:]])
        """(K,) direction of travel at each point [rad]."""

    @property
    def length_m(self) -> float:
        """Distance to its last point; it goes on straight from there."""
        return float(self._distances[-1])

    def points_at(self, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) places on the line [m], in the trajectory's ego frame.

        Args:
            distances_m: (N,) along the line from the vehicle [m], >= 0.
        """
        inside = np.stack(
            [np.interp(distances_m, self._distances, self._points[:, axis]) for axis in (0, 1)],
            axis=1,
        )
        beyond = np.maximum(distances_m - self.length_m, 0.0)
        ahead = np.array([math.cos(self._end_rad), math.sin(self._end_rad)])
        places: NDArray[np.float64] = inside + beyond[:, None] * ahead
        return places

    def points_ahead(self, from_m: float, distances_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) places on the line [m], as a vehicle sees them that is on it and along it.

        Args:
            from_m: where the vehicle is on the line [m], >= 0.
            distances_m: (N,) along the line from there [m], >= 0.
        """
        from_m = min(from_m, self.length_m)  # the same view, and no digits lost far beyond
        places = self.points_at(np.concatenate([[from_m], from_m + distances_m]))
        heading = float(np.interp(from_m, self._distances, self._headings))
        cos, sin = math.cos(heading), math.sin(heading)
        path_from_ego = np.array([[cos, -sin], [sin, cos]])
        seen: NDArray[np.float64] = (places[1:] - places[0]) @ path_from_ego
        return seen


def _forward_points(xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) with the vehicle's place first: the points that a forward drive can reach."""
    kept, direction = [np.zeros(2)], np.array([1.0, 0.0])
    for point in xy_m:
        step = point - kept[-1]
        length = float(np.hypot(*step))
        if length < _MIN_SEGMENT_M:
            continue
        if float(step @ direction) < _REVERSAL_COS * length:
            break
        kept.append(point)
        direction = step / length
    return np.array(kept)
