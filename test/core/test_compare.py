"""Runs side by side: only what differs, with what there is, and nobody's text becomes a page."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_outline import Outline

from clkd_core.cli import EXIT_EXPECTED_FAILURE, run_guarded
from clkd_core.distill.record import compare as compare_module
from clkd_core.distill.record import compare_command
from clkd_core.distill.record.compare import (
    ABSENT,
    Table,
    build_tables,
    draw_curves,
    load_runs,
    plain,
)
from clkd_core.distill.record.compare_page import build_html, build_markdown, build_text
from clkd_core.distill.record.results import ResultRow, Results, write_results
from clkd_core.errors import ConfigError, DataError
from clkd_core.metrics.intervals import Interval

NASTY = "<script>alert('x')</script>|`[a](b)"


def make_run(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    steps: int = 4,
    f1: float | None = 0.5,
    loss: float = 2.0,
) -> Path:
    """A run's folder; without an f1 it is unfinished."""
    folder.mkdir(parents=True)
    values = {"out": str(folder), "seed": 1, "h2g": {"sample_frac": 0.5}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    lines = [
        {
            "stage": stage,
            "step": step,
            "loss": loss / (1 + step),
            "hard_corner_frac": 0.5 if step % 2 else None,
            "expert_usage": [0.25, 0.75],
            "lr": 1e-3,
        }
        for stage in ("teacher", "distill")
        for step in range(steps)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if f1 is not None:
        row = ResultRow(
            name="student",
            cases="all",
            frames=80,
            accuracy=f1 + 0.1,
            macro_f1=Interval(value=f1, low=f1 - 0.05, high=f1 + 0.05),
        )
        sizes = {"student": (1200, 900)}
        made_with = {"torch": "2.6.0", "clkd": folder.name}
        write_results(
            folder / "results.json", Results(parameters=sizes, table=(row,), versions=made_with)
        )
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "plain"),
        make_run(tmp_path / "no-h2g", {"h2g": {"sample_frac": 1.0}}, steps=7, f1=0.625),
    ]


def tables_of(folders: list[Path]) -> dict[str, Table]:
    return {table.heading: table for table in build_tables(load_runs(folders))}


def compare(*words: Any) -> int:
    """What ``clkd compare`` does with these words."""
    import argparse

    parser = argparse.ArgumentParser()
    compare_command.add_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    return run_guarded(lambda: compare_command.run(args))


def test_only_settings_that_differ_are_told(pair: list[Path]) -> None:
    table = tables_of(pair)["Settings that differ"]
    assert table.head == ("key", "plain", "no-h2g")
    assert table.rows == [("h2g.sample_frac", "0.5", "1.0")]
    assert "compare its course" in table.words


def test_settings_of_one_run_only_have_a_dash_for_the_other(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / "a", {"moe": {"experts": 4, "empty": {}}, "list": [1, {"x": None}]}),
        make_run(tmp_path / "b", {"moe": None, "list": [1, {"x": True}]}),
    ]
    table = tables_of(folders)["Settings that differ"]
    assert table.rows == [
        ("list", '[1, {"x": null}]', '[1, {"x": true}]'),
        ("moe", ABSENT, "null"),
        ("moe.empty", "{}", ABSENT),
        ("moe.experts", "4", ABSENT),
    ]


def test_runs_alike_but_for_their_folder_have_no_setting_that_differs(tmp_path: Path) -> None:
    table = tables_of([make_run(tmp_path / "a"), make_run(tmp_path / "b")])["Settings that differ"]
    assert (table.words, table.rows) == ("None.", [])


def test_validation_numbers_stand_below_each_other(pair: list[Path]) -> None:
    table = tables_of(pair)["Unseen drives"]
    assert [row[:5] for row in table.rows] == [
        ("student", "all", "plain", "80", "0.600"),
        ("student", "all", "no-h2g", "80", "0.725"),
    ]
    assert "0.625 (0.575 to 0.675)" in build_text([table])


