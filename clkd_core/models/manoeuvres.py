"""Which meta-actions a vehicle can carry out at all, and trajectories that carry them out.

A driven vocabulary knows an action only from the speeds at which somebody did it. What could be
done is asked of a pool of rolled-out manoeuvres: one of some accelerations, then another one, on
a straight line, on an arc, or on an arc and back, at shares of what the vehicle can.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.models.drivable import make_drivable, measure_motion, start_speeds
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import FUTURE_STEPS, META_ACTIONS, STEP_S

CELL_MPS = 0.5
"""A vocabulary knows an action from a speed when one trajectory serves all speeds of its cell."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of the vehicle's limits, what the manoeuvres of a pool take."""

    brakes: tuple[float, ...]
    gains: tuple[float, ...]
    turns: tuple[float, ...]


COARSE = Shares(
    brakes=(1.0, 0.7, 0.45, 0.2), gains=(0.45, 0.8, 1.0),
    turns=(0.15, 0.18, 0.25, 0.33, 0.5, 0.75, 1.0),
)  # fmt: skip
"""What a vocabulary is completed from."""

FINE = Shares(
    brakes=(1.0, 0.85, 0.7, 0.45, 0.3, 0.2), gains=(0.2, 0.45, 0.8, 1.0),
    turns=(0.15, 0.165, 0.18, 0.2, 0.25, 0.3, 0.33, 0.36, 0.5, 0.75, 1.0),
)  # fmt: skip
"""What a planner is judged by: all of ``COARSE`` and more in between. Close together where the
rule's lane change begins at high speed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Manoeuvres:
    """M drivable trajectories."""

    xy_m: NDArray[np.float32]
    """(M, T, 2) metres."""
    action: NDArray[np.int64]
    """(M,) index of the meta-action that each carries out."""
    low_mps: NDArray[np.float32]
    """(M,) lowest present speed it can be driven from."""
    high_mps: NDArray[np.float32]
    """(M,) highest one."""


def own_actions(xy_m: NDArray[np.float32]) -> NDArray[np.int64]:
    """(V,) index of the meta-action that each of (V, T, 2) trajectories is, by Senna's rule."""
    return np.array([meta_action_from_future(lidar_from_ego(xy)).index for xy in xy_m], np.int64)


@lru_cache(maxsize=4)
def manoeuvre_pool(vehicle: VehicleConfig, top_mps: float, shares: Shares) -> Manoeuvres:
    """All manoeuvres for present speeds from 0 to ``top_mps``.

    Up to 12 m/s one second's work where the shares are ``COARSE``, five where ``FINE``.
    """
    top_mps = min(top_mps, vehicle.max_speed_mps)
    rolled = _roll_out(_speed_profiles(vehicle, top_mps, shares), shares, vehicle)
    low, high = start_speeds(rolled, vehicle)
    kept = (low <= np.minimum(high, top_mps)) & (high >= 0)
    return Manoeuvres(
        xy_m=rolled[kept], action=own_actions(rolled[kept]), low_mps=low[kept], high_mps=high[kept]
    )


def reachable_actions(
    speed_mps: NDArray[np.float32], vehicle: VehicleConfig, *, shares: Shares = FINE
) -> NDArray[np.bool_]:
    """Which of the 20 can be carried out at all from a present speed: some manoeuvre does.

    Args:
        speed_mps: (N,) present speeds; rolling backwards counts as standing.
        vehicle: its limits.
        shares: how closely to look.

    Returns:
        (N, A).

    Raises:
        ValueError: a speed is not finite.
    """
    speeds = np.maximum(np.asarray(speed_mps, np.float32), 0.0)
    if not np.isfinite(speeds).all():
        raise ValueError("a present speed is NaN or infinite, expected m/s")
    reachable = np.zeros((len(speeds), len(META_ACTIONS)), bool)
    pool = manoeuvre_pool(vehicle, float(np.ceil(speeds.max(initial=0.0))), shares)
    for action in range(len(META_ACTIONS)):
        spans = np.stack([pool.low_mps, pool.high_mps], axis=1)[pool.action == action]
        for low, high in np.unique(spans, axis=0):
            reachable[:, action] |= (low <= speeds) & (speeds <= high)
    return reachable


