"""Answers follow from the scene: situations built by hand."""

from dataclasses import replace

import numpy as np
import pytest
from world_scenes import (
    T,
    actor,
    answers,
    empty_drive,
    light,
    moving,
    pose_ahead,
)

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.questions.facts import light_ahead
from clkd_core.data.world.scene.actors import standing
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.causes import FRONT_M
from clkd_core.data.world.scene.script import plan_drives
from clkd_core.types import MetaAction, PathAction, SpeedAction

LIGHT, VEHICLE, BLOCKS = (
    "What is the state of the traffic light?",
    "What does the vehicle ahead do?",
    "What blocks the way?",
)
YIELDS, SAFE, DANGER = "Who has to yield?", "Is it safe to drive on?", "What would be dangerous?"
SIGHT, ADVICE, PEDESTRIAN = (
    "What is there to see?",
    "What is the advice?",
    "Where is the nearest pedestrian?",
)
COMES, FOLLOWS, JUNCTION = (
    "Who comes towards us?",
    "Who follows the ego vehicle?",
    "Is there a junction ahead?",
)


def test_an_empty_road_is_free():
    said = answers(empty_drive())
    assert said[BLOCKS] == "Nothing."
    assert said[SAFE] == "Yes."
    assert said[LIGHT] == "There is no traffic light."
    assert said[SIGHT] == "A free road."
    assert said[ADVICE] == "Drive on."
    assert said[PEDESTRIAN] == "Nowhere."
    assert said[COMES] == said[FOLLOWS] == "Nobody."


@pytest.mark.parametrize(
    ("state", "safe", "yields", "advice"),
    [
        ("red", "No.", "The ego vehicle.", "Stop at the light."),
        ("amber", "No.", "The ego vehicle.", "Stop at the light."),
        ("red_amber", "No.", "The ego vehicle.", "Get ready to start."),
        ("green", "Yes.", "Nobody.", "Drive on."),
    ],
)
def test_a_light_says_who_waits(state, safe, yields, advice):
    drive = empty_drive()
    said = answers(drive, signal=light(drive, state))
    assert said[LIGHT] == f"The light is {state.replace('_', ' and ')}."
    assert (said[SAFE], said[YIELDS], said[ADVICE]) == (safe, yields, advice)
    article = "An" if state == "amber" else "A"
    assert said[SIGHT] == f"{article} {state.replace('_', ' and ')} light."


def test_at_a_green_light_cross_traffic_yields():
    drive = empty_drive("green", crossing=True)
    t = next(t for t in drive.key_times_s if 5 < -drive.ego_pose(t)[0] - drive.layout.box_m < 17)
    said = answers(drive, signal=light(drive, "green"), t=float(t))
    assert said[JUNCTION] == "The junction is near."
    assert said[YIELDS] == "Cross traffic."


def test_a_light_that_is_passed_or_beside_is_not_seen():
    drive = empty_drive()
    assert light_ahead(replace(drive, signal=light(drive, "red", 4.0)), T) is None
    assert light_ahead(replace(drive, signal=light(drive, "red", 90.0)), T) is None


@pytest.mark.parametrize("brakes", [True, False])
def test_brake_lights_of_the_vehicle_ahead_are_told(brakes):
    drive = empty_drive()
    said = answers(drive, actor("van", pose_ahead(drive, 12.0), on=brakes, role="lead"))
    assert said[VEHICLE] == ("The vehicle brakes." if brakes else "The vehicle does not brake.")
    assert said[BLOCKS] == ("A braking vehicle." if brakes else "Nothing.")
    assert said[SIGHT] == ("A braking vehicle." if brakes else "A van ahead.")
    assert said[ADVICE] == ("Keep your distance." if brakes else "Follow the vehicle ahead.")
    assert said[YIELDS] == "Nobody."


def test_a_parked_car_is_no_vehicle_ahead():
    drive = empty_drive()
    right_m = drive.layout.half_m + 1.15 - drive.layout.lane_offset_m("straight")
    said = answers(drive, actor("car", pose_ahead(drive, 12.0, -right_m), on=True))
    assert said[VEHICLE] == "There is no vehicle ahead."
    assert said[SAFE] == "Yes."


def test_a_pedestrian_in_the_lane_blocks_and_one_at_the_roadside_does_not():
    drive = empty_drive()
    inside = answers(drive, actor("pedestrian", pose_ahead(drive, 10.0)))
    assert inside[PEDESTRIAN] == "On the road."
    assert inside[BLOCKS] == "A pedestrian."
    assert inside[ADVICE] == "Let the pedestrian cross."
    assert inside[YIELDS] == "The ego vehicle."
    aside_m = drive.layout.half_m + 0.9 - drive.layout.lane_offset_m("straight")
    outside = answers(drive, actor("pedestrian", pose_ahead(drive, 10.0, -aside_m)))
    assert outside[PEDESTRIAN] == "Beside the road."
    assert outside[BLOCKS] == "Nothing."


def test_people_matter_more_than_the_light():
    drive = empty_drive()
    person = actor("pedestrian", pose_ahead(drive, 10.0))
    said = answers(drive, person, signal=light(drive, "red"))
    assert said[BLOCKS] == "A pedestrian."
    assert said[LIGHT] == "The light is red."


