"""clkd_core.report.compare: quality is what a scored run says, or unknown."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clkd_core.errors import ConfigError, DataError
from clkd_core.report.compare import command, figure
from clkd_core.report.compare.command import build_table
from clkd_core.report.compare.entries import (
    Entry,
    Quality,
    add_evaluations,
    add_scores,
    load_entries,
)
from clkd_core.report.compare.figure import bubble_area, draw_comparison
from clkd_core.report.provenance import collect_provenance, write_provenance


def row(name: str, p50_ms: float, *, kind: str = "other", **values: object) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "what": f"{name} in words",
        "p50_ms": p50_ms,
        "p99_ms": 2 * p50_ms,
        "frames_per_s": 1e3 / p50_ms,
        "total_parameters": 2_000_000,
        "active_parameters": 1_500_000,
        "peak_memory_mib": 700.0,
        "checkpoint": None,
        **values,
    }


def write_bench(path: Path, *rows: dict[str, Any], device: str = "a device") -> Path:
    content = {"format_version": 2, "device": device, "contenders": rows}
    path.write_text(json.dumps(content))
    return path


def write_run(folder: Path, checkpoint: Path, macro_f1: float | None = 0.75) -> Path:
    folder.mkdir(parents=True)
    score = {"value": macro_f1, "low": 0.7, "high": 0.8}
    actions: Any = {"student": {"all": {"frames": 30, "macro_f1": score}}}
    actions = actions if macro_f1 is not None else "not labelled"
    (folder / "metrics.json").write_text(json.dumps({"actions": actions}))
    found = collect_provenance(mode="direct", checkpoint=checkpoint, bag="b", device="cpu")
    write_provenance(folder, found)
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    student = str((tmp_path / "student").resolve())
    return write_bench(
        tmp_path / "bench.json",
        row("nano", 25.0, kind="ours", checkpoint=student),
        row("t5-small", 600.0, kind="ours"),
        row("em-text", 900.0),
        row("control", 24.0, kind="machine"),
    )


def test_control_loop_is_not_compared(bench: Path) -> None:
    assert [entry.name for entry in load_entries([bench])] == ["nano", "t5-small", "em-text"]


def test_evaluation_is_given_to_whoever_was_timed_with_its_checkpoint(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", Path("student"))  # as written where it ran
    monkeypatch.chdir(tmp_path)
    rated = add_evaluations(load_entries([bench]), [str(run)])
    assert [entry.quality is not None for entry in rated] == [True, False, False]
    quality = rated[0].quality
    assert quality is not None and quality.macro_f1.value == 0.75
    assert quality.source == f"{run}, 30 keyframes"


def test_evaluation_of_another_checkpoint_needs_a_name(bench: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run=1", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"judged .*other, timed were .*student: say whose"):
        add_evaluations(load_entries([bench]), [str(run)])
    rated = add_evaluations(load_entries([bench]), [f"t5-small={run}"])
    assert [entry.quality is not None for entry in rated] == [False, True, False]


def test_score_by_hand_holds_for_a_name_in_all_files(bench: Path, tmp_path: Path) -> None:
    second = write_bench(tmp_path / "gpu.json", row("nano", 5.0, kind="ours"), device="a GPU")
    rated = add_scores(load_entries([bench, second]), ["nano=0.5"])
    known = [entry for entry in rated if entry.quality is not None]
    assert [(entry.name, entry.device, entry.file) for entry in known] == [
        ("nano", "a device", 1),
        ("nano", "a GPU", 2),
    ]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nano", "expected NAME=VALUE"),
        ("nano=good", "expected NAME=VALUE"),
        ("nano=1.5", "in 0..1"),
        ("nano=nan", "in 0..1"),
        ("nobody=0.5", "nobody is called 'nobody', expected one of nano, t5-small, em-text"),
    ],
)
def test_wrong_scores_are_refused(bench: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        add_scores(load_entries([bench]), [word])


def test_quality_given_twice_is_refused(bench: Path, tmp_path: Path) -> None:
    rated = add_scores(load_entries([bench]), ["nano=0.5"])
    run = write_run(tmp_path / "run", tmp_path / "student")
    with pytest.raises(ConfigError, match="quality of nano is given twice"):
        add_evaluations(rated, [str(run)])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "nothing",
        "[1]",
        json.dumps({"format_version": 1}),
        json.dumps({"format_version": 2, "device": "d", "contenders": [{"name": "x"}]}),
        json.dumps({"format_version": 2, "device": "d", "contenders": []}),
        json.dumps({"format_version": 2, "device": "d", "contenders": [row("x", 1.0, p99_ms=0)]}),
    ],
)
def test_what_is_no_benchmark_is_refused_by_its_name(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "odd.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=r"odd\.json"):
        load_entries([path])


def test_run_without_labels_has_no_quality(bench: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path / "student", macro_f1=None)
    with pytest.raises(DataError, match="has no macro-F1"):
        add_evaluations(load_entries([bench]), [str(run)])


def entry(name: str, p50_ms: float, score: float | None, **changes: Any) -> Entry:
    from clkd_core.metrics.intervals import Interval

    found = Entry(
        name=name,
        kind="ours",
        what=f"{name} | in words",
        device="a device",
        file=1,
        p50_ms=p50_ms,
        p99_ms=1.5 * p50_ms,
        frames_per_s=1e3 / p50_ms,
        total_parameters=2_000_000,
        active_parameters=1_000_000,
        peak_memory_mib=700.0,
        checkpoint=None,
    )
    if score is not None:
        interval = Interval(value=score, low=math.nan, high=math.nan)
        found = replace(found, quality=Quality(macro_f1=interval, source="given by hand"))
    return replace(found, **changes)


def test_table_is_the_fastest_first_and_says_unknown_where_nothing_is_known() -> None:
    lines = build_table([entry("slow", 90.0, None), entry("quick", 20.0, 0.5)])
    assert lines[2].startswith("| quick | a device | 20.0 | 30.0 | 50.00 | 2.00 M | 1.00 M | 700 ")
    assert lines[2].endswith("| 0.500 | given by hand |")
    assert lines[3].endswith("| unknown | no trained weights |")
    assert len({line.count(" | ") for line in lines[:4] if "---" not in line}) == 1


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_picture_holds_what_is_known_and_the_strip_only_where_something_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[str, list[str]]] = []
    for name in ("_draw_rated", "_draw_bare"):
        draw = getattr(figure, name)

        def note(place: Any, entries: Any, *, several: bool, name: str = name, draw: Any = draw):
            drawn.append((name, [each.name for each in entries]))
            draw(place, entries, several=several)

        monkeypatch.setattr(figure, name, note)
    both = pixels(draw_comparison([entry("a", 20.0, 0.5), entry("b", 90.0, None)], ["d"]))
    rated = pixels(draw_comparison([entry("a", 20.0, 0.5)], ["d"]))
    bare = pixels(draw_comparison([entry("b", 90.0, None)], ["d"]))
    assert drawn == [
        ("_draw_rated", ["a"]),
        ("_draw_bare", ["b"]),
        ("_draw_rated", ["a"]),
        ("_draw_bare", ["b"]),
    ]
    assert both.shape[0] > rated.shape[0] > bare.shape[0] and both.std() > 5


def test_quality_moves_the_bubble_up_and_time_moves_it_right() -> None:
    def centre(score: float, p50_ms: float) -> tuple[float, float]:
        size = {"total_parameters": 1_000_000_000}
        shown = [entry("a", p50_ms, score, p99_ms=p50_ms, **size), entry("b", 10.0, 0.01, kind="")]
        shown.append(entry("c", 1000.0, 0.01, kind="other"))
        image = pixels(draw_comparison(shown, ["d"])).astype(int)
        ours = np.abs(image - np.array([0x6B, 0x7A, 0x0B])).sum(axis=2) < 140
        ours[: image.shape[0] // 6] = False  # the legend
        rows, columns = np.nonzero(ours)
        return float(rows.mean()), float(columns.mean())

    low, high, late = centre(0.3, 30.0), centre(0.8, 30.0), centre(0.3, 300.0)
    assert high[0] < low[0] - 50 and abs(high[1] - low[1]) < 3
    assert late[1] > low[1] + 100 and abs(late[0] - low[0]) < 3


def test_bubble_grows_with_the_model() -> None:
    assert bubble_area(7_000_000_000) / bubble_area(1_750_000) == pytest.approx(4000**0.5)


def test_command_writes_picture_and_table(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", tmp_path / "student")
    out = tmp_path / "out" / "figure.png"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = [str(bench), "--out", str(out), "--score", "t5-small=0.6", "--evaluation", str(run)]
    assert command.run(parser.parse_args(words)) == 0
    page = out.with_suffix(".md").read_text()
    assert "0.750 (0.700 to 0.800)" in page and "![" in page and "(figure.png)" in page
    assert "0.750 (0.700 to 0.800)" in capsys.readouterr().out
    assert pixels(out.read_bytes()).shape[1] > 800
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        command.run(parser.parse_args([str(bench), "--out", str(tmp_path / "figure.md")]))
