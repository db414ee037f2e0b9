"""95 % bootstrap intervals over whole drives: frames of one drive are not independent."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Enough that the ends of a 95 % interval move by less than their second digit between seeds."""


_BLOCK_VALUES = 1_000_000  # 8 MB of float64 at a time


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number and the range its 95 % bootstrap replicates fall into."""

    value: float
    """Of the sample itself."""
    low: float
    """2.5 % quantile of the replicates."""
    high: float
    """97.5 % quantile of the replicates."""


def resample_weights(
    clusters: Sequence[Hashable], *, seed: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """How often each sample is drawn in each bootstrap replicate.

    Whole clusters are drawn with replacement, as many as there are (Field and Welsh 2007,
    "Bootstrapping clustered data"). Where there is only one cluster that would give no
    spread at all, so the samples themselves are drawn; :func:`resampling_unit` says which.

    Args:
        clusters: (N,) a name for each sample, N >= 1.
        seed: the same seed gives the same weights.
        resamples: R, the number of replicates.

    Returns:
        (R, N) float64 whole numbers >= 0; no replicate is empty.

    Raises:
        ValueError: there is no sample.
    """
    cluster_of = _number_clusters(clusters)
    return np.vstack(
        [drawn[:, cluster_of] for drawn in _draw(cluster_of.max() + 1, seed, resamples)]
    )


def replicate_sums(
    values: NDArray[np.float64],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """Sums over the samples of each bootstrap replicate, in bounded memory.

    The same as ``resample_weights(...) @ values``, replicate for replicate, but the (R, N)
    weights, 0.5 GB for nuScenes' 34,149 keyframes, are never all there.

    Args:
        values: (N, F) what each sample adds to the sums, N >= 1.
        clusters: (N,) as in :func:`resample_weights`; None draws the samples one by one.
        seed: as in :func:`resample_weights`.
        resamples: R.

    Returns:
        (R, F) float64.

    Raises:
        ValueError: no sample, another shape, or clusters of another length.
    """
    if values.ndim != 2:
        raise ValueError(f"values are {values.shape}, expected (N, F)")
    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters for {len(values)} samples")
    cluster_of = _number_clusters(range(len(values)) if clusters is None else clusters)
    totals = np.zeros((cluster_of.max() + 1, values.shape[1]))
    np.add.at(totals, cluster_of, values)
    return np.vstack([drawn @ totals for drawn in _draw(len(totals), seed, resamples)])


def resampling_unit(clusters: Sequence[Hashable]) -> str:
    """``scene`` where whole drives are drawn, ``frame`` where there is only one drive."""
    return "scene" if len(set(clusters)) > 1 else "frame"


def interval_from_replicates(value: float, replicates: NDArray[np.float64]) -> Interval:
    """Percentile interval; replicates that are NaN (nothing drawn to count) are left out.

    Args:
        value: of the sample itself.
        replicates: (R,) the statistic in each replicate.
    """
    known = replicates[np.isfinite(replicates)]
    low, high = np.quantile(known, (0.025, 0.975)) if known.size else (math.nan, math.nan)
    return Interval(value=float(value), low=float(low), high=float(high))


def mean_intervals(
    values: NDArray[np.float64],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """Mean of each column of (N, F) values with its interval; arguments and errors as in
    :func:`replicate_sums`. All columns share one set of replicates."""
    counted = np.column_stack([values, np.ones(len(values))])
    sums = replicate_sums(counted, clusters, seed=seed, resamples=resamples)
    return [
        interval_from_replicates(float(np.mean(column)), total / sums[:, -1])
        for column, total in zip(values.T, sums.T[:-1], strict=True)
    ]


def mean_interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Mean of (N,) values with its interval under (R, N) weights."""
    replicates = weights @ values / weights.sum(axis=1)
    return interval_from_replicates(float(np.mean(values)), replicates)


def _number_clusters(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """(N,) the number of what each sample is drawn with: its drive, or itself."""
    if not clusters:
        raise ValueError("no sample to draw from, expected at least one")
    if resampling_unit(clusters) == "frame":
        return np.arange(len(clusters))
    number_of: dict[Hashable, int] = {}
    return np.array([number_of.setdefault(name, len(number_of)) for name in clusters])


def _draw(clusters: int, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is drawn: (r, K) blocks of all (R, K) replicates, in their order."""
    rng = np.random.default_rng(seed)
    even = np.full(clusters, 1 / clusters)
    block = max(1, _BLOCK_VALUES // clusters)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        yield rng.multinomial(clusters, even, rows).astype(np.float64)