def test_an_animal_in_the_lane_blocks():
    drive = empty_drive()
    said = answers(drive, actor("animal", pose_ahead(drive, 10.0, turn=np.pi / 2)))
    assert said[BLOCKS] == "An animal."
    assert said[ADVICE] == "Let the animal pass."
    assert said[SIGHT] == "An animal on the way."


@pytest.mark.parametrize("stops", [True, False])
def test_a_road_worker_with_a_red_paddle_stops_the_ego(stops):
    drive = empty_drive()
    works = [
        actor("flagger", pose_ahead(drive, 12.0, -1.2), on=stops, name="flagger"),
        actor("barrier", pose_ahead(drive, 14.0), name="barrier"),
    ]
    said = answers(drive, *works)
    assert said[BLOCKS] == ("A road worker." if stops else "Barriers.")
    assert said[SAFE] == ("No." if stops else "Yes.")
    assert said[ADVICE] == (
        "Wait for the road worker." if stops else "Pass the barriers on the left."
    )
    assert said[SIGHT] == "Roadworks."
    assert said[PEDESTRIAN] == "Nowhere."


def oncoming_scene():
    """The first left turn that waits for somebody, and a standing keyframe of it."""
    config = WorldConfig(train_drives=126)
    specs = (s for s in plan_drives(config, "train") if s.cause == "oncoming")
    return build_drive(next(s for s in specs if s.window == "stand"), config)


def test_who_turns_left_lets_oncoming_traffic_pass():
    drive = oncoming_scene()
    t = next(float(t) for t in drive.key_times_s[1:] if drive.action(t).speed == SpeedAction.STOP)
    said = answers(drive, *drive.actors, t=t)
    assert said[BLOCKS] == "Crossing traffic."
    assert said[ADVICE] == "Let the others pass."
    assert said[COMES] != "Nobody."
    t = next(float(t) for t in drive.key_times_s if drive.action(t).speed != SpeedAction.STOP)
    later = answers(drive, *drive.actors, t=t)
    assert later[BLOCKS] == "Nothing."
    assert later[SAFE] == "Yes."


def test_oncoming_traffic_matters_to_nobody_who_goes_straight():
    drive = empty_drive()
    left_m = 2 * drive.layout.lane_offset_m("straight")
    comes = actor("truck", moving(pose_ahead(drive, 25.0, left_m, np.pi), 8.0))
    said = answers(drive, comes)
    assert said[COMES] == "A truck."
    assert said[BLOCKS] == "Nothing."
    assert said[DANGER] == "To swerve left."
    stands = replace(comes, poses=pose_ahead(drive, 25.0, left_m, np.pi))
    assert answers(drive, stands)[COMES] == "Nobody."


def test_a_vehicle_across_the_way_is_no_vehicle_ahead():
    drive = empty_drive()
    crosses = actor("car", moving(pose_ahead(drive, 12.0, turn=np.pi / 2), 6.0))
    said = answers(drive, crosses)
    assert said[VEHICLE] == "There is no vehicle ahead."
    assert said[BLOCKS] == "Crossing traffic."


def test_a_follower_makes_hard_braking_dangerous():
    drive = empty_drive()
    follower = actor("car", pose_ahead(drive, -FRONT_M - 9.0))
    said = answers(drive, follower)
    assert said[FOLLOWS] == "A car."
    assert said[DANGER] == "To brake hard."
    assert answers(drive)[DANGER] == "Nothing."
    person = actor("pedestrian", pose_ahead(drive, 10.0), name="two")
    assert answers(drive, follower, person)[DANGER] == "To drive on."


def test_views_to_the_sides_name_the_nearest_one():
    drive = empty_drive()
    ego = drive.ego_pose(T)
    c, s = np.cos(ego[2]), np.sin(ego[2])

    def beside(forward, left):
        return standing(ego[0] + c * forward - s * left, ego[1] + s * forward + c * left, 0.0)

    said = answers(
        drive,
        actor("truck", beside(9.0, 15.0), name="far"),
        actor("bus", beside(6.0, 8.0), name="near"),
        actor("pedestrian", beside(6.0, -8.0), name="right"),
    )
    assert said["What is to the front left?"] == "A bus."
    assert said["What is to the front right?"] == "A pedestrian."


def test_the_weather_is_told_where_it_is_special():
    drive = empty_drive()
    assert answers(drive, weather="fog")[SIGHT] == "Fog, a free road."
    assert answers(drive, weather="night")[SIGHT] == "Night, a free road."
    assert answers(drive, weather="rain_glare")[ADVICE] == "Drive slowly."


@pytest.mark.parametrize("speed", list(SpeedAction))
@pytest.mark.parametrize("path", list(PathAction))
def test_behaviour_is_the_egos_own_plan(speed, path):
    said = answers(empty_drive(), action=MetaAction(speed, path))
    text = said["What does the ego vehicle do next?"]
    verb = {0: "keeps its speed", 1: "speeds up", 2: "brakes", 3: "stops"}[speed]
    assert verb in text
    assert ("left" in text) == ("LEFT" in path.name)
    assert ("right" in text) == ("RIGHT" in path.name)
