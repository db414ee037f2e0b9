"""What a teacher says about each token, in full or as its k most probable tokens and a rest.

Full soft labels of a 32k vocabulary are 128 kB per token; 64 tokens and the mass of all others
are 516 bytes and can be kept on disk. The KL divergence over those 65 outcomes is a lower bound
of the one over all tokens: lumping outcomes together never adds information (data-processing
inequality; Cover and Thomas 2006, theorem 2.7.1). The two are equal where k reaches the
vocabulary, and where teacher and student agree on how the rest is shared out.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from clkd_core.distill.memory import chunks, kept_rows, wide_dtype


class SoftLabels(NamedTuple):
    """A teacher's distribution per token, shortened; where ``keep`` is False anything may stand.

    Valid for one temperature only: softening needs the logits, which are gone.
    """

    log_probs: Tensor
    """(B, L, k) float, log probabilities of the most probable tokens, nats."""
    indices: Tensor
    """(B, L, k) int, which tokens these are; none twice in a row."""
    tail_log_prob: Tensor
    """(B, L) float, log of the summed probability of all other tokens; -inf without any."""
    temperature: float
    """The logits were divided by this before the softmax."""

    def to(self, device: str | torch.device) -> "SoftLabels":
        """The same labels on a device."""
        log_probs, indices, tail = (part.to(device) for part in self[:3])
        return SoftLabels(log_probs, indices, tail, self.temperature)


class CompressionError(NamedTuple):
    """What shortening the labels costs, in the loss's own unit."""

    full: float
    """KL over all tokens, times temperature squared; nats per kept token."""
    compressed: float
    """The same over k tokens and the rest; never more than ``full`` beyond rounding."""
    relative: float
    """(full - compressed) / full; 0.0 where ``full`` is."""


def compress_logits(logits: Tensor, *, k: int, temperature: float) -> SoftLabels:
    """Shorten a teacher's logits to the k most probable tokens and the mass of the rest.

    Args:
        logits: (B, L, V), any float dtype; computed in float32 a few tokens at a time. No
            gradient passes.
        k: tokens kept, >= 1; more than V counts as V.
        temperature: > 0, no unit.

    Returns:
        Labels in float32 and int32, 8 k + 4 bytes per token.

    Raises:
        ValueError: logits is not (B, L, V), k is below 1 or temperature not positive.
    """
    if logits.ndim != 3:
        raise ValueError(f"logits is {tuple(logits.shape)}, expected (B, L, V)")
    _check_k(k)
    check_temperature(temperature)
    k, vocabulary, dtype = min(k, logits.shape[2]), logits.shape[2], wide_dtype(logits)
    log_probs = logits.new_empty((*logits.shape[:2], k), dtype=dtype)
    indices = logits.new_empty(log_probs.shape, dtype=torch.int32)
    tail = logits.new_empty(logits.shape[:2], dtype=dtype)
    everything = torch.ones_like(tail, dtype=torch.bool)
    for piece in chunks(kept_rows(everything), vocabulary):
        scaled = logits.detach()[piece].to(dtype) / temperature
        log_probs[piece], chosen, tail[piece] = _shorten(scaled, k)
        indices[piece] = chosen.int()
    return SoftLabels(log_probs, indices, tail, temperature)


