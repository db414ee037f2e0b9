"""The losses of the paper: hard samples and tokens (H2G, Eq. 3-5) and the teacher's (KD).

Logits of a large vocabulary are the biggest arrays of a training step. Both losses on them are
therefore computed a few tokens at a time, and once more for the gradient, which costs a second
softmax and saves every array of their size but the gradient itself (``memory.peak_bytes`` says
how much).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from clkd_core.distill.frozen.soft_labels import (
    SoftLabels,
    check_dense,
    check_keep,
    check_temperature,
    lumped_kl,
    lumped_kl_slope,
    outcome_kl,
)
from clkd_core.distill.memory import chunks, kept_rows, wide_dtype

IGNORED_TARGET = -100
"""Target of a token without a loss, as in torch's cross-entropy."""


class HardTokens(NamedTuple):
    """What H2G selected; both are bool."""

    samples: Tensor
    """(B,) True for hard samples (Eq. 3)."""
    tokens: Tensor
    """(B, L) True for the hard tokens of hard samples (Eq. 4)."""


def answer_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, in float32.

    Tokens that get no gradient cost no work in the backward pass, and NaN there stays there.

    Args:
        logits: (B, L, V), any float dtype; the gradient has the same.
        targets: (B, L) int64; -100 gives 0.0 and no gradient.

    Returns:
        (B, L) float32 (float64 for float64 logits), nats.

    Raises:
        ValueError: the shapes disagree.
    """
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        raise ValueError(
            f"targets is {tuple(targets.shape)}, expected (B, L) of logits (B, L, V), "
            f"which are {tuple(logits.shape)}"
        )
    loss: Tensor = _TokenCrossEntropy.apply(logits, targets)
    return loss


def masked_sum(token_loss: Tensor, mask: Tensor) -> Tensor:
    """Sum over marked tokens; 0.0 when none is. NaN elsewhere reaches neither sum nor gradient.

    Args:
        token_loss: (B, L) float32.
        mask: (B, L) bool.

    Raises:
        ValueError: the shapes disagree.
    """
    _check_shapes(token_loss, mask)
    # where, not a product: NaN x 0 is NaN, and masked tokens may hold anything.
    return torch.where(mask, token_loss, 0.0).sum()


def mean_token_loss(token_loss: Tensor, keep: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over kept tokens; 0.0 when nothing is kept.

    Args:
        token_loss: (B, L) float32.
        keep: (B, L) bool.
        count: () divisor in place of the number of kept tokens here: that of all processes,
            whose results then add up to the mean over all.

    Raises:
        ValueError: the shapes disagree.
    """
    return masked_sum(token_loss, keep) / _divisor(keep, count)


def select_hard(
    token_loss: Tensor, keep: Tensor, *, sample_frac: float, token_frac: float
) -> HardTokens:
    """The top share of samples by mean token loss, and the top share of tokens in each.

    Shares are of the samples that have an answer token and of a sample's answer tokens, rounded
    up, so that neither is ever zero. Of equal losses the earlier one counts as harder.

    Several processes choose among all their samples by calling this on the rows of all of them,
    gathered in one order everywhere, and taking their own rows of the result.

    Args:
        token_loss: (B, L) float32; its values only choose, no gradient passes.
        keep: (B, L) bool, True where the token counts.
        sample_frac: m of Eq. 3, 0 < m <= 1.
        token_frac: n of Eq. 4, 0 < n <= 1.

    Raises:
        ValueError: the shapes disagree, or a share is out of its range.
    """
    _check_shapes(token_loss, keep)
    for name, frac in (("sample_frac", sample_frac), ("token_frac", token_frac)):
        if not 0.0 < frac <= 1.0:
            raise ValueError(f"{name} is {frac}, expected 0 < {name} <= 1")
    loss = torch.where(keep, token_loss.detach(), 0.0)
    tokens = keep.sum(dim=1)
    answered = tokens > 0
    sample_loss = loss.sum(dim=1) / tokens.clamp(min=1)
    hard_samples = _top_share(sample_loss[None], answered[None], sample_frac)[0]
    hard_tokens = _top_share(loss, keep & hard_samples[:, None], token_frac)
    return HardTokens(hard_samples, hard_tokens)


def h2g_loss(token_loss: Tensor, keep: Tensor, *, sample_frac: float, token_frac: float) -> Tensor:
    """Mean loss over the hard tokens of the hard samples (Eq. 5).

    Args:
        token_loss: (B, L) float32, one loss per token; gradients flow to hard tokens only.
        keep: (B, L) bool, True where the token counts.
        sample_frac: m, share of samples kept, 0 < m <= 1, rounded up.
        token_frac: n, share of tokens kept in each of them, 0 < n <= 1, rounded up.

    Returns:
        () float32: sum over hard tokens / their number; 0.0 when nothing is kept.

    Raises:
        ValueError: the shapes disagree, or a share is out of its range.
    """
    hard = select_hard(token_loss, keep, sample_frac=sample_frac, token_frac=token_frac)
    return mean_token_loss(token_loss, hard.tokens)


