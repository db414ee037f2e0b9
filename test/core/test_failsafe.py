"""What the planner does when decisions stop coming, and what it says of old frames."""

import math
from dataclasses import replace

import numpy as np
import pytest
from failsafe_car import Car, decision_at, frame_at, stamp
from fakes import FakePlanner

from clkd_core.errors import ConfigError, FrameError
from clkd_core.runtime.failsafe import FailSafeConfig, FailSafePlanner
from clkd_core.types import Plan, PlanMode, Trajectory

FOLLOWING, WITHOUT_DECISION, STOPPING = PlanMode

DRIVES: dict[str, list[tuple[float, float | None, PlanMode, str]]] = {
    "decisions come, stop coming, and come again": [
        (0.0, None, WITHOUT_DECISION, "no decision yet"),
        (0.5, 0.0, FOLLOWING, ""),
        (1.0, None, FOLLOWING, ""),
        (1.1, None, WITHOUT_DECISION, "newest decision is 1.1 s old, limit 1 s"),
        (2.5, None, WITHOUT_DECISION, "newest decision is 2.5 s old"),
        (4.0, None, WITHOUT_DECISION, "newest decision is 4.0 s old"),
        (4.1, None, STOPPING, "stopping: no fresh decision for 3.1 s, limit 3 s"),
        (4.2, None, STOPPING, "newest decision is 4.2 s old, limit 1 s; stopping"),
        (4.3, 4.2, FOLLOWING, ""),
        (5.3, None, WITHOUT_DECISION, "newest decision is 1.1 s old"),
        (7.3, None, WITHOUT_DECISION, "newest decision is 3.1 s old"),
        (7.4, None, STOPPING, "no fresh decision for 3.1 s"),
    ],
    "there never is a decision": [
        (10.0, None, WITHOUT_DECISION, "no decision yet"),
        (13.0, None, WITHOUT_DECISION, "no decision yet"),
        (13.1, None, STOPPING, "no decision yet; stopping: no fresh decision for 3.1 s"),
        (40.0, None, STOPPING, "no fresh decision for 30.0 s"),
    ],
    "decisions come too late to be fresh": [
        (0.0, 0.0, FOLLOWING, ""),
        (1.5, 0.4, WITHOUT_DECISION, "1.1 s old"),
        (3.0, 1.9, WITHOUT_DECISION, "1.1 s old"),
        (3.1, 2.0, STOPPING, "no fresh decision for 3.1 s"),
        (3.2, 2.2, FOLLOWING, ""),
    ],
    "a decision from later than the frame waits for its frame": [
        (0.0, 0.3, WITHOUT_DECISION, "no decision yet"),
        (0.2, None, WITHOUT_DECISION, "no decision yet"),
        (0.3, None, FOLLOWING, ""),
    ],
    "the bag loops": [
        (20.0, 20.0, FOLLOWING, ""),
        (23.5, None, STOPPING, "no fresh decision for 3.5 s"),
        (0.0, None, STOPPING, "no fresh decision for 3.5 s"),
        (3.0, None, STOPPING, "no fresh decision for 6.5 s"),
        (3.2, 3.0, FOLLOWING, ""),
        (0.1, 0.1, FOLLOWING, ""),
        (0.0, None, WITHOUT_DECISION, "no decision yet"),
        (0.2, None, FOLLOWING, ""),
    ],
}


@pytest.mark.parametrize("drive", DRIVES.values(), ids=DRIVES.keys())
def test_mode_follows_from_the_stamps_of_frames_and_decisions(
    drive: list[tuple[float, float | None, PlanMode, str]],
) -> None:
    car = Car()
    for at_s, decided_s, mode, reason in drive:
        if decided_s is not None:
            car.decide(decided_s)
        plan = car.see(at_s)
        assert (plan.stamp_ns, plan.mode) == (stamp(at_s), mode), at_s
        assert (plan.decision_stamp_ns is not None) == (mode is FOLLOWING)
        said = "; ".join(plan.degraded)
        assert reason in said and (reason != "" or "decision" not in said), at_s


