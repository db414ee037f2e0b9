"""Counting drives, and how they felt."""

import pytest

from clkd_core.driving.loop import Driven
from clkd_core.driving.results.comfort import compute_comfort, felt_on
from clkd_core.driving.results.film import strip_lines
from clkd_core.driving.results.judge import Contact, Ending
from clkd_core.driving.results.record import Record
from clkd_core.driving.results.steps import Step
from clkd_core.driving.results.table import build_row, build_rows, markdown, text_lines


def step(speed: float, *, lateral: float = 0.0, **values: object) -> Step:
    known: dict[str, object] = {
        "t_s": 0.0, "x_m": 0.0, "y_m": 0.0, "yaw_rad": 0.0, "speed_mps": speed,
        "accel_mps2": 0.0, "lateral_mps2": lateral, "steer_rad": 0.0, "along_m": 0.0,
        "offset_m": 0.0, "signal": "", "command": "go straight", "decision": "",
        "decision_age_s": None, "decision_ms": None, "plan_mode": "", "plan_age_s": None,
        "plan_ms": None, "plan_follows": "", "plan_xy_m": (), "notes": (),
    }  # fmt: skip
    return Step(**{**known, **values})  # type: ignore[arg-type]


def record(scenario: str, case: str, ending: Ending, **values: object) -> Record:
    known: dict[str, object] = {
        "ending": ending, "end_s": 1.0, "completion_frac": 0.5, "contacts": (),
        "red_run_s": (), "has_signal": False, "decisions": 0, "frames_undecided": 0,
        "frames_unplanned": 0, "steps": (step(1.0),),
    }  # fmt: skip
    driven = Driven(**{**known, **values})  # type: ignore[arg-type]
    return Record(name="x", scenario=scenario, case_name=case, made_from={}, driven=driven)


def contact(how: str) -> Contact:
    return Contact(t_s=1.0, name="a", kind="car", how=how, speed_mps=3.0)


def test_comfort_is_the_size_of_what_is_felt() -> None:
    steps = [step(v, lateral=w) for v, w in ((5.0, -2.0), (4.8, 0.5), (4.3, 1.0), (4.3, 0.0))]
    felt = compute_comfort([felt_on(steps)])
    assert felt.accel_max_mps2 == pytest.approx(5.0)  # -2, -5, 0
    assert felt.jerk_max_mps3 == pytest.approx(50.0)  # -30, 50
    assert felt.lateral_max_mps2 == 2.0
    assert felt.accel_p95_mps2 == pytest.approx(4.7)


def test_a_drive_of_one_step_was_not_felt() -> None:
    felt = compute_comfort([felt_on([step(3.0)])])
    assert (felt.accel_max_mps2, felt.jerk_p95_mps3) == (0.0, 0.0)


def test_regular_and_corner_are_counted_apart_and_together() -> None:
    records = [
        record("green", "regular", Ending.COMPLETED, completion_frac=1.0, has_signal=True),
        record(
            "red_light", "regular", Ending.COMPLETED, has_signal=True, red_run_s=(3.0, 4.0),
            contacts=(contact("hit from behind"), contact("hit while standing")),
        ),
        record("fog", "fog", Ending.COLLISION, contacts=(contact("ran into"),)),
        record("fog", "fog", Ending.LEFT_ROUTE),
        record("fog", "fog", Ending.OUT_OF_TIME),
    ]  # fmt: skip
    rows = {row.scenario: row for row in build_rows(records)}
    assert list(rows) == ["green", "red_light", "fog", "regular", "corner", "all"]
    assert (rows["regular"].drives, rows["regular"].completed) == (2, 2)
    assert rows["regular"].completion_frac == 0.75
    assert (rows["regular"].red_lights_run, rows["regular"].with_light) == (1, 2)
    assert (rows["regular"].collisions, rows["regular"].hit) == (0, 2)
    corner = rows["corner"]
    assert (corner.collisions, corner.left_route, corner.out_of_time, corner.hit) == (1, 1, 1, 0)
    assert rows["all"].drives == 5
    assert len({len(line) for line in text_lines(list(rows.values()))}) == 1
    page = markdown({"student": list(rows.values())}, ["a note"])
    assert "| fog | 3 | 0 | 50 | 1 | 0 | 0/0 |" in page
    assert "- a note" in page


def test_no_drive_is_no_row() -> None:
    with pytest.raises(ValueError, match="fog: no drive"):
        build_row("fog", [])


def test_the_strip_says_what_was_decided_and_how_late() -> None:
    first = step(3.2, signal="red")
    assert [line for line, _ in strip_lines(first, "student: x")][1:] == [
        "decision: none",
        "plan: none yet | others by script",
    ]
    later = step(
        3.2, decision="STOP, STRAIGHT", decision_age_s=0.2, decision_ms=43.4,
        plan_mode="FOLLOWING", plan_follows="STOP, STRAIGHT", plan_age_s=0.1, plan_ms=21.0,
        events=("ran a red light",),
    )  # fmt: skip
    lines = [line for line, _ in strip_lines(later, "student: x")]
    assert lines[1] == "decision: STOP, STRAIGHT, took 43 ms, seen 0.2 s ago"
    assert lines[2] == "ran a red light"
