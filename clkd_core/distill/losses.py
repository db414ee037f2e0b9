"""The losses of the paper: hard samples and tokens (H2G, Eq. 3-5) and the teacher's (KD)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

KD_CHUNK_TOKENS = 1024
"""Tokens per piece of the KD loss: 1024 x 32k float32 logits are 131 MB."""


class HardTokens(NamedTuple):
    """What H2G selected; both are bool."""

    samples: Tensor
    """(B,) True for hard samples (Eq. 3)."""
    tokens: Tensor
    """(B, L) True for the hard tokens of hard samples (Eq. 4)."""


def answer_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, in float32.

    Args:
        logits: (B, L, V), any float dtype.
        targets: (B, L) int64.

    Returns:
        (B, L) float32, nats.
    """
    return functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


def mean_token_loss(token_loss: Tensor, keep: Tensor) -> Tensor:
    """Mean over kept tokens; 0.0 when nothing is kept.

    Args:
        token_loss: (B, L) float32.
        keep: (B, L) bool.
    """
    _check_shapes(token_loss, keep)
    return _kept_sum(token_loss, keep) / keep.sum().clamp(min=1)


def select_hard(
    token_loss: Tensor, keep: Tensor, *, sample_frac: float, token_frac: float
) -> HardTokens:
    """The top share of samples by mean token loss, and the top share of tokens in each.

    Shares are of the samples that have an answer token and of a sample's answer tokens, rounded
    up, so that neither is ever zero. Of equal losses the earlier one counts as harder.

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
    student_logits: Tensor, teacher_logits: Tensor, keep: Tensor, *, temperature: float
) -> Tensor:
    """Forward KL from teacher to student, averaged over the kept tokens.

    Multiplied by temperature squared, so that gradients keep their size when it changes
    (Hinton et al. 2015, section 2).

    Args:
        student_logits: (B, L, V), any float dtype; computed in float32.
        teacher_logits: (B, L, V); receives no gradient.
        keep: (B, L) bool, True where the token counts.
        temperature: > 0, no unit.

    Returns:
        () float32, nats per kept token; 0.0 when nothing is kept.

    Raises:
        ValueError: the shapes disagree, or temperature is not positive.
    """
    _check_kl_arguments(student_logits, teacher_logits, keep, temperature)
    student = student_logits[keep]  # (K, V): masked tokens may hold anything, NaN included
    teacher = teacher_logits.detach()[keep]
    total = student_logits.new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(
        torch.split(student, KD_CHUNK_TOKENS), torch.split(teacher, KD_CHUNK_TOKENS), strict=True
    ):
        log_q = torch.log_softmax(ours.float() / temperature, dim=-1)
        log_p = torch.log_softmax(theirs.float() / temperature, dim=-1)
        total = total + functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total * temperature**2 / max(len(student), 1)


def _top_share(values: Tensor, allowed: Tensor, frac: float) -> Tensor:
    """(R, M) bool: per row the largest ``ceil(frac * allowed)`` values, ties to the left."""
    # 1e-9: 0.6 * 5 is 3.0000000000000004 in some roundings and must stay 3.
    counts = torch.ceil(allowed.sum(dim=1).double() * frac - 1e-9).long()
    ranked = values.masked_fill(~allowed, -math.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < counts[:, None]) & allowed


def _kept_sum(token_loss: Tensor, keep: Tensor) -> Tensor:
    # where, not a product: NaN x 0 is NaN, and masked tokens may hold anything.
    return torch.where(keep, token_loss, 0.0).sum()


def _check_shapes(token_loss: Tensor, keep: Tensor) -> None:
    if token_loss.ndim != 2 or keep.shape != token_loss.shape:
        raise ValueError(
            f"keep is {tuple(keep.shape)}, expected (B, L) like token_loss, "
            f"which is {tuple(token_loss.shape)}"
        )
    if keep.dtype != torch.bool:
        raise ValueError(f"keep is {keep.dtype}, expected torch.bool")


def _check_kl_arguments(
    student_logits: Tensor, teacher_logits: Tensor, keep: Tensor, temperature: float
) -> None:
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher_logits is {tuple(teacher_logits.shape)}, "
            f"expected {tuple(student_logits.shape)} like student_logits"
        )
    if keep.shape != student_logits.shape[:2] or keep.dtype != torch.bool:
        raise ValueError(
            f"keep is {tuple(keep.shape)} {keep.dtype}, "
            f"expected {tuple(student_logits.shape[:2])} torch.bool"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected > 0")
