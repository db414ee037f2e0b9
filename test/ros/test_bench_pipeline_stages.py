"""The arithmetic of the pipeline's benchmark, on made-up rows and samples; stages offline."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_engines import a_frame, write_student

from clkd_core.metrics.frames import FrameRow
from clkd_core.types import META_ACTIONS, Trajectory
from clkd_ros.bench_pipeline.offline import measure_offline, summarize
from clkd_ros.bench_pipeline.show import format_table, list_goals
from clkd_ros.bench_pipeline.stages import (
    STAGES,
    Figures,
    PlayedSets,
    Sample,
    Sighting,
    compute_costs,
    compute_figures,
    compute_others,
    compute_plan_responses,
    compute_spread,
    fresh_decisions,
    split_response,
)

MS = 1_000_000
SETS = PlayedSets(
    stamps_ns=[(1000 + 100 * number) * MS for number in range(30)],
    offsets_s=[0.05 + 0.1 * number for number in range(30)],
)
WINDOW = range(10, 25)
PLAN = Trajectory(xy_m=np.zeros((6, 2), np.float32))


def a_row(number: int, **changes: Any) -> FrameRow:
    whole: dict[str, Any] = {
        "scene": "",
        "case_name": "",
        "stamp_ns": SETS.stamps_ns[number] + 12 * MS,  # the newest of the set's images
        "answer": META_ACTIONS[0],
        "response_ms": 30.0 + number,
        "node_response_ms": 25.0 + number,
        "inference_ms": 20.0,
        "plan": PLAN,
        "plan_inference_ms": 15.0,
    }
    return FrameRow(**{**whole, **changes})


def a_sample(number: int, *, cpu_s: float = 0.0, wall_s: float = 0.0) -> Sample:
    return Sample(
        number=number,
        cpu_s={"player": cpu_s / 10, "vlm": cpu_s},
        resident_bytes={"player": 1 << 20, "vlm": 3 << 20},
        machine_s=100.0 + 2 * cpu_s,
        wall_s=wall_s,
    )


def figures_of(rows: Sequence[FrameRow], sightings: Sequence[Sighting] = ()) -> Figures:
    return compute_figures(
        name="composed",
        sets=SETS,
        window=WINDOW,
        rows=rows,
        sightings=sightings,
        samples=(a_sample(10), a_sample(24, cpu_s=0.42, wall_s=1.4)),
        model_processes=["vlm"],
        dropped={"/vlm": {"dropped: replaced by a newer frame": 2}, "/planner": {}},
        player="",
        cores=2,
    )


def test_stages_of_a_frame_sum_to_its_response() -> None:
    found = split_response(a_row(12))
    assert found == {"transport": 5.0, "waiting": 17.0, "inference": 20.0}
    assert tuple(found) == STAGES and sum(found.values()) == a_row(12).response_ms


def test_shares_of_the_stages_sum_to_the_whole() -> None:
    found = figures_of([a_row(number, inference_ms=20.0 + number / 7) for number in WINDOW])
    means = [found.stages[stage].mean_ms for stage in STAGES]
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert sum(means) == pytest.approx(found.response.mean_ms)
    assert found.shares["transport"] == pytest.approx(5.0 / found.response.mean_ms)


def test_percentiles_are_times_that_were_measured() -> None:
    times = np.random.default_rng(0).permutation(100) + 1.0
    found = compute_spread([*times, math.nan])
    assert (found.p50_ms, found.p95_ms, found.p99_ms) == (51.0, 96.0, 100.0)
    assert (found.count, found.mean_ms) == (100, 50.5)
    never = compute_spread([1.0, math.inf])
    assert (never.p50_ms, never.mean_ms, never.count) == (math.inf, 1.0, 1)
    nothing = compute_spread([])
    assert nothing.count == 0 and math.isnan(nothing.p50_ms) and math.isnan(nothing.mean_ms)


def test_sets_without_a_decision_of_their_own_took_for_ever() -> None:
    rows = [a_row(number) for number in WINDOW]
    rows[3] = replace(rows[3], answer=None)  # only planned
    rows[4] = replace(rows[4], stale=True)
    rows[5] = replace(rows[5], response_ms=math.nan)  # its images never reached the evaluator
    del rows[6]
    found = figures_of(rows)
    assert (found.frames, found.decided, found.repeated, found.planned) == (15, 11, 1, 14)
    assert found.over_80_ms_frac == pytest.approx(4 / 15)
    assert found.response.p99_ms == math.inf and found.response.count == 11
    assert found.node_response.count == 11 and math.isfinite(found.node_response.p99_ms)


def test_decisions_after_80_ms_are_counted_and_those_at_80_ms_are_not() -> None:
    rows = [a_row(number, response_ms=80.0) for number in WINDOW]
    assert figures_of(rows).over_80_ms_frac == 0.0
    rows[0] = a_row(WINDOW.start, response_ms=80.001)
    assert figures_of(rows).over_80_ms_frac == pytest.approx(1 / 15)


def test_warm_up_and_the_rest_of_the_bag_do_not_count() -> None:
    outside = [a_row(number, response_ms=500.0) for number in (0, 9, 25, 29)]
    decisions, repeated = fresh_decisions([*outside, a_row(10)], SETS, WINDOW)
    assert (list(decisions), repeated) == ([10], 0)
    assert figures_of([*outside, a_row(10)]).left_out == 10


def test_answers_are_matched_to_the_nearest_set_or_to_none() -> None:
    assert SETS.number_of(SETS.stamps_ns[7] + 40 * MS) == 7
    assert SETS.number_of(SETS.stamps_ns[7] - 40 * MS) == 7
    assert SETS.number_of(SETS.stamps_ns[-1] + 61 * MS) is None
    assert SETS.number_of(0) is None
    assert PlayedSets(stamps_ns=[], offsets_s=[]).number_of(5) is None
    jumps = PlayedSets(stamps_ns=[9000 * MS, 100 * MS, 200 * MS], offsets_s=[0.0, 0.1, 0.2])
    assert [jumps.number_of(stamp * MS) for stamp in (9001, 101, 201)] == [0, 1, 2]


def test_sets_are_chosen_by_when_they_are_played() -> None:
    assert SETS.between(1.0, 2.0) == range(10, 20)
    assert SETS.between(0.05, 0.05) == range(0, 0)
    assert len(SETS.between(7.0, 5.0)) == 0
    assert SETS.hz == pytest.approx(10.0)
    assert math.isnan(PlayedSets(stamps_ns=[1], offsets_s=[0.0]).hz)


def test_plan_is_timed_by_how_much_later_than_the_decision_it_was_seen() -> None:
    decisions = {number: a_row(number) for number in (10, 11)}
    stamps = SETS.stamps_ns
    sightings = [
        Sighting(kind="plan", stamp_ns=stamps[10], seen_ns=5 * MS),
        Sighting(kind="decision", stamp_ns=stamps[10], seen_ns=9 * MS),
        Sighting(kind="plan", stamp_ns=stamps[10], seen_ns=99 * MS),  # the first one counts
        Sighting(kind="decision", stamp_ns=stamps[11], seen_ns=9 * MS),
        Sighting(kind="plan", stamp_ns=stamps[12], seen_ns=9 * MS),
        Sighting(kind="plan", stamp_ns=3, seen_ns=9 * MS),
    ]
    found = compute_plan_responses(decisions, sightings, SETS, range(10, 13))
    assert found[0] == pytest.approx(40.0 - 4.0)
    assert found[1] == math.inf and math.isnan(found[2])


def test_processor_time_is_shared_out_over_the_sets_between_two_samples() -> None:
    player, vlm = compute_costs(a_sample(10), a_sample(24, cpu_s=0.42))
    assert (player.name, vlm.name) == ("player", "vlm")
    assert vlm.cpu_ms_per_frame == pytest.approx(30.0)
    assert player.cpu_ms_per_frame == pytest.approx(3.0)
    assert (player.resident_mib, vlm.resident_mib) == (1.0, 3.0)
    found = figures_of([a_row(number) for number in WINDOW])
    assert found.nodes_cpu_ms_per_frame == pytest.approx(30.0)  # the player is no node


def test_what_others_took_is_what_is_left_of_the_machine() -> None:
    begin, end = a_sample(10), a_sample(24, cpu_s=0.5, wall_s=1.0)
    assert compute_others(begin, end, cores=2) == pytest.approx((1.0 - 0.55) / 2)
    assert compute_others(begin, replace(end, machine_s=100.0), cores=2) == 0.0


def test_offline_shares_are_of_the_stages_and_the_whole_decision_is_beside_them() -> None:
    times = {"decoding": [1.0, 3.0], "vision": [4.0, 4.0], "decision": [6.0, 8.0]}
    found = summarize(times, device="cpu", backend="some", threads=1)
    assert (found.frames, found.decision.p50_ms) == (2, 8.0)
    assert found.shares == pytest.approx({"decoding": 1 / 3, "vision": 2 / 3})


def test_offline_stages_are_timed_in_turn_and_sum_to_the_whole(tmp_path: Path) -> None:
    write_student(tmp_path / "student")
    frames = [a_frame(number) for number in (1, 2, 3)]
    found = measure_offline(frames, tmp_path / "student", device="cpu", threads=1)
    assert [*found.stages] == ["decoding", "vision", "language", "planning"]
    assert (found.frames, found.threads, found.device) == (3, 1, "cpu")
    assert found.backend.startswith("OpenVINO")
    assert sum(found.shares.values()) == pytest.approx(1.0)
    for spread in (*found.stages.values(), found.decision):
        assert 0 < spread.p50_ms <= spread.p99_ms < math.inf and spread.count == 3


def test_offline_stages_do_without_a_planner(tmp_path: Path) -> None:
    write_student(tmp_path / "student")
    for file in (tmp_path / "student" / "planner").iterdir():
        file.unlink()
    (tmp_path / "student" / "planner").rmdir()
    found = measure_offline([a_frame(1)], tmp_path / "student", device="cpu", threads=1)
    assert [*found.stages] == ["decoding", "vision", "language"]


DESCRIBED: dict[str, Any] = {
    "device": "a machine",
    "middleware": "embedded",
    "load_average": {"before": 0.1, "after": 0.2},
    "bag": {"line": "a bag"},
    "checkpoint": "a student",
    "model_device": "cpu",
    "threads": 1,
    "warm_up_s": 1.0,
}


def test_table_names_stages_processes_drops_and_goals() -> None:
    one = figures_of([a_row(number) for number in WINDOW])
    other = replace(one, name="separate", nodes_cpu_ms_per_frame=60.0)
    times = {"decoding": [1.0], "planning": [16.0], "decision": [2.0]}
    offline = summarize(times, device="cpu", backend="some", threads=1)
    goals = list_goals([one, other], offline, camera_hz=10.0)
    text = "\n".join(format_table(DESCRIBED, [one, other], offline, goals))
    assert "15 camera sets after the first 10 (1 s left out), 15 decided" in text
    assert all(f"  {stage} " in text for stage in (*STAGES, "= response", "decoding", "planning"))
    assert "player 3.0  vlm 30.0; nodes 30.0" in text and "player 1  vlm 3" in text
    assert "/vlm: dropped: replaced by a newer frame 2" in text
    assert "/planner: nothing dropped or flagged" in text
    assert "separate 60.0 ms, composed 30.0 ms, ratio 2.00" in text
    assert "goal: composed, cameras at 10 Hz, response p99 54.0 <= 80 ms: met" in text
    assert "goal: planning beyond the vision features, p99 16.0 <= 15 ms: MISSED" in text


def test_response_has_no_goal_at_another_rate_and_missing_answers_miss_it() -> None:
    found = figures_of([a_row(number) for number in WINDOW])
    assert list_goals([found], None, camera_hz=20.0) == []
    (goal,) = list_goals([figures_of([a_row(10)])], None, camera_hz=10.0)
    assert not goal.met and "inf" in goal.line
