"""What is written down of a drive, ten times a second."""

from dataclasses import dataclass

FRAME_S = 0.1
"""Between two frames: cameras and both systems run at 10 Hz."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One frame of a drive, numbers rounded for people; NaN never, None where there is nothing."""

    t_s: float
    """Of the frame's capture, since the drive began."""
    x_m: float
    """Of the rear axle in the layout frame."""
    y_m: float
    yaw_rad: float
    speed_mps: float
    accel_mps2: float
    """As it acts at this instant."""
    lateral_mps2: float
    steer_rad: float
    along_m: float
    """Along the route, from its beginning."""
    offset_m: float
    """Left of the route."""
    signal: str
    """The traffic light; empty where there is none."""
    command: str
    """The route command."""
    decision: str
    """The newest decision that was there by now; empty before the first."""
    decision_age_s: float | None
    """How old its images are."""
    decision_ms: float | None
    """How long it took to make."""
    plan_mode: str
    """Of the plan that is driven; empty before the first."""
    plan_age_s: float | None
    """How old its images are."""
    plan_ms: float | None
    """How long it took to make."""
    plan_follows: str
    """The decision that it follows; empty where it follows none."""
    plan_xy_m: tuple[tuple[float, float], ...]
    """Its points in the ego frame of its own capture."""
    notes: tuple[str, ...]
    """What was missing or refused."""
    events: tuple[str, ...] = ()
    """What happened since the step before: contacts, a red light run."""
