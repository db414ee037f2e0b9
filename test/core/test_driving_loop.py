"""Whole drives: late answers act late, and the same inputs give the same drive."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from fakes import FakeEngine, FakePlanner

from clkd_core.driving.config import DriveConfig
from clkd_core.driving.drivers import Driver, ExpertPlanner, load_driver
from clkd_core.driving.loop import Driven, drive
from clkd_core.driving.results.judge import Ending
from clkd_core.driving.stage.scenarios import SCENARIOS, plan_scenarios
from clkd_core.driving.stage.scene import Stage, time_of
from clkd_core.driving.timing.latencies import NO_LATENCIES, Latencies, LatencyStream
from clkd_core.errors import FrameError
from clkd_core.files import shipped_student

CONFIG = DriveConfig(width_px=64, height_px=36)


def stage_of(scenario: str, *, number: int = 0, config: DriveConfig = CONFIG) -> Stage:
    return Stage(plan_scenarios([scenario], seed=3, count=number + 1)[number], config)


@dataclass
class Fakes:
    """An engine and a planner that note what they were asked, and the driver made of them."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    planner: FakePlanner = field(default_factory=FakePlanner)

    @property
    def driver(self) -> Driver:
        return Driver(
            name="student",
            decider=self.engine,
            planner_on=lambda stage: self.planner,
            looks=True,
        )


def short(stage: Stage, fakes: Fakes, decision_ms: float, plan_ms: float) -> Driven:
    """A drive with the same latencies at every frame."""
    return drive(stage, fakes.driver, LatencyStream(latencies_of(decision_ms, plan_ms), 0))


def on_route(engine: FakeEngine) -> Driver:
    """Decisions of a fake, and plans along the route that follow none of them."""
    return Driver(name="student", decider=engine, planner_on=ExpertPlanner, looks=True)


def latencies_of(decision_ms: float, plan_ms: float) -> Latencies:
    return Latencies(decision_ms=(decision_ms,), plan_ms=(plan_ms,))


BRIEF = DriveConfig(width_px=64, height_px=36, route_s=2.0, slack_s=0.0)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_expert_completes_every_scenario(scenario: str, number: int) -> None:
    stage = stage_of(scenario, number=number)
    driver = load_driver("expert", shipped_student())
    driven = drive(stage, driver, LatencyStream(NO_LATENCIES, 0))
    assert driven.ending is Ending.COMPLETED, driven.contacts
    assert driven.completion_frac == 1.0
    assert (driven.contacts, driven.red_run_s) == ((), ())
    assert max(abs(step.offset_m) for step in driven.steps) < 1.0


def test_keeping_speed_does_not_pass_a_jaywalker() -> None:
    driver = load_driver("constant-velocity", shipped_student())
    driven = drive(stage_of("jaywalker"), driver, LatencyStream(NO_LATENCIES, 0))
    assert driven.ending is Ending.COLLISION
    assert driven.contacts[-1].kind == "pedestrian"


def test_a_late_decision_is_followed_late() -> None:
    fakes = Fakes()
    short(stage_of("free", config=BRIEF), fakes, decision_ms=250.0, plan_ms=0.0)
    asked = [
        (round(time_of(frame.stamp_ns), 1), decision and round(time_of(decision.stamp_ns), 1))
        for frame, decision in fakes.planner.asked
    ]
    assert asked[:8] == [
        (0.0, None), (0.1, None), (0.2, None), (0.3, 0.0),
        (0.4, 0.0), (0.5, 0.2), (0.6, 0.2), (0.7, 0.2),
    ]  # fmt: skip


def test_a_plan_in_the_making_does_not_know_decisions_that_come_meanwhile() -> None:
    fakes = Fakes()
    short(stage_of("free", config=BRIEF), fakes, decision_ms=50.0, plan_ms=80.0)
    asked = [
        (round(time_of(frame.stamp_ns), 1), decision and round(time_of(decision.stamp_ns), 1))
        for frame, decision in fakes.planner.asked
    ]
    assert asked[:3] == [(0.0, None), (0.1, 0.0), (0.2, 0.1)]


