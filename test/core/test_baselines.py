"""Baselines that learn nothing."""

import pytest
from report_rows import make_labelled_rows, with_plans

from clkd_core.metrics.baselines.majority import answer_by_majority, majority_action
from clkd_core.metrics.frames import Outcome
from clkd_core.types import MetaAction, PathAction, SpeedAction

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)


def test_majority_is_the_most_frequent_label_and_ties_go_to_the_lower_index() -> None:
    assert majority_action([STOP, KEEP, STOP]) == STOP
    assert majority_action([STOP, LEFT, LEFT, STOP]) == LEFT
    with pytest.raises(ValueError, match="no label"):
        majority_action([])


def test_majority_answers_every_frame_in_no_time_and_plans_nothing() -> None:
    rows = with_plans(make_labelled_rows())
    answered = answer_by_majority(rows, STOP)
    assert [row.stamp_ns for row in answered] == [row.stamp_ns for row in rows]
    assert [row.label for row in answered] == [row.label for row in rows]
    for row in answered:
        assert (row.answer, row.outcome, row.stale) == (STOP, Outcome.ANSWERED, False)
        assert row.inference_ms == row.response_ms == 0.0 and row.plan is None
