"""How the ego vehicle moves along its path: planned first, so that causes can be timed to it.

Stops and starts are put at phases of the 2 Hz keyframe grid at which Senna's label rule is
unambiguous: a braking vehicle goes from DECELERATE to STOP, and a standing one from STOP to
ACCELERATE, without a keyframe in the narrow bands where the rule says KEEP.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.path import Path2D
from clkd_core.types import FUTURE_STEPS, STEP_S

DT_S = 0.02
"""Simulation step: 50 Hz."""
AFTER_S = FUTURE_STEPS * STEP_S + 1.5
"""Simulated beyond the recorded part: the last future, and what the lead vehicle does earlier."""
_LATE_S = 2.75  # middle of the last future interval, at which the rule's last speed is taken
_EARLY_S = 0.75  # middle of the first one
_STOP_MPS, _CHANGE_MPS = 2.0, 3.0  # the label rule's thresholds


@dataclass(frozen=True)
class Motion:
    """Arc length and speed over time, plus the instants of a stop if there is one."""

    s_m: NDArray[np.float64]
    """(N,) arc length along the path every :data:`DT_S`, from t = 0."""
    v_mps: NDArray[np.float64]
    """(N,)."""
    stop_s: float | None = None
    """When the vehicle comes to rest; may lie before the drive begins."""
    go_s: float | None = None
    """When it moves off again."""

    def at(self, t_s: float) -> tuple[float, float]:
        """Arc length and speed at any time; constant speed beyond the end."""
        last = len(self.s_m) - 1
        at = max(0.0, t_s / DT_S)
        low = min(int(at), last - 1)
        share = min(at - low, 1.0)
        s = self.s_m[low] + share * (self.s_m[low + 1] - self.s_m[low])
        v = self.v_mps[low] + share * (self.v_mps[low + 1] - self.v_mps[low])
        return float(s + max(0.0, t_s - last * DT_S) * v), float(v)


def snap_stop(t_s: float, brake_mps2: float, rng: np.random.Generator) -> float:
    """The time near ``t_s`` to come to rest at, so that no keyframe is ambiguous.

    With v = brake * (stop - t), the first future speed must not lie in 2..3 m/s at a keyframe.
    """
    low = _EARLY_S + _CHANGE_MPS / brake_mps2 - STEP_S
    high = _EARLY_S + _STOP_MPS / brake_mps2
    return _snap(t_s, rng.uniform(low + 0.03, high - 0.03))


def snap_go(t_s: float, gain_mps2: float, rng: np.random.Generator) -> float:
    """The time near ``t_s`` to move off at, so that no keyframe is ambiguous.

    With v = gain * (t - go), the last future speed must not lie in 2..3 m/s at a keyframe.
    """
    low = _LATE_S - _STOP_MPS / gain_mps2
    high = _LATE_S - _CHANGE_MPS / gain_mps2 + STEP_S
    return _snap(t_s, rng.uniform(low + 0.03, high - 0.03))


def _snap(t_s: float, phase_s: float) -> float:
    return float(np.round((t_s - phase_s) / STEP_S) * STEP_S + phase_s)


def speed_limit(
    path: Path2D, cruise_mps: float, turn: tuple[float, float] | None, turn_mps: float
) -> NDArray[np.float64]:
    """Allowed speed per path sample: slower in the turn, with braking at 2.5 m/s^2 before it."""
    limit = np.full(len(path.s_m), cruise_mps)
    if turn is not None:
        limit[(path.s_m >= turn[0]) & (path.s_m <= turn[1])] = turn_mps
        before = path.s_m < turn[0]
        limit[before] = np.minimum(
            cruise_mps, np.sqrt(turn_mps**2 + 2 * 2.5 * (turn[0] - path.s_m[before]))
        )
    return limit


def roll_out(
    path: Path2D,
    limit_mps: NDArray[np.float64],
    start: tuple[float, float],
    gain_mps2: float,
    steps: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drive on from (arc length, speed), gaining speed up to the limit.

    Returns:
        arc lengths and speeds, (steps,) each, the first one DT_S after the start.
    """
    s, v = start
    out = np.empty((2, steps))
    for i in range(steps):
        limit = limit_mps[min(len(limit_mps) - 1, max(0, int(s / path.s_m[1])))]
        v = min(v + gain_mps2 * DT_S, max(limit, v - 3.2 * DT_S))
        s += v * DT_S
        out[:, i] = s, v
    return out[0], out[1]


