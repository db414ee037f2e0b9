"""What each trajectory of the vocabulary costs in each training frame, whatever was driven."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.errors import DataError
from clkd_core.planner_training.config import PlannerTrainConfig
from clkd_core.planner_training.features import PlannerSet
from clkd_core.planner_training.ground import load_places, off_road_shares
from clkd_core.planner_training.hazards import touching_shares


def compute_penalty(
    config: PlannerTrainConfig, vocabulary_m: NDArray[np.float32], train_set: PlannerSet
) -> Tensor | None:
    """Weighted shares of steps that touch somebody or leave the road.

    Args:
        config: the two weights, and where the map masks are.
        vocabulary_m: (V, T, 2) metres.
        train_set: N frames.

    Returns:
        (N, V) float32 [nats]; None where both weights are 0.

    Raises:
        DataError: a weight is not 0 and the set does not say what it takes.
    """
    parts, truth_m = [], train_set.truth_m.numpy()
    if config.collision_weight:
        if train_set.agents is None:
            raise DataError(
                "collision_weight is not 0, but no training keyframe says who else is on the road"
            )
        touching = touching_shares(vocabulary_m, train_set.agents, truth_m)
        parts.append(config.collision_weight * touching)
    if config.offroad_weight:
        places = load_places(config.data.root, config.data.version, train_set.tokens)
        off_road = off_road_shares(vocabulary_m, places, truth_m)
        parts.append(config.offroad_weight * off_road)
    return torch.from_numpy(np.sum(parts, axis=0).astype(np.float32)) if parts else None
