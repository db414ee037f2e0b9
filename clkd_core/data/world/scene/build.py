"""From a drive's spec to the drive: layout, motion, and then the causes timed to the motion."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.scene.actors import Actor, Signal
from clkd_core.data.world.scene.causes import (
    FRONT_M,
    LEAD_SLOT_M,
    Staging,
    build_crossers,
    build_leads,
    build_oncoming,
    build_roadworks,
    build_signal,
)
from clkd_core.data.world.scene.drive import Drive
from clkd_core.data.world.scene.layout import Layout, crossing_path, sample_layout
from clkd_core.data.world.scene.motion import (
    AFTER_S,
    Motion,
    ego_futures,
    pass_through,
    slow_down_and_resume,
    snap_go,
    snap_stop,
    speed_limit,
    stop_and_go,
)
from clkd_core.data.world.scene.path import Path2D
from clkd_core.data.world.scene.script import DriveSpec
from clkd_core.data.world.scene.traffic import build_traffic
from clkd_core.types import STEP_S, SpeedAction

SIGNAL_CAUSES = ("red_light", "red_light_lead", "green")
MID_BLOCK_CAUSES = ("free", "jaywalker", "animal", "blocked_lane", "slow_lead", "lead_stop")


@dataclass(frozen=True, kw_only=True)
class _Route:
    """The ego's way and the places on it, as arc lengths."""

    path: Path2D
    line_m: float
    turn: tuple[float, float] | None
    cruise_mps: float
    limit_mps: NDArray[np.float64]


def build_drive(spec: DriveSpec, config: WorldConfig) -> Drive:
    """Simulate one drive; the same spec and config give the same drive."""
    rng = np.random.default_rng(spec.seed)
    layout = build_layout(spec)
    route = _build_route(rng, spec, layout)
    total_s = config.drive_s + AFTER_S
    gap_m = float(rng.uniform(3.0, 4.5))
    queue = int(rng.integers(1, 3)) if spec.cause == "red_light_lead" else 1
    motion = _build_motion(rng, spec, route, queue * (gap_m + LEAD_SLOT_M), total_s)
    on_s, off_s = _cause_times(route.path, motion, config.drive_s)
    stage = Staging(
        rng=rng,
        layout=layout,
        path=route.path,
        motion=motion,
        total_s=total_s,
        manoeuvre=spec.manoeuvre,
        on_s=on_s,
        off_s=off_s,
    )
    signal, actors = _build_causes(stage, spec, gap_m, queue)
    actors += build_traffic(stage, actors, cause=spec.cause)
    return Drive(
        spec=spec,
        config=config,
        layout=layout,
        path=route.path,
        motion=motion,
        actors=tuple(actors),
        signal=signal,
        cruise_mps=route.cruise_mps,
    )


def build_layout(spec: DriveSpec) -> Layout:
    """The drive's road layout; cheap, so that splits can be compared without simulating."""
    rng = np.random.default_rng([spec.seed, 1])
    mid_block = spec.cause in MID_BLOCK_CAUSES
    crossing = not mid_block and not (spec.cause == "pedestrian" and rng.random() < 0.6)
    return sample_layout(
        rng,
        spec.manoeuvre,
        crossing=crossing or (spec.cause in ("lead_stop", "free") and rng.random() < 0.4),
        crosswalk=not mid_block and (crossing or rng.random() < 0.5),
        oncoming=spec.cause == "oncoming",
        lanes=2 if spec.cause == "slow_lead" else 1 if spec.cause == "jaywalker" else None,
    )


def _build_route(rng: np.random.Generator, spec: DriveSpec, layout: Layout) -> _Route:
    end = "ahead" if spec.manoeuvre == "straight" else spec.manoeuvre
    lane = "left" if spec.cause == "slow_lead" else spec.manoeuvre
    path, begin, turned = crossing_path(layout, "back", end, spec.manoeuvre)
    if lane != spec.manoeuvre:
        path = path.shifted(layout.lane_m * (layout.lanes - 1))
    before = path.s_m < begin + 0.1
    line = float(np.interp(-layout.stop_line_m, path.xy_m[before, 0], path.s_m[before]))
    if spec.cause == "blocked_lane":
        path = path.shifted(_around(path.s_m - line) * min(3.4, layout.lane_m))
    turn = None if spec.manoeuvre == "straight" else (begin, turned)
    slow_street = turn is not None and rng.random() < 0.5  # so that speed does not tell turn-now
    cruise = float(rng.uniform(4.8, 6.5) if slow_street else rng.uniform(7.5, 10.5))
    return _Route(
        path=path,
        line_m=line,
        turn=turn,
        cruise_mps=cruise,
        limit_mps=speed_limit(path, cruise, turn, _turn_speed(path, turn)),
    )


def _turn_speed(path: Path2D, turn: tuple[float, float] | None) -> float:
    """The speed at which the turn is taken: 3.8 m/s^2 sideways, 4.8 m/s at least."""
    if turn is None:
        return 0.0
    yaw = path.pose_at(np.array(turn))[:, 2]
    radius = (turn[1] - turn[0]) / max(0.1, abs(yaw[1] - yaw[0]))
    return float(np.clip(np.sqrt(3.8 * radius), 4.8, 6.5))


