"""A comfortable stop: its speed over time within limits, its line through a plan's points."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clkd_core.runtime.braking import (
    MAX_SPEED_MPS,
    STEP_TIMES_S,
    BrakingProfile,
    PlannedMotion,
    StoppingPath,
)
from clkd_core.types import Trajectory

speeds = st.floats(0.0, 70.0)
decelerations = st.floats(0.1, 3.5)
jerks = st.floats(0.1, 10.0)
beginnings = st.floats(-5.0, 5.0)


def profile(
    speed: float, acceleration: float = 0.0, deceleration: float = 1.5, jerk: float = 1.0
) -> BrakingProfile:
    return BrakingProfile(speed, acceleration, deceleration_mps2=deceleration, jerk_mps3=jerk)


def brake_slowly(
    speed: float, acceleration: float, deceleration: float, jerk: float, until_s: float
) -> tuple[float, float]:
    """(distance, speed) by small steps that know only the rule: brake more until the limit, and
    less from the moment on at which release takes all of the speed that is left."""
    step_s, distance = 1e-3, 0.0
    for _ in range(round(until_s / step_s)):
        if speed <= acceleration**2 / (2 * jerk) + 1e-9:
            change = min(jerk * step_s, -acceleration)
        else:
            change = -min(jerk * step_s, deceleration + acceleration)
        middle = acceleration + change / 2
        distance += step_s * (speed + step_s * middle / 2)
        speed = max(speed + step_s * middle, 0.0)
        acceleration += change
        if speed == 0.0:
            acceleration = 0.0
    return distance, speed


def test_stop_from_ten_metres_a_second_by_hand() -> None:
    """1.5 s of growing, (10 - 2 * 1.125) / 1.5 s of holding and 1.5 s of releasing 1.5 m/s^2; the
    speed over time looks the same from both ends, so its mean is the half."""
    stop = profile(10.0)
    assert stop.stop_s == pytest.approx(1.5 + 7.75 / 1.5 + 1.5)
    assert stop.stop_m == pytest.approx(stop.stop_s * 5.0)
    assert stop.at(1.5) == pytest.approx((15 - 1.5**3 / 6, 10 - 1.125, -1.5))


@pytest.mark.parametrize(
    ("speed", "acceleration", "deceleration", "jerk"),
    [(10, 0, 1.5, 1), (30, -1, 1.5, 1), (0.5, 0, 1.5, 1), (2, -1.2, 3, 0.7), (5, -0.5, 0.5, 9)],
)
@pytest.mark.parametrize("time_s", [0.3, 1.0, 2.5, 5.0])
def test_stop_agrees_with_small_steps(
    speed: float, acceleration: float, deceleration: float, jerk: float, time_s: float
) -> None:
    distance, left = brake_slowly(speed, acceleration, deceleration, jerk, time_s)
    motion = profile(speed, acceleration, deceleration, jerk).at(time_s)
    assert (motion.distance_m, motion.speed_mps) == pytest.approx((distance, left), abs=0.02)


@given(speed=speeds, acceleration=beginnings, deceleration=decelerations, jerk=jerks)
def test_stop_keeps_its_limits_and_ends_in_standstill(
    speed: float, acceleration: float, deceleration: float, jerk: float
) -> None:
    stop = profile(speed, acceleration, deceleration, jerk)
    times_s = np.linspace(0.0, stop.stop_s, 200)
    distance, fast, slowing = np.array([stop.at(float(time)) for time in times_s]).T
    assert fast[0] == pytest.approx(speed, abs=1e-9)
    assert (slowing <= 1e-9).all() and (slowing >= -deceleration - 1e-9).all()
    gaps_s = np.diff(times_s)
    assert (np.abs(np.diff(slowing)[:-1]) <= jerk * gaps_s[:-1] + 1e-6).all()
    assert abs(slowing[-2]) <= jerk * gaps_s[-1] + 1e-6  # the last one is standstill itself
    assert (np.diff(distance) >= -1e-9).all() and (np.diff(fast) <= 1e-9).all()
    off = np.abs(np.diff(distance) - gaps_s * (fast[1:] + fast[:-1]) / 2)
    assert (off <= jerk * gaps_s**3 / 12 + 1e-6).all()  # the trapezoid rule's error
    assert fast[-2] <= deceleration * gaps_s[-1] + 1e-6
    assert stop.at(stop.stop_s + 100.0) == (stop.stop_m, 0.0, 0.0)


@given(
    speed=speeds, acceleration=beginnings, deceleration=decelerations, jerk=jerks,
    frac=st.floats(0.0, 1.0), ahead_s=st.floats(0.0, 20.0),
)  # fmt: skip
def test_stop_begun_anew_on_the_way_is_the_rest_of_the_same_stop(
    speed: float,
    acceleration: float,
    deceleration: float,
    jerk: float,
    frac: float,
    ahead_s: float,
) -> None:
    stop = profile(speed, acceleration, deceleration, jerk)
    now = stop.at(frac * stop.stop_s)
    rest = profile(now.speed_mps, now.acceleration_mps2, deceleration, jerk).at(ahead_s)
    there = stop.at(frac * stop.stop_s + ahead_s)
    assert now.distance_m + rest.distance_m == pytest.approx(there.distance_m, abs=1e-3)
    assert rest.speed_mps == pytest.approx(there.speed_mps, abs=1e-3)


@pytest.mark.parametrize("speed", [0.0, -0.0, -3.0])
def test_standing_or_rolling_back_is_a_stop_here_and_now(speed: float) -> None:
    stop = profile(speed, -1.0)
    assert (stop.stop_s, stop.stop_m) == (0.0, 0.0)
    assert stop.at(0.0) == stop.at(7.0) == (0.0, 0.0, 0.0)


@given(speed=st.floats(0.0, 1e-3))
def test_stop_from_next_to_nothing_is_short(speed: float) -> None:
    assert 0.0 <= profile(speed).stop_m <= 1e-3 and profile(speed).stop_s <= 0.1


def test_stop_neither_goes_on_accelerating_nor_brakes_harder_than_can_be_released() -> None:
    assert profile(10.0, 2.0).at(0.0).acceleration_mps2 == 0.0
    assert profile(10.0, -9.0).at(0.0).acceleration_mps2 == -1.5
    assert profile(0.5, -1.5).at(0.0).acceleration_mps2 == -1.0  # 1^2 / 2 = 0.5 m/s are left


@pytest.mark.parametrize(
    "bad", [(math.nan, 0, 1, 1), (1, math.inf, 1, 1), (1, 0, 0, 1), (1, 0, 1, -1)]
)
def test_stop_from_no_numbers_or_without_limits_is_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected finite and limits > 0"):
        profile(*bad)


def points(*xy: tuple[float, float]) -> Trajectory:
    return Trajectory(xy_m=np.asarray(xy, np.float32))


def along_x(distances_m: np.ndarray) -> Trajectory:
    return Trajectory(xy_m=np.stack([distances_m, 0 * distances_m], 1).astype(np.float32))


@given(speed=st.floats(10.0, 30.0), slowing=st.floats(-3.0, 3.0), time_s=st.floats(0.0, 2.9))
def test_motion_of_steadily_braking_points_is_that_braking(
    speed: float, slowing: float, time_s: float
) -> None:
    plan = along_x(speed * STEP_TIMES_S + slowing * STEP_TIMES_S**2 / 2)
    motion = PlannedMotion(plan).at(time_s)
    assert motion.speed_mps == pytest.approx(speed + slowing * time_s, abs=1e-4)
    assert motion.acceleration_mps2 == pytest.approx(slowing, abs=1e-4)
    truth = speed * time_s + slowing * time_s**2 / 2
    assert motion.distance_m == pytest.approx(truth, abs=abs(slowing) * 0.5**2 / 8 + 1e-4)


def test_motion_goes_on_as_fast_beyond_the_last_point_and_begins_before_the_first() -> None:
    motion = PlannedMotion(along_x(4.0 * STEP_TIMES_S))
    assert motion.at(5.0) == (20.0, 4.0, 0.0)
    assert motion.at(-1.0) == motion.at(0.0) == (0.0, 4.0, 0.0)


def test_motion_has_no_speed_beyond_belief() -> None:
    for far in (0, 3, 5):
        xy = [(float(x), 0.0) for x in range(1, 7)]
        xy[far] = (1e30, 1e30)
        motion = PlannedMotion(points(*xy))
        for time_s in (0.0, 0.6, 2.8, 9.0):
            now = motion.at(time_s)
            assert 0.0 <= now.speed_mps <= MAX_SPEED_MPS
            assert now.distance_m <= MAX_SPEED_MPS * time_s


def circle(radius_m: float, step_m: float) -> Trajectory:
    """To the left of the vehicle, on the circle that it is on."""
    angles = step_m * np.arange(1, 7) / radius_m
    return Trajectory(
        xy_m=np.stack([radius_m * np.sin(angles), radius_m * (1 - np.cos(angles))], axis=1).astype(
            np.float32
        )
    )


CORNERS = points((2, 0), (4, 0), (4, 2), (4, 4), (2, 4), (0, 4))
"""Round three sides of a square."""

forward = arrays.arrays(np.float32, (6, 2), elements=st.floats(-50, 50, width=32))


@pytest.mark.parametrize("trajectory", [circle(20.0, 2.5), CORNERS, circle(8.0, 4.0)])
def test_line_seen_from_its_beginning_goes_through_the_points(trajectory: Trajectory) -> None:
    path = StoppingPath(trajectory)
    xy = np.vstack([np.zeros(2), trajectory.xy_m])
    reached = np.cumsum(np.hypot(*np.diff(xy, axis=0).T))
    assert path.length_m == pytest.approx(reached[-1])
    np.testing.assert_allclose(path.points_ahead(0.0, reached), xy[1:], atol=1e-5)


@pytest.mark.parametrize("from_m", [0.0, 1.0, 2.5, 3.7, 7.5, 11.0])
def test_circle_looks_the_same_from_everywhere_on_it(from_m: float) -> None:
    ahead_m = np.linspace(0.0, 15.0 - from_m - 0.1, 9)
    seen = StoppingPath(circle(20.0, 2.5)).points_ahead(from_m, ahead_m)
    truth = 20.0 * np.stack([np.sin(ahead_m / 20.0), 1 - np.cos(ahead_m / 20.0)], axis=1)
    np.testing.assert_allclose(seen, truth, atol=0.1)


@pytest.mark.parametrize("number", range(1, 6))
def test_circle_looks_the_same_from_each_of_its_points_also_past_half_of_it(number: int) -> None:
    trajectory = circle(6.0, 4.0)
    chord = 12.0 * math.sin(4.0 / 12.0)
    ahead_m = chord * np.arange(7 - number)
    seen = StoppingPath(trajectory).points_ahead(chord * number, ahead_m)
    truth = np.vstack([np.zeros(2), trajectory.xy_m])[: 7 - number]
    np.testing.assert_allclose(seen, truth, atol=1e-4)


@pytest.mark.parametrize("from_m", [12.0, 40.0, 1e18])
def test_line_goes_on_straight_beyond_its_end(from_m: float) -> None:
    path = StoppingPath(CORNERS)
    np.testing.assert_allclose(
        path.points_at(np.array([12.0, 15.0])), [[0, 4], [-3, 4]], atol=1e-5
    )
    seen = path.points_ahead(from_m, np.array([0.0, 2.0, 9.0]))
    np.testing.assert_allclose(seen, [[0, 0], [2, 0], [9, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("trajectory", "length_m"),
    [
        (points(*[(0, 0)] * 6), 0.0),
        (points((0.01, 0.02), (-0.02, 0.01), (0, 0), (0.03, 0), (0, 0.04), (0, 0)), 0.0),
        (points((-1, 0), (-2, 0), (-3, 0), (-4, 0), (-5, 0), (-6, 0)), 0.0),
        (points((2, 0), (4, 0), (3, 0), (2, 0), (1, 0), (0, 0)), 4.0),
        (points((2, 0), (2, 0), (2.01, 0.01), (4, 0), (4, 0), (4, 0)), 4.0),
    ],
    ids=["standing", "standing in noise", "backwards", "there and back", "with a rest"],
)
def test_line_of_points_that_nobody_can_drive_forward_along_is_straight_from_there(
    trajectory: Trajectory, length_m: float
) -> None:
    path = StoppingPath(trajectory)
    assert path.length_m == pytest.approx(length_m)
    seen = path.points_ahead(1.0, np.array([1.0, 8.0]))
    np.testing.assert_allclose(seen, [[1, 0], [8, 0]], atol=1e-5)


def walk(xy: np.ndarray, distance_m: float) -> np.ndarray:
    """The place after so many metres, segment by segment."""
    here = xy[0]
    for target in xy[1:]:
        length = math.dist(here, target)
        if distance_m <= length:
            return here + (target - here) * (distance_m / length if length else 0.0)
        distance_m, here = distance_m - length, target
    ahead = (xy[-1] - xy[-2]) / math.dist(xy[-1], xy[-2])
    return here + ahead * distance_m


@given(
    turns=st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6),
    lengths=st.lists(st.floats(0.06, 20.0), min_size=6, max_size=6),
    distances=st.lists(st.floats(0.0, 150.0), min_size=1, max_size=9),
)
def test_places_on_any_line_are_those_of_a_walk_along_it(
    turns: list[float], lengths: list[float], distances: list[float]
) -> None:
    headings = np.cumsum(turns)
    steps = np.array(lengths)[:, None] * np.stack([np.cos(headings), np.sin(headings)], 1)
    trajectory = Trajectory(xy_m=np.cumsum(steps, axis=0).astype(np.float32))
    walked = [walk(np.vstack([np.zeros(2), trajectory.xy_m]), far) for far in distances]
    found = StoppingPath(trajectory).points_at(np.array(distances))
    np.testing.assert_allclose(found, walked, atol=1e-2)


@given(xy=forward, from_m=st.floats(0.0, 300.0), ahead=st.lists(st.floats(0.0, 210.0), min_size=2))
def test_any_line_is_moved_rigidly_and_never_stretched(
    xy: np.ndarray, from_m: float, ahead: list[float]
) -> None:
    path, far = StoppingPath(Trajectory(xy_m=xy)), np.sort(ahead)
    seen = path.points_ahead(from_m, np.concatenate([[0.0], far]))
    np.testing.assert_array_equal(seen[0], 0.0)
    places = path.points_at(np.concatenate([[from_m], from_m + far]))
    steps = np.hypot(*np.diff(seen, axis=0).T)
    np.testing.assert_allclose(steps, np.hypot(*np.diff(places, axis=0).T), atol=1e-6)
    assert (steps <= np.diff(np.concatenate([[0.0], far])) + 1e-6).all()