def missing_manoeuvres(
    vocabulary_m: NDArray[np.float32], vehicle: VehicleConfig, top_mps: float
) -> NDArray[np.float32]:
    """Manoeuvres that let a vocabulary carry out what the vehicle can, wherever it could not.

    For every action and every cell of present speeds that no trajectory of the vocabulary serves,
    the calmest manoeuvre that serves all of it; where none serves all, one that serves its middle.

    Args:
        vocabulary_m: (V, T, 2) metres.
        vehicle: its limits.
        top_mps: highest present speed that counts, >= 0.

    Returns:
        (K, T, 2) float32 metres, none twice.
    """
    pool = manoeuvre_pool(vehicle, top_mps, COARSE)
    own, (low, high) = own_actions(vocabulary_m), start_speeds(vocabulary_m, vehicle)
    calm = np.argsort(_effort(pool, vehicle), kind="stable")
    picks: dict[int, None] = {}
    cells = np.arange(0.0, top_mps + 1e-6, CELL_MPS)
    for action, begin in product(range(len(META_ACTIONS)), cells):
        whole, middle = (begin, begin + CELL_MPS), (begin + CELL_MPS / 2,) * 2
        if not _serving(own, low, high, action, whole).any():
            ordered = (pool.action[calm], pool.low_mps[calm], pool.high_mps[calm])
            for span in (whole, middle):
                serving = _serving(*ordered, action, span)
                if serving.any():
                    picks[int(calm[serving.argmax()])] = None
                    break
    return pool.xy_m[list(picks)]


def _serving(
    own: NDArray[np.int64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    action: int,
    span: tuple[float, float],
) -> NDArray[np.bool_]:
    return np.asarray((own == action) & (low <= span[0]) & (high >= span[1]))


def _effort(pool: Manoeuvres, vehicle: VehicleConfig) -> NDArray[np.float64]:
    """(M,) mean squared share of the limits that each takes, along and across."""
    motion = measure_motion(pool.xy_m, ((pool.low_mps + pool.high_mps) / 2).astype(np.float32))
    along = motion.accel_mps2 / np.where(
        motion.accel_mps2 > 0, vehicle.max_accel_mps2, vehicle.max_brake_mps2
    )
    across = motion.curvature_pm / vehicle.max_curvature_pm
    across = np.maximum(across, motion.lateral_mps2 / vehicle.max_lateral_accel_mps2)
    return np.asarray((along**2 + across**2).mean(axis=1), np.float64)


def _speed_profiles(vehicle: VehicleConfig, top_mps: float, shares: Shares) -> NDArray[np.float64]:
    """(P, T) mean speeds of the steps, within the limits along the path."""
    rates = [-share * vehicle.max_brake_mps2 for share in shares.brakes] + [0.0]
    rates += [share * vehicle.max_accel_mps2 for share in shares.gains]
    firsts = np.arange(0.0, top_mps + vehicle.max_accel_mps2 * STEP_S, CELL_MPS)
    rows = [
        first + STEP_S * np.concatenate([[0.0], np.cumsum(gains)])
        for first in firsts
        for gains in _gains(rates)
    ]
    speeds = np.unique(np.maximum(rows, 0.0), axis=0)
    along = np.zeros((len(speeds), FUTURE_STEPS, 2), np.float32)
    along[..., 0] = np.cumsum(speeds, axis=1) * STEP_S
    low, high = start_speeds(along, vehicle)
    return np.asarray(speeds[low <= high])


def _gains(rates: list[float]) -> Iterator[NDArray[np.float64]]:
    """(T - 1,) accelerations: one up to some step, another one from there on."""
    for rate in rates:
        yield np.full(FUTURE_STEPS - 1, rate)
    for one, other in product(rates, rates):
        for switch in (1, 2, 3) if one != other else ():
            yield np.repeat([one, other], [switch, FUTURE_STEPS - 1 - switch])


def _roll_out(
    speeds: NDArray[np.float64], shares: Shares, vehicle: VehicleConfig
) -> NDArray[np.float32]:
    """(M, T, 2): every speed profile along every line."""
    lines = [np.zeros(FUTURE_STEPS)]
    for share, side in product(shares.turns, (1.0, -1.0)):
        lines.append(np.full(FUTURE_STEPS, side * share))
        lines.append(side * share * np.repeat([1.0, -1.0], FUTURE_STEPS // 2))
    return np.concatenate([_along(speeds, line, vehicle) for line in lines])


def _along(
    speeds: NDArray[np.float64], shares: NDArray[np.float64], vehicle: VehicleConfig
) -> NDArray[np.float32]:
    """(P, T, 2): each profile with so much of the sharpest turn at each point."""
    joint = (speeds + np.concatenate([speeds[:, :1], speeds[:, :-1]], axis=1)) / 2
    lateral = vehicle.max_lateral_accel_mps2 / np.maximum(joint, 0.1) ** 2
    curvature = shares * np.minimum(vehicle.max_curvature_pm, lateral)
    lengths = speeds * STEP_S
    gaps = (lengths + np.concatenate([np.zeros((len(speeds), 1)), lengths[:, :-1]], axis=1)) / 2
    heading = np.cumsum(2 * np.arcsin(np.clip(curvature * gaps / 2, -1, 1)), axis=1)
    steps = lengths[..., None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    xy_m = np.cumsum(steps, axis=1).astype(np.float32)
    return make_drivable(xy_m, np.full(len(xy_m), np.nan, np.float32), vehicle)
