"""What a micro-step minimises: plain cross-entropy for the teacher, CLKD for the student (Eq. 7).

Every function gives *this process's part* of a loss whose divisors count the tokens of all
processes, and the terms of all processes for the record.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clkd_core.distill.config import TrainConfig
from clkd_core.distill.feed.batches import Batch
from clkd_core.distill.frozen.soft_labels import SoftLabels
from clkd_core.distill.losses import (
    answer_token_loss,
    distill_kl,
    mean_token_loss,
    select_hard,
)
from clkd_core.distill.processes.parts import Outputs
from clkd_core.distill.processes.world import World
from clkd_core.distill.terms import TermInputs
from clkd_core.models.moe import MoeConfig


@dataclass
class Losses:
    """A micro-step's loss."""

    part: Tensor
    """() float32, this process's, to be added over processes."""
    terms: dict[str, Tensor]
    """() float32 each, of all processes; ``loss`` is the sum that is minimised."""
    record: dict[str, Any] = field(default_factory=dict)
    """Further numbers of all processes."""


def plain_loss(batch: Batch, outputs: Outputs, world: World, *, moe: MoeConfig | None) -> Losses:
    """Mean cross-entropy over all answer tokens, and the routers' terms where there are any."""
    count = world.total(batch.text.keep.sum())
    token_loss = answer_token_loss(outputs.logits, batch.text.targets)
    part = mean_token_loss(token_loss, batch.text.keep, count)
    part = part + _router_loss(moe, outputs, world)
    return Losses(part, {"loss": world.total(part.detach())})


def clkd_loss(
    config: TrainConfig,
    batch: Batch,
    outputs: Outputs,
    world: World,
    *,
    alpha: float,
    soft: Tensor | SoftLabels | None,
) -> Losses:
    """``Loss_H2G + alpha(t) * Loss_KD`` (Eq. 7), the routers' terms, and what the config adds.

    Args:
        config: of the run.
        batch: this process's rows of the micro-step.
        outputs: the student's.
        world: whose samples compete.
        alpha: the teacher's weight at this step (Eq. 6).
        soft: what the teacher says; None while it is not asked.
    """
    keep = batch.text.keep
    count = world.total(keep.sum())

    # Loss_H2G: every hard token of every hard sample, once (Eq. 3-5); samples of all processes
    # compete, each process learns from those of its own that were chosen
    token_loss = answer_token_loss(outputs.logits, batch.text.targets)
    all_keep = world.gather(keep)
    hard = select_hard(
        world.gather(token_loss.detach()),
        all_keep,
        sample_frac=config.h2g.sample_frac,
        token_frac=config.h2g.token_frac,
    )
    own = world.own_rows(len(all_keep))
    h2g = mean_token_loss(token_loss, hard.tokens[own], hard.tokens.sum())

    # Loss_KD: all answer tokens of all samples
    kd = torch.zeros_like(h2g)
    if soft is not None:
        kd = distill_kl(
            outputs.logits, soft, keep, temperature=config.release.temperature, count=count
        )

    # the routers' own terms: use all experts, keep logits small
    part = h2g + alpha * kd + _router_loss(config.student.moe, outputs, world)
    balance, router_z = outputs.router_losses.detach() / world.size
    terms = {"loss": part, "h2g": h2g, "kd": kd, "balance": balance, "router_z": router_z}
    for term in config.extra_terms:
        inputs = TermInputs(outputs.logits, batch.text.targets, keep, batch.is_corner, count)
        terms[term.name] = term.compute(inputs)
        part = part + term.weight * terms[term.name]
    terms["loss"] = part

    sums = world.total(torch.stack([value.detach() for value in terms.values()]))
    record = {
        "alpha": alpha,
        **hard_shares(hard.samples, hard.tokens, all_keep, world.gather(batch.is_corner)),
        "expert_usage": world.mean_shares(outputs.ffn_usage),
        "adapter_usage": world.mean_shares(outputs.adapter_usage),
    }
    return Losses(part, dict(zip(terms, sums.unbind(), strict=True)), record)


def _router_loss(moe: MoeConfig | None, outputs: Outputs, world: World) -> Tensor:
    """This process's part of the routers' own terms; 0 for a dense model."""
    if moe is None:
        return outputs.router_losses.sum() * 0.0
    balance, router_z = (outputs.router_losses / world.size).unbind()
    loss: Tensor = moe.balance_weight * balance + moe.router_z_weight * router_z
    return loss


def hard_shares(
    hard_samples: Tensor, hard_tokens: Tensor, keep: Tensor, is_corner: Tensor
) -> dict[str, float]:
    """Share of samples and of answer tokens that were found hard, regular and corner apart."""
    return {
        "hard_regular_frac": _share(hard_samples, ~is_corner),
        "hard_corner_frac": _share(hard_samples, is_corner),
        "hard_token_regular_frac": _share(hard_tokens, keep & ~is_corner[:, None]),
        "hard_token_corner_frac": _share(hard_tokens, keep & is_corner[:, None]),
        "hard_token_frac": _share(hard_tokens, keep),
    }


def _share(chosen: Tensor, among: Tensor) -> float:
    """NaN when there is nothing to choose from."""
    total = int(among.sum())
    return float((chosen & among).sum()) / total if total else math.nan
