"""What the planner learns: a soft distribution around the true trajectory, a correction, and to
keep away from others."""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # the name everybody knows
from torch import Tensor

from clkd_core.models.planner import Planner, PlannerInputs, PlannerOutput
from clkd_core.models.trajectories import mean_squared_distance


class PlannerLoss(NamedTuple):
    """Each () float32."""

    total: Tensor
    plan: Tensor
    """KL divergence from the soft target [nats]; 0 when the planner agrees with it."""
    refine_m: Tensor
    """Mean absolute error of the corrected points [m]."""
    hazard: Tensor
    """Expected penalty for touching somebody or leaving the road; 0 where nobody looked."""


def soft_target(truth_m: Tensor, vocabulary_m: Tensor, *, tau_m2: float) -> Tensor:
    """How much each trajectory of the vocabulary should be worth: softmax(-distance^2 / tau).

    Args:
        truth_m: (B, T, 2) metres.
        vocabulary_m: (V, T, 2) metres.
        tau_m2: > 0; near 0 only the nearest trajectory counts.

    Returns:
        (B, V) float32 on the device of ``vocabulary_m``, rows sum to 1.

    Raises:
        ValueError: tau_m2 is not positive.
    """
    if not tau_m2 > 0:
        raise ValueError(f"tau_m2 is {tau_m2}, expected > 0")
    squared = mean_squared_distance(truth_m.cpu().numpy(), vocabulary_m.cpu().numpy())
    return torch.softmax(torch.from_numpy(squared).double() / -tau_m2, dim=-1).to(
        vocabulary_m.device, torch.float32
    )


def planner_loss(
    planner: Planner,
    inputs: PlannerInputs,
    output: PlannerOutput,
    truth_m: Tensor,
    *,
    tau_m2: float,
    refine_weight: float,
    penalty: Tensor | None = None,
) -> PlannerLoss:
    """Distribution loss plus weighted L1 of the corrections, and the expected penalty.

    Corrected are the trajectory nearest to the truth and the one that the planner chooses now:
    the first alone would teach nothing about the choices that are really driven.

    Args:
        planner: whose vocabulary was scored.
        inputs: of this batch.
        output: of the planner for it.
        truth_m: (B, T, 2) metres.
        tau_m2: see :func:`soft_target`.
        refine_weight: [1/m].
        penalty: (B, V) of choosing each trajectory [nats]: weighted shares of steps from
            ``hazards.touching_shares`` and ``ground.off_road_shares``; None is no penalty.
    """
    target = soft_target(truth_m, planner.vocabulary_m, tau_m2=tau_m2)
    plan = F.kl_div(output.log_prob, target, reduction="batchmean")
    driven = torch.stack([target.argmax(dim=-1), planner.choose(inputs, output)], dim=-1)
    gap = planner.refined(output, driven) - truth_m.to(target.device)[:, None]
    refine_m = gap.abs().mean()
    hazard = torch.zeros_like(plan)
    if penalty is not None:
        hazard = (output.log_prob.exp() * penalty.to(target.device)).sum(dim=-1).mean()
    total = plan + refine_weight * refine_m + hazard
    return PlannerLoss(total, plan, refine_m, hazard)
