"""Baselines that learn nothing."""

import pytest

from clkd_core.metrics.baselines.majority import majority_action
from clkd_core.types import MetaAction, PathAction, SpeedAction

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)


def test_majority_is_the_most_frequent_label_and_ties_go_to_the_lower_index() -> None:
    assert majority_action([STOP, KEEP, STOP]) == STOP
    assert majority_action([STOP, LEFT, LEFT, STOP]) == LEFT
    with pytest.raises(ValueError, match="no label"):
        majority_action([])
