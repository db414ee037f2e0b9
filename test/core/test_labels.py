"""The label rules, against a slow version and at their edges."""

import math

import numpy as np
import pytest

from clkd_core.data.labels import (
    lidar_from_ego,
    meta_action_from_future,
    route_command_from_pose,
)
from clkd_core.errors import DataError
from clkd_core.types import MetaAction, PathAction, RouteCommand, SpeedAction


def slow_meta_action(points: list[tuple[float, float]]) -> MetaAction:
    """The rule word by word, in degrees and with loops."""
    speeds = []
    for i in range(5):
        (x0, y0), (x1, y1) = points[i], points[i + 1]
        speeds.append(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2) / 0.5)
    if max(speeds) < 2:
        speed = SpeedAction.STOP
    elif speeds[4] - speeds[0] >= 3:
        speed = SpeedAction.ACCELERATE
    elif speeds[4] - speeds[0] <= -3:
        speed = SpeedAction.DECELERATE
    else:
        speed = SpeedAction.KEEP
    x, y = points[5]
    bearing = math.degrees(math.atan2(y, x)) - 90
    path = PathAction.STRAIGHT
    if x > 4:
        if bearing <= -5:
            path = PathAction.RIGHT_TURN
        elif abs(bearing) < 5:
            path = PathAction.RIGHT_CHANGE
    if x <= -4:
        if bearing >= 5:
            path = PathAction.LEFT_TURN
        elif abs(bearing) < 5:
            path = PathAction.LEFT_CHANGE
    return MetaAction(speed, path)


def even_future(last_x: float, last_y: float) -> np.ndarray:
    return np.linspace([0.0, 0.0], [last_x, last_y], 7)[1:]


def test_meta_action_agrees_with_slow_version_on_random_futures():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        first, last = rng.uniform(0, 20, 2)
        steps = np.linspace(first, last, 6) * 0.5
        bend = rng.choice([0.1, 1.0])
        heading = bend * (rng.uniform(-0.9, 0.9) + np.linspace(0, rng.uniform(-1, 1), 6))
        moves = np.stack([steps * np.sin(heading), steps * np.cos(heading)], axis=1)
        points = np.cumsum(moves, axis=0)
        action = meta_action_from_future(points)
        assert action == slow_meta_action([tuple(p) for p in points])
        seen.add(action)
    assert {a.path for a in seen} == set(PathAction)
    assert {a.speed for a in seen} == set(SpeedAction)


def test_way_from_now_to_the_first_point_does_not_count():
    points = np.array([[0, 30.0 + 0.1 * i] for i in range(6)])
    assert meta_action_from_future(points).speed == SpeedAction.STOP


@pytest.mark.parametrize(
    ("speeds", "action"),
    [
        ([1.99] * 5, SpeedAction.STOP),
        ([2.0] * 5, SpeedAction.KEEP),
        ([0.0, 0.0, 0.0, 0.0, 2.0], SpeedAction.KEEP),
        ([0.0, 1.0, 2.0, 3.0, 3.0], SpeedAction.ACCELERATE),
        ([5.0, 4.0, 4.0, 3.0, 2.0], SpeedAction.DECELERATE),
        ([5.0, 9.0, 0.0, 9.0, 7.5], SpeedAction.KEEP),
    ],
)
def test_speed_action_at_its_edges(speeds, action):
    y = np.concatenate([[1.0], 1.0 + np.cumsum(speeds) * 0.5])
    assert meta_action_from_future(np.stack([0 * y, y], axis=1)).speed == action


@pytest.mark.parametrize(
    ("x", "y", "path"),
    [
        (4.0, 10.0, PathAction.STRAIGHT),
        (4.001, 10.0, PathAction.RIGHT_TURN),
        (-4.0, 10.0, PathAction.LEFT_TURN),
        (-3.999, 10.0, PathAction.STRAIGHT),
        (5.0, 80.0, PathAction.RIGHT_CHANGE),
        (-5.0, 80.0, PathAction.LEFT_CHANGE),
        (0.0, 0.0, PathAction.STRAIGHT),
    ],
)
def test_path_action_at_four_metres(x, y, path):
    assert meta_action_from_future(even_future(x, y)).path == path


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_bearing_of_five_degrees_and_more_is_a_turn(side):
    turn, change = (
        (PathAction.RIGHT_TURN, PathAction.RIGHT_CHANGE)
        if side > 0
        else (PathAction.LEFT_TURN, PathAction.LEFT_CHANGE)
    )
    for degrees, path in ((5.0 + 1e-9, turn), (5.0 - 1e-9, change)):
        angle = math.radians(90.0 - side * degrees)
        last = 60.0 * np.array([math.cos(angle), math.sin(angle)])
        assert meta_action_from_future(even_future(*last)).path == path


