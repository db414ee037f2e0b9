"""Baselines that learn nothing."""

import math

import numpy as np
import pytest

from clkd_core.errors import FrameError
from clkd_core.metrics.baselines import constant_velocity_trajectory, majority_action
from clkd_core.types import MetaAction, PathAction, SpeedAction

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)


def test_majority_is_the_most_frequent_label_and_ties_go_to_the_lower_index() -> None:
    assert majority_action([STOP, KEEP, STOP]) == STOP
    assert majority_action([STOP, LEFT, LEFT, STOP]) == LEFT
    with pytest.raises(ValueError, match="no label"):
        majority_action([])


def test_constant_velocity_goes_straight_ahead_in_half_second_steps() -> None:
    points = constant_velocity_trajectory(4.0).xy_m
    np.testing.assert_allclose(points, [[2, 0], [4, 0], [6, 0], [8, 0], [10, 0], [12, 0]])
    with pytest.raises(FrameError):
        constant_velocity_trajectory(math.nan)
