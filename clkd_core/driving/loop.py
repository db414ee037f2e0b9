"""One drive in closed loop, in simulated time: cameras, two systems, controller, vehicle.

The vehicle moves in steps of 10 ms, frames come every 100 ms. Each system works as its node does:
on one frame at a time, the newest when several wait. A decision on the frame of time ``t`` is
heard at ``t + latency`` (later, where the frame had to wait for the one before), and a plan begun
before that does not know it. A plan acts when it is ready, from the place its frame was captured
at. What the planner does without a fresh decision, or blind, is the node's own
:class:`clkd_core.runtime.failsafe.FailSafePlanner` on a simulated clock.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from clkd_core.driving.car.controller import PlannedTrack, follow
from clkd_core.driving.car.vehicle import Controls, VehicleState, move
from clkd_core.driving.drivers import Driver
from clkd_core.driving.results.judge import Contact, Ending, Judge
from clkd_core.driving.results.steps import FRAME_S, Step
from clkd_core.driving.stage.scene import Captured, Stage, stamp_of, time_of
from clkd_core.driving.timing.latencies import LatencyStream
from clkd_core.driving.timing.worker import BusyWorker, Done
from clkd_core.errors import FrameError
from clkd_core.runtime.failsafe import FailSafePlanner, Planner
from clkd_core.types import Decision, Plan, SurroundFrame

TICK_S = 0.01
"""Step of the vehicle and its controller."""
_FRAME_TICKS = round(FRAME_S / TICK_S)
_JUDGE_TICKS = 5
_MS = 1_000_000

Watch = Callable[[Captured, Step], None]
"""Told every step; for films and progress."""


@dataclass(frozen=True, kw_only=True)
class Driven:
    """A drive that is over."""

    ending: Ending
    end_s: float
    completion_frac: float
    contacts: tuple[Contact, ...]
    red_run_s: tuple[float, ...]
    has_signal: bool
    decisions: int
    """That were made."""
    frames_undecided: int
    """That the slow system passed over for a newer one."""
    frames_unplanned: int
    """That the fast system passed over."""
    steps: tuple[Step, ...]


def drive(
    stage: Stage,
    driver: Driver,
    latencies: LatencyStream,
    *,
    film: bool = False,
    watch: Watch | None = None,
) -> Driven:
    """Drive one scene from its beginning to its end.

    Args:
        stage: fresh; it is used up.
        driver: who drives.
        latencies: what each frame's answers take.
        film: render the views even for a driver that does not look.
        watch: told every step.
    """
    return _Loop(stage, driver, latencies, look=film or driver.looks, watch=watch).run()


class _Clock:
    """Simulated time [s]; a fail-safe planner reads it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _TimedPlanner:
    """A planner whose plans take simulated time, as long as the latencies say."""

    def __init__(self, planner: Planner, clock: _Clock) -> None:
        self._planner, self._clock = planner, clock
        self.latency_ms = 0.0

    def warm_up(self) -> None:
        self._planner.warm_up()

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        made = self._planner.plan(frame, decision)
        self._clock.now_s += self.latency_ms / 1e3
        return replace(made, inference_ms=self.latency_ms)


@dataclass(frozen=True, kw_only=True)
class _Heard:
    """A decision and when it was there."""

    decision: Decision
    ready_ns: int