def test_bearing_of_exactly_five_degrees_is_a_turn(monkeypatch):
    exactly = math.degrees(math.atan2(60, -5)) - 90.0
    monkeypatch.setattr("clkd_core.data.labels.TURN_BEARING_DEG", exactly)
    assert meta_action_from_future(even_future(-5.0, 60.0)).path == PathAction.LEFT_TURN


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_bearings_about_five_degrees_round_as_in_the_slow_version(side):
    angles = np.radians(90.0 - side * 5.0) + np.arange(-40, 41) * 1e-16
    for reach in (47.0, 53.3, 61.7, 70.0):
        for angle in angles:
            points = even_future(reach * math.cos(angle), reach * math.sin(angle))
            assert meta_action_from_future(points) == slow_meta_action([tuple(p) for p in points])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_meta_action_refuses_a_position_that_is_no_number(bad):
    points = even_future(0.0, 10.0)
    points[3, 1] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        meta_action_from_future(points)


@pytest.mark.parametrize("shape", [(5, 2), (6, 3), (12,)])
def test_meta_action_refuses_another_shape(shape):
    with pytest.raises(DataError, match=r"expected \(6, 2\)"):
        meta_action_from_future(np.zeros(shape))


def test_lidar_axes_are_right_and_forward():
    assert lidar_from_ego(np.array([[7.0, 2.0]])).tolist() == [[-2.0, 7.0]]


def test_what_is_ahead_is_nearer_to_a_lidar_that_is_mounted_ahead():
    assert lidar_from_ego([7.0, 2.0], lidar_forward_m=1.5).tolist() == [-2.0, 5.5]


@pytest.mark.parametrize(
    ("forward", "left", "command"),
    [
        (30.0, 0.0, RouteCommand.STRAIGHT),
        (20.0, 10.0, RouteCommand.STRAIGHT_LEFT),
        (19.9, 10.0, RouteCommand.LEFT),
        (20.0, -10.0, RouteCommand.STRAIGHT_RIGHT),
        (19.9, -10.0, RouteCommand.RIGHT),
        (5.0, 9.9, RouteCommand.STRAIGHT),
        (5.0, -9.9, RouteCommand.STRAIGHT),
    ],
)
def test_route_command_at_its_edges(forward, left, command):
    assert route_command_from_pose(forward, left) == command


def slow_public_command(right: float, forward: float) -> str:
    """The public converter's five branches on a LIDAR position, its first axis right."""
    if right >= 20 and forward >= 10:
        return "go straight and turn left"
    if right >= 20 and forward <= -10:
        return "go straight and turn right"
    if right < 20 and forward >= 10:
        return "turn left"
    if right < 20 and forward <= -10:
        return "turn right"
    return "go straight"


def test_senna_compat_agrees_with_the_branches_on_lidar_axes_edges_included():
    edges = [0.0, 10.0, -10.0, 20.0, -20.0]
    edges += [float(np.nextafter(edge, way)) for edge in edges for way in (-99.0, 99.0)]
    goals = [(right, forward) for right in edges for forward in edges]
    goals += np.random.default_rng(0).uniform(-40, 40, (2000, 2)).tolist()
    seen = set()
    for right, forward in goals:
        command = route_command_from_pose(forward, -right, senna_compat=True)
        assert command.value == slow_public_command(right, forward)
        seen.add(command)
    assert seen == set(RouteCommand)


def test_senna_compat_takes_driving_straight_ahead_for_a_left_turn():
    assert route_command_from_pose(60.0, 0.0) == RouteCommand.STRAIGHT
    assert route_command_from_pose(60.0, 0.0, senna_compat=True) == RouteCommand.LEFT
    assert route_command_from_pose(9.9, 30.0, senna_compat=True) == RouteCommand.STRAIGHT


@pytest.mark.parametrize("senna_compat", [False, True])
@pytest.mark.parametrize("goal", [(math.nan, 0.0), (0.0, math.inf)])
def test_route_command_refuses_what_is_no_number(goal, senna_compat):
    with pytest.raises(DataError, match="route goal"):
        route_command_from_pose(*goal, senna_compat=senna_compat)
