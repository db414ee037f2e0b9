"""95 % bootstrap intervals over whole drives: frames of one drive are not independent."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Enough that the ends of a 95 % interval move by less than their second digit between seeds."""


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
    if not clusters:
        raise ValueError("no sample to draw from, expected at least one")
    number_of: dict[Hashable, int] = {}
    if resampling_unit(clusters) == "frame":
        cluster_of = np.arange(len(clusters))
    else:
        cluster_of = np.array([number_of.setdefault(name, len(number_of)) for name in clusters])
    drawn = np.random.default_rng(seed).multinomial(
        cluster_of.max() + 1, np.full(cluster_of.max() + 1, 1 / (cluster_of.max() + 1)), resamples
    )
    return drawn[:, cluster_of].astype(np.float64)


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


def mean_interval(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """Mean of (N,) values with its interval under (R, N) weights."""
    replicates = weights @ values / weights.sum(axis=1)
    return interval_from_replicates(float(np.mean(values)), replicates)
