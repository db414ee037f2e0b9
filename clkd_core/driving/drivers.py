"""Who drives: the student with its planner, or a baseline that needs neither eyes nor training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clkd_core.driving.config import DRIVERS
from clkd_core.driving.stage.scene import Stage, time_of
from clkd_core.errors import ConfigError, FrameError
from clkd_core.models.trajectories import constant_velocity_trajectory
from clkd_core.runtime.failsafe import Planner
from clkd_core.runtime.timely import Decider
from clkd_core.types import Decision, Plan, SurroundFrame

if TYPE_CHECKING:
    from clkd_core.runtime.shared import SharedEngine


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What drives; the loop asks it."""

    name: str
    """One of :data:`clkd_core.driving.config.DRIVERS`."""
    decider: Decider | None
    """The slow system; None: no decisions, and nothing that fails safe for want of them."""
    planner_on: Callable[[Stage], Planner]
    """The fast system for one drive."""
    looks: bool
    """Whether it needs the cameras."""


class ExpertPlanner:
    """Plans what the script's ego vehicle does: it checks the controller and the judge."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def warm_up(self) -> None:
        """There is nothing to prepare."""

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """The script's next 3 s from the place of the frame's capture."""
        state = self._stage.state_at(frame.stamp_ns)
        trajectory = self._stage.scripted_future(time_of(frame.stamp_ns), state)
        return Plan(stamp_ns=frame.stamp_ns, trajectory=trajectory, inference_ms=0.0)


class SteadyPlanner:
    """Keeps speed and rate of turn, whatever comes: what a planner must beat."""

    def warm_up(self) -> None:
        """There is nothing to prepare."""

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """On along the arc of now.

        Raises:
            FrameError: the frame has no odometry.
        """
        if frame.ego is None:
            raise FrameError(f"frame {frame.stamp_ns} has no odometry")
        trajectory = constant_velocity_trajectory(frame.ego)
        return Plan(stamp_ns=frame.stamp_ns, trajectory=trajectory, inference_ms=0.0)


def load_driver(
    name: str, checkpoint: Path, *, device: str = "auto", threads: int | None = 1
) -> Driver:
    """Make a driver ready.

    Args:
        name: one of :data:`clkd_core.driving.config.DRIVERS`.
        checkpoint: folder of the student and its planner; the baselines need none.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        threads: of torch and decoding, as a node has them.

    Raises:
        ConfigError: the name is unknown, or the device is.
        CheckpointError: the student or its planner is missing or damaged.
    """
    if name == "expert":
        return Driver(name=name, decider=None, planner_on=ExpertPlanner, looks=False)
    if name == "constant-velocity":
        return Driver(name=name, decider=None, planner_on=lambda _: SteadyPlanner(), looks=False)
    if name != "student":
        raise ConfigError(f"driver is {name!r}, expected one of {', '.join(DRIVERS)}")
    from clkd_core.runtime.shared import SharedEngine  # brings torch along

    engine = SharedEngine.from_checkpoint(checkpoint, device=device, threads=threads)
    return student_driver(engine)


def student_driver(engine: "SharedEngine") -> Driver:
    """A student that is loaded, warmed up.

    Raises:
        CheckpointError: it has no planner.
    """
    decider, planner = engine.decider(), engine.planner()
    decider.warm_up()
    planner.warm_up()
    return Driver(name="student", decider=decider, planner_on=lambda _: planner, looks=True)