class _Loop:
    def __init__(
        self,
        stage: Stage,
        driver: Driver,
        latencies: LatencyStream,
        *,
        look: bool,
        watch: Watch | None,
    ) -> None:
        self._stage, self._driver, self._latencies = stage, driver, latencies
        self._look, self._watch = look, watch
        self._judge = Judge(stage)
        self._clock = _Clock()
        self._planner = _TimedPlanner(driver.planner_on(stage), self._clock)
        self._safe = FailSafePlanner(self._planner, stage.config.fail_safe, clock_s=self._clock)
        self._deciding = BusyWorker[Captured](
            lambda seen: round(latencies.decision_ms(seen.number) * _MS)
        )
        self._planning = BusyWorker[Captured](
            lambda seen: round(latencies.plan_ms(seen.number) * _MS)
        )
        self._unpushed = deque[_Heard]()
        self._heard: dict[int, Decision] = {}
        self._newest: Decision | None = None
        self._plan: Plan | None = None
        self._track: PlannedTrack | None = None
        self._notes: list[str] = []
        self._steps: list[Step] = []
        self._told = 0
        """Events that are written down."""

    def run(self) -> Driven:
        state = self._stage.begin()
        tick = 0
        while True:
            now_ns = tick * round(TICK_S * 1e9)
            self._hear(now_ns)
            if tick % _JUDGE_TICKS == 0:
                self._judge.look(now_ns / 1e9, state)
            ended = self._judge.ending is not None
            if tick % _FRAME_TICKS == 0 or ended:
                self._frame(now_ns, state)
            if ended:
                return self._result(now_ns / 1e9)
            state = move(
                state, self._controls(now_ns / 1e9, state), TICK_S, self._stage.config.vehicle
            )
            tick += 1

    def _hear(self, now_ns: int) -> None:
        """Decisions and plans that are ready by now."""
        for decided in self._deciding.due(now_ns):
            self._decide(decided)
        for planned in self._planning.due(now_ns):
            self._plan_from(planned)

    def _frame(self, now_ns: int, state: VehicleState) -> None:
        """Capture, hand to whoever is free, write down."""
        t_s = now_ns / 1e9
        seen = self._stage.capture(len(self._steps), t_s, state, look=self._look)
        if self._driver.decider is not None:
            self._deciding.offer(seen, now_ns)
        self._planning.offer(seen, now_ns)
        self._hear(now_ns)  # what takes no time is there at once
        self._watch_out(t_s, state)
        step = self._step(seen)
        self._steps.append(step)
        self._notes.clear()
        if self._watch is not None:
            self._watch(seen, step)

    def _decide(self, done: Done[Captured]) -> None:
        assert self._driver.decider is not None  # nothing is offered to nobody
        try:
            made = self._driver.decider.decide(done.item.frame)
        except FrameError as err:
            self._notes.append(f"no decision: {err}")
            return
        taken_ms = self._latencies.decision_ms(done.item.number)
        decision = replace(made, inference_ms=taken_ms)
        self._newest = decision
        self._heard[decision.stamp_ns] = decision
        self._unpushed.append(_Heard(decision=decision, ready_ns=done.ready_ns))

    def _plan_from(self, done: Done[Captured]) -> None:
        """Plan now what was begun at ``start_ns``, with what was known then."""
        while self._unpushed and self._unpushed[0].ready_ns <= done.start_ns:
            self._safe.push_decision(self._unpushed.popleft().decision)
        seen = done.item
        self._planner.latency_ms = self._latencies.plan_ms(seen.number)
        self._clock.now_s = done.start_ns / 1e9
        try:
            if self._driver.decider is None:
                plan = self._planner.plan(seen.frame, None)
            else:
                plan = self._safe.plan(seen.frame, age_s=done.start_ns / 1e9 - seen.t_s)
        except FrameError as err:
            self._notes.append(f"no plan: {err}")
            return
        self._take(plan, seen.state, seen.t_s)

    def _watch_out(self, t_s: float, state: VehicleState) -> None:
        """As the node's timer: brake where no frame could be planned from for too long."""
        self._clock.now_s = t_s
        if self._driver.decider is None:
            return
        plan = self._safe.plan_blind(stamp_of(t_s))
        if plan is not None:
            self._take(plan, state, t_s)

    def _take(self, plan: Plan, origin: VehicleState, begun_s: float) -> None:
        self._plan = plan
        self._track = PlannedTrack(plan.trajectory, origin, begun_s)

    def _controls(self, now_s: float, state: VehicleState) -> Controls:
        if self._track is None:  # before the first plan: neither pedal, wheels as they are
            return Controls(accel_mps2=0.0, steer_rad=state.steer_rad)
        config = self._stage.config
        return follow(self._track, state, now_s, config.controller, config.vehicle)

    def _step(self, seen: Captured) -> Step:
        state, route, plan, newest = seen.state, self._stage.route, self._plan, self._newest
        follows = self._heard.get(plan.decision_stamp_ns or 0) if plan else None
        command = seen.frame.command
        return Step(
            t_s=round(seen.t_s, 3),
            x_m=round(state.x_m, 3),
            y_m=round(state.y_m, 3),
            yaw_rad=round(state.yaw_rad, 4),
            speed_mps=round(state.speed_mps, 4),
            accel_mps2=round(state.accel_mps2, 3),
            lateral_mps2=round(state.lateral_mps2(self._stage.config.vehicle), 3),
            steer_rad=round(state.steer_rad, 4),
            along_m=round(route.at_m - route.begin_m, 2),
            offset_m=round(route.offset_m, 3),
            signal=self._stage.signal_at(seen.t_s),
            command="" if command is None else command.value,
            decision=newest.action.text if newest else "",
            decision_age_s=round(seen.t_s - time_of(newest.stamp_ns), 3) if newest else None,
            decision_ms=round(newest.inference_ms, 3) if newest else None,
            plan_mode=plan.mode.name if plan else "",
            plan_age_s=round(seen.t_s - time_of(plan.stamp_ns), 3) if plan else None,
            plan_ms=_finite(plan.inference_ms) if plan else None,
            plan_follows=follows.action.text if follows else "",
            plan_xy_m=_points(plan),
            notes=(*self._notes, *(plan.degraded if plan else ())),
            events=self._new_events(),
        )

    def _new_events(self) -> tuple[str, ...]:
        events = self._judge.events()
        new, self._told = events[self._told :], len(events)
        return tuple(new)

    def _result(self, end_s: float) -> Driven:
        ending = self._judge.ending
        assert ending is not None
        return Driven(
            ending=ending,
            end_s=round(end_s, 3),
            completion_frac=round(self._stage.route.completion_frac, 4),
            contacts=tuple(self._judge.contacts),
            red_run_s=tuple(self._judge.red_run_s),
            has_signal=self._stage.script.signal is not None,
            decisions=len(self._heard),
            frames_undecided=self._deciding.skipped,
            frames_unplanned=self._planning.skipped,
            steps=tuple(self._steps),
        )


def _finite(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def _points(plan: Plan | None) -> tuple[tuple[float, float], ...]:
    if plan is None:
        return ()
    return tuple((round(float(x), 3), round(float(y), 3)) for x, y in plan.trajectory.xy_m)
