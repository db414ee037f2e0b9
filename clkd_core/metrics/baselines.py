"""What must be beaten without learning anything: the majority answer and a straight line."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from clkd_core.types import FUTURE_STEPS, STEP_S, MetaAction, Trajectory


def majority_action(labels: Iterable[MetaAction]) -> MetaAction:
    """The most frequent label; the lower index where two are equally frequent.

    Raises:
        ValueError: there is no label.
    """
    counts = Counter(labels)
    if not counts:
        raise ValueError("no label to take the majority of")
    return max(counts, key=lambda action: (counts[action], -action.index))


def constant_velocity_trajectory(speed_mps: float) -> Trajectory:
    """Straight ahead at today's speed.

    Raises:
        FrameError: the speed is not finite.
    """
    ahead = speed_mps * STEP_S * np.arange(1, FUTURE_STEPS + 1)
    return Trajectory(xy_m=np.stack([ahead, np.zeros_like(ahead)], axis=1).astype(np.float32))