def _around(past_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a lane by which one gives way to something standing at 0."""
    out = np.clip((past_m + 9.2) / 7.0, 0.0, 1.0)
    back = np.clip((past_m - 16.0) / 24.0, 0.0, 1.0)
    share = out - back
    smooth: NDArray[np.float64] = share * share * (3.0 - 2.0 * share)
    return smooth


def _build_motion(
    rng: np.random.Generator, spec: DriveSpec, route: _Route, queue_m: float, total_s: float
) -> Motion:
    gain = float(rng.uniform(2.5, 3.2))
    if spec.cause in ("green", "free"):
        return _through(rng, spec, route, gain, total_s)
    if spec.cause == "slow_lead":
        fast, slow = route.cruise_mps, float(rng.uniform(3.2, route.cruise_mps - 4.2))
        brake_s = float(rng.uniform(1.8, 3.2))
        hold_s = (fast - slow) / 2.6 + rng.uniform(1.2, 3.2)
        return slow_down_and_resume(
            start_m=route.line_m - rng.uniform(45.0, 75.0),
            fast_mps=fast,
            slow_mps=slow,
            brake_s=brake_s,
            resume_s=brake_s + hold_s,
            total_s=total_s,
        )
    brake = float(rng.uniform(2.4, 3.3))
    approach = max(4.6, float(rng.uniform(0.75, 1.0)) * route.cruise_mps)
    stop_s, go_s = _stop_times(rng, spec, approach, brake, gain)
    return stop_and_go(
        route.path,
        route.limit_mps,
        stop_at_m=route.line_m - FRONT_M - _stand_off(rng, spec.cause, queue_m),
        approach_mps=approach,
        brake_mps2=brake,
        gain_mps2=gain,
        stop_s=stop_s,
        go_s=go_s,
        total_s=total_s,
    )


def _through(
    rng: np.random.Generator, spec: DriveSpec, route: _Route, gain: float, total_s: float
) -> Motion:
    """No stop: at cruising speed, sometimes gathering speed at the beginning."""
    slow = rng.random() < 0.3
    start = float(rng.uniform(2.5, 5.0)) if slow else route.cruise_mps
    begin = route.turn[0] if route.turn else route.line_m
    ahead = rng.uniform(2.0, 5.5 if spec.manoeuvre == "straight" else 7.5) * route.cruise_mps
    return pass_through(
        route.path,
        route.limit_mps,
        start_m=float(begin - ahead - (0.0 if slow else 4.0)),
        start_mps=start,
        gain_mps2=gain,
        total_s=total_s,
    )


def _stop_times(
    rng: np.random.Generator, spec: DriveSpec, approach: float, brake: float, gain: float
) -> tuple[float, float]:
    if spec.window == "stand":
        late_s = 2.0 if spec.cause == "blocked_lane" else 0.0  # the way around is not recorded
        return -8.0, snap_go(float(rng.uniform(2.0, 5.4)) + late_s, gain, rng)
    stop_s = snap_stop(float(rng.uniform(1.7, 2.9)) + approach / brake, brake, rng)
    return stop_s, snap_go(stop_s + float(rng.uniform(2.3, 4.2)), gain, rng)


def _stand_off(rng: np.random.Generator, cause: str, queue_m: float) -> float:
    """From the stop line back to where the ego's front comes to rest [m]."""
    if cause in ("red_light_lead", "lead_stop"):
        return queue_m + 0.5 + (0.0 if cause == "red_light_lead" else float(rng.uniform(0, 25)))
    if cause in ("jaywalker", "animal"):
        return float(rng.uniform(1.0, 2.2))
    if cause == "blocked_lane":
        return float(rng.uniform(5.2, 6.0))
    return float(rng.uniform(0.2, 0.9))


def _cause_times(path: Path2D, motion: Motion, drive_s: float) -> tuple[float, float]:
    """When the cause must begin and end to be seen, from the labels (see causes.py)."""
    times = STEP_S * np.arange(round(drive_s / STEP_S) + 4)
    futures = ego_futures(path, motion, times)
    speed = [meta_action_from_future(lidar_from_ego(f)).speed for f in futures]
    braking = [k for k, a in enumerate(speed) if a in (SpeedAction.DECELERATE, SpeedAction.STOP)]
    on = times[braking[0]] - 0.25 if braking and braking[0] > 0 else -30.0
    after = motion.stop_s if motion.stop_s is not None else on
    free = [
        k
        for k, a in enumerate(speed)
        if times[k] > max(after, on) + 0.01
        and (a != SpeedAction.STOP if motion.stop_s is not None else a == SpeedAction.ACCELERATE)
    ]
    off = times[free[0]] - 0.25 if free else (motion.go_s or drive_s) - 1.7
    return float(on), float(off)


def _build_causes(
    stage: Staging, spec: DriveSpec, gap_m: float, queue: int
) -> tuple[Signal | None, list[Actor]]:
    layout = stage.layout
    signal = None
    if spec.cause in SIGNAL_CAUSES:
        follows = spec.cause.startswith("red_light")
        signal = build_signal(stage, follows_cause=follows, hidden=spec.case_name == "hidden_sign")
    if spec.cause in ("red_light_lead", "lead_stop", "slow_lead"):
        return signal, build_leads(stage, gap_m, queue, pulls_over=spec.cause == "slow_lead")
    if spec.cause in ("pedestrian", "jaywalker", "animal"):
        kind = "animal" if spec.cause == "animal" else "pedestrian"
        at = layout.box_m + 2.3 if layout.crosswalk else layout.stop_line_m - 2.3
        return signal, build_crossers(stage, kind, "back", at)
    if spec.cause == "side_pedestrian":
        return signal, build_crossers(stage, "pedestrian", stage.manoeuvre, layout.box_m + 2.3)
    if spec.cause == "oncoming":
        return signal, build_oncoming(stage)
    if spec.cause == "blocked_lane":
        return signal, build_roadworks(stage)
    return signal, []
