"""The table of frames: what goes in comes out, and damage is named."""

import csv
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.errors import DataError, FrameError
from clkd_core.metrics.frames import (
    COLUMNS,
    FrameRow,
    Outcome,
    compute_outcome,
    frames_from_text,
    read_frames,
    text_from_frames,
    write_frames,
)
from clkd_core.types import META_ACTIONS, PlanMode, RouteCommand, Trajectory

finite = st.floats(-1e3, 1e3, width=32)
latency = st.floats(0, 1e4) | st.just(math.nan)
trajectory = st.none() | st.lists(finite, min_size=12, max_size=12).map(
    lambda values: Trajectory(xy_m=np.array(values, np.float32).reshape(6, 2))
)
steps = st.none() | st.lists(st.booleans(), min_size=6, max_size=6).map(tuple)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
frame_rows = st.builds(
    FrameRow,
    scene=text,
    case_name=text,
    reason=text,
    stamp_ns=st.integers(0, 2**63 - 1),
    label=st.none() | st.sampled_from(META_ACTIONS),
    answer=st.none() | st.sampled_from(META_ACTIONS),
    outcome=st.sampled_from(Outcome),
    stale=st.booleans(),
    late=st.booleans(),
    degraded=st.booleans(),
    probabilities=st.none() | st.lists(st.floats(0, 1), min_size=20, max_size=20).map(tuple),
    inference_ms=latency,
    node_response_ms=latency,
    response_ms=latency,
    speed_mps=st.floats(-50, 50),
    yaw_rate_radps=st.floats(-2, 2),
    command=st.none() | st.sampled_from(RouteCommand),
    plan=trajectory,
    truth=trajectory,
    plan_inference_ms=latency,
    plan_with_decision=st.just(False),
    plan_mode=st.none()
    | st.sampled_from(PlanMode).filter(lambda mode: mode != PlanMode.FOLLOWING),
    plan_collisions=steps,
    steady_collisions=steps,
    true_collisions=steps,
)


def assert_same(left: FrameRow, right: FrameRow) -> None:
    for field in fields(FrameRow):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, Trajectory):
            np.testing.assert_array_equal(a.xy_m, b.xy_m)
        elif field.name == "probabilities" and a is not None:
            assert b == pytest.approx(a, rel=1e-5)
        else:
            assert a == b or (a != a and b != b), field.name


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(frame_rows, max_size=4))
def test_rows_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[FrameRow]
) -> None:
    path = tmp_path_factory.mktemp("frames") / "frames.csv"
    write_frames(path, rows)
    back = read_frames(path)
    assert len(back) == len(rows)
    for left, right in zip(rows, back, strict=True):
        assert_same(left, right)


def test_distances_are_written_for_spreadsheets(tmp_path: Path) -> None:
    plan = Trajectory(xy_m=np.zeros((6, 2), np.float32))
    truth = Trajectory(xy_m=np.full((6, 2), (3.0, -4.0), np.float32))
    write_frames(
        tmp_path / "f.csv",
        [FrameRow(scene="s", case_name="", stamp_ns=1, plan=plan, truth=truth)],
    )
    with (tmp_path / "f.csv").open(newline="") as file:
        cells = next(csv.DictReader(file))
    assert [float(cells[f"d{step}_m"]) for step in range(1, 7)] == [5.0] * 6


@pytest.mark.parametrize(
    ("answered", "stale", "response_ms", "inference_ms", "outcome"),
    [
        (False, False, math.nan, math.nan, Outcome.DROPPED),
        (True, False, 80.0, 10.0, Outcome.ANSWERED),
        (True, False, 80.1, 10.0, Outcome.LATE),
        (True, True, 10.0, 10.0, Outcome.LATE),
        (True, False, math.nan, 81.0, Outcome.LATE),
        (True, False, math.nan, 79.0, Outcome.ANSWERED),
        (True, False, math.nan, math.nan, Outcome.ANSWERED),
    ],
)
def test_outcome_follows_the_deadline_and_staleness(
    answered: bool, stale: bool, response_ms: float, inference_ms: float, outcome: Outcome
) -> None:
    got = compute_outcome(
        answered=answered, stale=stale, response_ms=response_ms, inference_ms=inference_ms
    )
    assert got is outcome


def test_an_answer_that_was_flagged_late_is_late_whatever_the_times_say() -> None:
    got = compute_outcome(answered=True, stale=False, response_ms=1.0, inference_ms=1.0, late=True)
    assert got is Outcome.LATE


def test_a_stale_answer_is_never_correct() -> None:
    row = FrameRow(
        scene="s", case_name="regular", stamp_ns=1, label=META_ACTIONS[3], answer=META_ACTIONS[3]
    )
    assert row.correct
    stale = FrameRow(**{**row.__dict__, "stale": True})
    assert not stale.correct


