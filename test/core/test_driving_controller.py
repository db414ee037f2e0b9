"""Pure pursuit and the speed ahead: does the vehicle end up where the plan says?"""

import math

import numpy as np
import pytest

from clkd_core.driving.car.controller import (
    ControllerConfig,
    PlannedTrack,
    follow,
    forward_only,
)
from clkd_core.driving.car.vehicle import BicycleConfig, VehicleState, move
from clkd_core.types import Trajectory

VEHICLE, CONFIG = BicycleConfig(), ControllerConfig()


def plan_of(points: list[tuple[float, float]]) -> Trajectory:
    return Trajectory(xy_m=np.array(points, np.float32))


def start(speed: float, yaw: float = 0.0) -> VehicleState:
    return VehicleState(x_m=10.0, y_m=-5.0, yaw_rad=yaw, speed_mps=speed)


def driven(track: PlannedTrack, state: VehicleState, seconds: float) -> VehicleState:
    for tick in range(round(seconds * 100)):
        state = move(state, follow(track, state, tick / 100, CONFIG, VEHICLE), 0.01, VEHICLE)
    return state


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_a_planned_arc_is_driven(yaw: float) -> None:
    radius, speed = 12.0, 6.0
    turn = speed * 0.5 * np.arange(1, 7) / radius
    plan = plan_of([(radius * math.sin(a), radius * (1 - math.cos(a))) for a in turn])
    state = driven(PlannedTrack(plan, start(speed, yaw), 0.0), start(speed, yaw), 2.5)
    want = speed * 2.5 / radius
    forward, left = radius * math.sin(want), radius * (1 - math.cos(want))
    x = 10.0 + math.cos(yaw) * forward - math.sin(yaw) * left
    y = -5.0 + math.sin(yaw) * forward + math.cos(yaw) * left
    assert math.hypot(state.x_m - x, state.y_m - y) < 0.5
    assert state.yaw_rad - yaw == pytest.approx(want, abs=0.12)


def test_a_planned_stop_ends_where_it_was_planned() -> None:
    times = 0.5 * np.arange(1, 7)
    braking = np.minimum(times, 2.0)
    plan = plan_of([(6.0 * t - 1.5 * t * t, 0.0) for t in braking])  # 6 m/s, -3 m/s^2: 6 m
    state = driven(PlannedTrack(plan, start(6.0), 0.0), start(6.0), 3.0)
    assert state.speed_mps < 0.3
    assert state.x_m - 10.0 == pytest.approx(6.0, abs=0.8)


def test_a_plan_behind_the_vehicle_makes_it_wait_and_not_drive_on() -> None:
    plan = plan_of([(-0.4, 0.0)] * 6)
    state = driven(PlannedTrack(plan, start(0.0), 0.0), start(0.0), 3.0)
    assert state.x_m == 10.0


def test_points_that_lie_backwards_become_the_last_one_that_does_not() -> None:
    plan = plan_of([(1.0, 0.0), (2.0, 0.0), (1.5, 0.0), (1.9, 0.1), (2.5, 0.0), (3.0, 0.0)])
    kept = forward_only(plan).xy_m
    assert kept[:, 0].tolist() == [1.0, 2.0, 2.0, 2.0, 2.5, 3.0]


def test_a_plan_that_comes_late_is_entered_in_its_middle() -> None:
    faster = plan_of([(2.0 * i + 0.5 * i * i, 0.0) for i in range(1, 7)])
    origin = start(4.0)
    now = follow(PlannedTrack(faster, origin, 0.0), origin, 0.0, CONFIG, VEHICLE)
    late = follow(PlannedTrack(faster, origin, -1.0), origin, 0.0, CONFIG, VEHICLE)
    assert late.accel_mps2 > now.accel_mps2 + 1.0


def test_a_bend_is_taken_no_faster_than_its_sideways_acceleration_allows() -> None:
    radius, speed = 5.0, 9.0
    turn = speed * 0.5 * np.arange(1, 7) / radius
    plan = plan_of([(radius * math.sin(a), radius * (1 - math.cos(a))) for a in turn[:6]])
    state = driven(PlannedTrack(plan, start(speed), 0.0), start(speed), 1.5)
    assert state.speed_mps < math.sqrt(CONFIG.max_lateral_mps2 * radius) + 1.0


def test_a_look_that_is_nearest_beyond_the_farthest_is_refused() -> None:
    with pytest.raises(ValueError, match="nearest_look_m is 9"):
        ControllerConfig(nearest_look_m=9.0)
