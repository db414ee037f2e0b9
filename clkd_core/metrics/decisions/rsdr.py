"""RSDR, the share of decisions that are right and in time (the paper's Eq. 8 and 9)."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.metrics.frames import DEADLINE_MS
from clkd_core.metrics.intervals import Interval, mean_intervals

DEADLINES_MS: tuple[float, ...] = (20.0, 50.0, 80.0, 100.0)
"""Where the curve is printed; 80 ms is the paper's deadline."""


def rsd(
    latency_ms: ArrayLike, correct: ArrayLike, deadline_ms: float = DEADLINE_MS
) -> NDArray[np.bool_]:
    """Whether each sample is right and came in time (Eq. 8).

    Every labelled keyframe is a sample: one that was dropped, refused or answered with a stale
    decision is given with a missing latency or as not correct, never left out.

    Args:
        latency_ms: (N,) >= 0; None, NaN and +inf are a missing latency, which is never in time.
        correct: (N,) bool.
        deadline_ms: > 0; exactly at the deadline is in time.

    Returns:
        (N,).

    Raises:
        ValueError: no sample, shapes that disagree, a negative latency, a deadline that is not
            positive.
    """
    latency = np.asarray(latency_ms, dtype=np.float64)  # None becomes NaN
    right = np.asarray(correct, dtype=bool)
    if latency.ndim != 1 or latency.shape != right.shape:
        raise ValueError(f"latency_ms is {latency.shape} and correct {right.shape}, expected (N,)")
    if latency.size == 0:
        raise ValueError("no sample, expected at least one labelled keyframe")
    if not deadline_ms > 0:
        raise ValueError(f"deadline_ms is {deadline_ms}, expected > 0")
    if (latency < 0).any():
        raise ValueError(f"latency_ms has {latency[latency < 0][0]}, expected >= 0")
    return np.asarray(right & (np.where(np.isnan(latency), np.inf, latency) <= deadline_ms))


def rsdr(latency_ms: ArrayLike, correct: ArrayLike, deadline_ms: float = DEADLINE_MS) -> float:
    """Share of samples that are right and in time (Eq. 9), 0..1; the rest as in :func:`rsd`."""
    return float(np.mean(rsd(latency_ms, correct, deadline_ms)))


def rsdr_curve(
    latency_ms: ArrayLike,
    correct: ArrayLike,
    deadlines_ms: Sequence[float] = DEADLINES_MS,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[float, Interval]:
    """RSDR at several deadlines, each with its 95 % bootstrap interval.

    Args:
        latency_ms: as in :func:`rsd`.
        correct: as in :func:`rsd`.
        deadlines_ms: each > 0.
        clusters: (N,) the drive of each sample; None draws the samples one by one.
        seed: of the bootstrap; all deadlines share one set of replicates.

    Raises:
        ValueError: as in :func:`rsd`, no deadline, or clusters of another length.
    """
    if not deadlines_ms:
        raise ValueError("no deadline, expected at least one")
    hits = np.stack([rsd(latency_ms, correct, deadline) for deadline in deadlines_ms], axis=1)
    if clusters is not None and len(clusters) != len(hits):
        raise ValueError(
            f"clusters has {len(clusters)} names, expected {len(hits)} like latency_ms"
        )
    intervals = mean_intervals(hits.astype(np.float64), clusters, seed=seed)
    return dict(zip(deadlines_ms, intervals, strict=True))
