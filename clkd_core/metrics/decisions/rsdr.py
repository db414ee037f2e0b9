"""RSDR, the share of decisions that are right and in time (the paper's Eq. 8 and 9)."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.metrics.intervals import Interval, mean_interval, resample_weights

DEADLINES_MS: tuple[float, ...] = (20.0, 50.0, 80.0, 100.0)
"""Where the curve is printed; 80 ms is the paper's deadline."""


def rsdr(latency_ms: ArrayLike, correct: ArrayLike, deadline_ms: float = 80.0) -> float:
    """Share of samples that are right and whose latency is at most the deadline.

    Every labelled keyframe is a sample: one that was dropped, refused or answered with a stale
    decision is given with a missing latency or as not correct, never left out.

    Args:
        latency_ms: (N,) >= 0; None, NaN and +inf are a missing latency, which is never in time.
        correct: (N,) bool.
        deadline_ms: > 0.

    Returns:
        0..1.

    Raises:
        ValueError: no sample, shapes that disagree, a negative latency, a deadline that is not
            positive.
    """
    return float(np.mean(_right_and_in_time(latency_ms, correct, deadline_ms)))


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
        latency_ms: as in :func:`rsdr`.
        correct: as in :func:`rsdr`.
        deadlines_ms: each > 0.
        clusters: (N,) the drive of each sample; None draws the samples one by one.
        seed: of the bootstrap; all deadlines share one set of replicates.

    Raises:
        ValueError: as in :func:`rsdr`, or clusters of another length.
    """
    hits = [_right_and_in_time(latency_ms, correct, deadline) for deadline in deadlines_ms]
    count = len(hits[0]) if hits else 0
    if clusters is not None and len(clusters) != count:
        raise ValueError(f"clusters has {len(clusters)} names, expected {count} like latency_ms")
    weights = resample_weights(range(count) if clusters is None else clusters, seed=seed)
    return {
        deadline: mean_interval(hit.astype(np.float64), weights)
        for deadline, hit in zip(deadlines_ms, hits, strict=True)
    }


def _right_and_in_time(
    latency_ms: ArrayLike, correct: ArrayLike, deadline_ms: float
) -> NDArray[np.bool_]:
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
