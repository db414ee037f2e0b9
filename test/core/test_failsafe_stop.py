"""The stop of a car that sees and has no decision: one smooth braking along its line."""

import math

import numpy as np
import pytest
from failsafe_car import CORNER, Car, LinePlanner, assert_straight, circle, distances
from hypothesis import given
from hypothesis import strategies as st

from clkd_core.runtime.braking import STEP_TIMES_S, PlannedMotion, StoppingPath
from clkd_core.types import PlanMode, Trajectory


def test_stop_is_one_smooth_braking_for_a_car_that_does_as_planned() -> None:
    """Every frame plans anew from the speed it sees; braking that began anew each time, too,
    would never grow."""
    car = Car()
    car.decide(0.0)
    car.see(0.0)
    car.see(3.0)
    stop = car.profile(10.0)
    for tenth in range(110):
        passed_s = tenth / 10
        plan = car.see(3.1 + passed_s, stop.at(passed_s).speed_mps)
        assert plan.mode is PlanMode.STOPPING
        assert_straight(plan, distances(stop, passed_s))
    assert_straight(plan, [0.0] * 6)


def test_stop_goes_on_braking_a_car_that_does_not_obey() -> None:
    car = Car()
    car.see(0.0)
    for tenth in range(31, 60):
        plan = car.see(tenth / 10, 10.0)
    assert_straight(plan, distances(car.profile(10.0, -1.5)))


def test_stop_takes_up_the_braking_that_the_last_plan_had_begun() -> None:
    braking = np.stack([10 * STEP_TIMES_S - STEP_TIMES_S**2 / 2, 0 * STEP_TIMES_S], axis=1)
    car = Car(LinePlanner(braking, braking))
    car.see(0.0)
    car.see(3.0)
    assert_straight(car.see(3.2, 9.8), distances(car.profile(9.8, -1.0)), atol=2e-3)


def test_stop_bends_along_what_is_left_of_the_line_of_the_last_fresh_plan() -> None:
    bend, straight = circle(20.0, 5 * STEP_TIMES_S), circle(1e6, 5 * STEP_TIMES_S)
    car = Car(LinePlanner(bend, straight), decision_max_age_s=0.3, stop_after_s=0.5)
    car.decide(0.0)
    car.see(0.0, 5.0)
    car.see(0.4, 3.0)
    plan = car.see(0.6, 2.0)
    assert plan.mode is PlanMode.STOPPING
    ahead = np.array(distances(car.profile(2.0)))
    np.testing.assert_allclose(plan.trajectory.xy_m, circle(20.0, ahead), atol=0.05)
    assert plan.trajectory.xy_m[-1, 1] > 0.1


@pytest.mark.parametrize(
    ("speeds_mps", "come_m"),
    [([2.0, 1.0], 1.5), ([2.0, 2.0, 1.0], 3.5), ([2.0, -2.0, 2.0], 2.0), ([1.0, 1.0, 0.0], 1.5)],
)
def test_stop_counts_how_far_the_car_has_come_by_its_odometry(
    speeds_mps: list[float], come_m: float
) -> None:
    """A frame a second, speed linear between two of them, rolling back counted as standing."""
    car = Car(LinePlanner(CORNER, CORNER), decision_max_age_s=0.0, stop_after_s=0.1)
    car.decide(0.0)
    for second, speed in enumerate(speeds_mps):
        plan = car.see(float(second), speed)
    stop = car.profile(speeds_mps[1])
    for speed in speeds_mps[2:]:
        stop = car.profile(speed, stop.at(1.0).acceleration_mps2)
    path = StoppingPath(Trajectory(xy_m=CORNER))
    assert plan.mode is PlanMode.STOPPING
    expected = path.points_ahead(come_m, np.array(distances(stop)))
    np.testing.assert_allclose(plan.trajectory.xy_m, expected, atol=1e-3)


def test_stop_goes_along_the_newest_line_where_the_fresh_one_is_used_up_or_never_was() -> None:
    right, left = circle(-30.0, 10 * STEP_TIMES_S), circle(30.0, 10 * STEP_TIMES_S)
    for decided in (True, False):
        car = Car(LinePlanner(right, left))
        if decided:
            car.decide(0.0)
        car.see(0.0)
        plan = car.see(3.1)
        ahead = np.array(distances(car.profile(10.0)))
        assert plan.mode is PlanMode.STOPPING
        np.testing.assert_allclose(plan.trajectory.xy_m, circle(30.0, ahead), atol=0.15)


