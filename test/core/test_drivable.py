"""What a vehicle can drive: measured against a slow version, kept for any trajectory at all."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clkd_core.models.drivable import (
    MIN_SEGMENT_M,
    broken_limits,
    is_drivable,
    make_drivable,
    measure_motion,
    start_speeds,
)
from clkd_core.models.trajectories import constant_velocity_points
from clkd_core.models.vehicle import VehicleConfig

ZOE = VehicleConfig()
VEHICLES = (
    ZOE,
    VehicleConfig(name="lorry", max_speed_mps=25, max_accel_mps2=1.0, max_brake_mps2=5.0,
                  max_jerk_mps3=2.0, max_lateral_accel_mps2=3.0, max_curvature_pm=0.09),
    VehicleConfig(name="kart", max_accel_mps2=12.0, max_brake_mps2=15.0, max_jerk_mps3=100.0,
                  max_lateral_accel_mps2=15.0, max_curvature_pm=0.9),
)  # fmt: skip


def walk(seed: int, scale_m: float, count: int = 40) -> NDArray[np.float32]:
    """Trajectories that wander anywhere."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale_m, (count, 6, 2)).cumsum(axis=1).astype(np.float32)


def along(*speeds_mps: float) -> NDArray[np.float32]:
    """(1, T, 2): straight ahead, a mean speed for each step."""
    x_m = np.cumsum(speeds_mps) * 0.5
    return np.stack([x_m, np.zeros(6)], axis=-1)[None].astype(np.float32)


def slow_motion(xy_m: NDArray[np.float32], now: float) -> dict[str, list[float]]:
    """The module's definitions, point by point."""
    points = [(0.0, 0.0), *[(float(x), float(y)) for x, y in xy_m]]
    lengths = [math.dist(a, b) for a, b in pairwise(points)]
    speeds = [length / 0.5 for length in lengths]
    accel = [(speeds[0] - now) / 0.25]
    accel += [(b - a) / 0.5 for a, b in pairwise(speeds)]
    jerk = [(accel[1] - accel[0]) / 0.375]
    jerk += [(b - a) / 0.5 for a, b in pairwise(accel[1:])]
    curvature, heading, middle, way = [], 0.0, 0.0, 0.0
    for (ax, ay), (bx, by), length in zip(points, points[1:], lengths, strict=False):
        if length < MIN_SEGMENT_M:
            curvature.append(0.0)
        else:
            turn = abs(math.remainder(math.atan2(by - ay, bx - ax) - heading, math.tau))
            curvature.append(2 * math.sin(turn / 2) / (way + length / 2 - middle))
            heading, middle = math.atan2(by - ay, bx - ax), way + length / 2
        way += length
    return {"speed": speeds, "accel": accel, "jerk": jerk, "curvature": curvature}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), scale_m=st.sampled_from([0.05, 1.0, 20.0]))
def test_motion_agrees_with_the_slow_version(seed: int, scale_m: float) -> None:
    xy_m = walk(seed, scale_m, count=1)
    motion, wanted = measure_motion(xy_m, np.array([4.0], np.float32)), slow_motion(xy_m[0], 4.0)
    np.testing.assert_allclose(motion.speed_mps[0], wanted["speed"], rtol=1e-6)
    np.testing.assert_allclose(motion.accel_mps2[0], wanted["accel"], rtol=1e-6)
    np.testing.assert_allclose(motion.jerk_mps3[0], wanted["jerk"], rtol=1e-6)
    np.testing.assert_allclose(motion.curvature_pm[0], wanted["curvature"], rtol=1e-5, atol=1e-9)


def test_a_circle_has_its_own_curvature_and_lateral_acceleration() -> None:
    xy_m = constant_velocity_points(np.array([6.0], np.float32), np.array([0.6], np.float32))
    motion = measure_motion(xy_m, np.array([6.0], np.float32))
    np.testing.assert_allclose(motion.curvature_pm, 0.1, rtol=1e-2)
    np.testing.assert_allclose(motion.lateral_mps2, 3.6, rtol=1e-2)
    np.testing.assert_allclose(motion.accel_mps2, 0.0, atol=0.15)  # chords are 0.4 % short


def test_a_standing_vehicle_whose_points_scatter_does_not_turn() -> None:
    jitter = np.array([[0.02, -0.03], [-0.01, 0.02], [0.0, 0.0]] * 2, np.float32)[None]
    assert is_drivable(jitter, np.zeros(1, np.float32), ZOE).all()