def test_last_values_are_each_runs_own_where_steps_are_unequal(pair: list[Path]) -> None:
    rows = {row[0]: row[1:] for row in tables_of(pair)["Last logged values"].rows}
    assert rows["distill: loss"] == ("0.5 @ 3", "0.2857 @ 6")
    assert rows["distill: hard_corner_frac"] == ("0.5 @ 3", "0.5 @ 5")
    assert rows["distill: expert_usage, largest"] == ("0.75 @ 3", "0.75 @ 6")


def test_sizes_and_versions_that_differ_are_told(pair: list[Path]) -> None:
    tables = tables_of(pair)
    assert tables["Parameters"].rows == [("student", *["1,200 (900 active)"] * 2)]
    assert tables["Versions that differ"].rows == [("clkd", "plain", "no-h2g")]


def test_an_unfinished_run_is_shown_with_what_it_has(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "done"), make_run(tmp_path / "half", steps=2, f1=None)]
    tables = tables_of(folders)
    assert tables["Runs"].rows == [
        ("done", "finished, last line: distill step 3"),
        ("half", "unfinished, last line: distill step 1; no results.json"),
    ]
    assert [row[2] for row in tables["Unseen drives"].rows] == ["done"]
    assert tables["Parameters"].rows == [("student", "1,200 (900 active)", ABSENT)]
    assert tables["Versions that differ"].rows == []


@pytest.mark.parametrize(
    ("file", "text", "remark"),
    [
        ("config.yaml", None, "no config.yaml"),
        ("metrics.jsonl", None, "no metrics.jsonl"),
        ("metrics.jsonl", "", "finished"),
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", "- 1", "config.yaml holds no keys with values"),
        ("config.yaml", "a: &x [1]\nb: [*x, *x]", "it has an alias, expected plain values"),
        ("config.yaml", "a: " + "[" * 5000, "config.yaml cannot be read"),
        ("results.json", "{}", "has no 'parameters'"),
    ],
)
def test_a_run_that_lacks_a_file_or_has_a_damaged_one_says_so(
    tmp_path: Path, file: str, text: str | None, remark: str
) -> None:
    folders = [make_run(tmp_path / "whole"), make_run(tmp_path / "lacking")]
    (folders[1] / file).unlink()
    if text is not None:
        (folders[1] / file).write_text(text)
    tables = tables_of(folders)
    assert remark in str(tables["Runs"].rows[1][1])
    assert tables["Settings that differ"].rows == []