def outcome_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence from p to q, summed over the last axis; 0 log 0 is 0.

    Args:
        log_p: (..., M) log probabilities.
        log_q: (..., M) log probabilities; infinite divergence where it is -inf and p is not 0.

    Returns:
        (...) nats.
    """
    p = log_p.exp()
    ratio = (log_p - log_q).masked_fill_(p == 0, 0.0)  # -inf - -inf is NaN
    return ratio.mul_(p).sum(dim=-1)


def lumped_kl(scaled: Tensor, log_probs: Tensor, indices: Tensor, tail: Tensor) -> Tensor:
    """KL over the k labelled tokens and one outcome that stands for all the others.

    Args:
        scaled: (K, V) student logits / temperature, float32 or wider.
        log_probs: (K, k), see :class:`SoftLabels`.
        indices: (K, k) int.
        tail: (K,).

    Returns:
        (K,) nats; a lower bound of the divergence over all tokens.
    """
    log_q = scaled.log_softmax(dim=-1)
    chosen = indices.long()
    ours = log_q.gather(-1, chosen)
    rest = log_q.scatter_(-1, chosen, -math.inf).logsumexp(dim=-1)
    return outcome_kl(_joined(log_probs, tail, scaled.dtype), _joined(ours, rest, scaled.dtype))


def lumped_kl_slope(scaled: Tensor, log_probs: Tensor, indices: Tensor, tail: Tensor) -> Tensor:
    """Derivative of :func:`lumped_kl` by ``scaled``, (K, V).

    With q = softmax(scaled), M = sum p (1 but for rounding) and r = q shared out among the other
    tokens only: M q - p for a labelled token, M q - p_tail r for another one.
    """
    chosen = indices.long()
    p, p_tail = log_probs.to(scaled.dtype).exp(), tail.to(scaled.dtype).exp()
    slope = scaled.softmax(dim=-1).mul_((p.sum(dim=-1) + p_tail)[:, None])
    # A student that leaves nothing to the rest makes r NaN; q holds every NaN of the logits.
    others = scaled.scatter(-1, chosen, -math.inf).softmax(dim=-1).nan_to_num_(nan=0.0)
    slope.sub_(others.mul_(p_tail[:, None]))
    return slope.scatter_add_(-1, chosen, -p)


def compression_error(
    student_logits: Tensor, teacher_logits: Tensor, keep: Tensor, *, k: int, temperature: float
) -> CompressionError:
    """How much of the KL divergence is lost when the teacher's labels are shortened.

    Args:
        student_logits: (B, L, V), any float dtype; computed in float32, without a gradient.
        teacher_logits: (B, L, V).
        keep: (B, L) bool, True where the token counts.
        k: tokens kept per label, >= 1.
        temperature: > 0, no unit.

    Returns:
        Means over the kept tokens; zeros when nothing is kept.

    Raises:
        ValueError: the shapes disagree, k is below 1 or temperature not positive.
    """
    check_dense(student_logits, teacher_logits, keep)
    check_temperature(temperature)
    _check_k(k)
    rows, vocabulary, dtype = kept_rows(keep), student_logits.shape[2], wide_dtype(student_logits)
    sums = torch.zeros(2, dtype=torch.float64, device=student_logits.device)
    with torch.no_grad():
        for piece in chunks(rows, vocabulary):
            ours = student_logits[piece].to(dtype) / temperature
            theirs = teacher_logits[piece].to(dtype) / temperature
            full = outcome_kl(theirs.log_softmax(dim=-1), ours.log_softmax(dim=-1))
            lumped = lumped_kl(ours, *_shorten(theirs, min(k, vocabulary)))
            sums += torch.stack([full.sum(), lumped.sum()])
    scale = temperature**2 / max(len(rows), 1)
    full_kl, compressed = (value * scale for value in sums.tolist())
    relative = (full_kl - compressed) / full_kl if full_kl > 0 else 0.0
    return CompressionError(full_kl, compressed, relative)


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is a positive number."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, expected > 0")


def check_dense(student_logits: Tensor, teacher_logits: Tensor, keep: Tensor) -> None:
    """Raise ValueError unless the teacher's logits fit the student's, and both fit ``keep``."""
    if student_logits.ndim != 3:
        raise ValueError(f"student_logits is {tuple(student_logits.shape)}, expected (B, L, V)")
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher_logits is {tuple(teacher_logits.shape)}, "
            f"expected {tuple(student_logits.shape)} like student_logits"
        )
    check_keep(student_logits, keep)


def check_keep(student_logits: Tensor, keep: Tensor) -> None:
    """Raise ValueError unless ``keep`` is a bool for each token of the logits."""
    if keep.shape != student_logits.shape[:2] or keep.dtype != torch.bool:
        raise ValueError(
            f"keep is {tuple(keep.shape)} {keep.dtype}, "
            f"expected {tuple(student_logits.shape[:2])} torch.bool"
        )


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}, expected >= 1")


def _shorten(scaled: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities (K, k), tokens (K, k) int64 and the rest's log mass (K,)."""
    log_p = scaled.log_softmax(dim=-1)
    log_probs, indices = log_p.topk(k, dim=-1)
    # Summed from the others themselves: 1 - sum(top) would be all rounding for a sure teacher.
    tail = log_p.scatter_(-1, indices, -math.inf).logsumexp(dim=-1)
    return log_probs, indices, tail


def _joined(log_probs: Tensor, tail: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat([log_probs.to(dtype), tail.to(dtype)[:, None]], dim=-1)
