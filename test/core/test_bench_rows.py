"""clkd_core.runtime.bench.figures: every figure follows from the times and the counts."""

from dataclasses import replace

import numpy as np
import pytest
from bench_calls import build_wrongly, contender

from clkd_core.runtime.bench.ceilings import Ceilings
from clkd_core.runtime.bench.contenders.line_up import CONTROL, EM_BEST, EM_TEXT, OURS, SENNA
from clkd_core.runtime.bench.contenders.spec import Work
from clkd_core.runtime.bench.contest import Skipped
from clkd_core.runtime.bench.figures.goals import Verdict, judge
from clkd_core.runtime.bench.figures.rows import Row, build_rows, compute_floor, compute_ratios
from clkd_core.runtime.bench.figures.tables import format_all
from clkd_core.runtime.bench.seat import Facts

CEILINGS = Ceilings(
    device="cpu",
    device_words="a device",
    memory_bytes_per_s=2e9,
    stream_bytes=1,
    flops_per_s={"float32": 1e9, "bfloat16": 4e9},
)
WORK = Work(weight_bytes=20_000_000, flops=8_000_000, dtype="float32")


def facts(work: Work | None = WORK, threads: int = 2) -> Facts:
    return Facts(
        backend="some float32",
        threads=threads,
        checkpoint=None,
        total_parameters=10_000_000,
        active_parameters=5_000_000,
        peak_memory_mib=700.0,
        gpu_peak_mib=None,
        decode_ms=3.0,
        work=work,
    )


def rows_of(**times: list[float]) -> list[Row]:
    field = [contender(name, build_wrongly) for name in times]
    field = [replace(each, kind="machine") if each.name == CONTROL else each for each in field]
    return build_rows(field, times, {name: facts() for name in times}, CEILINGS)


def test_rows_are_percentiles_and_ratios_of_the_times() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.uniform(10, 20, 50).tolist(), rng.uniform(70, 100, 10).tolist()
    first, second = rows_of(a=a, b=b)
    slow = sorted(a)
    assert first.p50_ms == pytest.approx((slow[24] + slow[25]) / 2)
    assert first.p95_ms == pytest.approx(np.percentile(a, 95)) and first.max_ms == slow[-1]
    assert second.ratio_to_first == pytest.approx(np.median(b) / np.median(a), rel=1e-4)
    assert first.ratio_to_first == 1.0 and first.late_frac == 0.0
    assert second.late_frac == sum(value > 80.0 for value in b) / 10
    assert second.frames_per_s == pytest.approx(1000 / np.mean(b))
    assert second.times_ms == pytest.approx(b, abs=6e-4)


def test_late_for_a_control_loop_is_as_far_above_its_median_as_80_ms_above_ours() -> None:
    ours, control = rows_of(nano=[30.0] * 9 + [81.0], control=[20.0] * 8 + [69.0, 71.0])
    assert control.late_ms == 80.0 - 30.0 + 20.0
    assert (ours.late_frac, control.late_frac) == (0.1, 0.1)


def test_ratios_are_of_the_rounds_that_both_took_part_in() -> None:
    times = {"a": [10.0, 30.0, 30.0, 30.0, 30.0, 30.0] * 2, "b": [50.0] * 6, "c": [40.0] * 4}
    everys = {"a": 1, "b": 2, "c": 3}
    field = [contender(name, build_wrongly, every=everys[name]) for name in times]
    rows = build_rows(field, times, {name: facts() for name in times}, CEILINGS)
    assert [row.p50_ms for row in rows] == [30.0, 50.0, 40.0]
    assert [row.every for row in rows] == [1, 2, 3]
    assert [row.ratio_to_first for row in rows] == [1.0, 50 / 30, 40 / 20]  # c: rounds 0, 3, 6, 9
    ratios = compute_ratios(rows)
    assert ratios["c"] == {"a": 2.0, "b": 0.8} and ratios["a"]["c"] == 0.5
    table = format_all(rows, [], [], CEILINGS, "six JPEGs")
    assert any(line.split()[:5] == ["3", "c", "2", "0.8", "1"] for line in table)


def test_every_ratio_is_there_and_none_to_itself() -> None:
    ratios = compute_ratios(rows_of(a=[10.0], b=[20.0], c=[5.0]))
    assert ratios == {
        "a": {"b": 0.5, "c": 2.0},
        "b": {"a": 2.0, "c": 4.0},
        "c": {"a": 0.5, "b": 0.25},
    }


@pytest.mark.parametrize(
    ("work", "memory_ms", "compute_ms"),
    [
        (WORK, 10.0, 8.0),
        (replace(WORK, weight_bytes=2_000_000), 1.0, 8.0),
        (replace(WORK, weight_bytes=2_000_000, dtype="bfloat16"), 1.0, 2.0),
        (replace(WORK, weight_bytes=2_000_000, dtype="int8"), 1.0, 2.0),  # as the fastest known
    ],
)
def test_floor_is_decoding_and_the_larger_of_bytes_and_products(
    work: Work, memory_ms: float, compute_ms: float
) -> None:
    floor = compute_floor(facts(work), CEILINGS)
    assert floor is not None
    assert (floor.memory_ms, floor.compute_ms) == pytest.approx((memory_ms, compute_ms))
    assert floor.floor_ms == pytest.approx(3.0 + max(memory_ms, compute_ms))


