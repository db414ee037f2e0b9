"""All knobs of closed-loop driving."""

from dataclasses import dataclass, field

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.scene.motion import AFTER_S
from clkd_core.driving.car.controller import ControllerConfig
from clkd_core.driving.car.vehicle import BicycleConfig
from clkd_core.runtime.failsafe import FailSafeConfig

DRIVERS = ("student", "expert", "constant-velocity")
"""Who can drive."""


@dataclass(frozen=True, kw_only=True)
class DriveConfig:
    """How a drive is set up and when it ends.

    Raises:
        ValueError: a number is out of its range.
    """

    route_s: float = 12.0
    """The route is what the script drives in this time [s]; a multiple of 0.5."""
    slack_s: float = 4.0
    """The vehicle may take so much longer [s]; others go on by the script for 4.5 s at most."""
    left_route_m: float = 4.0
    """Farther than this beside the route the vehicle has left it [m]: a lane's width and more."""
    width_px: int = 512
    """Image width. The student sees a fraction of it, decoded at reduced size; its clock counts
    the decoding of what comes."""
    height_px: int = 288
    """Image height."""
    jpeg_quality: int = 85
    """OpenCV's JPEG quality, 1..100."""
    vehicle: BicycleConfig = field(default_factory=BicycleConfig)
    """The kinematic bicycle model."""
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    """How it is held on the plan."""
    fail_safe: FailSafeConfig = field(default_factory=FailSafeConfig)
    """As the planner node's."""

    def __post_init__(self) -> None:
        if not 0 <= self.slack_s <= AFTER_S:
            raise ValueError(f"slack_s is {self.slack_s}, expected 0 to {AFTER_S}")
        if not self.left_route_m > 0:
            raise ValueError(f"left_route_m is {self.left_route_m}, expected > 0")
        self.world()  # its own checks

    def world(self) -> WorldConfig:
        """The world that the scene is taken from."""
        return WorldConfig(
            drive_s=self.route_s,
            width_px=self.width_px,
            height_px=self.height_px,
            jpeg_quality=self.jpeg_quality,
            workers=1,
        )

    @property
    def limit_s(self) -> float:
        """When a drive ends at the latest [s]."""
        return self.route_s + self.slack_s
