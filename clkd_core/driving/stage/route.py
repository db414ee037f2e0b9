"""The way that is to be driven, and how far along it a vehicle has come."""

import numpy as np

from clkd_core.data.world.scene.path import Path2D
from clkd_core.driving.car.vehicle import VehicleState

GOAL_TOLERANCE_M = 2.0
"""So near to its end the route is completed."""

_BACK_M, _AHEAD_M = 3.0, 12.0
"""Where along the path the vehicle is looked for, from where it was last: never a later lap of a
line that comes near itself."""
_SAMPLE_M = 0.1


class Route:
    """A piece of a path, and the place on it that was reached last."""

    def __init__(self, path: Path2D, begin_m: float, end_m: float) -> None:
        """From one arc length of the path to another one.

        Raises:
            ValueError: the end does not lie behind the beginning.
        """
        if not end_m > begin_m:
            raise ValueError(f"route from {begin_m} m to {end_m} m, expected a way to go")
        self.path, self.begin_m, self.end_m = path, begin_m, end_m
        self.at_m = begin_m
        """Arc length of the place nearest to the vehicle."""
        self.offset_m = 0.0
        """How far left of the path it is there."""
        self._farthest_m = begin_m

    def advance(self, state: VehicleState) -> None:
        """Find the vehicle again; call it every tenth of a second or so."""
        s_m = np.arange(self.at_m - _BACK_M, self.at_m + _AHEAD_M, _SAMPLE_M)
        poses = self.path.pose_at(s_m)
        gap = np.array([state.x_m, state.y_m]) - poses[:, :2]
        nearest = int(np.square(gap).sum(axis=1).argmin())
        yaw = poses[nearest, 2]
        self.at_m = float(s_m[nearest])
        self.offset_m = float(np.cos(yaw) * gap[nearest, 1] - np.sin(yaw) * gap[nearest, 0])
        self._farthest_m = max(self._farthest_m, self.at_m)

    @property
    def completion_frac(self) -> float:
        """Share of the way that was driven, 0..1; all of it within :data:`GOAL_TOLERANCE_M`."""
        if self.is_completed:
            return 1.0
        return (self._farthest_m - self.begin_m) / (self.end_m - self.begin_m)

    @property
    def is_completed(self) -> bool:
        """Whether the end was reached."""
        return self._farthest_m >= self.end_m - GOAL_TOLERANCE_M
