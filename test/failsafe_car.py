"""A car under the fail-safe planner, and what it does at given seconds of a drive."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from fakes import FakePlanner, jpeg_bytes, one_hot

from clkd_core.runtime.braking import STEP_TIMES_S, BrakingProfile
from clkd_core.runtime.failsafe import FailSafeConfig, FailSafePlanner
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    Decision,
    EgoState,
    Plan,
    SurroundFrame,
    Trajectory,
)

JPEG = jpeg_bytes()
START_S = 1000.0
"""Stamp of the second 0 of every drive here."""


def stamp(at_s: float) -> int:
    return round((START_S + at_s) * 1e9)


def frame_at(at_s: float, speed_mps: float | None = 10.0, image: bytes = JPEG) -> SurroundFrame:
    ns = stamp(at_s)
    ego = None if speed_mps is None else EgoState(stamp_ns=ns, speed_mps=speed_mps)
    images = dict.fromkeys(CAMERAS, CameraImage(stamp_ns=ns, encoded=image))
    return SurroundFrame(stamp_ns=ns, images=images, ego=ego)


def decision_at(at_s: float, *, stale: bool = False) -> Decision:
    action = META_ACTIONS[3]
    return Decision(
        stamp_ns=stamp(at_s),
        action=action,
        probabilities=one_hot(action),
        inference_ms=1.0,
        stale=stale,
    )


class LinePlanner(FakePlanner):
    """Plans the same points for every frame; the line of a plan without a decision is another."""

    def __init__(self, following: np.ndarray, alone: np.ndarray) -> None:
        super().__init__()
        self._xy_m = {True: following, False: alone}

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        xy_m = self._xy_m[decision is not None].astype(np.float32)
        return replace(super().plan(frame, decision), trajectory=Trajectory(xy_m=xy_m))


class HeldPlanner(FakePlanner):
    """Keeps a plan back until it is told to give it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_now, self.free = threading.Event(), threading.Event()

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        self.asked_now.set()
        assert self.free.wait(10.0), "the test forgot to free the planner"
        return super().plan(frame, decision)


class Car:
    """A fail-safe planner with a clock of its own, asked at seconds of a drive."""

    def __init__(self, planner: FakePlanner | None = None, **limits: float) -> None:
        self.now_s = 0.0
        self.config = FailSafeConfig(**{"stop_after_s": 3.0, **limits})
        self.planner = planner or FakePlanner()
        self.safe = FailSafePlanner(self.planner, self.config, clock_s=lambda: 5000.0 + self.now_s)

    def decide(self, *at_s: float, stale: bool = False) -> None:
        for second in at_s:
            self.safe.push_decision(decision_at(second, stale=stale))

    def see(
        self, at_s: float, speed_mps: float | None = 10.0, age_s: float = 0.0, image: bytes = JPEG
    ) -> Plan:
        """Plan from a frame taken at this second, ``age_s`` later."""
        self.now_s = at_s + age_s
        return self.safe.plan(frame_at(at_s, speed_mps, image), age_s=age_s)

    def blind(self, at_s: float) -> Plan | None:
        self.now_s = at_s
        return self.safe.plan_blind(stamp(at_s))

    def profile(self, speed_mps: float, acceleration_mps2: float = 0.0) -> BrakingProfile:
        return BrakingProfile(
            speed_mps,
            acceleration_mps2,
            deceleration_mps2=self.config.deceleration_mps2,
            jerk_mps3=self.config.jerk_mps3,
        )


def distances(profile: BrakingProfile, after_s: float = 0.0) -> list[float]:
    """Metres to each point of a trajectory that begins so long after the stop began."""
    begun = profile.at(after_s).distance_m
    return [profile.at(after_s + float(time)).distance_m - begun for time in STEP_TIMES_S]


def assert_straight(plan: Plan | None, metres: Sequence[float], atol: float = 1e-3) -> None:
    assert plan is not None
    np.testing.assert_allclose(plan.trajectory.xy_m[:, 0], metres, atol=atol)
    np.testing.assert_allclose(plan.trajectory.xy_m[:, 1], 0.0, atol=atol)


def circle(radius_m: float, distances_m: np.ndarray) -> np.ndarray:
    """Points on the circle that the vehicle is on, to its left, or right of it where negative."""
    angles = distances_m / radius_m
    return np.stack([radius_m * np.sin(angles), radius_m * (1 - np.cos(angles))], axis=1)


_STEPS_M = np.array([(1.5, 0.0)] * 2 + [(1.5 * math.sqrt(0.5),) * 2] * 4, np.float32)
CORNER = np.cumsum(_STEPS_M, axis=0)
"""3 m straight ahead, then 45 degrees to the left, at 3 m/s: where the bend is tells the place."""