def stop_and_go(
    path: Path2D,
    limit_mps: NDArray[np.float64],
    *,
    stop_at_m: float,
    approach_mps: float,
    brake_mps2: float,
    gain_mps2: float,
    stop_s: float,
    go_s: float,
    total_s: float,
) -> Motion:
    """Come at constant speed, brake evenly to rest at a place and time, wait, drive on."""
    steps = round(total_s / DT_S) + 1
    scripted = min(steps, max(1, round(go_s / DT_S) + 1))
    left = np.maximum(0.0, stop_s - DT_S * np.arange(scripted))
    v = np.minimum(approach_mps, brake_mps2 * left)
    braking_s = approach_mps / brake_mps2
    distance = np.where(
        left < braking_s,
        0.5 * brake_mps2 * left**2,
        0.5 * brake_mps2 * braking_s**2 + approach_mps * (left - braking_s),
    )
    s_after, v_after = roll_out(path, limit_mps, (stop_at_m, 0.0), gain_mps2, steps - scripted)
    return Motion(
        np.concatenate([stop_at_m - distance, s_after]), np.concatenate([v, v_after]), stop_s, go_s
    )


def pass_through(
    path: Path2D,
    limit_mps: NDArray[np.float64],
    *,
    start_m: float,
    start_mps: float,
    gain_mps2: float,
    total_s: float,
) -> Motion:
    """Drive as the limit allows, without a stop."""
    steps = round(total_s / DT_S)
    s, v = roll_out(path, limit_mps, (start_m, start_mps), gain_mps2, steps)
    return Motion(np.concatenate([[start_m], s]), np.concatenate([[start_mps], v]))


def slow_down_and_resume(
    *,
    start_m: float,
    fast_mps: float,
    slow_mps: float,
    brake_s: float,
    resume_s: float,
    total_s: float,
) -> Motion:
    """Follow somebody: brake at 2.6 m/s^2 to a lower speed, hold it, speed up at 2.6 m/s^2."""
    t = DT_S * np.arange(round(total_s / DT_S) + 1)
    down = np.maximum(slow_mps, fast_mps - 2.6 * np.maximum(0.0, t - brake_s))
    up = np.minimum(fast_mps, slow_mps + 2.6 * np.maximum(0.0, t - resume_s))
    v = np.where(t < resume_s, down, up)
    return Motion(start_m + np.concatenate([[0.0], np.cumsum(v[:-1]) * DT_S]), v)


def ego_futures(path: Path2D, motion: Motion, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 6, 2) metres: positions 0.5 .. 3 s after each time, in the ego frame of that time."""
    steps = STEP_S * np.arange(FUTURE_STEPS + 1)
    s = np.array([[motion.at(float(t + d))[0] for d in steps] for t in times_s])
    poses = path.pose_at(s)
    return relative_xy(poses[:, 0], poses[:, 1:, :2])


def relative_xy(pose: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the world in the frames of poses.

    Args:
        pose: (K, 3) x, y, yaw.
        xy: (K, T, 2).

    Returns:
        (K, T, 2), x forward, y left.
    """
    offset = xy - pose[:, None, :2]
    cos, sin = np.cos(pose[:, 2])[:, None], np.sin(pose[:, 2])[:, None]
    forward = cos * offset[..., 0] + sin * offset[..., 1]
    left = -sin * offset[..., 0] + cos * offset[..., 1]
    return np.stack([forward, left], axis=-1)
