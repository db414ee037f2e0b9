"""From a plan to pedals and steering wheel: pure pursuit, and a speed that is looked up ahead.

Steering: the arc through the rear axle, tangent to the vehicle, that meets the planned line a
distance ahead (Coulter 1992, "Implementation of the Pure Pursuit Path Tracking Algorithm",
CMU-RI-TR-92-01): curvature ``2 y / d^2``. Speed: the acceleration that brings the vehicle to the
planned speed of a moment ahead in just that time, a first-order follower whose time constant is
its preview, never faster than the bend that is steered allows. A plan counts from the instant its
frame was captured and from where the vehicle was then: one that comes late is entered in its
middle.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

from clkd_core.driving.car.vehicle import BicycleConfig, Controls, VehicleState
from clkd_core.runtime.braking import PlannedMotion, StoppingPath
from clkd_core.types import Trajectory

_SAMPLE_M = 0.1
"""Between the places on a line among which the nearest is looked for."""
_STANDING_MPS = 0.1
"""Slower than this, and to stay so: the brakes hold."""
_HOLD_MPS2 = -2.0
_TURNING_M = 0.05
"""Shorter steps have no direction."""


@dataclass(frozen=True, kw_only=True)
class ControllerConfig:
    """How the vehicle is held on a plan.

    Raises:
        ValueError: a value is not positive and finite, or the nearest look is the farther one.
    """

    preview_s: float = 0.4
    """The planned speed is that of so long ahead, and to be reached by then [s]."""
    look_s: float = 0.4
    """The point steered at is as far away as the vehicle gets in this time [s], within limits."""
    nearest_look_m: float = 2.2
    """It is at least so far away."""
    farthest_look_m: float = 8.0
    """It is at most so far away."""
    max_lateral_mps2: float = 6.0
    """Slower than planned where the line bends so much that this would be exceeded [m/s^2]: 0.6 g,
    the end of what tyres hold on a wet road and beyond the bicycle model's truth."""

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{knob.name} is {value}, expected a positive number")
        if self.nearest_look_m > self.farthest_look_m:
            raise ValueError(
                f"nearest_look_m is {self.nearest_look_m}, expected no more than "
                f"farthest_look_m ({self.farthest_look_m})"
            )


class PlannedTrack:
    """A plan laid on the ground where the vehicle was when the plan's frame was captured."""

    def __init__(self, trajectory: Trajectory, origin: VehicleState, begun_s: float) -> None:
        """Lay it.

        Args:
            trajectory: in the ego frame of ``origin``.
            origin: where the vehicle was at the capture.
            begun_s: when that was [s].
        """
        self.begun_s = begun_s
        self._origin = origin
        forward = forward_only(trajectory)
        self._motion = PlannedMotion(forward)
        line = StoppingPath(forward)
        reach_m = line.length_m + 40.0  # a vehicle that goes on beyond the end goes straight
        self._along_m = np.arange(0.0, reach_m, _SAMPLE_M)
        self._line = line.points_at(self._along_m)

    def speed_at(self, time_s: float) -> float:
        """The planned speed at a time [m/s]."""
        return self._motion.at(time_s - self.begun_s).speed_mps

    def offset_ahead(self, state: VehicleState, look_m: float) -> tuple[float, float]:
        """Where the line is ``look_m`` beyond its place nearest to the vehicle.

        Returns:
            forward and left of the vehicle [m].
        """
        here_x, here_y = _relative(self._origin, state.x_m, state.y_m)
        squared = np.square(self._line - (here_x, here_y)).sum(axis=1)
        nearest = int(squared.argmin())
        index = min(nearest + round(look_m / _SAMPLE_M), len(self._line) - 1)
        ahead_x, ahead_y = self._line[index] - (here_x, here_y)
        turn = state.yaw_rad - self._origin.yaw_rad
        cos, sin = math.cos(turn), math.sin(turn)
        return float(cos * ahead_x + sin * ahead_y), float(-sin * ahead_x + cos * ahead_y)


def forward_only(trajectory: Trajectory) -> Trajectory:
    """The plan of a vehicle that does not reverse: points that lie backwards become the last one.

    A vehicle that rolled a hand's breadth too far is planned back behind itself. The length of
    that way must not look like a speed.
    """
    last, direction, kept = np.zeros(2), np.array([1.0, 0.0]), []
    for point in trajectory.xy_m.astype(np.float64):
        step = point - last
        length = float(np.hypot(*step))
        if float(step @ direction) >= 0:
            last = point
            direction = step / length if length > _TURNING_M else direction
        kept.append(last)
    return Trajectory(xy_m=np.array(kept, dtype=np.float32))


def follow(
    track: PlannedTrack,
    state: VehicleState,
    now_s: float,
    config: ControllerConfig,
    vehicle: BicycleConfig,
) -> Controls:
    """What to do now to stay on a track.

    Args:
        track: the newest plan.
        state: of the vehicle.
        now_s: on the clock of the track's ``begun_s`` [s].
        config: how.
        vehicle: whose wheelbase turns curvature into steering.
    """
    goal_mps = track.speed_at(now_s + config.preview_s)
    if max(goal_mps, state.speed_mps) < _STANDING_MPS:
        return Controls(accel_mps2=_HOLD_MPS2, steer_rad=state.steer_rad)
    look_m = min(
        max(config.look_s * state.speed_mps, config.nearest_look_m), config.farthest_look_m
    )
    forward_m, left_m = track.offset_ahead(state, look_m)
    away2_m2 = max(forward_m**2 + left_m**2, config.nearest_look_m**2)  # none off the line's end
    curvature_pm = 2.0 * left_m / away2_m2
    bend_mps = math.sqrt(config.max_lateral_mps2 / max(abs(curvature_pm), 1e-6))
    return Controls(
        accel_mps2=(min(goal_mps, bend_mps) - state.speed_mps) / config.preview_s,
        steer_rad=math.atan(vehicle.wheelbase_m * curvature_pm),
    )


def _relative(origin: VehicleState, x_m: float, y_m: float) -> tuple[float, float]:
    cos, sin = math.cos(origin.yaw_rad), math.sin(origin.yaw_rad)
    dx, dy = x_m - origin.x_m, y_m - origin.y_m
    return cos * dx + sin * dy, -sin * dx + cos * dy
