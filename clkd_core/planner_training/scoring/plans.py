"""Planning a whole set at once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.data.keyframes import AgentFuture
from clkd_core.metrics.plans.collision import collision_steps
from clkd_core.models.planner import Planner, PlannerInputs

_BATCH = 64


@torch.inference_mode()
def plan_set(planner: Planner, inputs: PlannerInputs) -> Tensor:
    """The trajectory that would be driven for each row: (N, T, 2) float32 metres on the CPU."""
    device = planner.vocabulary_m.device
    plans = []
    for start in range(0, len(inputs.action), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = PlannerInputs(*(tensor[rows].to(device) for tensor in inputs))
        plans.append(torch.from_numpy(planner.drive(batch, planner(batch))))
    return torch.cat(plans)


def point_distances(xy_m: Tensor, truth_m: Tensor) -> NDArray[np.float64]:
    """(N, T) metres between (N, T, 2) points each."""
    return np.asarray((xy_m - truth_m).norm(dim=-1).numpy(), np.float64)


def touched_steps(xy_m: Tensor, agents: tuple[tuple[AgentFuture, ...], ...]) -> NDArray[np.bool_]:
    """(N, T) at which steps each of (N, T, 2) plans touches one of its frame's agents."""
    rows = [collision_steps(xy, others) for xy, others in zip(xy_m.numpy(), agents, strict=True)]
    return np.stack(rows)
