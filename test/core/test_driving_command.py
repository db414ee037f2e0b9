"""``clkd drive`` from its words to the files it leaves."""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from clkd_core.driving import campaign, command
from clkd_core.driving.results.film import count_frames
from clkd_core.driving.results.record import read_record
from clkd_core.errors import CheckpointError, ConfigError, DataError

SMALL = "width_px: 64\nheight_px: 36\n"


def call(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def small(tmp_path: Path) -> list[str | Path]:
    """Words for drives with little to render."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return ["--config", path, "--seed", "3", "--count", "1", "--out", tmp_path / "out"]


def expert(words: Sequence[str | Path], *more: str) -> int:
    return call(*words, "--driver", "expert", *more)


def test_a_drive_leaves_a_film_and_every_step_and_a_table(
    small: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expert(small, "--scenario", "jaywalker", "free") == 0
    folder = tmp_path / "out" / "expert" / "jaywalker-3-000"
    content = json.loads((folder / "drive.json").read_text())
    assert content["ending"] == "completed"
    assert content["case_name"] == "jaywalker"
    assert len(content["steps"]) > 100
    assert count_frames(folder / "drive.mp4") == len(content["steps"])
    with (folder / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["t_s"]) for row in rows] == [s["t_s"] for s in content["steps"]]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    rows = summary["drivers"]["expert"]
    assert [row["scenario"] for row in rows] == ["jaywalker", "free", "regular", "corner", "all"]
    assert rows[-1]["completed"] == rows[-1]["drives"] == 2
    page = (tmp_path / "out" / "summary.md").read_text()
    out = capsys.readouterr().out
    for text in (page, out):
        assert "jaywalker" in text and "route %" in text
    assert "nobody brakes for it" in page and "nobody brakes for it" in out


def test_a_finished_drive_is_not_driven_again(
    small: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert(small, "--scenario", "green")
    first = (tmp_path / "out" / "summary.json").read_bytes()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("driven again")

    monkeypatch.setattr(campaign, "drive", refuse)
    expert(small, "--scenario", "green")
    assert (tmp_path / "out" / "summary.json").read_bytes() == first
    with pytest.raises(AssertionError, match="driven again"):  # other knobs, another drive
        (tmp_path / "small.yaml").write_text(SMALL + "slack_s: 3.5\n")
        expert(small, "--scenario", "green")


def test_a_damaged_drive_is_driven_again(small: list[str | Path], tmp_path: Path) -> None:
    expert(small, "--scenario", "green", "--no-video")
    path = tmp_path / "out" / "expert" / "green-3-000" / "drive.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_record(path.parent)
    expert(small, "--scenario", "green", "--no-video")
    assert path.read_bytes() == whole


def test_an_interruption_leaves_whole_drives_only(
    small: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = campaign.drive, []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(campaign, "drive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        expert(small, "--scenario", "green", "free")
    assert [path.name for path in (tmp_path / "out" / "expert").iterdir()] == ["green-3-000"]
    assert expert(small, "--scenario", "green", "free") == 0
    assert len(calls) == 3  # the first one was there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x", "--scenario", "gren"], "scenario is 'gren', expected one of all, regular"),
        (["--out", "x", "--count", "0"], "count is 0"),
        (["--scenario", "green"], "--out is missing"),
        (["--measure-latencies", "x", "--latency-frames", "0"], "latency-frames is 0"),
    ],
)
def test_a_wrong_word_is_told_before_any_work(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(*words)
    assert said in str(caught.value)


def test_a_folder_that_is_no_student_is_refused(small: list[str | Path], tmp_path: Path) -> None:
    latencies = tmp_path / "latencies.json"
    latencies.write_text('{"format_version": 1, "decision_ms": [40], "plan_ms": [20]}')
    with pytest.raises(CheckpointError):
        call(*small, "--checkpoint", tmp_path, "--latencies", latencies, "--device", "cpu")


@pytest.mark.slow
def test_the_student_drives_the_same_twice_with_measured_latencies(
    small: list[str | Path], tmp_path: Path
) -> None:
    path = tmp_path / "latencies.json"
    config = small[:2]
    assert call(*config, "--measure-latencies", path, "--latency-frames", "6") == 0
    assert all(ms > 0 for ms in json.loads(path.read_text())["decision_ms"])
    words = [*config, "--seed", "3", "--count", "1", "--scenario", "red_light", "--no-video"]
    found = []
    for name in ("one", "two"):
        assert call(*words, "--latencies", path, "--out", tmp_path / name) == 0
        found.append((tmp_path / name / "student" / "red_light-3-000" / "drive.json").read_bytes())
    assert found[0] == found[1]
    steps = json.loads(found[0])["steps"]
    assert {step["plan_mode"] for step in steps[3:]} == {"FOLLOWING"}
    assert len({step["decision"] for step in steps}) > 1
