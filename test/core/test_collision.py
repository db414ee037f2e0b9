"""Collisions: boxes beside an independent polygon library, paths, and both conventions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clkd_core.data.keyframes import AgentFuture
from clkd_core.metrics.plans.collision import (
    EgoBox,
    boxes_overlap,
    collision_steps,
    path_headings,
    score_collisions,
)

STEPS = 6
GROWTH = np.array([0, 0, 1e-6, 1e-6, 0])
POINT_BOX = EgoBox(length_m=0, width_m=0, center_ahead_m=0)


def thousandths(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers to three places: the polygon library stumbles over sides of 1e-300 m."""
    return st.integers(round(1000 * low), round(1000 * high)).map(lambda number: number / 1000)


sides = st.sampled_from([0.0, 1.0, 2.0]) | thousandths(0, 20)
places = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]) | thousandths(-30, 30)
angles = st.sampled_from([0.0, math.pi / 2, -math.pi / 4, math.pi]) | thousandths(-7, 7)
boxes = st.tuples(places, places, sides, sides, angles).map(np.array)
solid = thousandths(0.1, 20)
solid_boxes = st.tuples(places, places, solid, solid, angles).map(np.array)
steps = st.lists(st.lists(st.booleans(), min_size=STEPS, max_size=STEPS), min_size=1, max_size=12)


def corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, length, width, yaw = box
    along, across = (
        np.array([math.cos(yaw), math.sin(yaw)]),
        np.array([-math.sin(yaw), math.cos(yaw)]),
    )
    center = np.array([x, y])
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    return np.array([center + a * length / 2 * along + b * width / 2 * across for a, b in signs])