@pytest.mark.parametrize("speed_mps", [None, 1e6, -1e6])
def test_stop_without_a_believable_speed_takes_the_planned_one_and_says_so(
    speed_mps: float | None,
) -> None:
    car = Car()
    car.see(0.0)
    car.see(3.0, 8.0)
    plan = car.see(3.1, speed_mps)
    assert "no believable speed, took the last plan's 8.0 m/s" in plan.degraded
    assert_straight(plan, distances(car.profile(8.0)))
    later = car.see(5.1, speed_mps)
    slowed = car.profile(8.0).at(2.0).speed_mps
    assert f"no believable speed, took the last plan's {slowed:.1f} m/s" in later.degraded
    assert_straight(later, distances(car.profile(8.0), 2.0))


@pytest.mark.parametrize("speed_mps", [0.0, -2.0])
def test_stop_of_a_car_that_stands_or_rolls_back_stays_where_it_is(speed_mps: float) -> None:
    car = Car()
    car.see(0.0)
    assert_straight(car.see(3.1, speed_mps), [0.0] * 6)


@given(
    heading=st.floats(-1.4, 1.4),
    planned=st.lists(st.floats(0.0, 40.0), min_size=6, max_size=6),
    speeds=st.lists(st.none() | st.floats(-5.0, 80.0), min_size=1, max_size=8),
    gap_s=st.floats(0.01, 1.0),
    deceleration=st.floats(0.1, 3.5),
    jerk=st.floats(0.1, 10.0),
)
def test_no_stop_is_harder_than_its_limits_from_any_speed_after_any_plan(
    heading: float,
    planned: list[float],
    speeds: list[float | None],
    gap_s: float,
    deceleration: float,
    jerk: float,
) -> None:
    """By the points alone, on a straight line: mean speeds over the steps only fall, by no more
    than the deceleration allows, and their fall changes by no more than the jerk allows."""
    line = np.outer(np.cumsum(planned) / 2, [math.cos(heading), math.sin(heading)])
    car = Car(
        LinePlanner(line, line),
        decision_max_age_s=0.0,
        stop_after_s=0.1,
        deceleration_mps2=deceleration,
        jerk_mps3=jerk,
    )
    car.decide(0.0)
    car.see(0.0)
    for number, speed in enumerate(speeds):
        plan = car.see(0.2 + number * gap_s, speed)
        points = np.vstack([np.zeros(2), plan.trajectory.xy_m])
        means = np.hypot(*np.diff(points, axis=0).T) / 0.5
        falls = -np.diff(means)
        assert plan.mode is PlanMode.STOPPING
        assert (falls >= -1e-3).all() and (falls <= deceleration * 0.5 + 1e-3).all()
        assert (np.abs(np.diff(falls)) <= jerk * 0.25 + 1e-3).all()
        if speed is not None and abs(speed) <= 70.0:
            begun = max(speed, 0.0)
            assert begun - deceleration * 0.25 - 1e-3 <= means[0] <= begun + 1e-3


@given(
    xy=st.lists(st.tuples(*[st.floats(-60.0, 60.0, width=32)] * 2), min_size=6, max_size=6),
    before=st.floats(0.0, 70.0),
    speed=st.floats(0.0, 70.0),
    passed_s=st.floats(0.2, 2.5),
)
def test_stop_on_any_line_is_the_profile_laid_along_the_rest_of_it(
    xy: list[tuple[float, float]], before: float, speed: float, passed_s: float
) -> None:
    line, passed_s = np.array(xy), round(passed_s, 3)
    car = Car(LinePlanner(line, line), decision_max_age_s=0.0, stop_after_s=0.1)
    car.decide(0.0)
    car.see(0.0, before)
    plan = car.see(passed_s, speed)
    trajectory = Trajectory(xy_m=line.astype(np.float32))
    asked = PlannedMotion(trajectory).at(passed_s).acceleration_mps2
    path, path_m = StoppingPath(trajectory), passed_s * (before + speed) / 2
    expected = path.points_ahead(
        path_m if path_m < path.length_m else 0.0,
        np.array(distances(car.profile(speed, asked))),
    )
    np.testing.assert_allclose(plan.trajectory.xy_m, expected, atol=0.01)


def test_stamps_that_jump_back_do_not_hide_that_decisions_are_missing() -> None:
    car = Car(stop_after_s=2.0)
    modes = [
        car.see(pass_s + step_s).mode for pass_s in (40.0, 20.0, 0.0) for step_s in (0.0, 1.5)
    ]
    assert modes[:2] == [PlanMode.WITHOUT_DECISION] * 2
    assert modes[3:] == [PlanMode.STOPPING] * 3