def test_what_has_no_model_has_no_floor() -> None:
    assert compute_floor(facts(work=None), CEILINGS) is None


def verdicts(*, cores: int | None = 2, **times: list[float]) -> dict[str, Verdict]:
    named = {name.replace("_", "-").replace("35b", "3.5b"): value for name, value in times.items()}
    return {each.goal: each for each in judge(rows_of(**named), cores=cores)}


def test_goals_of_a_cpu_are_judged_by_the_rows() -> None:
    found = verdicts(
        **{OURS: [40.0] * 9 + [90.0], EM_TEXT: [800.0], EM_BEST: [199.0], CONTROL: [30.0] * 10}
    )
    values = {goal: (each.value, each.met) for goal, each in found.items()}
    assert values[f"{OURS}: p50 [ms]"] == (40.0, True)
    assert values[f"{OURS}: p99 [ms]"][1] is False
    assert values[f"{EM_TEXT} / {OURS}"] == (20.0, True)
    assert values[f"{EM_BEST} / {OURS}"] == (199 / 40, False)
    share = found[f"{OURS}: share over 80 ms beyond {CONTROL}'s"]
    assert (share.value, share.met, share.remark) == (
        0.1,
        False,
        "of 10 frames, 10,000 are wanted",
    )


def test_ratio_of_a_goal_is_of_the_rounds_of_both() -> None:
    times = {OURS: [20.0, 40.0, 40.0, 40.0] * 2, EM_BEST: [120.0, 120.0]}
    field = [contender(OURS, build_wrongly), contender(EM_BEST, build_wrongly, every=4)]
    rows = build_rows(field, times, dict.fromkeys(times, facts()), CEILINGS)
    found = {each.goal: each for each in judge(rows, cores=2)}
    assert found[f"{EM_BEST} / {OURS}"].value == 6.0


def test_p99_of_few_frames_is_remarked_upon() -> None:
    goal = f"{OURS}: p99 [ms]"
    few, enough = (verdicts(**{OURS: [34.0] * frames})[goal] for frames in (999, 1000))
    assert few.met and few.remark == "of 999 frames, 1,000 are wanted"
    assert enough.met and not enough.remark
    gpu = verdicts(cores=None, t5_small=[5.0] * 10)["t5-small: p99 [ms]"]
    assert gpu.remark == "of 10 frames, 1,000 are wanted"


@pytest.mark.parametrize(("cores", "threads"), [(4, 2), (2, 1), (1, 1), (16, 16)])
def test_goals_of_two_cores_say_when_others_were_used(cores: int, threads: int) -> None:
    times = {OURS: [40.0], EM_BEST: [250.0]}
    field = [contender(name, build_wrongly) for name in times]
    rows = build_rows(field, times, dict.fromkeys(times, facts(threads=threads)), CEILINGS)
    said = f"on {cores} cores with {threads} threads, meant for 2 of each"
    found = {each.goal: each.remark for each in judge(rows, cores=cores)}
    assert found[f"{OURS}: p50 [ms]"] == found[f"{EM_BEST} / {OURS}"] == said
    assert found[f"{OURS}: p99 [ms]"] == f"of 1 frames, 1,000 are wanted; {said}"
    assert not any("meant for" in each.remark for each in judge(rows, cores=None))


def test_goals_of_two_cores_on_two_cores_say_nothing_more() -> None:
    assert verdicts(**{OURS: [40.0]})[f"{OURS}: p50 [ms]"].remark == ""


def test_goals_of_a_gpu_are_other_ones() -> None:
    found = verdicts(cores=None, t5_small=[5.0, 5.5], senna_35b=[20.0], senna_7b=[150.0])
    assert found["t5-small: p50 [ms]"].met and found["senna-3.5b: p50 [ms]"].met
    assert found[f"{SENNA} / senna-3.5b"].value == 7.5
    assert found[f"{SENNA} / senna-3.5b"].met is False
    assert found["t5-small: share over 80 ms"].value == 0.0


def test_goal_about_the_absent_is_not_measured_rather_than_met() -> None:
    found = verdicts(**{OURS: [40.0]})[f"{EM_BEST} / {OURS}"]
    assert found.met is None and found.value is None
    assert found.remark == f"not measured: {EM_BEST} did not take part"


def test_table_says_every_figure_and_who_was_left_out() -> None:
    rows = rows_of(nano=[30.0], control=[25.0])
    skipped = [Skipped(name="senna-7b", what="the large one", why="needs 17 GB")]
    text = "\n".join(format_all(rows, skipped, judge(rows, cores=2), CEILINGS, "six JPEGs"))
    for words in ("a device", "2.0 GB/s", "4 GFLOP/s bfloat16", "six JPEGs", "0.83x", "0.833"):
        assert words in text
    for words in ("10.00M", "5.00M", "700", "13.0", "senna-7b", "left out: needs 17 GB", "met"):
        assert words in text
    assert "difference +0.000%" in text and "not measured: em-vlm4ad-text" in text
