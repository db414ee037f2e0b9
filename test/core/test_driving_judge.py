"""The judge on made-up ways through real scenes."""

import math
from dataclasses import replace

import pytest

from clkd_core.driving.car.vehicle import VehicleState
from clkd_core.driving.config import DriveConfig
from clkd_core.driving.results.judge import Ending, Judge
from clkd_core.driving.stage.scenarios import SCENARIOS, plan_scenarios
from clkd_core.driving.stage.scene import Stage

CONFIG = DriveConfig(width_px=64, height_px=36)


def stage_of(scenario: str, *, number: int = 0, seed: int = 3) -> Stage:
    return Stage(plan_scenarios([scenario], seed=seed, count=number + 1)[number], CONFIG)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_script_itself_is_without_fault(scenario: str) -> None:
    stage = stage_of(scenario, seed=5)
    judge = Judge(stage)
    for step in range(round(CONFIG.route_s * 20) + 1):
        judge.look(step / 20, stage.scripted_state(step / 20))
        if judge.ending is not None:
            break
    assert judge.ending is Ending.COMPLETED
    assert (judge.contacts, judge.red_run_s) == ([], [])
    assert stage.route.completion_frac == 1.0


def red_stage() -> tuple[Stage, float]:
    """A scene with a red light ahead, and when it has been red for a second."""
    stage = stage_of("red_light")
    assert stage.script.signal is not None
    red_s = next(t for t, state in stage.script.signal.changes if state == "red")
    return stage, red_s + 1.0


def cross_the_line(stage: Stage, t_s: float) -> Judge:
    judge = Judge(stage)
    begin = stage.scripted_state(0.0)
    stage.route.at_m = stage.script.motion.at(t_s)[0]
    y = -stage.script.layout.lane_offset_m(stage.script.spec.manoeuvre)
    for front_m in (-0.3, 0.3):
        x = -stage.script.layout.stop_line_m + front_m - 3.482
        judge.look(t_s, replace(begin, x_m=x, y_m=y, yaw_rad=0.0, speed_mps=5.0))
    return judge


def test_crossing_the_stop_line_on_red_is_seen() -> None:
    stage, red_s = red_stage()
    judge = cross_the_line(stage, red_s)
    assert judge.red_run_s == [red_s]
    assert "ran a red light" in judge.events()


def test_crossing_it_on_green_is_none() -> None:
    stage, _ = red_stage()
    assert stage.signal_at(12.0) == "green"
    assert cross_the_line(stage, 12.0).red_run_s == []


def against_lead(speed: float, *, ahead: bool) -> Judge:
    """The vehicle with its box in that of the moving vehicle that it follows."""
    stage = stage_of("slow_lead")
    judge, lead = Judge(stage), stage.script.actors[0]
    assert lead.role == "lead"
    x, y, yaw = lead.pose_at(1.0).tolist()
    gap = -(lead.size_m[0] / 2 + 3.3) if ahead else lead.size_m[0] / 2 + 0.4
    place = VehicleState(
        x_m=x + gap * math.cos(yaw), y_m=y + gap * math.sin(yaw), yaw_rad=yaw, speed_mps=speed
    )
    stage.route.at_m = stage.script.motion.at(1.0)[0]
    judge.look(1.0, place)
    judge.look(1.05, place)
    return judge


def test_running_into_somebody_ends_the_drive() -> None:
    judge = against_lead(9.0, ahead=True)
    assert judge.ending is Ending.COLLISION
    assert [(c.how, c.name) for c in judge.contacts] == [("ran into", "lead-0")]


def test_whoever_comes_from_behind_is_to_blame_and_counts_once() -> None:
    judge = against_lead(9.0, ahead=False)
    assert judge.ending is None
    assert [(c.how, c.at_fault) for c in judge.contacts] == [("hit from behind", False)]


def test_a_standing_vehicle_is_not_to_blame() -> None:
    judge = against_lead(0.0, ahead=True)
    assert judge.ending is None
    assert [c.how for c in judge.contacts] == ["hit while standing"]


def test_leaving_the_route_ends_the_drive() -> None:
    stage = stage_of("free")
    begin = stage.begin()
    judge = Judge(stage)
    judge.look(0.0, replace(begin, y_m=begin.y_m + 40.0))
    assert judge.ending is Ending.LEFT_ROUTE


def test_a_vehicle_that_never_goes_runs_out_of_time_with_nothing_done() -> None:
    stage = stage_of("red_light_lead", number=1)
    judge, begin = Judge(stage), replace(stage.begin(), speed_mps=0.0)
    judge.look(CONFIG.limit_s, begin)
    assert judge.ending is Ending.OUT_OF_TIME
    assert stage.route.completion_frac == 0.0
