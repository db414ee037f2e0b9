"""What the planner does when something is missing: no fresh decision, or no usable frame.

Three modes (:class:`clkd_core.types.PlanMode`), each said in the plan:

- FOLLOWING: the frame has a fresh decision, by capture stamps, and the plan follows it.
- WITHOUT_DECISION: it has none, and the model plans without a meta-action.
- STOPPING: comfortable braking into standstill, because frames have had no fresh decision for
  ``stop_after_s``, or because no usable frame came for ``frame_max_age_s``.

Braking goes along the line of the last plan that followed a decision. The vehicle is assumed to
be on that line and to point along it: how far it has come is the integral of its odometry's speed
since the line was planned; its place and heading across the line are not measured. What a
trajectory needs beyond the line's end is straight. A plan reaches 3 s ahead, so a line is soon
used up: from then on, and where no plan ever followed a decision, it is the line of the newest
plan. Nothing is checked for obstacles, and braking is never harder than comfort allows: this is
no emergency brake.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np

from clkd_core.errors import ConfigError
from clkd_core.runtime.braking import (
    MAX_SPEED_MPS,
    STEP_TIMES_S,
    BrakingProfile,
    Motion,
    Moving,
    PlannedMotion,
    StoppingPath,
)
from clkd_core.runtime.deadline import FreshDecision
from clkd_core.runtime.sync import JUMP_NS, NS_PER_S
from clkd_core.types import Decision, Plan, PlanMode, SurroundFrame, Trajectory

_HORIZON_S = float(STEP_TIMES_S[-1])


@dataclass(frozen=True, kw_only=True)
class FailSafeConfig:
    """When the planner stops trusting, and how it brakes then.

    Raises:
        ConfigError: a value is out of its range, or stopping would come before planning alone.
    """

    decision_max_age_s: float = field(default=1.0, metadata={"range": (0.0, 60.0)})
    """A decision whose images are older than the frame's by more than this is not followed [s]."""
    stop_after_s: float = field(default=2.0, metadata={"range": (0.1, 600.0)})
    """Frames without a fresh decision for longer than this: brake to a stop [s]; greater than
    decision_max_age_s."""
    frame_max_age_s: float = field(default=0.5, metadata={"range": (0.05, 60.0)})
    """A plan whose frame is older than this is flagged; without a usable frame for longer than
    this the vehicle is blind and brakes to a stop [s]. Longer than one plan takes to make."""
    deceleration_mps2: float = field(default=1.5, metadata={"range": (0.1, 3.5)})
    """Hardest braking of such a stop [m/s^2]. 0.15 g, the upper end of what most studies found
    acceptable (survey: Hoberock 1977, J. Dyn. Sys. Meas. Control 99); Autoware's comfortable stop
    takes 1.0, and 3.5 is what ISO 15622 allows adaptive cruise control at speed."""
    jerk_mps3: float = field(default=1.0, metadata={"range": (0.1, 10.0)})
    """Fastest change of braking, growing or released [m/s^3]. Above 0.30 g/s = 2.9 few studies
    found it acceptable (the same survey); Autoware's comfortable stop takes 0.3."""

    def __post_init__(self) -> None:
        problems = []
        for knob in fields(self):
            value, (low, high) = getattr(self, knob.name), knob.metadata["range"]
            if not low <= value <= high:
                problems.append(f"{knob.name} is {value}, expected {low} to {high}")
        if not self.stop_after_s > self.decision_max_age_s:
            problems.append(
                f"stop_after_s is {self.stop_after_s}, expected more than decision_max_age_s "
                f"({self.decision_max_age_s})"
            )
        if problems:
            raise ConfigError("fail_safe " + "; ".join(problems))


class Planner(Protocol):
    """What is made safe; ``clkd_core.runtime.planning.PlannerEngine`` is one."""

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """Plan from one frame; FrameError when it cannot be used."""

    def warm_up(self) -> None:
        """Make the first plan as fast as the later ones."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """The motion that was planned last, and where on the line it began."""

    motion: Moving
    stamp_ns: int | None
    """Of its frame; None for one without a frame."""
    begun_s: float
    """When it began, on the planner's clock."""
    path_m: float

    def at(self, stamp_ns: int, clock_s: float) -> Motion:
        """How the vehicle moves then; by stamps where it can be, whatever the speed of replay."""
        if self.stamp_ns is None:
            return self.motion.at(clock_s - self.begun_s)
        return self.motion.at((stamp_ns - self.stamp_ns) / NS_PER_S)