def polygon_distances(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N,) metres between the boxes of two (N, 5) lists, 0 where they meet."""
    shapely = pytest.importorskip("shapely", reason="pip install shapely")
    # A hull, because a polygon without area is none to the library.
    one, other = (
        shapely.convex_hull(shapely.multipoints([corners(box) for box in some]))
        for some in (first, second)
    )
    with np.errstate(divide="ignore"):  # its own, where a polygon has no area
        return np.asarray(shapely.distance(one, other))


def moved(box: NDArray[np.float64], x: float, y: float, turn: float) -> NDArray[np.float64]:
    cos, sin = math.cos(turn), math.sin(turn)
    place = [x + cos * box[0] - sin * box[1], y + sin * box[0] + cos * box[1]]
    return np.array([*place, box[2], box[3], box[4] + turn])


def agent(
    *poses: tuple[float, float, float],
    size_m: tuple[float, float] = (4.0, 2.0),
    category: str = "vehicle.car",
) -> AgentFuture:
    return AgentFuture(category=category, size_m=size_m, poses=np.array(poses, dtype=np.float32))


def standing(x: float, y: float, yaw: float = 0.0, category: str = "vehicle.car") -> AgentFuture:
    return agent(*[(x, y, yaw)] * (STEPS + 1), category=category)


def straight(speed_mps: float) -> NDArray[np.float64]:
    return np.array([[speed_mps * 0.5 * (step + 1), 0.0] for step in range(STEPS)])


def test_thousands_of_random_boxes_overlap_where_polygons_do() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    first, second = (
        np.column_stack(
            [
                rng.uniform(-6, 6, (count, 2)),
                rng.uniform(0, 8, (count, 2)),
                rng.uniform(-4, 4, count),
            ]
        )
        for _ in range(2)
    )
    first[::7, 2] = second[::5, 3] = 0  # lines
    first[::35, 3] = 0  # and points
    distance = polygon_distances(first, second)
    overlap = boxes_overlap(first, second)
    np.testing.assert_array_equal(overlap, distance == 0)
    assert 0.2 < overlap.mean() < 0.8


@settings(max_examples=300, deadline=None)
@given(first=boxes, second=boxes)
def test_boxes_overlap_where_polygons_do_also_when_they_touch_or_have_no_area(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> None:
    distance = polygon_distances(first[None], second[None])[0]
    grown = second + GROWTH  # so that rounding does not decide who touches
    if boxes_overlap(first, second):
        assert distance < 1e-9
    if distance == 0:
        assert boxes_overlap(first, grown)


@settings(max_examples=200, deadline=None)
@given(first=boxes, second=boxes)
def test_overlap_does_not_depend_on_the_order(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> None:
    assert boxes_overlap(first, second) == boxes_overlap(second, first)
    assert boxes_overlap(first, first)


@settings(max_examples=200, deadline=None)
@given(first=solid_boxes, second=solid_boxes, x=places, y=places, turn=angles)
def test_overlap_is_the_same_wherever_one_stands_and_looks(
    first: NDArray[np.float64], second: NDArray[np.float64], x: float, y: float, turn: float
) -> None:
    is_near = boxes_overlap(first, second - GROWTH) != boxes_overlap(first, second + GROWTH)
    assume(not is_near)  # where rounding would decide
    there = boxes_overlap(moved(first, x, y, turn), moved(second, x, y, turn))
    assert there == boxes_overlap(first, second)


def test_boxes_that_touch_have_a_point_in_common() -> None:
    box = [0.0, 0, 4, 2, 0]
    assert boxes_overlap(box, [4.0, 0, 4, 2, 0])  # side to side
    assert boxes_overlap(box, [4.0, 2, 4, 2, 0])  # corner to corner
    assert not boxes_overlap(box, [4.001, 0, 4, 2, 0])
    assert not boxes_overlap(box, [3.0, 2.1, 4, 2, 0.05 - math.pi / 2])


def test_a_cross_overlaps_though_no_corner_lies_in_the_other_box() -> None:
    assert boxes_overlap([0.0, 0, 10, 1, 0], [0.0, 0, 10, 1, math.pi / 2])


def test_many_boxes_are_compared_at_once() -> None:
    some = np.broadcast_to([0.0, 0, 2, 2, 0], (3, 1, 5))
    others = np.array([[x, 0, 2, 2, 0] for x in (0, 1.9, 2.1, 5)], dtype=float)
    np.testing.assert_array_equal(boxes_overlap(some, others), [[True, True, False, False]] * 3)


@pytest.mark.parametrize(
    "box", [[0, 0, -1, 1, 0], [0, 0, 1, 1], [math.nan, 0, 1, 1, 0], [0, 0, 1, math.inf, 0]]
)
def test_boxes_that_are_none_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        boxes_overlap(box, [0, 0, 1, 1, 0])


@settings(max_examples=100, deadline=None)
@given(curvature=st.floats(-0.19, 0.19), speed_mps=st.floats(1.1, 25))
def test_headings_on_an_arc_are_those_of_the_arc(curvature: float, speed_mps: float) -> None:
    assume(abs(curvature * speed_mps) < 1.5)  # a quarter turn and more within a step is no drive
    angle = curvature * speed_mps * 0.5 * np.arange(1, STEPS + 1)
    if abs(curvature) < 1e-6:
        path = straight(speed_mps)
    else:
        path = np.column_stack([np.sin(angle), 1 - np.cos(angle)]) / curvature
    np.testing.assert_allclose(path_headings(path), angle, atol=2e-5)


def test_a_vehicle_in_reverse_still_looks_ahead() -> None:
    np.testing.assert_allclose(path_headings(straight(-3.0)), 0, atol=1e-12)


def test_a_vehicle_that_stands_keeps_its_heading_whatever_the_points_do() -> None:
    jitter = np.random.default_rng(0).uniform(-0.1, 0.1, (STEPS, 2))
    np.testing.assert_array_equal(path_headings(jitter), 0)
    turned = np.vstack([[[2.0, 0.3], [4.0, 1.2], [5.5, 2.4]], np.add([5.5, 2.4], jitter[:3])])
    headings = path_headings(turned)
    assert headings[2] > 0.4
    np.testing.assert_array_equal(headings[4:], headings[3])


def test_a_stop_behind_a_car_touches_nobody_and_driving_on_does() -> None:
    ahead = [standing(20, 0)]
    assert not collision_steps(straight(4), ahead).any()
    # Ego's front is 1.44 + 4.084 / 2 ahead of its rear axle, the car's back 2 m behind its middle.
    hits = collision_steps(straight(10), ahead).tolist()
    assert hits == [x + 3.482 >= 18 and x - 0.602 <= 22 for x in (5, 10, 15, 20, 25, 30)]
    assert hits == [False, False, True, True, False, False]


def test_the_box_lies_ahead_of_the_rear_axle_along_the_planned_heading() -> None:
    up = np.array([[0.5, 2.0], [0.5, 5.0], [0.5, 8.0], [0.5, 11.0], [0.5, 14.0], [0.5, 17.0]])
    front = agent(*[(0.5, 17 + 3.482 + 0.4, 0)] * 7, size_m=(0.9, 0.9))
    beside = agent(*[(3.5, 17, 0)] * 7, size_m=(0.9, 0.9))
    assert collision_steps(up, [front]).tolist() == [False] * 5 + [True]
    assert not collision_steps(up, [beside]).any()  # it would touch a box that still looked ahead
    assert not collision_steps(up, [front], EgoBox(center_ahead_m=0.5)).any()


def test_agents_are_where_they_will_be_at_each_step_and_turned() -> None:
    crossing = agent(*[(10, 9 - 3 * step, -math.pi / 2) for step in range(7)], size_m=(4, 2))
    still = np.array([[10.0, 0.0]] * STEPS)
    hits = collision_steps(still, [crossing], POINT_BOX)
    assert hits.tolist() == [False, False, True, False, False, False]
    assert not collision_steps(still, [agent(*[(10, 1.5, 0)] * 7)], POINT_BOX).any()
    assert collision_steps(still, [agent(*[(10, 1.5, math.pi / 2)] * 7)], POINT_BOX).all()


def test_an_agent_that_vanishes_is_unknown_from_then_on() -> None:
    seen = agent(*[(10, 0, 0)] * 4)
    still = np.array([[10.0, 0.0]] * STEPS)
    assert collision_steps(still, [seen]).tolist() == [True] * 3 + [False] * 3
    assert not collision_steps(still, [agent((10, 0, 0))]).any()
    assert not collision_steps(still, []).any()


def test_where_an_agent_is_now_does_not_count() -> None:
    leaving = agent((5, 0, 0), *[(50, 0, 0)] * 6)
    assert not collision_steps([[5.0, 0.0]] * STEPS, [leaving]).any()


@pytest.mark.parametrize(
    ("category", "counts"),
    [
        ("vehicle.truck", True),
        ("human.pedestrian.adult", True),
        ("animal", True),
        ("movable_object.trafficcone", False),
        ("static_object.bicycle_rack", False),
    ],
)
def test_vehicles_people_and_animals_count_unless_others_are_named(
    category: str, counts: bool
) -> None:
    plan = straight(5)
    there = [standing(10, 0, category=category)]
    assert collision_steps(plan, there).any() == counts
    assert collision_steps(plan, there, categories=("",)).any()
    assert not collision_steps(plan, there, categories=()).any()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_steps_agree_with_one_polygon_after_the_other(data: st.DataObject) -> None:
    plan = np.cumsum(
        data.draw(st.lists(st.tuples(st.floats(0, 5), st.floats(-1, 1)), min_size=6, max_size=6)),
        axis=0,
    )
    drawn = data.draw(
        st.lists(st.tuples(st.floats(-5, 30), st.floats(-8, 8), st.floats(-4, 4)), max_size=4)
    )
    agents = [
        agent(*[(x + step, y, yaw) for step in range(data.draw(st.integers(1, 7)))])
        for x, y, yaw in drawn
    ]
    hits, headings, box = collision_steps(plan, agents), path_headings(plan), EgoBox()
    for step in range(STEPS):
        center = plan[step] + box.center_ahead_m * np.array(
            [math.cos(headings[step]), math.sin(headings[step])]
        )
        ego = np.array([*center, box.length_m, box.width_m, headings[step]])
        near = [
            polygon_distances(
                ego[None], np.array([[*a.poses[step + 1][:2], *a.size_m, a.poses[step + 1][2]]])
            )[0]
            for a in agents
            if len(a.poses) > step + 1
        ]
        assume(not any(0 < distance < 1e-6 for distance in near))
        assert hits[step] == any(distance == 0 for distance in near)


@settings(max_examples=50, deadline=None)
@given(x=places, y=places, turn=angles, lateral=st.floats(-4, 4))
def test_collisions_of_a_standing_plan_do_not_depend_on_where_the_pair_stands(
    x: float, y: float, turn: float, lateral: float
) -> None:
    box = EgoBox(center_ahead_m=0)
    ego, other = np.array([0, 0, 4.084, 1.85, 0]), np.array([1.0, lateral, 4, 2, 0.3])
    here = collision_steps(np.zeros((6, 2)), [agent(*[(1.0, lateral, 0.3)] * 7)], box).all()
    there = boxes_overlap(moved(ego, x, y, turn), moved(other, x, y, turn))
    assume(abs(abs(lateral) - 2.55) > 0.5)  # not within rounding of touching
    assert bool(there) == here


@pytest.mark.parametrize(
    "plan", [np.zeros((0, 2)), np.zeros((6, 3)), np.zeros(6), np.full((6, 2), math.nan)]
)
def test_plans_that_are_none_are_refused(plan: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="expected"):
        collision_steps(plan, [])


def test_an_agent_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        collision_steps(straight(5), [agent(*[(math.nan, 0, 0)] * 7)])


@settings(max_examples=40, deadline=None)
@given(rows=steps)
def test_both_conventions_agree_with_loops(rows: list[list[bool]]) -> None:
    scores = score_collisions(rows)
    for horizon_s, points in ((1, 2), (2, 4), (3, 6)):
        average = sum(sum(row[:points]) / points for row in rows) / len(rows)
        horizon = sum(row[points - 1] for row in rows) / len(rows)
        assert scores.average_frac[horizon_s].value == pytest.approx(average)
        assert scores.horizon_frac[horizon_s].value == pytest.approx(horizon)
    assert (scores.frames, scores.excused_steps) == (len(rows), None)


@settings(max_examples=40, deadline=None)
@given(rows=steps, data=st.data())
def test_steps_at_which_the_truth_collides_are_excused_and_stay_in_the_denominator(
    rows: list[list[bool]], data: st.DataObject
) -> None:
    row = st.lists(st.booleans(), min_size=STEPS, max_size=STEPS)
    truth = data.draw(st.lists(row, min_size=len(rows), max_size=len(rows)))
    excused = score_collisions(rows, true_steps=truth)
    kept = [
        [a and not b for a, b in zip(*pair, strict=True)] for pair in zip(rows, truth, strict=True)
    ]
    plain = score_collisions(kept)
    assert excused.average_frac == plain.average_frac
    assert excused.horizon_frac == plain.horizon_frac
    assert excused.excused_steps == np.sum(rows) - np.sum(kept)


@settings(max_examples=30, deadline=None)
@given(rows=steps, data=st.data())
def test_the_order_of_frames_does_not_matter_and_shares_stay_in_bounds(
    rows: list[list[bool]], data: st.DataObject
) -> None:
    scores = score_collisions(rows)
    again = score_collisions(data.draw(st.permutations(rows)))
    for horizon_s in (1, 2, 3):
        share = scores.average_frac[horizon_s]
        assert 0 <= share.low <= share.value + 1e-12 and share.value - 1e-12 <= share.high <= 1
        assert again.average_frac[horizon_s].value == pytest.approx(share.value)
        assert again.horizon_frac[horizon_s].value == scores.horizon_frac[horizon_s].value


@pytest.mark.parametrize(
    ("rows", "truth"),
    [
        ([], None),
        ([[True] * 5], None),
        ([[0.5] * 6], None),
        ([[True] * 6], [[True] * 5]),
        ([[True] * 6], [[True] * 6] * 2),
    ],
)
def test_steps_that_cannot_be_averaged_are_refused(rows: object, truth: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        score_collisions(rows, true_steps=truth)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters"):
        score_collisions([[True] * 6], clusters=["a", "b"])
