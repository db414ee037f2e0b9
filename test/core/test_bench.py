"""clkd_core.runtime.bench_command: a table that cannot flatter."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from clkd_core.errors import ConfigError
from clkd_core.runtime import bench_command
from clkd_core.runtime.bench_command import format_table, summarize, time_interleaved
from clkd_core.runtime.bench_models import Contender, make_frames
from clkd_core.runtime.decode import decode_views, read_image_header


def contender(name: str, answered: list[tuple[str, int]], every: int = 1) -> Contender:
    return Contender(
        name=name,
        what="",
        answer=lambda frame: answered.append((name, frame)),  # type: ignore[arg-type]
        total_parameters=10,
        active_parameters=5,
        every=every,
    )


def test_contenders_meet_the_same_frame_in_turn() -> None:
    answered: list[tuple[str, int]] = []
    fast, slow = contender("fast", answered), contender("slow", answered, every=3)
    times = time_interleaved([fast, slow], [0, 1], rounds=6)
    assert [len(kept) for kept in times] == [6, 2]
    timed = answered[4:]  # three warm-up rounds of the fast one, one of the slow one
    assert timed[:4] == [("fast", 0), ("slow", 0), ("fast", 1), ("fast", 0)]
    assert timed[4:6] == [("fast", 1), ("slow", 1)]


def test_summary_is_percentiles_and_ratios_of_the_times() -> None:
    rng = np.random.default_rng(2)
    times = [rng.uniform(10, 20, 50).tolist(), rng.uniform(70, 100, 10).tolist()]
    first, second = summarize([contender("a", []), contender("b", [])], times)
    assert first.p95_ms == pytest.approx(np.percentile(times[0], 95))
    assert second.ratio_to_first == pytest.approx(np.median(times[1]) / np.median(times[0]))
    assert first.ratio_to_first == 1.0 and first.over_80_ms_frac == 0.0
    assert second.over_80_ms_frac == pytest.approx(np.mean(np.array(times[1]) > 80))
    assert second.frames_per_s == pytest.approx(1000 / np.mean(times[1]))
    assert format_table([first, second], "a device")[0] == "device: a device"


def test_made_up_frames_are_six_real_size_jpegs_of_real_weight() -> None:
    (frame,) = make_frames(1)
    assert len(frame.images) == 6
    for image in frame.images.values():
        assert image.encoded is not None
        assert read_image_header(image.encoded)[:2] == (900, 1600)
        assert 100_000 < len(image.encoded) < 300_000
    views, present = decode_views(frame, (72, 128))
    assert present.all() and views.std() > 10


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench_command.add_arguments(parser)
    return parser.parse_args(["latency", *words])


def test_bench_latency_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert bench_command.run(arguments("--out", str(out), "--frames", "2", "--no-t5")) == 0
    result = json.loads(out.read_text())
    ours, text = result["contenders"]
    assert ours["name"] == "ours, one pass" and ours["frames"] == 2
    assert 0 < ours["p50_ms"] <= ours["p95_ms"] <= ours["p99_ms"]
    assert 0 < ours["active_parameters"] < ours["total_parameters"]
    assert text["ratio_to_first"] == pytest.approx(text["p50_ms"] / ours["p50_ms"])
    assert result["device"] and result["versions"]["torch"] and result["peak_memory_mb"]["host"]
    assert "ours, one pass" in capsys.readouterr().out


def test_bench_refuses_zero_frames() -> None:
    with pytest.raises(ConfigError, match="frames is 0"):
        bench_command.run(arguments("--out", "x", "--frames", "0"))