def test_runs_without_any_metrics_have_a_picture_all_the_same(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    (folders[1] / "metrics.jsonl").unlink()
    assert draw_curves(load_runs(folders), smooth=1).startswith(b"\x89PNG")
    (folders[0] / "metrics.jsonl").write_text("")
    assert draw_curves(load_runs(folders), smooth=1).startswith(b"\x89PNG")


def test_fewer_than_two_runs_or_the_same_twice_cannot_be_compared(pair: list[Path]) -> None:
    with pytest.raises(ConfigError, match="1 run is given, expected at least two"):
        load_runs(pair[:1])
    with pytest.raises(ConfigError, match="plain is given twice, expected different runs"):
        load_runs([pair[0], pair[1], pair[1] / ".." / "plain"])


def test_a_folder_that_is_no_run_is_named(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no run, expected a folder with config.yaml or"):
        load_runs([*pair, tmp_path])


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    assert [run.name for run in load_runs(folders)] == [str(folder) for folder in folders]


@pytest.mark.parametrize("smooth", [1, 3])
def test_command_writes_page_markdown_and_picture_and_prints_the_tables(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], smooth: int
) -> None:
    out = tmp_path / "made" / "here"
    assert compare(*pair, "--out", out, "--smooth", smooth) == 0
    printed = capsys.readouterr().out
    assert re.search(r"h2g.sample_frac +0.5 +1.0", printed)
    assert str(out / "compare.html") in printed
    png = (out / "compare.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert "![Curves](compare.png)" in (out / "compare.md").read_text()
    outline = Outline((out / "compare.html").read_text())
    assert outline.links == [f"data:image/png;base64,{base64.b64encode(png).decode()}"]
    assert {"script", "link", "iframe", "object"}.isdisjoint(outline.tags)


def test_command_ends_with_one_line_and_2_where_there_is_nothing_to_compare(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([pair[0]], [pair[0], tmp_path], [*pair, "--smooth", 0]):
        assert compare(*words, "--out", tmp_path / "out") == EXIT_EXPECTED_FAILURE
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_names_and_values_of_anybody_stay_text(tmp_path: Path) -> None:
    name = NASTY.replace("/", "\N{DIVISION SLASH}")
    nasty = make_run(tmp_path / name, {NASTY: f"{NASTY}\n\x1b[31m", "seed": NASTY})
    metrics = {"stage": NASTY, "step": 0, f"$\\{NASTY}": 1.0}
    (nasty / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    unknown = Interval(value=0.5, low=0.4, high=0.6)
    row = ResultRow(name=NASTY, cases=NASTY, frames=1, accuracy=0.5, macro_f1=unknown)
    results = Results(parameters={NASTY: (1, 1)}, table=(row,), versions={NASTY: NASTY})
    write_results(nasty / "results.json", results)
    runs = load_runs([nasty, make_run(tmp_path / "other")])
    names, tables = [run.name for run in runs], build_tables(runs)

    page = build_html(names, tables, draw_curves(runs, smooth=1))
    outline = Outline(page)
    assert "script" not in outline.tags
    assert "a" not in outline.tags
    assert outline.text.count(NASTY) >= 10
    assert outline.text.count(name) >= 8

    markdown = build_markdown(names, tables, "compare.png")
    assert "<" not in markdown
    assert "\\[a\\](b)" in markdown
    assert re.search(r"(?<!\\)\[a", markdown) is None
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "\x1b" not in build_text(tables) + markdown + page


def test_markdown_leaves_keys_readable(pair: list[Path]) -> None:
    runs = load_runs(pair)
    text = build_markdown([run.name for run in runs], build_tables(runs), "compare.png")
    assert "| h2g.sample_frac | 0.5 | 1.0 |" in text
    assert "\\_a\\_" in build_markdown(["_a_"], [], "x.png")


def test_a_number_that_is_not_known_is_a_dash(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b")]
    values = json.loads((folders[1] / "results.json").read_text())
    values["table"][0] |= {"accuracy": None, "macro_f1": None, "macro_f1_low": None}
    (folders[1] / "results.json").write_text(json.dumps(values))
    table = tables_of(folders)["Unseen drives"]
    assert re.search(rf"b +80 +{ABSENT} +{ABSENT}$", build_text([table]), re.MULTILINE)
    assert "nan" not in Outline(build_html(["a", "b"], [table], b"")).text


def test_plain_text_is_one_printable_line() -> None:
    assert plain("a\n\tb\x1b[0m \u202ec \ud800d é") == "a b [0m c d é"


def test_more_metrics_than_a_picture_holds_are_left_out_with_a_warning(
    pair: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "_MOST_PANELS", 3)
    assert draw_curves(load_runs(pair), smooth=1).startswith(b"\x89PNG")
    assert "8 metrics, the first 3 are drawn" in caplog.text


def test_comparing_loads_no_torch(root: Path, pair: list[Path], tmp_path: Path) -> None:
    code = (
        "import argparse, sys\n"
        "from clkd_core.distill.record import compare_command as command\n"
        "parser = argparse.ArgumentParser()\n"
        "command.add_arguments(parser)\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert command.run(parser.parse_args(sys.argv[1:])) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = [*map(str, pair), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr
