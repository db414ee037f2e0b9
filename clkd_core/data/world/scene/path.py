"""Polylines that vehicles follow: arc length to position and heading."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEP_M = 0.25
"""Distance between two samples of a path."""


@dataclass(frozen=True)
class Path2D:
    """A line on the ground, sampled densely; beyond its ends it goes on straight."""

    s_m: NDArray[np.float64]
    """(N,) arc length, rising from 0."""
    xy_m: NDArray[np.float64]
    """(N, 2)."""
    yaw_rad: NDArray[np.float64]
    """(N,) unwrapped heading."""

    def pose_at(self, s_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 3) x, y, yaw at the arc lengths given."""
        s = np.asarray(s_m, dtype=np.float64)
        inside = np.clip(s, self.s_m[0], self.s_m[-1])
        over = s - inside
        yaw = np.interp(inside, self.s_m, self.yaw_rad)
        x = np.interp(inside, self.s_m, self.xy_m[:, 0]) + over * np.cos(yaw)
        y = np.interp(inside, self.s_m, self.xy_m[:, 1]) + over * np.sin(yaw)
        return np.stack([x, y, yaw], axis=-1)

    def shifted(self, left_m: NDArray[np.float64] | float) -> "Path2D":
        """The same line moved to its left by a constant or by one value per sample."""
        normal = np.stack([-np.sin(self.yaw_rad), np.cos(self.yaw_rad)], axis=-1)
        return path_through(self.xy_m + normal * np.reshape(np.asarray(left_m), (-1, 1)))

    @property
    def length_m(self) -> float:
        """Arc length of the last sample."""
        return float(self.s_m[-1])


def path_through(xy_m: NDArray[np.float64]) -> Path2D:
    """A path along a polyline, resampled every :data:`STEP_M`.

    Args:
        xy_m: (N, 2) with N >= 2; repeated points are dropped.
    """
    steps = np.linalg.norm(np.diff(xy_m, axis=0), axis=1)
    points = xy_m[np.concatenate([[True], steps > 1e-6])]
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.linspace(0.0, s[-1], max(2, int(np.ceil(s[-1] / STEP_M)) + 1))
    xy = np.stack([np.interp(even, s, points[:, 0]), np.interp(even, s, points[:, 1])], axis=-1)
    tangent = np.gradient(xy, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    return Path2D(s_m=even, xy_m=xy, yaw_rad=yaw)


def polar_line(heading_rad: float, bends: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Points of a line from the origin made of pieces of constant curvature.

    Args:
        heading_rad: heading at the origin.
        bends: (length [m], curvature [1/m]) of each piece.

    Returns:
        (N, 2) metres, about one point per metre.
    """
    lengths = np.concatenate([np.full(max(1, round(n)), n / max(1, round(n))) for n, _ in bends])
    curvature = np.concatenate([np.full(max(1, round(n)), k) for n, k in bends])
    turn = lengths * curvature
    yaw = heading_rad + np.cumsum(turn) - turn / 2.0
    steps = np.stack([lengths * np.cos(yaw), lengths * np.sin(yaw)], axis=-1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def fillet(
    start: NDArray[np.float64],
    corner: NDArray[np.float64],
    end: NDArray[np.float64],
    tangent_m: float,
) -> NDArray[np.float64]:
    """Replace the corner of start-corner-end by a circular arc.

    Args:
        start, corner, end: (2,) each.
        tangent_m: distance from the corner at which the arc begins and ends.

    Returns:
        (N, 2) points of the arc alone.
    """
    into = (corner - start) / np.linalg.norm(corner - start)
    out = (end - corner) / np.linalg.norm(end - corner)
    turn = float(np.arctan2(into[0] * out[1] - into[1] * out[0], into @ out))
    radius = tangent_m / np.tan(abs(turn) / 2.0)
    side = np.sign(turn)
    center = corner - into * tangent_m + side * radius * np.array([-into[1], into[0]])
    begin = np.arctan2(into[1], into[0]) - side * np.pi / 2.0
    angles = begin + np.linspace(0.0, turn, max(4, int(abs(turn) * radius / 0.5)))
    arc: NDArray[np.float64] = center + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    return arc
