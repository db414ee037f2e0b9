"""From a run folder to its two files, and the verdict on them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from report_rows import DIRECT, LIVE, STOP, make_labelled_rows, make_row, with_plans

from clkd_core.cli import main
from clkd_core.errors import DataError
from clkd_core.metrics.frames import FrameRow, write_frames
from clkd_core.report.build import build_report, demo_verdict
from clkd_core.report.provenance import Provenance, write_provenance
from clkd_core.report.summary import summarize


def write_run(
    folder: Path,
    rows: list[FrameRow],
    provenance: Provenance = LIVE,
    *,
    blank: list[FrameRow] | None = None,
) -> Path:
    write_frames(folder / "frames.csv", rows)
    write_provenance(folder, provenance)
    if blank is not None:
        write_frames(folder / "frames_blank.csv", blank)
    return folder


def blank_rows() -> list[FrameRow]:
    return [replace(row, answer=STOP, stale=False) for row in make_labelled_rows()]


@pytest.fixture(scope="module")
def live_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    return write_run(folder, with_plans(make_labelled_rows()), blank=blank_rows())


def test_metrics_hold_the_numbers_of_the_page(live_run: Path) -> None:
    metrics = build_report(live_run)
    assert json.loads((live_run / "metrics.json").read_text()) == metrics
    assert metrics["frames"]["answered"] == 8
    assert metrics["actions"]["student"]["all"]["accuracy"]["value"] == pytest.approx(0.7)
    assert metrics["rsdr"]["response_ms"]["student"]["all"]["80"]["value"] == pytest.approx(0.6)
    assert metrics["latency"]["inference_ms"]["p50"] == 10.0
    planner = metrics["l2_m"]["planner"]["all"]
    assert planner["at_horizon_uniad"]["3s"]["value"] == pytest.approx(6.0)
    assert planner["average_vad_st_p3"]["3s"]["value"] == pytest.approx(3.5)
    page = (live_run / "report.html").read_text()
    for shown in ("70.0%", "60.0%", "3.50 m", "CPU of a test"):
        assert shown in page, shown


def test_the_same_files_give_the_same_bytes(live_run: Path) -> None:
    build_report(live_run)
    first = [(live_run / name).read_bytes() for name in ("metrics.json", "report.html")]
    build_report(live_run)
    assert first == [(live_run / name).read_bytes() for name in ("metrics.json", "report.html")]


def test_an_unlabelled_run_has_words_and_never_zero(tmp_path: Path) -> None:
    rows = [replace(make_row(n, None), response_ms=math.nan) for n in range(3)]
    metrics = build_report(write_run(tmp_path, rows, DIRECT))
    assert metrics["actions"] == metrics["cases"] == metrics["majority_answer"] == "not labelled"
    assert set(metrics["rsdr"].values()) == {"not labelled"}
    assert metrics["l2_m"] == {
        "planner": "not labelled", "constant_velocity": "not labelled", "ego_status": "not built",
    }  # fmt: skip
    assert metrics["generated_decisions"] == metrics["majority_of"] == "not labelled"
    assert metrics["texts"] == "no questions"
    assert "not labelled" in (tmp_path / "report.md").read_text()
    assert metrics["latency"]["response_ms"] == "not measured"
    assert metrics["latency"]["inference_ms"]["p50"] == 10.0
    assert "not labelled" in (tmp_path / "report.html").read_text()
    assert demo_verdict(metrics) == ["the run is not labelled: nothing can be asserted"]
    text = "\n".join(summarize(metrics))
    assert "accuracy and macro-F1: not labelled" in text
    assert "L2: not labelled" in text


def test_a_damaged_run_leaves_the_last_good_report_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, make_labelled_rows())
    build_report(run)
    good = (run / "report.html").read_bytes()
    (run / "frames_blank.csv").write_text("not a table")
    with pytest.raises(DataError, match="frames_blank"):
        build_report(run)
    assert (run / "report.html").read_bytes() == good


@pytest.mark.parametrize("missing", ["frames.csv", "provenance.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path, make_labelled_rows())
    (run / missing).unlink()
    with pytest.raises(DataError, match=missing):
        build_report(run)


def test_a_run_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frame"):
        build_report(write_run(tmp_path, []))


def answered(share: float) -> list[FrameRow]:
    """Two labels in turn, all answered rightly or, at the end, not at all."""
    rows = [make_row(n, STOP, STOP) if n % 2 else make_row(n) for n in range(100)]
    kept = round(share * 100)
    return rows[:kept] + [
        make_row(n, row.label, None) for n, row in enumerate(rows[kept:], start=kept)
    ]


def verdict(folder: Path, rows: list[FrameRow], blank: list[FrameRow] | None) -> list[str]:
    return demo_verdict(build_report(write_run(folder, rows, blank=blank)))


def test_the_demo_holds_when_the_student_looks_and_answers(tmp_path: Path) -> None:
    blank = [replace(row, answer=STOP) for row in answered(1.0)]
    assert verdict(tmp_path, answered(0.95), blank) == []


def test_the_demo_fails_when_too_little_was_answered(tmp_path: Path) -> None:
    blank = [replace(row, answer=STOP) for row in answered(1.0)]
    failures = verdict(tmp_path, answered(0.94), blank)
    assert len(failures) == 1
    assert "94 of 100 labelled keyframes" in failures[0]


def test_the_demo_fails_when_blank_images_do_as_well(tmp_path: Path) -> None:
    failures = verdict(tmp_path, answered(1.0), answered(1.0))
    assert len(failures) == 1
    assert "blank images" in failures[0]


def test_the_demo_fails_when_the_student_only_answers_the_majority(tmp_path: Path) -> None:
    rows = [make_row(n, STOP if n % 3 == 0 else make_row(n).label) for n in range(100)]
    blank = [replace(row, answer=STOP) for row in rows]
    assert any("majority answer" in failure for failure in verdict(tmp_path, rows, blank))


def test_the_demo_fails_without_a_blank_row_to_compare_with(tmp_path: Path) -> None:
    failures = verdict(tmp_path, answered(1.0), None)
    assert failures == ["there is no row for blank images to compare the student with"]


def test_clkd_report_builds_the_page_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, with_plans(make_labelled_rows()), blank=blank_rows())
    assert main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert "answered 8" in out
    assert str(run / "report.html") in out
    assert (run / "metrics.json").exists()


def test_clkd_report_on_nothing_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("clkd: error: ")
    assert err.count("\n") == 1
