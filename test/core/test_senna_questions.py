"""Senna's questions by rule: what is asked, decided and said, at every edge of the rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer, Region
from clkd_core.data.senna.questions import (
    LIDAR_FORWARD_M,
    PLAN_WORDS,
    agent_action,
    build_questions,
    camera_towards,
    plan_question,
)
from clkd_core.types import (
    CAMERAS,
    EgoState,
    MetaAction,
    RouteCommand,
    Trajectory,
)

KEEP = MetaAction.from_text("KEEP, STRAIGHT")


def agent(
    forward: float,
    left: float,
    *,
    category: str = "vehicle.car",
    speed: float = 0.0,
    yaw: float = 0.0,
    steps: int = 6,
) -> AgentFuture:
    """Drives straight on at constant speed; place as seen from the LIDAR."""
    way = speed * 0.5 * np.arange(steps + 1)
    x = LIDAR_FORWARD_M + forward + way * math.cos(yaw)
    y = left + way * math.sin(yaw)
    poses = np.stack([x, y, np.full_like(way, yaw)], axis=1)
    return AgentFuture(category=category, size_m=(4.0, 2.0), poses=poses.astype(np.float32))


def keyframe(*agents: AgentFuture, with_future: bool = True, **changes: object) -> Keyframe:
    xy = np.stack([np.arange(1, 7) * 4.0, np.zeros(6)], axis=1).astype(np.float32)
    fields = {
        "sample_token": "t",
        "scene": "s",
        "case_name": "regular",
        "stamp_ns": 0,
        "image_paths": {},
        "image_stamps_ns": {},
        "ego": EgoState(stamp_ns=0, speed_mps=7.9),
        "command": RouteCommand.LEFT,
        "future": Trajectory(xy_m=xy) if with_future else None,
        "action": KEEP if with_future else None,
        "agents": agents,
        "questions": (),
    }
    return Keyframe(**{**fields, **changes})


def vulnerable_answer(*agents: AgentFuture) -> str:
    (asked,) = (q for q in build_questions(keyframe(*agents)) if q.kind == "perception")
    return asked.answer


def behaviours(*agents: AgentFuture) -> dict[str, QuestionAnswer]:
    """Prediction questions by the view they name."""
    asked = [q for q in build_questions(keyframe(*agents)) if q.kind == "prediction"]
    return {q.question.removeprefix("In the ").partition(" view")[0]: q for q in asked}


def test_plan_is_asked_with_the_words_the_public_evaluation_looks_for() -> None:
    plan = build_questions(keyframe())[0]
    assert (plan.kind, plan.answer) == ("planning", "KEEP, STRAIGHT")
    assert PLAN_WORDS == "SPEED plan" and PLAN_WORDS in plan.question
    assert "7 m/s" in plan.question and "'turn left'" in plan.question


def test_only_the_plan_is_asked_with_those_words() -> None:
    asked = build_questions(keyframe(*(agent(x, y) for x in (-9, 9) for y in (-9, 0, 9))))
    assert sum(PLAN_WORDS in q.question for q in asked) == 1


def test_without_a_full_future_there_is_no_plan() -> None:
    kinds = [q.kind for q in build_questions(keyframe(with_future=False))]
    assert kinds == ["perception"]


def test_what_is_unknown_is_said_to_be() -> None:
    asked = plan_question(None, None)
    assert "unknown speed" in asked and "no route is known" in asked


def test_agents_that_nobody_annotated_are_not_denied() -> None:
    assert [q.kind for q in build_questions(keyframe(), agents_known=False)] == ["planning"]


def test_keyframe_about_a_region_gets_no_question_about_the_scene() -> None:
    region = Region(camera="CAM_FRONT", box_xywh_px=(0, 0, 9, 9))
    assert build_questions(keyframe(agent(9, 0), region=region)) == ()


@pytest.mark.parametrize(
    ("category", "word"),
    [
        ("vehicle.bicycle", "Bicycle"),
        ("vehicle.motorcycle", "Motorcycle"),
        ("human.pedestrian.adult", "Pedestrian"),
        ("human.pedestrian.child", "Pedestrian"),
        ("human.pedestrian.construction_worker", "Pedestrian"),
        ("human.pedestrian.police_officer", "Pedestrian"),
    ],
)
def test_vulnerable_road_users_are_named_by_their_class(category: str, word: str) -> None:
    said = vulnerable_answer(agent(9.7, 0.0, category=category, steps=0))
    assert said == f"{word} 9 m ahead."


@pytest.mark.parametrize(
    "category",
    ["vehicle.car", "static_object.bicycle_rack", "human.pedestrian.wheelchair", "animal"],
)
def test_others_are_not_vulnerable_road_users(category: str) -> None:
    assert vulnerable_answer(agent(9.7, 0.0, category=category)) == "Nobody."


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (1.9, "Pedestrian 12 m ahead."),
        (-1.9, "Pedestrian 12 m ahead."),
        (2.0, "Pedestrian 12 m ahead, 2 m to the left."),
        (-2.0, "Pedestrian 12 m ahead, 2 m to the right."),
        (-7.9, "Pedestrian 12 m ahead, 7 m to the right."),
    ],
)
def test_side_is_said_from_two_metres_on(left: float, said: str) -> None:
    assert vulnerable_answer(agent(12.5, left, category="human.pedestrian.adult")) == said


@pytest.mark.parametrize(
    ("forward", "left", "seen"),
    [(19.9, 0.0, True), (20.1, 0.0, False), (19.0, 7.0, False), (-5.0, 0.0, False)],
)
def test_vulnerable_road_users_are_within_twenty_metres_in_front(
    forward: float, left: float, seen: bool
) -> None:
    said = vulnerable_answer(agent(forward, left, category="vehicle.bicycle"))
    assert (said != "Nobody.") == seen


def test_nearest_is_said_first() -> None:
    far, near = (agent(x, 0.0, category="human.pedestrian.adult") for x in (15.5, 5.5))
    assert vulnerable_answer(far, near) == "Pedestrian 5 m ahead; pedestrian 15 m ahead."


def test_distance_from_the_ego_frame_is_longer_by_the_mounting_offset() -> None:
    seen = keyframe(agent(19.5, 0.0, category="vehicle.bicycle"))
    assert build_questions(seen)[1].answer == "Bicycle 19 m ahead."
    assert build_questions(seen, lidar_forward_m=0.0)[1].answer == "Nobody."


@pytest.mark.parametrize(
    ("degrees", "camera"),
    [
        (90, "CAM_FRONT"),
        (55, "CAM_FRONT"),
        (54.9, "CAM_FRONT_RIGHT"),
        (125, "CAM_FRONT_LEFT"),
        (124.9, "CAM_FRONT"),
        (0, "CAM_FRONT_RIGHT"),
        (-0.1, "CAM_BACK_RIGHT"),
        (-54.9, "CAM_BACK_RIGHT"),
        (-55.1, "CAM_BACK"),
        (-90, "CAM_BACK"),
        (-124.9, "CAM_BACK"),
        (-125.1, "CAM_BACK_LEFT"),
        (179.9, "CAM_FRONT_LEFT"),
        (180.1, "CAM_BACK_LEFT"),
    ],
)
def test_view_changes_at_the_bearings_of_the_public_rule(degrees: float, camera: str) -> None:
    angle = math.radians(degrees)
    assert camera_towards(10 * math.cos(angle), 10 * math.sin(angle)) == camera


def slow_camera(right: float, forward: float) -> str:
    """The overlapping fields of view in the public order, the first that holds the bearing."""
    angle = math.degrees(math.atan2(forward, right))
    for camera, low, high in (
        ("CAM_FRONT", 55, 125),
        ("CAM_FRONT_LEFT", 110, 180),
        ("CAM_BACK_LEFT", 165, 235),
        ("CAM_FRONT_RIGHT", 0, 70),
        ("CAM_BACK_RIGHT", -55, 15),
    ):
        turned = angle if camera == "CAM_BACK_RIGHT" or angle >= 0 else angle + 360
        if low <= turned < high:
            return camera
    return "CAM_BACK"


@settings(max_examples=300, deadline=None)
@given(right=st.floats(-60, 60), forward=st.floats(-60, 60))
def test_every_place_is_in_the_view_of_the_overlapping_fields(
    right: float, forward: float
) -> None:
    assert camera_towards(right, forward) == slow_camera(right, forward)


def test_agents_are_asked_about_in_their_view_with_place_and_speed() -> None:
    asked = behaviours(
        agent(12.6, 3.4, speed=5.0),
        agent(-8.2, -0.5, category="vehicle.bus.bendy"),
        agent(1.0, -9.0, category="movable_object.trafficcone"),
    )
    assert list(asked) == ["front", "front right", "back"]
    assert "1. car 12 m ahead, 3 m left, 5 m/s." in asked["front"].question
    assert asked["front"].answer == "1. KEEP, STRAIGHT"
    assert "1. bus 8 m behind, 0 m right, 0 m/s." in asked["back"].question
    assert asked["back"].answer == "1. STOP, STRAIGHT"
    assert "1. traffic cone 1 m ahead, 9 m right, 0 m/s." in asked["front right"].question


def test_agents_of_a_view_are_numbered_alike_in_question_and_answer() -> None:
    asked = behaviours(agent(20.5, 0.0, speed=6.0), agent(9.5, 0.0))["front"]
    assert "1. car 9 m ahead, 0 m right, 0 m/s; 2. car 20 m ahead" in asked.question
    assert asked.answer == "1. STOP, STRAIGHT; 2. KEEP, STRAIGHT"


@pytest.mark.parametrize(
    ("forward", "left", "seen"),
    [(39.9, 0, True), (40.1, 0, False), (0, 19.9, True), (0, 20.1, False), (-20.1, 0, False)],
)
def test_front_view_reaches_forty_metres_the_others_twenty(
    forward: float, left: float, seen: bool
) -> None:
    assert bool(behaviours(agent(forward, left))) == seen


def test_agent_without_a_full_future_is_not_asked_about_but_still_seen() -> None:
    short = agent(9.0, 0.0, category="human.pedestrian.adult", steps=5)
    assert behaviours(short) == {}
    assert vulnerable_answer(short).startswith("Pedestrian")
    assert agent_action(short) is None


@pytest.mark.parametrize("yaw", [0.0, 1.0, math.pi / 2, 3.0, -2.0])
def test_action_of_an_agent_is_judged_in_its_own_frame(yaw: float) -> None:
    assert agent_action(agent(10, 10, speed=8.0, yaw=yaw)) == KEEP


def test_oncoming_agent_that_turns_to_its_own_left_turns_left() -> None:
    poses = np.zeros((7, 3))
    poses[:, 0] = 30.0 - 4.0 * np.arange(7)
    poses[:, 1] = -np.concatenate([[0, 0, 0], [1, 3, 6, 10]])  # to our right
    poses[:, 2] = math.pi
    oncoming = AgentFuture(category="vehicle.car", size_m=(4, 2), poses=poses.astype(np.float32))
    action = agent_action(oncoming)
    assert action is not None and action.path.name == "LEFT_TURN"


def test_lidar_on_an_agent_moves_the_line_between_turn_and_change() -> None:
    ahead = 4.5 / math.tan(math.radians(5.0)) + 0.5  # 5 degrees begin between the two places
    poses = np.zeros((7, 3))
    poses[:, 0], poses[:, 1] = np.linspace(0, ahead, 7), np.linspace(0, 4.5, 7)
    changing = AgentFuture(category="vehicle.car", size_m=(4, 2), poses=poses.astype(np.float32))
    with_lidar, without = agent_action(changing), agent_action(changing, lidar_forward_m=0.0)
    assert with_lidar is not None and with_lidar.path.name == "LEFT_TURN"
    assert without is not None and without.path.name == "LEFT_CHANGE"


def test_speed_of_an_agent_is_the_one_between_its_first_two_future_points() -> None:
    poses = np.zeros((7, 3), np.float32)
    poses[:, 0] = [10, 11, 14, 15, 16, 17, 18]
    jumpy = AgentFuture(category="vehicle.truck", size_m=(8, 2), poses=poses)
    assert "truck 9 m ahead, 0 m right, 6 m/s" in behaviours(jumpy)["front"].question


places = st.builds(
    agent,
    st.floats(-50, 50),
    st.floats(-50, 50),
    category=st.sampled_from(["vehicle.car", "vehicle.bicycle", "human.pedestrian.child", "x"]),
    speed=st.floats(0, 20),
    yaw=st.floats(-4, 4),
    steps=st.integers(0, 6),
)


@settings(max_examples=60, deadline=None)
@given(agents=st.lists(places, max_size=12))
def test_every_near_agent_with_a_future_is_answered_once(agents: list[AgentFuture]) -> None:
    asked = behaviours(*agents)
    said = sum(q.answer.count(", ") for q in asked.values())
    near = 0
    for one in agents:
        forward, left = one.poses[0, 0] - np.float64(LIDAR_FORWARD_M), float(one.poses[0, 1])
        reach = 40 if camera_towards(-left, forward) == "CAM_FRONT" else 20
        near += len(one.poses) == 7 and math.hypot(forward, left) < reach
    assert said == near
    views = [camera.removeprefix("CAM_").replace("_", " ").lower() for camera in CAMERAS]
    assert list(asked) == [view for view in views if view in asked]
