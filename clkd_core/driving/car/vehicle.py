"""The kinematic bicycle model: the vehicle's rear axle cannot slip sideways.

``yaw_rate = speed * tan(steer) / wheelbase``, referred to the rear axle (Rajamani 2012, "Vehicle
Dynamics and Control", section 2.2, with the reference point moved there; Polack et al. 2017, IV,
on where it holds: below about half of the lateral grip). Tyres, masses and slopes are left out.
"""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class BicycleConfig:
    """What the simulated vehicle is able to do, which is more than a plan may ask of it
    (:class:`clkd_core.models.vehicle.VehicleConfig`). The defaults are nuScenes' Renault Zoe.

    Raises:
        ValueError: a value is not positive and finite.
    """

    wheelbase_m: float = 2.588
    """Between the axles; the Zoe's."""
    max_steer_rad: float = 0.588
    """Angle of the front wheels: a curvature of 0.258 / m, the Zoe's 10.6 m between kerbs."""
    max_steer_rate_radps: float = 0.8
    """How fast the wheels turn: 690 degrees a second at a steering wheel geared 15 : 1, as fast
    as a driver in need."""
    max_accel_mps2: float = 3.6
    """Hardest acceleration."""
    max_brake_mps2: float = 8.0
    """Hardest braking, on a dry road."""
    max_jerk_mps3: float = 25.0
    """How fast acceleration changes: full braking takes a third of a second."""

    def __post_init__(self) -> None:
        for knob in fields(self):
            value = getattr(self, knob.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{knob.name} is {value}, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class VehicleState:
    """Place and motion at one instant, of the rear axle, in the frame of the ground."""

    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float
    """>= 0: it never rolls back."""
    accel_mps2: float = 0.0
    """Along the vehicle, as it acts now."""
    steer_rad: float = 0.0
    """Of the front wheels; left is positive."""

    def yaw_rate_radps(self, config: BicycleConfig) -> float:
        """Rate of turn, counter-clockwise positive."""
        return self.speed_mps * math.tan(self.steer_rad) / config.wheelbase_m

    def lateral_mps2(self, config: BicycleConfig) -> float:
        """Acceleration across the vehicle, to the left positive."""
        return self.speed_mps * self.yaw_rate_radps(config)


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What is asked of the vehicle; it does what its limits allow."""

    accel_mps2: float
    steer_rad: float


def move(
    state: VehicleState, controls: Controls, time_s: float, config: BicycleConfig
) -> VehicleState:
    """The state after a short time in which the controls do not change.

    Acceleration and steering move towards what is asked as fast as they may, and are then held
    over the step; the way is an arc of the curvature that holds then.

    Args:
        state: at the beginning.
        controls: beyond the limits they count as the limits.
        time_s: of the step, > 0; 0.01 is fine enough.
        config: the limits.

    Raises:
        ValueError: a control is not finite, or no time passes.
    """
    if not (math.isfinite(controls.accel_mps2) and math.isfinite(controls.steer_rad)):
        raise ValueError(f"controls are {controls}, expected finite numbers")
    if not time_s > 0:
        raise ValueError(f"time_s is {time_s}, expected > 0")
    wanted_accel = _within(controls.accel_mps2, -config.max_brake_mps2, config.max_accel_mps2)
    accel = _towards(state.accel_mps2, wanted_accel, config.max_jerk_mps3 * time_s)
    wanted_steer = _within(controls.steer_rad, -config.max_steer_rad, config.max_steer_rad)
    steer = _towards(state.steer_rad, wanted_steer, config.max_steer_rate_radps * time_s)
    speed = max(0.0, state.speed_mps + accel * time_s)
    way_m = 0.5 * (state.speed_mps + speed) * time_s
    half_turn = 0.5 * way_m * math.tan(steer) / config.wheelbase_m
    chord_m = way_m * (math.sin(half_turn) / half_turn if half_turn else 1.0)
    return VehicleState(
        x_m=state.x_m + chord_m * math.cos(state.yaw_rad + half_turn),
        y_m=state.y_m + chord_m * math.sin(state.yaw_rad + half_turn),
        yaw_rad=state.yaw_rad + 2.0 * half_turn,
        speed_mps=speed,
        accel_mps2=max(accel, 0.0) if speed == 0.0 else accel,  # standing, brakes only hold
        steer_rad=steer,
    )


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _towards(value: float, goal: float, at_most: float) -> float:
    return value + _within(goal - value, -at_most, at_most)