def test_an_unlabelled_frame_is_neither_regular_nor_corner() -> None:
    assert FrameRow(scene="s", case_name="", stamp_ns=1).corner is None
    assert FrameRow(scene="s", case_name="regular", stamp_ns=1).corner is False
    assert FrameRow(scene="s", case_name="fog", stamp_ns=1).corner is True


def test_a_negative_latency_is_refused_by_name() -> None:
    with pytest.raises(FrameError, match=r"response_ms of frame 7 is -1\.0"):
        FrameRow(scene="s", case_name="", stamp_ns=7, response_ms=-1.0)


def damaged(tmp_path: Path, **cells: str) -> Path:
    path = tmp_path / "frames.csv"
    write_frames(path, [FrameRow(scene="s", case_name="regular", stamp_ns=1)])
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(row | cells)
    return path


@pytest.mark.parametrize(
    "cells",
    [
        {"stamp_ns": "soon"},
        {"label": "FLY, UP"},
        {"stale": "maybe"},
        {"outcome": "lost"},
        {"probability": "0.5 0.5"},
        {"plan_xy_m": "1 2;3 4"},
        {"plan_xy_m": "nan nan;" * 5 + "0 0"},
        {"inference_ms": "-3"},
        {"command": "go home"},
        {"plan_collisions": "00011"},
        {"steady_collisions": "00x110"},
        {"plan_mode": "flying"},
    ],
)
def test_a_damaged_cell_is_named_with_its_line(tmp_path: Path, cells: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"frames\.csv:2"):
        read_frames(damaged(tmp_path, **cells))


def test_a_truncated_table_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match="expected 32 cells"):
        read_frames(path)


PLAN_CELL = {"plan_xy_m": "1 0;" * 5 + "1 0"}


@pytest.mark.parametrize("follows", ["0", "1"])
def test_mode_of_a_plan_stands_in_the_table_or_follows_from_an_older_one(
    tmp_path: Path, follows: str
) -> None:
    path = damaged(tmp_path, **PLAN_CELL, plan_with_decision=follows)
    (back,) = read_frames(path)
    assert back.plan_mode is (PlanMode.WITHOUT_DECISION, PlanMode.FOLLOWING)[int(follows)]
    (stopping,) = read_frames(damaged(tmp_path, **PLAN_CELL, plan_mode="stopping"))
    assert stopping.plan_mode is PlanMode.STOPPING
    assert "stopping" in text_from_frames([stopping])
    assert FrameRow(scene="s", case_name="", stamp_ns=1).plan_mode is None


def test_mode_that_contradicts_the_decision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plan_mode STOPPING and plan_with_decision True"):
        read_frames(damaged(tmp_path, **PLAN_CELL, plan_mode="stopping", plan_with_decision="1"))


def test_a_table_written_before_collisions_were_counted_is_still_read(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[:-5], extrasaction="ignore")
        writer.writeheader()
        writer.writerow(row)
    (back,) = read_frames(path)
    assert back.plan_collisions is None and back.steady_collisions is None
    assert back.plan_mode is None and not back.late


def test_text_of_a_table_comes_back_and_a_damaged_one_is_named() -> None:
    row = FrameRow(scene="s\r\nt", case_name="", stamp_ns=1, plan_collisions=(True,) * 6)
    (back,) = frames_from_text(text_from_frames([row]), "task 7")
    assert_same(back, row)
    with pytest.raises(DataError, match="task 7: no column"):
        frames_from_text("", "task 7")


def test_unanswered_keeps_what_was_known_and_drops_what_was_said() -> None:
    row = FrameRow(
        scene="s", case_name="fog", stamp_ns=3, label=META_ACTIONS[3], answer=META_ACTIONS[3],
        outcome=Outcome.ANSWERED, speed_mps=2.0, command=RouteCommand.LEFT, inference_ms=5.0,
    )  # fmt: skip
    bare = row.unanswered
    assert (bare.label, bare.case_name, bare.speed_mps) == (row.label, "fog", 2.0)
    assert (bare.command, bare.stamp_ns) == (RouteCommand.LEFT, 3)
    assert bare.answer is None and bare.outcome is Outcome.DROPPED
    assert math.isnan(bare.inference_ms)


def test_another_table_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv"):
        read_frames(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column answer"):
        read_frames(tmp_path / "other.csv")


def test_line_breaks_in_a_reason_survive(tmp_path: Path) -> None:
    row = FrameRow(scene='a,"b"', case_name="", stamp_ns=1, reason="one\rtwo\nthree\r\n")
    write_frames(tmp_path / "f.csv", [row])
    assert_same(read_frames(tmp_path / "f.csv")[0], row)