def test_a_busy_engine_is_shown_the_newest_frame_only() -> None:
    fakes = Fakes()
    driven = short(stage_of("free", config=BRIEF), fakes, decision_ms=250.0, plan_ms=0.0)
    seen = [round(time_of(frame.stamp_ns), 1) for frame in fakes.engine.frames]
    assert seen[:4] == [0.0, 0.2, 0.4, 0.7]
    assert driven.decisions == len(seen)
    assert driven.frames_undecided >= 8


def test_decisions_that_take_no_time_are_followed_at_once() -> None:
    fakes = Fakes()
    short(stage_of("free", config=BRIEF), fakes, decision_ms=0.0, plan_ms=0.0)
    assert all(d is not None and d.stamp_ns == f.stamp_ns for f, d in fakes.planner.asked)


def test_a_late_plan_acts_late() -> None:
    driven = short(stage_of("free", config=BRIEF), Fakes(), decision_ms=0.0, plan_ms=150.0)
    ages = [step.plan_age_s for step in driven.steps[:5]]
    assert ages[:2] == [None, None]
    assert ages[2:] == [0.2, 0.2, 0.3]
    assert driven.steps[2].plan_ms == 150.0
    assert driven.frames_unplanned > 0


def test_latency_changes_what_the_vehicle_does() -> None:
    late = drive(
        stage_of("red_light"),
        load_driver("expert", shipped_student()),
        LatencyStream(latencies_of(0.0, 480.0), 0),
    )
    prompt = drive(
        stage_of("red_light"),
        load_driver("expert", shipped_student()),
        LatencyStream(NO_LATENCIES, 0),
    )
    assert late.steps != prompt.steps


def test_without_decisions_the_vehicle_is_brought_to_a_stop() -> None:
    engine = FakeEngine()
    engine.errors.extend([FrameError("nothing to see")] * 200)
    driven = drive(stage_of("free"), on_route(engine), LatencyStream(latencies_of(10, 10), 0))
    modes = [step.plan_mode for step in driven.steps]
    assert modes[15] == "WITHOUT_DECISION"
    assert modes[25] == "STOPPING"
    assert driven.steps[-1].speed_mps < 0.1
    assert "no decision: nothing to see" in driven.steps[3].notes
    assert driven.ending is Ending.OUT_OF_TIME


def test_a_planner_that_falls_silent_leaves_the_vehicle_braking() -> None:
    latencies = Latencies(decision_ms=(5.0,) * 200, plan_ms=(5.0,) * 20 + (60_000.0,) * 180)
    driven = drive(stage_of("free"), on_route(FakeEngine()), LatencyStream(latencies, 0))
    assert driven.steps[-1].plan_mode == "STOPPING"
    assert driven.steps[-1].speed_mps < 0.1
    assert any("no usable frame" in note for note in driven.steps[-1].notes)


def test_the_same_seed_and_latencies_give_the_same_drive() -> None:
    rng = np.random.default_rng(0)
    latencies = Latencies(
        decision_ms=tuple(rng.uniform(20, 300, 50).tolist()),
        plan_ms=tuple(rng.uniform(5, 120, 50).tolist()),
    )
    drives = [
        drive(stage_of("green"), Fakes().driver, LatencyStream.drawn(latencies, 7))
        for _ in range(2)
    ]
    assert drives[0] == drives[1]


def test_scenes_follow_from_the_seed_alone() -> None:
    one, again = (plan_scenarios(["fog", "free"], seed=4, count=2) for _ in range(2))
    other = plan_scenarios(["fog", "free"], seed=5, count=2)
    assert one == again
    assert not {spec.seed for spec in one} & {spec.seed for spec in other}
    alone = plan_scenarios(["free"], seed=4, count=1)
    assert alone[0] == one[2]
