"""The bicycle model against circles, straight lines and its own limits."""

import math

import pytest

from clkd_core.driving.car.vehicle import BicycleConfig, Controls, VehicleState, move

CONFIG = BicycleConfig()


def moved(state: VehicleState, controls: Controls, seconds: float) -> VehicleState:
    for _ in range(round(seconds / 0.01)):
        state = move(state, controls, 0.01, CONFIG)
    return state


def at_origin(speed: float, **values: float) -> VehicleState:
    return VehicleState(x_m=0.0, y_m=0.0, yaw_rad=0.0, speed_mps=speed, **values)


def test_held_steering_drives_the_circle_of_the_bicycle_model() -> None:
    steer = 0.3
    radius = CONFIG.wheelbase_m / math.tan(steer)
    start = at_origin(5.0, steer_rad=steer)
    quarter_s = 0.5 * math.pi * radius / 5.0
    state = moved(start, Controls(accel_mps2=0.0, steer_rad=steer), round(quarter_s, 2))
    assert math.hypot(state.x_m, state.y_m - radius) == pytest.approx(radius, abs=1e-9)
    assert state.yaw_rad == pytest.approx(0.5 * math.pi, abs=0.01)
    assert start.yaw_rate_radps(CONFIG) == pytest.approx(5.0 / radius)
    assert start.lateral_mps2(CONFIG) == pytest.approx(25.0 / radius)


def test_braking_ends_in_standstill_and_never_goes_backwards() -> None:
    state = moved(at_origin(8.0), Controls(accel_mps2=-4.0, steer_rad=0.0), 4.0)
    assert state.speed_mps == 0.0
    assert state.accel_mps2 == 0.0
    ramp_s = 4.0 / CONFIG.max_jerk_mps3
    assert state.x_m == pytest.approx(8.0 * ramp_s / 2 + 8.0**2 / 8.0, abs=0.3)
    assert moved(state, Controls(accel_mps2=-4.0, steer_rad=0.0), 1.0).x_m == state.x_m


def test_controls_beyond_the_limits_count_as_the_limits() -> None:
    state, asked = at_origin(5.0), Controls(accel_mps2=-99.0, steer_rad=9.0)
    seen = []
    for _ in range(60):
        after = move(state, asked, 0.01, CONFIG)
        seen.append(abs(after.accel_mps2 - state.accel_mps2) / 0.01)
        assert abs(after.steer_rad - state.steer_rad) <= CONFIG.max_steer_rate_radps * 0.01 + 1e-9
        assert after.accel_mps2 >= -CONFIG.max_brake_mps2
        assert after.steer_rad <= CONFIG.max_steer_rad
        state = after
    assert max(seen) <= CONFIG.max_jerk_mps3 + 1e-9


@pytest.mark.parametrize("controls", [Controls(accel_mps2=math.nan, steer_rad=0.0)])
def test_a_control_that_is_no_number_is_refused(controls: Controls) -> None:
    with pytest.raises(ValueError, match="expected finite"):
        move(at_origin(1.0), controls, 0.01, CONFIG)


def test_a_vehicle_without_a_wheelbase_is_refused() -> None:
    with pytest.raises(ValueError, match="wheelbase_m is 0"):
        BicycleConfig(wheelbase_m=0.0)
