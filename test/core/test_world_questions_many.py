"""Questions over many drives: the same everywhere, never nearly constant, and true to labels."""

import itertools
from collections import Counter

import pytest
from world_scenes import CAMERAS

from clkd_core.data.prompts import mirrored_text
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.questions.facts import find_facts
from clkd_core.data.world.questions.scenes import scene_questions
from clkd_core.data.world.questions.sight import see
from clkd_core.data.world.render.surroundings import build_surroundings, walls_of
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.script import plan_drives
from clkd_core.types import SpeedAction

BLOCKS, SAFE, ADVICE = (
    "What blocks the way?",
    "Is it safe to drive on?",
    "What is the advice?",
)


@pytest.fixture(scope="module")
def asked():
    """(spec, action, answers by question) of keyframes of many drives, with their real walls."""
    config = WorldConfig(train_drives=126, val_drives=28, width_px=320, height_px=180)
    found = []
    specs = plan_drives(config, "train")[::5] + plan_drives(config, "val")
    for spec in specs:
        drive = build_drive(spec, config)
        walls = walls_of(build_surroundings(drive.layout, night=False))
        for t in drive.key_times_s[::3]:
            facts = find_facts(
                drive, float(t), see(drive, float(t), CAMERAS, walls, 600.0), "clear"
            )
            found.append((spec, drive.action(t), scene_questions(facts, drive.action(t))))
    return found


def test_the_same_questions_are_asked_everywhere_in_all_kinds(asked):
    questions = {tuple((qa.kind, qa.question) for qa in qas) for _, _, qas in asked}
    assert len(questions) == 1
    (only,) = questions
    assert 12 <= len(only) == len(set(only)) <= 16
    kinds = {kind for kind, _ in only}
    assert kinds == {
        "perception",
        "prediction",
        "planning",
        "behavior",
        "general",
        "suggestion",
    }


def test_no_answer_is_nearly_always_right(asked):
    by_question: dict[str, Counter[str]] = {}
    for _, _, qas in asked:
        for qa in qas:
            by_question.setdefault(qa.question, Counter())[qa.answer] += 1
    for question, counts in by_question.items():
        commonest = counts.most_common(1)[0][1] / sum(counts.values())
        assert commonest < 0.88, (question, counts)


def test_questions_and_answers_are_short(asked):
    for qa in {qa for _, _, qas in asked for qa in qas}:
        assert len(qa.question.split()) <= 9
        assert len(qa.answer.split()) <= 8
        assert qa.answer.endswith(".")


def test_a_mirrored_question_is_a_question_of_ours(asked):
    texts = {qa.question for qa in asked[0][2]}
    assert {mirrored_text(text) for text in texts} == texts


def test_who_stops_is_told_why(asked):
    """Nearly every standing or stopping keyframe has something seen in the way, no other has."""
    told = Counter()
    for _, action, qas in asked:
        safe = next(qa.answer for qa in qas if qa.question == SAFE) == "Yes."
        about_to_start = any(qa.answer == "The light is red and amber." for qa in qas)
        if action.speed == SpeedAction.STOP:
            told["stop", not safe] += 1
        elif action.speed == SpeedAction.ACCELERATE and not about_to_start:
            told["start", safe] += 1
    assert told["stop", True] > 60
    assert told["stop", False] <= 0.03 * told["stop", True]
    assert told["start", True] > 30
    assert told["start", False] <= 0.03 * told["start", True]


def test_advice_and_blocker_agree(asked):
    """What blocks the way and what to do about it never contradict each other."""
    pairs = {
        "A pedestrian.": {"Let the pedestrian cross."},
        "An animal.": {"Let the animal pass."},
        "A road worker.": {"Wait for the road worker."},
        "A braking vehicle.": {"Keep your distance."},
        "The traffic light.": {"Stop at the light.", "Get ready to start."},
        "Crossing traffic.": {"Let the others pass."},
    }
    for (_, _, qas), (blocker, advice) in itertools.product(asked, pairs.items()):
        said = {qa.question: qa.answer for qa in qas}
        if said[BLOCKS] == blocker:
            assert said[ADVICE] in advice
