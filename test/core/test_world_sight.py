"""Who is seen in which view: not through walls, not through trucks, not far into fog."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely import LineString, Point
from world_scenes import CAMERAS, NO_WALLS, T, actor, answers, empty_drive, pose_ahead

from clkd_core.data.world.questions.facts import on_carriageway
from clkd_core.data.world.questions.sight import hidden_height, see
from clkd_core.data.world.render.surroundings import Walls, build_surroundings, walls_of

BLOCKS = "What blocks the way?"


def test_nobody_behind_a_wall_is_seen():
    drive = empty_drive()
    person = actor("pedestrian", pose_ahead(drive, 20.0))
    x, y, yaw = pose_ahead(drive, 10.0)[0]
    left = np.array([-np.sin(yaw), np.cos(yaw)])
    across = (np.array([[x, y] - 8 * left]), np.array([[x, y] + 8 * left]))
    assert answers(drive, person, walls=Walls(*across, np.array([9.0])))[BLOCKS] == "Nothing."
    low = Walls(*across, np.array([0.4]))
    assert answers(drive, person, walls=low)[BLOCKS] == "A pedestrian."


def test_a_truck_hides_who_walks_behind_it_and_a_car_does_not_hide_a_bus():
    drive = empty_drive()
    person = actor("pedestrian", pose_ahead(drive, 24.0), name="person")
    truck = actor("truck", pose_ahead(drive, 10.0), name="truck")
    assert answers(drive, person, truck)[BLOCKS] == "Nothing."
    car, bus = (actor(k, pose_ahead(drive, d), name=k) for k, d in (("car", 8.0), ("bus", 25.0)))
    drive = replace(drive, actors=(car, bus))
    assert {s.actor.name for s in see(drive, T, CAMERAS, NO_WALLS, 600.0)} == {"car", "bus"}


def test_fog_shortens_the_view():
    drive = empty_drive()
    drive = replace(drive, actors=(actor("car", pose_ahead(drive, 38.0)),))
    assert see(drive, T, CAMERAS, NO_WALLS, 600.0)
    assert not see(drive, T, CAMERAS, NO_WALLS, 20.0)


coordinates = st.floats(-20.0, 20.0)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(coordinates, min_size=6, max_size=6), top=st.floats(0.0, 9.0))
def test_hidden_height_agrees_with_an_independent_intersection(values, top):
    point, start, end = np.array(values).reshape(3, 2)
    assume(min(np.linalg.norm(point), np.linalg.norm(end - start)) > 0.5)
    sight, wall = LineString([(0.0, 0.0), point]), LineString([start, end])
    ends = (Point(0.0, 0.0), Point(point))
    touches = [Point(p).distance(sight) for p in (start, end)] + [p.distance(wall) for p in ends]
    assume(min(touches) > 1e-6)  # grazing: rounding decides
    eye = np.array([0.0, 0.0, 1.5])
    (height,) = hidden_height(eye, point[None], start[None], end[None], np.array([top]))
    met = sight.intersection(wall)
    if met.is_empty:
        assert height == -np.inf
    else:
        share = np.hypot(met.x, met.y) / np.linalg.norm(point)
        assert height == pytest.approx(1.5 + (top - 1.5) / share, rel=1e-6)


def test_nothing_between_hides_nothing():
    eye, point = np.array([0.0, 0.0, 1.5]), np.array([[10.0, 0.0]])
    behind = np.array([[12.0, -5.0]]), np.array([[12.0, 5.0]]), np.array([9.0])
    assert hidden_height(eye, point, *behind) == -np.inf
    assert hidden_height(eye, point, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)) == -np.inf
    before = np.array([[5.0, -5.0]]), np.array([[5.0, 5.0]]), np.array([9.0])
    assert hidden_height(eye, point, *before) == pytest.approx(1.5 + 7.5 * 2)


def test_walls_are_those_of_the_buildings():
    layout = empty_drive().layout
    walls = walls_of(build_surroundings(layout, night=False))
    assert len(walls.top) > 50
    assert walls.top.min() > 6.0
    widths = np.linalg.norm(walls.end - walls.start, axis=1)
    assert 1.0 < widths.min() <= widths.max() < 8.0


def test_the_carriageway_ends_at_the_edge_lines():
    drive = empty_drive()
    for ahead in (5.0, 15.0, 30.0):
        for left, expected in ((0.0, True), (-drive.layout.half_m - 0.5, False)):
            shift = left + drive.layout.lane_offset_m("straight") if left else 0.0
            assert on_carriageway(drive, pose_ahead(drive, ahead, shift)[0, :2]) == expected
