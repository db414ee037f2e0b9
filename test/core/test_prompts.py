import pytest

from clkd_core.data.prompts import (
    PREAMBLE,
    VIEW_NAMES,
    answer_text,
    mirrored_text,
    plan_question,
)
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, MetaAction, RouteCommand


def ego(speed_mps: float) -> EgoState:
    return EgoState(stamp_ns=0, speed_mps=speed_mps)


def test_plan_question_tells_whole_metres_per_second_and_the_route() -> None:
    question = plan_question(ego(7.6), RouteCommand.STRAIGHT_LEFT)
    assert "8 m/s" in question
    assert "go straight and turn left" in question


def test_plan_question_says_unknown_for_what_is_missing() -> None:
    assert plan_question(None, None).count("unknown") == 2


@pytest.mark.parametrize(("speed_mps", "written"), [(-3.0, " 0 m/s"), (400.0, " 60 m/s")])
def test_plan_question_keeps_absurd_speeds_within_what_was_trained(
    speed_mps: float, written: str
) -> None:
    assert written in plan_question(ego(speed_mps), None)


def test_preamble_and_view_names_name_every_option_and_all_six_views() -> None:
    for action in META_ACTIONS:
        assert action.speed.name in PREAMBLE
        assert action.path.name in PREAMBLE
    assert list(VIEW_NAMES) == list(CAMERAS)
    assert len(set(VIEW_NAMES.values())) == len(CAMERAS)


def test_mirrored_text_exchanges_left_and_right_and_is_its_own_inverse() -> None:
    text = "Left of RIGHT_TURN, turn left"
    assert mirrored_text(text) == "Right of LEFT_TURN, turn right"
    assert mirrored_text(mirrored_text(text)) == text


def test_mirrored_answers_are_legal_answers() -> None:
    mirrored = {MetaAction.from_text(mirrored_text(answer_text(a))).index for a in META_ACTIONS}
    assert mirrored == set(range(len(META_ACTIONS)))
