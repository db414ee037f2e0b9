"""How far the planned path is from the driven one, in both published conventions.

``average`` is ST-P3's and VAD's (Hu et al. 2022; Jiang et al. 2023): the mean distance of all
points up to the horizon. ``horizon`` is UniAD's (Hu et al. 2023): the distance at the horizon.
The first is always the smaller on a growing error, so a number without its name says nothing.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.metrics.intervals import Interval, mean_intervals
from clkd_core.types import FUTURE_STEPS, STEP_S

HORIZONS_S: tuple[int, ...] = (1, 2, 3)
"""Where both conventions report."""


@dataclass(frozen=True, kw_only=True)
class L2Scores:
    """Of N frames with a planned and a true trajectory; metres, by horizon in seconds."""

    frames: int
    """N."""
    average_m: Mapping[int, Interval]
    """VAD and ST-P3: mean over the points up to the horizon."""
    horizon_m: Mapping[int, Interval]
    """UniAD: the point at the horizon."""


def score_l2(
    distances_m: ArrayLike, *, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> L2Scores:
    """Average the distances over frames.

    Args:
        distances_m: (N, T) from ``frames.compute_point_distances``, N >= 1, all finite.
        clusters: (N,) the drive of each frame, for the intervals; None draws single frames.
        seed: of the bootstrap.

    Raises:
        ValueError: another shape, no frame, a distance that is negative or not finite.
    """
    distances = np.asarray(distances_m, dtype=np.float64)
    if distances.ndim != 2 or distances.shape[1] != FUTURE_STEPS or not len(distances):
        raise ValueError(f"distances are {distances.shape}, expected (N >= 1, {FUTURE_STEPS})")
    if not np.isfinite(distances).all() or (distances < 0).any():
        raise ValueError("a distance is negative or not finite, expected metres")
    average, horizon = score_horizons(distances, clusters=clusters, seed=seed)
    return L2Scores(frames=len(distances), average_m=average, horizon_m=horizon)


def score_horizons(
    steps: NDArray[np.float64], *, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> tuple[dict[int, Interval], dict[int, Interval]]:
    """Both conventions of any value per step: means up to each horizon, and values at it.

    Args:
        steps: (N, T), N >= 1.
        clusters: (N,) the drive of each frame; None draws single frames.
        seed: of the bootstrap; all numbers share one set of replicates.

    Raises:
        ValueError: no frame, or clusters of another length.
    """
    last = [round(horizon / STEP_S) for horizon in HORIZONS_S]
    columns = [steps[:, :step].mean(axis=1) for step in last]
    columns += [steps[:, step - 1] for step in last]
    intervals = mean_intervals(np.column_stack(columns), clusters, seed=seed)
    count = len(HORIZONS_S)
    return (
        dict(zip(HORIZONS_S, intervals[:count], strict=True)),
        dict(zip(HORIZONS_S, intervals[count:], strict=True)),
    )
