"""What a vehicle can do: the limits that every published trajectory stays within."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VehicleConfig:
    """Limits of one vehicle; saved with a planner, whose vocabulary was built within them.

    The defaults are nuScenes' car, a Renault Zoe. How a limit is measured on six points is said in
    :mod:`clkd_core.models.drivable`.

    Raises:
        ConfigError: a limit is out of its range; all of them are named.
    """

    name: str = "Renault Zoe"
    """Tells one vehicle from another; shown in messages."""
    max_speed_mps: float = field(default=37.5, metadata={"range": (0.5, 70.0)})
    """Forward [m/s]; 135 km/h is the maker's figure."""
    max_accel_mps2: float = field(default=3.6, metadata={"range": (0.1, 15.0)})
    """Speeding up [m/s^2]: the maker's 0 to 50 km/h in 3.9 s is 3.56 on average."""
    max_brake_mps2: float = field(default=6.4, metadata={"range": (0.1, 15.0)})
    """Slowing down [m/s^2], > 0: 6.43 is what UN Regulation 13-H asks of service brakes."""
    max_jerk_mps3: float = field(default=10.0, metadata={"range": (0.5, 100.0)})
    """Change of the acceleration along the path [m/s^3]: twice the 5.0 that ISO 15622 allows
    adaptive cruise control at low speed, because a planner also brakes for what steps out."""
    max_lateral_accel_mps2: float = field(default=6.0, metadata={"range": (0.1, 15.0)})
    """Speed squared times curvature [m/s^2]: three quarters of a dry road's friction, 0.8 g."""
    max_curvature_pm: float = field(default=0.258, metadata={"range": (0.005, 2.0)})
    """Of the rear axle's path [1/m]: 10.6 m between kerbs, wheelbase 2.588 m, track 1.51 m."""

    def __post_init__(self) -> None:
        problems = [] if self.name.strip() else ["name is empty, expected a vehicle's name"]
        for knob in fields(self):
            low, high = knob.metadata.get("range", (-math.inf, math.inf))
            value = getattr(self, knob.name)
            if knob.metadata and not low <= value <= high:  # also where it is NaN
                problems.append(f"{knob.name} is {value}, expected {low} to {high}")
        if problems:
            raise ConfigError("vehicle " + "; ".join(problems))

    def looser_than(self, other: "VehicleConfig") -> list[str]:
        """What this vehicle may do and the other may not; empty where the other can do it all."""
        return [
            f"{knob.name} {getattr(self, knob.name):g} > {getattr(other, knob.name):g}"
            for knob in fields(self)
            if knob.metadata and getattr(self, knob.name) > getattr(other, knob.name)
        ]


def load_vehicle(path: Path) -> VehicleConfig:
    """Read ``config/vehicle/*.yaml``.

    Raises:
        ConfigError: no such file, a key that does not exist, or a limit out of its range.
    """
    return load_config(VehicleConfig, path)
