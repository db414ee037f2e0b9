"""clkd_core.runtime.bench.command: the whole run, each contender in a process of its own."""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_calls import build_sleeper, build_without_room, contender
from fakes import children

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.runtime.bench import command
from clkd_core.runtime.bench.ceilings import Ceilings, Gauge, best_of
from clkd_core.runtime.bench.contenders.spec import Contender, Setting
from clkd_core.runtime.bench.frames import make_frames

CEILINGS = Ceilings(
    device="cpu",
    device_words="this device",
    memory_bytes_per_s=1e10,
    stream_bytes=1,
    flops_per_s={"float32": 1e11},
)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["latency", *words])


def sleepers(*, slow_every: int, on_gpu: bool) -> list[Contender]:
    quick = contender("nano", partial(build_sleeper, 0.004))
    return [
        replace(quick, kind="ours"),
        contender("large", build_without_room),
        contender("slow", partial(build_sleeper, 0.02), every=slow_every),
    ]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders that load no torch, small frames, ceilings of another day."""
    monkeypatch.setattr(command, "line_up", sleepers)
    monkeypatch.setattr(command, "make_frames", lambda count: make_frames(1))
    monkeypatch.setattr(command, "measure_ceilings", lambda setting: CEILINGS)


def test_run_writes_what_it_prints_and_leaves_nobody_behind(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert command.run(arguments("--out", str(out), "--frames", "6", "--slow-every", "3")) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    printed = capsys.readouterr().out
    quick, slow = result["contenders"]
    assert (quick["frames"], slow["frames"]) == (6, 2) == (len(quick["times_ms"]), 2)
    assert 4.0 <= quick["p50_ms"] <= quick["p95_ms"] <= quick["p99_ms"] <= quick["max_ms"]
    assert result["ratios"]["slow"]["nano"] == pytest.approx(
        slow["p50_ms"] / np.median(quick["times_ms"][::3]), rel=1e-3
    )
    assert (quick["every"], slow["every"]) == (1, 3)
    assert slow["ratio_to_first"] == result["ratios"]["slow"]["nano"]
    assert quick["floor"]["floor_ms"] >= quick["floor"]["decode_ms"] > 1.0
    assert [each["why"] for each in result["skipped"]] == [
        "needs 9.0 GB of memory, 1.0 GB are free"
    ]
    assert "left out: needs 9.0 GB of memory" in printed
    for row in (quick, slow):
        assert f"{row['p50_ms']:.1f}" in printed and row["what"] in printed
        assert row["backend"] == "sleep float32" and f"({row['backend']})" in printed
    assert all(goal["goal"] in printed for goal in result["goals"]) and result["goals"]
    assert not [p for p in children() if "spawn_main" in " ".join(p.cmdline())]


def test_file_says_what_its_numbers_belong_to(short: None, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command.run(arguments("--out", str(out), "--frames", "1", "--only", "slow"))
    result = json.loads(out.read_text())
    assert [row["name"] for row in result["contenders"]] == ["slow"]
    assert result["format_version"] == 2 and result["device"] == "this device"
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["versions"]["transformers"] and result["created"] and result["threads"] > 0
    assert "git_revision" in result and result["ceilings"]["memory_bytes_per_s"] == 1e10
    assert "1600 x 900" in result["input"] and "command" in result


def test_nobody_left_is_an_error_that_says_why(short: None, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with pytest.raises(ClkdError, match=r"large: needs 9\.0 GB"):
        command.run(arguments("--out", str(out), "--only", "large"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frames", "0"), "frames is 0"),
        (("--slow-every", "0"), "slow-every 0"),
        (("--threads", "0"), "threads is 0"),
        (("--only", "em"), "'em', which may be em-vlm4ad-text"),
    ],
)
def test_wrong_words_are_refused_before_any_work(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_ceilings", lambda setting: pytest.fail("it began"))
    with pytest.raises(ConfigError, match=said):
        command.run(arguments("--out", "x", *words))


def test_ceilings_are_what_the_device_does_and_bf16_is_measured_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clkd_core.runtime.bench.ceilings._SECONDS", 0.05)
    monkeypatch.setattr("clkd_core.runtime.bench.ceilings._CPU_SIDE", 256)
    monkeypatch.setattr("clkd_core.runtime.bench.ceilings._MOST_BYTES", 1 << 26)
    found = Gauge(Setting(device="cpu")).measure()
    assert found.device == "cpu" and found.device_words.startswith("CPU ")
    assert found.stream_bytes == 1 << 26 and 1e8 < found.memory_bytes_per_s < 1e13
    assert set(found.flops_per_s) == {"float32", "bfloat16"}
    assert all(1e8 < pace < 1e15 for pace in found.flops_per_s.values())


def test_of_two_measurements_the_faster_is_the_ceiling() -> None:
    slower = replace(CEILINGS, memory_bytes_per_s=9e9, flops_per_s={"float32": 2e11})
    found = best_of(CEILINGS, slower)
    assert (found.memory_bytes_per_s, found.flops_per_s) == (1e10, {"float32": 2e11})


@pytest.mark.slow
def test_shipped_student_is_timed_beside_a_control_loop_as_long_as_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = ("--frames", "12", "--device", "cpu", "--only", "nano", "control")
    assert command.run(arguments("--out", str(out), *words)) == 0
    nano, control = json.loads(out.read_text())["contenders"]
    assert nano["checkpoint"].endswith("weights/nano") and nano["frames"] == 12
    assert nano["active_parameters"] < nano["total_parameters"]
    assert nano["floor"]["flops"] > 1e7 and nano["floor"]["weight_bytes"] > 1e6
    assert nano["floor"]["floor_ms"] >= nano["floor"]["decode_ms"] > 0.5
    assert control["floor"] is None and control["total_parameters"] == 0
    assert 0.1 < control["ratio_to_first"] < 10
    printed = capsys.readouterr().out
    assert "difference" in printed and "nano over 80 ms" in printed


@pytest.mark.gpu
def test_on_a_gpu_its_memory_is_told_and_its_goals_are_judged(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ("--frames", "3", "--device", "cuda", "--only", "t5-small", "swin-t5", "control")
    assert command.run(arguments("--out", str(out), *words)) == 0
    result = json.loads(out.read_text())
    ours, swin, _ = result["contenders"]
    assert ours["backend"].startswith("CUDA graph") and ours["frames"] == 3
    assert min(ours["gpu_peak_mib"], swin["gpu_peak_mib"]) > 100
    assert {goal["goal"] for goal in result["goals"]} >= {"t5-small: p50 [ms]"}
