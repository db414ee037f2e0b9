"""How a drive felt: largest and 95 % values of acceleration, jerk and lateral acceleration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.driving.results.steps import FRAME_S, Step


@dataclass(frozen=True, kw_only=True)
class Comfort:
    """Sizes without sign; 0 where a drive was too short to have any."""

    accel_max_mps2: float
    accel_p95_mps2: float
    jerk_max_mps3: float
    jerk_p95_mps3: float
    lateral_max_mps2: float
    lateral_p95_mps2: float


@dataclass(frozen=True)
class Felt:
    """The samples behind it; of several drives they can be joined."""

    accel: NDArray[np.float64]
    """(N,) |m/s^2|, means over a tenth of a second."""
    jerk: NDArray[np.float64]
    """(M,) |m/s^3|, between such means."""
    lateral: NDArray[np.float64]
    """(K,) |m/s^2| at each frame."""


def felt_on(steps: Sequence[Step]) -> Felt:
    """Differences of the speeds of neighbouring frames, and of these again."""
    speed = np.array([step.speed_mps for step in steps], dtype=np.float64)
    accel = np.diff(speed) / FRAME_S
    jerk = np.diff(accel) / FRAME_S
    lateral = np.array([step.lateral_mps2 for step in steps], dtype=np.float64)
    return Felt(np.abs(accel), np.abs(jerk), np.abs(lateral))


def compute_comfort(drives: Sequence[Felt]) -> Comfort:
    """Over all samples of some drives together."""
    values = {}
    for name, unit in (("accel", "mps2"), ("jerk", "mps3"), ("lateral", "mps2")):
        samples = np.concatenate([getattr(felt, name) for felt in drives] or [np.zeros(0)])
        values[f"{name}_max_{unit}"] = float(samples.max()) if len(samples) else 0.0
        values[f"{name}_p95_{unit}"] = float(np.quantile(samples, 0.95)) if len(samples) else 0.0
    return Comfort(**values)