@dataclass(frozen=True, kw_only=True)
class _Drive:
    """What is remembered since frames began, or began again."""

    fresh_ns: int
    """Newest frame that had a fresh decision; the first frame as long as none had."""
    frame_ns: int
    """Newest frame."""
    speed_mps: float
    """At the newest frame."""
    path: StoppingPath
    followed: bool
    """Whether the line is that of a plan that followed a decision."""
    path_m: float
    """How far along the line the vehicle was at the newest frame."""
    course: _Course


class FailSafePlanner:
    """Plans every frame in the mode that its inputs allow, and stops when there are no frames.

    Three threads may use it: one that pushes decisions, one that plans, one that asks for plans
    without a frame. :meth:`plan_blind` never waits for a plan in the making, only for the moment
    in which one is handed over.

    Who publishes has to keep the order: ``plan``'s result, and ``plan_blind`` together with its
    result, under one lock. The message sent last then is the one that holds. Its stamp need not be
    the newest, because a plan keeps the stamp of its frame: one that was in the making while a
    stop without frames was planned says so in ``degraded``, and takes the stop's place.

    A frame that the planner refuses leaves no trace: it ends neither blindness nor the count of
    time without a decision. Frame stamps that jump back by ``JUMP_NS`` begin a new drive.
    """

    def __init__(
        self,
        planner: Planner,
        config: FailSafeConfig,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember nothing yet.

        Args:
            planner: asked for every frame, also while stopping: it finds out which are usable.
            config: the limits.
            clock_s: tells blindness, and how long a plan took. Where time is simulated, that
                time: else a slow replay looks blind. It may begin again.
        """
        self._planner = planner
        self._config = config
        self._clock_s = clock_s
        self._decisions = FreshDecision(config.decision_max_age_s)
        self._lock = threading.Lock()
        self._drive: _Drive | None = None
        self._ready_s = 0.0
        self._blind_count = 0

    def warm_up(self) -> None:
        """Make the planner's first plan as fast as the later ones."""
        self._planner.warm_up()

    def push_decision(self, decision: Decision) -> None:
        """Take the newest decision; one flagged stale repeats another and changes nothing."""
        self._decisions.push(decision)

    def plan(self, frame: SurroundFrame, *, age_s: float) -> Plan:
        """Plan from a frame; one thread at a time.

        Args:
            frame: what is seen.
            age_s: capture to now, by the caller's clock [s]. Where it is no number between 0 and
                the 3 s that a trajectory reaches ahead, two clocks differ: it is flagged if it is
                too old, and not used for anything else.

        Raises:
            FrameError: the planner cannot use the frame.
        """
        begun_s, blind_before = self._clock_s(), self._blind_count
        decision, missing = self._decisions.at(frame.stamp_ns)
        made = self._planner.plan(frame, decision)
        captured_s = begun_s - (age_s if 0 <= age_s <= _HORIZON_S else 0.0)
        with self._lock:
            plan, reasons = self._continue(frame, made, captured_s)
            self._ready_s = ready_s = self._clock_s()
            if self._blind_count != blind_before:
                reasons += ("replaces a stop that was planned while it was in the making",)
        reasons += self._too_old(age_s + max(ready_s - begun_s, 0.0))
        return replace(plan, degraded=plan.degraded + missing + reasons)

    def plan_blind(self, now_ns: int) -> Plan | None:
        """Brake, if no frame could be planned from for too long; else None, as before the first.

        The speed is the one that the last plan had come to by now, so asking again and again goes
        through one single stop.

        Args:
            now_ns: the node's time; the plan's stamp.
        """
        with self._lock:
            drive, now_s = self._drive, self._clock_s()
            self._ready_s = min(self._ready_s, now_s)  # simulated time may have begun again
            blind_s, limit_s = now_s - self._ready_s, self._config.frame_max_age_s
            if drive is None or blind_s <= limit_s:
                return None
            self._blind_count += 1
            now = drive.course.motion.at(now_s - drive.course.begun_s)
            course = _Course(
                motion=self._braking(now.speed_mps, now),
                stamp_ns=None,
                begun_s=now_s,
                path_m=drive.course.path_m + now.distance_m,
            )
            self._drive = replace(drive, course=course)
        return Plan(
            stamp_ns=now_ns,
            trajectory=_along(drive.path, course),
            inference_ms=math.nan,
            degraded=(f"no usable frame for {blind_s:.1f} s, limit {limit_s:g} s",),
            mode=PlanMode.STOPPING,
        )

    def _continue(
        self, frame: SurroundFrame, made: Plan, captured_s: float
    ) -> tuple[Plan, tuple[str, ...]]:
        """The plan in its mode, with the reasons for that, and the drive goes on."""
        drive, carried_ns = self._drive, 0
        if drive is not None and frame.stamp_ns <= drive.frame_ns - JUMP_NS:
            # Time began again, the want of a decision did not: it counts on.
            carried_ns = drive.frame_ns - drive.fresh_ns
            drive = None
        planned = PlannedMotion(made.trajectory)
        now = drive.course.at(frame.stamp_ns, captured_s) if drive else planned.at(0.0)
        speed, guessed = _speed_mps(frame, now)
        path, followed, path_m = _advance(drive, made, frame.stamp_ns, speed)
        course = _Course(
            motion=planned, stamp_ns=frame.stamp_ns, begun_s=captured_s, path_m=path_m
        )
        fresh_ns = drive.fresh_ns if drive else frame.stamp_ns - carried_ns
        stopping = self._stopping(fresh_ns, made, frame.stamp_ns)
        if stopping:
            course = replace(course, motion=self._braking(speed, now))
            trajectory = _along(path, course)
            made = replace(made, trajectory=trajectory, mode=PlanMode.STOPPING)
        self._drive = _Drive(
            fresh_ns=frame.stamp_ns if made.mode is PlanMode.FOLLOWING else fresh_ns,
            frame_ns=max(frame.stamp_ns, drive.frame_ns) if drive else frame.stamp_ns,
            speed_mps=speed,
            path=path,
            followed=followed,
            path_m=path_m,
            course=course,
        )
        return made, stopping + (guessed if stopping else ())

    def _stopping(self, fresh_ns: int, made: Plan, stamp_ns: int) -> tuple[str, ...]:
        """Why to stop at this frame; empty where there is no need."""
        if made.mode is PlanMode.FOLLOWING:
            return ()
        without_s, limit_s = (stamp_ns - fresh_ns) / NS_PER_S, self._config.stop_after_s
        if without_s <= limit_s:
            return ()
        return (f"stopping: no fresh decision for {without_s:.1f} s, limit {limit_s:g} s",)

    def _braking(self, speed_mps: float, now: Motion) -> BrakingProfile:
        """A stop from this speed that takes up the braking that is going on already."""
        return BrakingProfile(
            speed_mps,
            now.acceleration_mps2,
            deceleration_mps2=self._config.deceleration_mps2,
            jerk_mps3=self._config.jerk_mps3,
        )

    def _too_old(self, age_s: float) -> tuple[str, ...]:
        """Why a frame of this age is flagged; NaN is no age to trust."""
        limit_s = self._config.frame_max_age_s
        if age_s <= limit_s:
            return ()
        return (f"frame is {age_s:.1f} s old, limit {limit_s:g} s",)


def _speed_mps(frame: SurroundFrame, now: Motion) -> tuple[float, tuple[str, ...]]:
    """How fast the vehicle is, and whether that had to be guessed; rolling back is standing."""
    ego = frame.ego
    if ego is not None and abs(ego.speed_mps) <= MAX_SPEED_MPS:
        return max(ego.speed_mps, 0.0), ()
    return now.speed_mps, (f"no believable speed, took the last plan's {now.speed_mps:.1f} m/s",)


def _advance(
    drive: _Drive | None, made: Plan, stamp_ns: int, speed_mps: float
) -> tuple[StoppingPath, bool, float]:
    """The line to stop on, whether its plan followed a decision, how far along it we are [m]."""
    follows = made.mode is PlanMode.FOLLOWING
    if not follows and drive is not None and drive.followed:
        passed_s = max(stamp_ns - drive.frame_ns, 0) / NS_PER_S
        path_m = drive.path_m + passed_s * (drive.speed_mps + speed_mps) / 2
        if path_m < drive.path.length_m:
            return drive.path, True, path_m
    return StoppingPath(made.trajectory), follows, 0.0


def _along(path: StoppingPath, course: _Course) -> Trajectory:
    """Where a motion along the line leads, in the ego frame of its beginning."""
    distances_m = np.array([course.motion.at(float(t)).distance_m for t in STEP_TIMES_S])
    xy_m = path.points_ahead(course.path_m, distances_m)
    return Trajectory(xy_m=xy_m.astype(np.float32))
