"""The transport's benchmark: what it counts, its short form over real processes, its end."""

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fakes import wait_until

from clkd_core.errors import ClkdError, ConfigError
from clkd_ros import bench_transport, middleware
from clkd_ros.bench_transport import CAMERAS, Load, Outcome, format_table, run, summarize
from clkd_ros.launcher import child_environment

LOAD = Load(case="compressed", seconds=1.0, reliability="best_effort", prefix="x")
SENDING = {"call_ms": [0.1, 0.2, 0.9], "late_ticks": 2, "cpu_frac": 0.25}


def parse(*words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench_transport.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def everything(ms: float = 1.0) -> list[tuple[int, int, float]]:
    return [(camera, number, ms) for number in range(LOAD.ticks) for camera in range(CAMERAS)]


def summed(heard: list[tuple[int, int, float]]) -> Outcome:
    return summarize(LOAD, SENDING, {"heard": heard, "cpu_frac": 0.5})


def test_nothing_lost_and_in_time_meets_the_goals() -> None:
    found = summed(everything())
    assert (found.sent, found.lost, found.disordered, found.goals_met) == (72, 0, 0, True)
    assert (found.publish_p50_ms, found.publish_max_ms, found.late_ticks) == (0.2, 0.9, 2)
    assert (found.publisher_cpu_frac, found.subscriber_cpu_frac) == (0.25, 0.5)


def test_lost_and_disordered_are_counted_by_camera_and_number() -> None:
    heard = everything()
    del heard[7], heard[20]
    assert summed(heard).lost == 2
    heard.append(heard[0])  # twice does not make up for one that is lost
    assert (summed(heard).lost, summed(heard).disordered) == (2, 1)
    assert not summed(heard).goals_met
    assert summed(list(reversed(everything()))).disordered == 72 - CAMERAS


def test_percentiles_are_those_of_the_sorted_times_and_late_ones_miss_the_goal() -> None:
    times = np.random.default_rng(0).permutation(72) + 1.0
    heard = [(*place[:2], ms) for place, ms in zip(everything(), times, strict=True)]
    found, ordered = summed(heard), sorted(times)
    assert (found.p50_ms, found.max_ms) == (
        ordered[36],
        72.0,
    )  # the higher of the two in the middle
    assert found.p99_ms == ordered[math.ceil(0.99 * 71)]
    assert not found.goals_met  # p99 is over 20 ms though nothing is lost
    assert summed(everything(ms=20.0)).goals_met


def test_nothing_heard_is_all_lost_and_takes_for_ever() -> None:
    found = summed([])
    assert (found.lost, found.p99_ms, found.goals_met) == (72, math.inf, False)


DESCRIBED: dict[str, Any] = {
    "device": "a machine",
    "middleware": "embedded",
    "reliability": "best_effort",
    "net_core_rmem_max": 212992,
    "load_average": {"before": 0.1, "after": 0.2},
}


def test_table_says_what_missed_and_what_helps() -> None:
    lines = format_table([summed(everything()), summed([])], DESCRIBED)
    assert "a machine" in lines[0] and "212992" in lines[0]
    assert lines[3].endswith("nothing lost, p99 <= 20 ms: met")
    assert lines[4].endswith("MISSED")
    assert "sysctl -w net.core.rmem_max=33554432" in lines[5]
    enough = DESCRIBED | {"net_core_rmem_max": 2**25}
    assert "--reliability reliable" in format_table([summed([])], enough)[-1]
    assert "met" in format_table([summed(everything())], DESCRIBED)[-1]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_impossible_durations_are_refused(seconds: str) -> None:
    with pytest.raises(ConfigError, match="seconds"):
        run(parse("--seconds", seconds))


def test_lost_messages_end_with_exit_code_1_and_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_transport, "measure", lambda load: summed([]))
    assert run(parse("--only", "compressed", "--out", tmp_path / "x.json")) == 1
    written = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert (written["cases"][0]["lost"], written["cases"][0]["p99_ms"]) == (72, None)


@pytest.mark.parametrize("case", ["compressed", pytest.param("raw", marks=pytest.mark.slow)])
def test_short_form_loses_nothing_between_real_processes(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "transport.json"
    words = ("--only", case, "--seconds", "1", "--reliability", "reliable")
    code = run(parse(*words, "--out", path))
    said = capsys.readouterr()
    assert code == 0, said.out
    written = json.loads(path.read_text())
    (row,) = written["cases"]
    assert (row["case"], row["sent"], row["lost"], row["disordered"]) == (case, 72, 0, 0)
    assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert 0 < row["publisher_cpu_frac"] < 2 and 0 < row["subscriber_cpu_frac"] < 2
    assert written["middleware"] == middleware.which()
    assert "cores" in written["device"] and written["versions"]["python"]
    assert f"{case:10}     72     0" in said.out


def test_end_that_fails_is_named() -> None:
    with (
        pytest.raises(ClkdError, match="publish process"),
        bench_transport._end("publish", replace(LOAD, prefix="not a name")) as publisher,
    ):
        publisher.wait_for("connected", 20.0)


def test_ctrl_c_ends_both_processes_and_says_nothing_more() -> None:
    script = (
        "import sys, argparse\n"
        "from clkd_core.cli import run_guarded\n"
        "from clkd_ros import bench_transport as bench\n"
        "parser = argparse.ArgumentParser(); bench.add_arguments(parser)\n"
        "sys.exit(run_guarded(lambda: bench.run(parser.parse_args())))\n"
    )
    words = [sys.executable, "-c", script, "--only", "compressed"]
    started = subprocess.Popen(
        words, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    whole = psutil.Process(started.pid)
    wait_until(lambda: len(whole.children()) == 2, "both ends")
    ends = whole.children()
    wait_until(lambda: all(end.num_threads() > 2 for end in ends), "both on the network")
    start_s = time.monotonic()
    started.send_signal(signal.SIGINT)
    said, complained = started.communicate(timeout=10.0)
    assert (started.returncode, said) == (130, "")
    assert "Traceback" not in complained
    assert time.monotonic() - start_s < 3.0
    assert not any(end.is_running() for end in ends)
