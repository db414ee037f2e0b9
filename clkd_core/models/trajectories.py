"""Sets of trajectories: distances between them, the planner's vocabulary, the simplest forecast.

Everything here is in the ego frame of now: x forward, y left, metres, points ``STEP_S`` apart.
"""

import numpy as np
from numpy.typing import NDArray

from clkd_core.types import FUTURE_STEPS, STEP_S, EgoState, Trajectory


def constant_velocity_trajectory(ego: EgoState) -> Trajectory:
    """Where the vehicle gets by keeping its speed and its rate of turn.

    A circle of curvature yaw_rate / speed, or a straight line where the rate of turn is zero
    (constant turn rate and velocity, e.g. Schubert et al. 2008, section III).
    """
    return Trajectory(
        xy_m=constant_velocity_points(
            np.array([ego.speed_mps], np.float32), np.array([ego.yaw_rate_radps], np.float32)
        )[0]
    )


def constant_velocity_points(
    speed_mps: NDArray[np.float32], yaw_rate_radps: NDArray[np.float32]
) -> NDArray[np.float32]:
    """:func:`constant_velocity_trajectory` for many vehicles at once.

    Args:
        speed_mps: (N,) forward speed.
        yaw_rate_radps: (N,) counter-clockwise positive.

    Returns:
        (N, T, 2) float32 metres.
    """
    time_s = STEP_S * np.arange(1, FUTURE_STEPS + 1)
    half_turn = 0.5 * yaw_rate_radps.astype(np.float64)[:, None] * time_s
    # The chord of an arc of length s that turns by 2a is s * sin(a) / a, in direction a.
    chord = speed_mps[:, None] * time_s * np.sinc(half_turn / np.pi)
    points = np.stack([chord * np.cos(half_turn), chord * np.sin(half_turn)], axis=-1)
    return np.asarray(points, np.float32)


def mean_squared_distance(
    xy_m: NDArray[np.float32], others_xy_m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean over time of the squared distance between every pair of trajectories.

    Args:
        xy_m: (N, T, 2) metres.
        others_xy_m: (V, T, 2) metres.

    Returns:
        (N, V) float32, square metres.
    """
    gaps = xy_m[:, None].astype(np.float64) - others_xy_m[None]
    return np.asarray(np.square(gaps).sum(-1).mean(-1), np.float32)


def build_vocabulary(futures_xy_m: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Pick trajectories that cover the given ones: furthest-point sampling (VADv2, section 3.2).

    Starts from the one that moves least, so that standing still is always in the vocabulary;
    then takes again and again the one whose nearest pick is furthest away (Gonzalez 1985: never
    worse than twice the best possible covering radius). Ties go to the earlier one.

    Args:
        futures_xy_m: (N, T, 2) metres, N >= 1.
        size: how many to pick, >= 1.

    Returns:
        (V, T, 2) float32 in the order picked; V is less than ``size`` when no further different
        trajectory is left.

    Raises:
        ValueError: another shape, no trajectory, a value that is not finite, or size < 1.
    """
    _check_futures(futures_xy_m, size)
    futures = np.asarray(futures_xy_m, np.float32)
    picks = [int(np.square(futures).sum((1, 2)).argmin())]
    nearest = mean_squared_distance(futures, futures[picks])[:, 0]
    while len(picks) < size and nearest.max() > 0:
        picks.append(int(nearest.argmax()))
        gap = mean_squared_distance(futures, futures[picks[-1:]])[:, 0]
        nearest = np.minimum(nearest, gap)
    return futures[picks]


def _check_futures(futures_xy_m: NDArray[np.float32], size: int) -> None:
    shape = futures_xy_m.shape
    if len(shape) != 3 or shape[1:] != (FUTURE_STEPS, 2) or not shape[0]:
        raise ValueError(f"futures are {shape}, expected (N, {FUTURE_STEPS}, 2) with N >= 1")
    if not np.isfinite(futures_xy_m).all():
        raise ValueError("futures hold a point that is NaN or infinite, expected metres")
    if size < 1:
        raise ValueError(f"vocabulary size is {size}, expected >= 1")
