"""Other road users and things on the road: where they are at any time, and what they show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.path import Path2D

TRACK_S = 0.1
"""Time between two poses of a track."""

SIZES_M: dict[str, tuple[float, float, float]] = {
    "car": (4.5, 1.85, 1.5),
    "van": (5.4, 2.05, 2.3),
    "truck": (8.0, 2.5, 3.3),
    "bus": (11.0, 2.6, 3.2),
    "pedestrian": (0.6, 0.7, 1.8),
    "animal": (2.0, 0.7, 1.5),
    "barrier": (0.4, 1.5, 1.1),
    "flagger": (0.6, 0.7, 1.8),
}
"""Length, width, height."""

CATEGORIES: dict[str, str] = {
    "car": "vehicle.car",
    "van": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "pedestrian": "human.pedestrian.adult",
    "animal": "animal",
    "barrier": "movable_object.barrier",
    "flagger": "human.pedestrian.construction_worker",
}
"""nuScenes category of each kind."""

VEHICLES = ("car", "van", "truck", "bus")
PEOPLE = ("pedestrian", "flagger")


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One thing that is not the ego vehicle."""

    name: str
    """Unique within a drive."""
    kind: str
    """A key of :data:`SIZES_M`."""
    color: tuple[int, int, int]
    """RGB of its body or clothes."""
    poses: NDArray[np.float64]
    """(N, 3) x, y [m], yaw [rad] in the layout frame every :data:`TRACK_S`; one row: stands."""
    on_s: tuple[tuple[float, float], ...] = ()
    """When its brake lights (vehicles) or its red paddle (flagger) are on."""
    role: str = "background"
    """``lead``, ``cause`` or ``background``."""

    @property
    def size_m(self) -> tuple[float, float, float]:
        """Length, width, height."""
        return SIZES_M[self.kind]

    def pose_at(self, t_s: float) -> NDArray[np.float64]:
        """(3,) x, y, yaw; the ends of the track are held."""
        last = len(self.poses) - 1
        at = min(max(t_s / TRACK_S, 0.0), float(last))
        low = int(at)
        first: NDArray[np.float64] = self.poses[low]
        if low == last:
            return first
        pose: NDArray[np.float64] = first + (at - low) * (self.poses[low + 1] - first)
        return pose

    def speed_at(self, t_s: float) -> float:
        """Metres per second, over the last half second."""
        moved = self.pose_at(t_s)[:2] - self.pose_at(t_s - 0.5)[:2]
        return float(np.linalg.norm(moved) / 0.5)

    def moves_at(self, t_s: float) -> bool:
        """Whether it covers ground in the half second around; at a track's ends, inside it."""
        end_s = (len(self.poses) - 1) * TRACK_S
        middle_s = min(max(t_s, 0.25), max(end_s - 0.25, 0.25))
        moved = self.pose_at(middle_s + 0.25)[:2] - self.pose_at(middle_s - 0.25)[:2]
        return float(np.linalg.norm(moved)) > 0.1

    def is_on(self, t_s: float) -> bool:
        """Whether brake lights or red paddle are shown."""
        return any(start <= t_s < end for start, end in self.on_s)


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A traffic light for the ego vehicle: one state, one or two housings."""

    heads_m: tuple[tuple[float, float, float], ...]
    """x, y, z of the middle of each housing."""
    poles_m: tuple[tuple[float, float, float, float], ...]
    """x, y on the ground and on top of each pole or beam."""
    lamp_m: float
    """Diameter of a lamp."""
    changes: tuple[tuple[float, str], ...]
    """Time and new state: ``green``, ``amber``, ``red``, ``red_amber``; the first at -inf."""
    hidden_head: int | None = None
    """Index of a housing behind foliage."""

    def state_at(self, t_s: float) -> str:
        """The lamps that are lit."""
        return [state for start, state in self.changes if start <= t_s][-1]


def track_times(total_s: float) -> NDArray[np.float64]:
    """(N,) times of a track's poses."""
    return TRACK_S * np.arange(round(total_s / TRACK_S) + 1)


def track_on_path(path: Path2D, s_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) poses of a vehicle whose middle is at the arc lengths given."""
    return path.pose_at(s_m)


def track_through(
    waypoints: list[tuple[float, float, float]], times_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, 3) poses along straight lines between (time, x, y); looks where it goes."""
    points = np.array(sorted(waypoints))
    x = np.interp(times_s, points[:, 0], points[:, 1])
    y = np.interp(times_s, points[:, 0], points[:, 2])
    step = np.diff(points[:, 1:], axis=0)
    leg = np.clip(np.searchsorted(points[:, 0], times_s, "right") - 1, 0, len(step) - 1)
    yaw = np.arctan2(step[leg, 1], step[leg, 0])
    return np.stack([x, y, yaw], axis=-1)


def standing(x: float, y: float, yaw: float) -> NDArray[np.float64]:
    """(1, 3): a track that does not move."""
    return np.array([[x, y, yaw]])
