"""The planner that sees no image: from speed, rate of turn and route command to a trajectory.

Such networks rival end-to-end planners on nuScenes open loop (Li et al. 2024, arXiv 2312.03031),
so a planner's distance says little until it stands beside one's.
"""

import torch
import torch.nn.functional as F  # noqa: N812  # the name everybody knows
from torch import Tensor, nn

from clkd_core.models.planner import (
    COMMANDS,
    POINT_SCALE_M,
    SPEED_SCALE_MPS,
    YAW_RATE_SCALE_RADPS,
    PlannerInputs,
)
from clkd_core.types import FUTURE_STEPS

FEATURES = 3 + len(COMMANDS) + 1
"""Odometry present, speed, rate of turn; one-hot route command, its last place for none."""

_HIDDEN = 128


class EgoStatusPlanner(nn.Module):
    """An MLP that corrects what keeping speed and rate of turn would give."""

    def __init__(self) -> None:
        """Build with fresh weights from torch's global random state."""
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(FEATURES, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(),
            nn.Linear(_HIDDEN, FUTURE_STEPS * 2),
        )  # fmt: skip

    def forward(self, inputs: PlannerInputs) -> Tensor:
        """Plan: (B, T, 2) float32 metres. Views and meta-action are not looked at."""
        known = inputs.has_ego[:, None]
        status = torch.stack(
            [torch.ones_like(inputs.speed_mps), inputs.speed_mps / SPEED_SCALE_MPS,
             inputs.yaw_rate_radps / YAW_RATE_SCALE_RADPS], dim=-1,
        )  # fmt: skip
        command = F.one_hot(inputs.command, len(COMMANDS) + 1).float()
        features = torch.cat([torch.where(known, status, 0.0), command], dim=-1)
        correction = self.network(features).view(-1, FUTURE_STEPS, 2) * POINT_SCALE_M
        planned: Tensor = correction + torch.where(known[..., None], inputs.steady_xy_m, 0.0)
        return planned


def ego_status_loss(planned_m: Tensor, truth_m: Tensor) -> Tensor:
    """Mean distance of the points [m]: what L2 scores, so no other network of this kind that
    learns something else can be blamed for losing. Both (B, T, 2) metres; returns ()."""
    apart: Tensor = (planned_m - truth_m).norm(dim=-1).mean()
    return apart