def distill_kl(
    student_logits: Tensor,
    teacher: Tensor | SoftLabels,
    keep: Tensor,
    *,
    temperature: float,
    count: Tensor | None = None,
) -> Tensor:
    """Forward KL from teacher to student, averaged over the kept tokens.

    Multiplied by temperature squared, so that gradients keep their size when it changes
    (Hinton et al. 2015, section 2).

    Args:
        student_logits: (B, L, V), any float dtype; computed in float32 (float64 for float64),
            a few tokens at a time. The gradient has their dtype.
        teacher: (B, L, V) logits, or labels shortened from them, whose KL is a lower bound of
            the full one (:mod:`clkd_core.distill.frozen.soft_labels`); receives no gradient.
        keep: (B, L) bool, True where the token counts; elsewhere NaN does no harm.
        temperature: > 0, no unit.
        count: () divisor in place of the number of kept tokens here: that of all processes,
            whose results then add up to the mean over all.

    Returns:
        () float32, nats per kept token; 0.0 when nothing is kept.

    Raises:
        ValueError: the shapes disagree, temperature is not positive, or the labels were made
            for another one or name a token that the student does not have.
    """
    check_temperature(temperature)
    if isinstance(teacher, SoftLabels):
        _check_labels(student_logits, teacher, keep, temperature)
        parts = list(teacher[:3])
    else:
        check_dense(student_logits, teacher, keep)
        parts = [teacher]
    detached = (part.detach() for part in parts)
    total: Tensor = _KlSum.apply(student_logits, keep, temperature, *detached)
    return total * temperature**2 / _divisor(keep, count)


class _TokenCrossEntropy(torch.autograd.Function):
    """Per-token cross-entropy that keeps nothing but its arguments for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets)
        dtype = wide_dtype(logits)
        loss = torch.zeros(targets.shape, dtype=dtype, device=logits.device)
        for piece in chunks(kept_rows(targets != IGNORED_TARGET), logits.shape[2]):
            loss[piece] = functional.cross_entropy(
                logits[piece].to(dtype), targets[piece], reduction="none"
            )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        grad = torch.zeros_like(logits)
        wanted = (targets != IGNORED_TARGET) & (upstream != 0)
        for piece in chunks(kept_rows(wanted), logits.shape[2]):
            slope = logits[piece].to(upstream.dtype).softmax(dim=-1)
            slope[torch.arange(len(slope), device=slope.device), targets[piece]] -= 1.0
            grad[piece] = slope.mul_(upstream[piece][:, None]).to(grad.dtype)
        return grad, None


class _KlSum(torch.autograd.Function):
    """KL summed over the kept tokens; the teacher is its logits or the three parts of labels."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, keep: Tensor, temperature: float, *teacher: Tensor
    ) -> Tensor:
        rows = kept_rows(keep)
        ctx.save_for_backward(student, rows, *teacher)
        ctx.temperature = temperature
        total = torch.zeros((), dtype=wide_dtype(student), device=student.device)
        for piece in chunks(rows, student.shape[2]):
            scaled = student[piece].to(total.dtype) / temperature
            if len(teacher) == 1:
                log_p = (teacher[0][piece].to(total.dtype) / temperature).log_softmax(dim=-1)
                total += outcome_kl(log_p, scaled.log_softmax(dim=-1)).sum()
            else:
                total += lumped_kl(scaled, *(part[piece] for part in teacher)).sum()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        student, rows, *teacher = ctx.saved_tensors
        grad = torch.zeros_like(student)
        for piece in chunks(rows, student.shape[2]):
            scaled = student[piece].to(upstream.dtype) / ctx.temperature
            if len(teacher) == 1:
                theirs = teacher[0][piece].to(upstream.dtype) / ctx.temperature
                slope = scaled.softmax(dim=-1).sub_(theirs.softmax(dim=-1))
            else:
                slope = lumped_kl_slope(scaled, *(part[piece] for part in teacher))
            grad[piece] = slope.mul_(upstream / ctx.temperature).to(grad.dtype)
        return (grad, None, None, *(None for _ in teacher))


def _top_share(values: Tensor, allowed: Tensor, frac: float) -> Tensor:
    """(R, M) bool: per row the largest ``ceil(frac * allowed)`` values, ties to the left."""
    # 1e-9: 0.6 * 5 is 3.0000000000000004 in some roundings and must stay 3.
    counts = torch.ceil(allowed.sum(dim=1).double() * frac - 1e-9).long()
    ranked = values.masked_fill(~allowed, -math.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < counts[:, None]) & allowed


def _divisor(keep: Tensor, count: Tensor | None) -> Tensor:
    if count is None:
        count = keep.sum()
    elif count.ndim != 0:
        raise ValueError(f"count is {tuple(count.shape)}, expected a () tensor")
    return count.clamp(min=1)


def _check_shapes(token_loss: Tensor, keep: Tensor) -> None:
    if token_loss.ndim != 2 or keep.shape != token_loss.shape:
        raise ValueError(
            f"keep is {tuple(keep.shape)}, expected (B, L) like token_loss, "
            f"which is {tuple(token_loss.shape)}"
        )
    if keep.dtype != torch.bool:
        raise ValueError(f"keep is {keep.dtype}, expected torch.bool")


def _check_labels(
    student_logits: Tensor, labels: SoftLabels, keep: Tensor, temperature: float
) -> None:
    if labels.temperature != temperature:
        raise ValueError(
            f"the labels were made for temperature {labels.temperature}, expected {temperature}"
        )
    check_keep(student_logits, keep)
    k = labels.indices.shape[-1]
    shapes = [tuple(part.shape) for part in labels[:3]]
    expected = [(*keep.shape, k), (*keep.shape, k), tuple(keep.shape)]
    if shapes != expected:
        raise ValueError(
            f"labels are {shapes}, expected log_probs, indices, tail_log_prob {expected}"
        )
    named = labels.indices[keep]
    if named.numel() and not 0 <= int(named.min()) <= int(named.max()) < student_logits.shape[2]:
        raise ValueError(
            f"labels name tokens {int(named.min())}..{int(named.max())}, "
            f"expected 0..{student_logits.shape[2] - 1}, the student's"
        )