@pytest.mark.parametrize(
    ("xy_m", "now", "broken"),
    [
        (along(20, 20, 20, 20, 20, 20), 20.0, set()),
        (along(20.8, 22.5, 24.2, 26, 27.7, 29.5), 20.0, set()),
        (along(40, 40, 40, 40, 40, 40), 40.0, set()),
        (along(41, 41, 41, 41, 41, 41), 40.0,
         {"max_speed_mps", "max_accel_mps2", "max_jerk_mps3"}),
        (along(1, 3, 5, 7, 9, 11), 0.0, {"max_accel_mps2"}),
        (along(9, 5.5, 2, 0, 0, 0), 10.0, {"max_brake_mps2"}),
        (along(10, 10, 7, 7, 7, 7), 10.0, {"max_jerk_mps3"}),
        (along(5, 5, 5, 5, 5, 5)[..., ::-1], 5.0, {"max_curvature_pm", "max_lateral_accel_mps2"}),
        (along(-3, -3, -3, -3, -3, -3), 3.0, {"max_curvature_pm", "max_lateral_accel_mps2"}),
    ],
)  # fmt: skip
def test_the_limits_that_are_broken_are_named(
    xy_m: NDArray[np.float32], now: float, broken: set[str]
) -> None:
    found = broken_limits(xy_m, np.array([now], np.float32), ZOE)
    assert {name for name, rows in found.items() if rows[0]} == broken


def test_a_trajectory_of_nan_breaks_every_limit() -> None:
    xy_m = np.full((1, 6, 2), np.nan, np.float32)
    assert all(rows.all() for rows in broken_limits(xy_m, np.zeros(1, np.float32), ZOE).values())
    with pytest.raises(ValueError, match="NaN or infinite"):
        make_drivable(xy_m, np.zeros(1, np.float32), ZOE)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    scale_m=st.sampled_from([0.03, 0.3, 3.0, 30.0, 1000.0]),
    vehicle=st.sampled_from(VEHICLES),
)
def test_whatever_comes_in_what_comes_out_is_drivable(
    seed: int, scale_m: float, vehicle: VehicleConfig
) -> None:
    xy_m, rng = walk(seed, scale_m), np.random.default_rng(seed)
    now = rng.uniform(-5, 50, len(xy_m)).astype(np.float32)
    now[::5], now[1::5] = 0.0, np.nan
    made = make_drivable(xy_m, now, vehicle)
    broken = broken_limits(made, now, vehicle)
    assert {name: int(rows.sum()) for name, rows in broken.items() if rows.any()} == {}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), vehicle=st.sampled_from(VEHICLES))
def test_what_is_drivable_comes_back_as_it_was(seed: int, vehicle: VehicleConfig) -> None:
    now = np.random.default_rng(seed).uniform(0, 20, 40).astype(np.float32)
    made = make_drivable(walk(seed, 4.0), now, vehicle)
    np.testing.assert_allclose(make_drivable(made, now, vehicle), made, atol=2e-4)


def test_a_plan_that_stops_too_hard_is_stopped_as_hard_as_the_vehicle_can() -> None:
    made = make_drivable(along(0, 0, 0, 0, 0, 0), np.array([10.0], np.float32), ZOE)
    motion = measure_motion(made, np.array([10.0], np.float32))
    assert motion.accel_mps2[0, :3] == pytest.approx([-6.4, -6.4, -6.4], abs=0.02)
    assert motion.speed_mps[0, -1] == pytest.approx(0.0, abs=0.3)
    assert (made[0, :, 1] == 0).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), vehicle=st.sampled_from(VEHICLES))
def test_start_speeds_are_those_the_trajectory_is_drivable_from(
    seed: int, vehicle: VehicleConfig
) -> None:
    started = np.random.default_rng(seed).uniform(0, 20, 40).astype(np.float32)
    made = make_drivable(walk(seed, 4.0), started, vehicle)
    low, high = start_speeds(made, vehicle)
    assert (low <= started + 0.01).all() and (started - 0.01 <= high).all()
    for now, wanted in (
        (low - 0.1, False),
        (low + 0.01, True),
        (high - 0.01, True),
        (high + 0.1, False),
    ):
        known = (now >= 0) & (high - low > 0.02)
        assert (is_drivable(made, now, vehicle) == wanted)[known].all()


def test_a_trajectory_that_cannot_be_driven_has_no_start_speed() -> None:
    low, high = start_speeds(along(10, 10, 0, 0, 0, 0), ZOE)
    assert low[0] > high[0]


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 2\), expected \(N, 6, 2\)"):
        measure_motion(np.zeros((2, 5, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"speeds are \(3,\), expected \(2,\)"):
        make_drivable(np.zeros((2, 6, 2), np.float32), np.zeros(3, np.float32), ZOE)
