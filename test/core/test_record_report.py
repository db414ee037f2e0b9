"""The picture shows what a run has and nothing else; report and results say the same."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from clkd_core.distill.evaluate import Judged
from clkd_core.distill.record.report import (
    build_panels,
    remove_report,
    write_curves,
    write_report,
)
from clkd_core.distill.record.results import ResultRow, Results, read_results, write_results
from clkd_core.errors import DataError
from clkd_core.metrics.decisions.meta_action import score_actions
from clkd_core.metrics.intervals import Interval
from clkd_core.types import META_ACTIONS

MOE = {"balance": 1.1, "router_z": 0.2, "expert_usage": [0.6, 0.4], "adapter_usage": [0.5, 0.5]}
NO_MOE = {"balance": 0.0, "router_z": 0.0, "expert_usage": None, "adapter_usage": None}
VERSIONS = {"python": "3.10", "device": "CPU x, 2 cores"}
PARAMETERS = {"teacher": (2000, 2000), "student": (1200, 900)}


def teacher_lines(count: int) -> list[dict[str, Any]]:
    return [
        {"stage": "teacher", "step": s, "loss": 3.0 - s / 50, "lr": 1e-3} for s in range(count)
    ]


def student_line(step: int, **others: Any) -> dict[str, Any]:
    return {
        "stage": "distill",
        "step": step,
        "loss": 2.0,
        "h2g": 1.5,
        "kd": 0.5,
        "alpha": 1.0,
        **MOE,
        "hard_regular_frac": 0.4,
        "hard_corner_frac": 0.9 if step % 2 else None,
        "hard_token_frac": 0.3,
        "hard_token_regular_frac": 0.25,
        "hard_token_corner_frac": 0.5 if step % 2 else None,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "samples_per_s": 80.0,
        "peak_memory_mb": 1000.0,
        **others,
    }


def whole_run(count: int = 6) -> list[dict[str, Any]]:
    return [*teacher_lines(count), *(student_line(step) for step in range(count))]


def titles_of(metrics: list[dict[str, Any]]) -> list[str]:
    panels = build_panels(metrics)
    assert all(curve.points for panel in panels for curve in panel.curves)
    return [panel.title for panel in panels]


def judged_rows() -> list[Judged]:
    labels = [META_ACTIONS[i % 3] for i in range(12)]
    answers = [META_ACTIONS[i % 2] for i in range(12)]
    scores = score_actions(labels, answers, clusters=[i // 3 for i in range(12)])
    return [Judged("teacher", "all", scores), Judged("student", "corner", scores)]


def test_each_thing_that_happened_has_its_panel() -> None:
    assert titles_of(whole_run()) == [
        "teacher: loss [nats/token]",
        "student: loss, all terms",
        "student: H2G [nats/token]",
        "student: KD [nats/token]",
        "alpha, weight of KD",
        "experts: balance term",
        "experts: router z-term",
        "hard samples",
        "hard tokens",
        "adapter experts: share of use",
        "FFN experts: share of use",
        "learning rate",
    ]


def test_panels_hold_the_logged_numbers() -> None:
    panels = {panel.title: panel for panel in build_panels(whole_run(4))}
    hard = {curve.label: curve.points for curve in panels["hard tokens"].curves}
    assert hard["corner"] == [(1.0, 0.5), (3.0, 0.5)]
    assert hard["all"] == [(float(step), 0.3) for step in range(4)]
    usage = panels["FFN experts: share of use"]
    assert usage.stacked
    assert [curve.points[0][1] for curve in usage.curves] == [0.6, 0.4]


def test_a_run_without_experts_has_no_panel_of_them() -> None:
    lines = [student_line(step, **NO_MOE) for step in range(4)]
    assert not any("expert" in title for title in titles_of(lines))


def test_a_run_without_a_teacher_has_no_panel_of_its_terms() -> None:
    titles = titles_of([student_line(step, kd=0.0, alpha=0.0) for step in range(4)])
    assert not any("KD" in title or "teacher" in title for title in titles)
    assert "student: H2G [nats/token]" in titles


def test_a_teacher_alone_has_its_own_panels_only() -> None:
    assert titles_of(teacher_lines(3)) == ["teacher: loss [nats/token]", "learning rate"]


def test_a_term_that_a_config_added_has_a_panel() -> None:
    lines = [student_line(step, confidence=-1.0) for step in range(3)]
    assert "student: confidence" in titles_of(lines)


def test_kd_ends_where_the_teacher_let_go_and_says_so() -> None:
    lines = [student_line(step, kd=0.5 if step < 3 else 0.0) for step in range(6)]
    panels = {panel.title: panel for panel in build_panels(lines)}
    kd = panels["student: KD [nats/token]"]
    assert [step for step, _ in kd.curves[0].points] == [0.0, 1.0, 2.0]
    assert kd.mark == panels["alpha, weight of KD"].mark == (3.0, "teacher let go")
    assert kd.steps == (0.0, 5.0)


def test_nothing_is_marked_where_the_teacher_was_asked_to_the_end() -> None:
    assert all(panel.mark is None for panel in build_panels(whole_run()))


@pytest.mark.parametrize(
    "metrics",
    [whole_run(60), whole_run(1), teacher_lines(2), []],
    ids=["whole", "one point", "teacher", "nothing"],
)
def test_curves_are_a_png(metrics: list[dict[str, Any]], tmp_path: Path) -> None:
    write_curves(metrics, tmp_path / "run" / "curves.png")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_report_holds_picture_tables_last_steps_and_versions(tmp_path: Path) -> None:
    metrics = whole_run()
    write_curves(metrics, tmp_path / "curves.png")
    write_report(tmp_path / "report.md", PARAMETERS, judged_rows(), metrics, VERSIONS)
    text = (tmp_path / "report.md").read_text()
    f1 = judged_rows()[0].scores.macro_f1
    for wanted in (
        "| student | 1,200 | 900 |",
        f"| teacher | all | 12 | 0.333 | {f1.value:.3f} ({f1.low:.3f} to {f1.high:.3f}) |",
        "![Curves of the run](curves.png)",
        "- teacher: step 5, loss 2.9, lr 0.001",
        "- distill: step 5, loss 2, h2g 1.5",
        "- device CPU x, 2 cores",
    ):
        assert wanted in text


def test_report_without_picture_or_validation_says_so_and_links_nothing(tmp_path: Path) -> None:
    write_report(tmp_path / "report.md", PARAMETERS, [], [], VERSIONS)
    text = (tmp_path / "report.md").read_text()
    assert "No validation split was there" in text
    assert "curves.png" not in text


def test_results_beside_the_report_hold_its_table(tmp_path: Path) -> None:
    write_report(tmp_path / "report.md", PARAMETERS, judged_rows(), [], VERSIONS)
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["parameters"] == {"teacher": [2000, 2000], "student": [1200, 900]}
    assert values["versions"] == VERSIONS
    assert values["table"][1].keys() == {
        *("name", "cases", "frames", "accuracy", "macro_f1", "macro_f1_low", "macro_f1_high")
    }
    found = read_results(tmp_path / "results.json")
    assert found.parameters == PARAMETERS
    for row, judged in zip(found.table, judged_rows(), strict=True):
        assert (row.name, row.cases, row.frames) == (judged.name, judged.cases, 12)
        assert row.accuracy == judged.scores.accuracy.value
        assert row.macro_f1 == judged.scores.macro_f1


def test_a_number_that_is_not_known_is_null_in_results(tmp_path: Path) -> None:
    unknown = Interval(value=0.5, low=math.nan, high=math.nan)
    row = ResultRow(name="a", cases="all", frames=1, accuracy=math.nan, macro_f1=unknown)
    write_results(tmp_path / "results.json", Results(table=(row,)))
    assert "NaN" not in (tmp_path / "results.json").read_text()
    (found,) = read_results(tmp_path / "results.json").table
    assert found.macro_f1.value == 0.5
    assert all(map(math.isnan, (found.accuracy, found.macro_f1.low, found.macro_f1.high)))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "does not hold a run's results"),
        ("[]", "does not hold a run's results"),
        ('{"parameters": {}, "table": []}', "has no 'versions'"),
        ('{"parameters": {"a": [1]}, "table": [], "versions": {}}', "does not hold"),
        ('{"parameters": {}, "table": [{"name": "a"}], "versions": {}}', "has no 'macro_f1'"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=rf"results.json {wanted}"):
        read_results(tmp_path / "results.json")


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*results.json: No such file"):
        read_results(tmp_path / "results.json")


def test_what_an_earlier_run_left_can_be_removed(tmp_path: Path) -> None:
    write_curves([], tmp_path / "curves.png")
    write_report(tmp_path / "report.md", PARAMETERS, [], [], VERSIONS)
    (tmp_path / "metrics.jsonl").write_text("")
    remove_report(tmp_path)
    remove_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