def test_model_is_given_the_decision_only_while_it_is_fresh() -> None:
    car = Car()
    car.decide(0.0)
    for at_s in (0.0, 0.9, 1.1, 4.0, 5.0):
        car.see(at_s)
    assert [decision is not None for _, decision in car.planner.asked] == [True] * 2 + [False] * 3


def test_repeated_decision_ages_like_the_one_it_repeats() -> None:
    car = Car()
    car.decide(0.0)
    car.see(0.0)
    for tenth in range(1, 42):
        car.decide(tenth / 10, stale=True)
        plan = car.see(tenth / 10)
        assert plan.decision_stamp_ns == (stamp(0.0) if tenth <= 10 else None)
    assert plan.mode is PlanMode.STOPPING
    assert "newest decision is 4.1 s old, limit 1 s" in plan.degraded


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [
        (0.5, None),
        (0.51, "frame is 0.5 s old, limit 0.5 s"),
        (0.8, "frame is 0.8 s old, limit 0.5 s"),
        (3e8, "frame is 300000000.0 s old, limit 0.5 s"),
        (math.nan, "frame is nan s old, limit 0.5 s"),
        (-5.0, None),
    ],
)
def test_old_frame_is_planned_and_flagged(age_s: float, reason: str | None) -> None:
    safe = FailSafePlanner(FakePlanner(), FailSafeConfig(), clock_s=lambda: 7.0)
    safe.push_decision(decision_at(0.0))
    plan = safe.plan(frame_at(0.0), age_s=age_s)
    assert plan.mode is PlanMode.FOLLOWING
    assert [text for text in plan.degraded if "old" in text] == ([reason] if reason else [])


def test_frame_that_grows_old_while_it_is_planned_is_flagged() -> None:
    times = iter([7.0, 7.4])
    safe = FailSafePlanner(FakePlanner(), FailSafeConfig(), clock_s=lambda: next(times))
    assert "frame is 0.7 s old, limit 0.5 s" in safe.plan(frame_at(0.0), age_s=0.3).degraded


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"stop_after_s": 1.0}, r"stop_after_s is 1.0, expected more than decision_max_age_s"),
        ({"decision_max_age_s": 5.0}, r"stop_after_s is 2.0, expected more than .* \(5.0\)"),
        ({"decision_max_age_s": -0.1}, r"decision_max_age_s is -0.1, expected 0.0 to 60.0"),
        ({"stop_after_s": math.nan}, r"stop_after_s is nan, expected 0.1 to 600.0"),
        ({"frame_max_age_s": 0.0}, r"frame_max_age_s is 0.0"),
        ({"deceleration_mps2": 9.0}, r"deceleration_mps2 is 9.0, expected 0.1 to 3.5"),
        ({"jerk_mps3": 0.0, "deceleration_mps2": 0.0}, r"deceleration_mps2 is .*; jerk_mps3 is"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(
    limits: dict[str, float], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        FailSafeConfig(**limits)


def test_warm_up_is_the_planners() -> None:
    car = Car()
    car.safe.warm_up()
    assert car.planner.warm


def test_plan_has_the_mode_of_its_decision_and_refuses_another() -> None:
    line = Trajectory(xy_m=np.zeros((6, 2), np.float32))
    follows = Plan(stamp_ns=1, trajectory=line, inference_ms=1.0, decision_stamp_ns=0)
    alone = Plan(stamp_ns=1, trajectory=line, inference_ms=1.0)
    assert (follows.mode, alone.mode) == (FOLLOWING, WITHOUT_DECISION)
    assert replace(alone, mode=STOPPING).mode is STOPPING
    with pytest.raises(FrameError, match="STOPPING and its decision stamp is 0, expected a stamp"):
        replace(follows, mode=STOPPING)
    with pytest.raises(FrameError, match="FOLLOWING and its decision stamp is absent"):
        replace(alone, mode=FOLLOWING)
