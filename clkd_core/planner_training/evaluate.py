"""How far the planner is from the driven path on validation drives, beside its baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.metrics.plans.l2 import L2Scores, score_l2
from clkd_core.models.planner import NO_ACTION, Planner, PlannerInputs
from clkd_core.planner_training.features import PlannerSet

_BATCH = 64

TRUE_ACTION = "planner, true meta-action"
NO_META_ACTION = "planner, no meta-action"
CONSTANT_VELOCITY = "constant velocity"


@dataclass(frozen=True, kw_only=True)
class PlannerScores:
    """L2 of each way to plan, over the same frames."""

    l2: Mapping[str, L2Scores]
    """By name of the way; constant velocity is there only when every frame has an ego state."""

    def to_json(self) -> dict[str, Any]:
        """Numbers only, for ``metrics.jsonl``."""
        return {
            "validation": {
                name: {
                    "frames": score.frames,
                    "l2_average_m": {f"{h}s": v.value for h, v in score.average_m.items()},
                    "l2_horizon_m": {f"{h}s": v.value for h, v in score.horizon_m.items()},
                }
                for name, score in self.l2.items()
            }
        }


def score_planner(planner: Planner, data: PlannerSet) -> PlannerScores:
    """Plan every frame with its true meta-action and with none; compare with the driven path."""
    without = data.inputs._replace(action=torch.full_like(data.inputs.action, NO_ACTION))
    plans = {
        TRUE_ACTION: plan_set(planner, data.inputs),
        NO_META_ACTION: plan_set(planner, without),
    }
    if bool(data.inputs.has_ego.all()):
        plans[CONSTANT_VELOCITY] = data.inputs.steady_xy_m
    return PlannerScores(
        l2={
            name: score_l2(_distances(xy_m, data.truth_m), clusters=data.scenes)
            for name, xy_m in plans.items()
        }
    )


@torch.inference_mode()
def plan_set(planner: Planner, inputs: PlannerInputs) -> Tensor:
    """The planned trajectory of each row: (N, T, 2) float32 metres on the CPU."""
    device = planner.vocabulary_m.device
    plans = []
    for start in range(0, len(inputs.action), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = PlannerInputs(*(tensor[rows].to(device) for tensor in inputs))
        plans.append(planner.best(batch, planner(batch)).cpu())
    return torch.cat(plans)


def _distances(xy_m: Tensor, truth_m: Tensor) -> NDArray[np.float32]:
    """(N, T) metres."""
    return np.asarray((xy_m - truth_m).norm(dim=-1).numpy(), np.float32)
