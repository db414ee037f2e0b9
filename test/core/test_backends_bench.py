"""`clkd bench backends`: all that are installed, on the same frames, honest about labels."""

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from shared_engines import tiny_student
from tiny_bags import write_scene

from clkd_core.cli import main
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.runtime.backends import bench
from clkd_core.runtime.backends.on_torch import TorchBackend
from clkd_core.runtime.bench import contest
from clkd_core.runtime.bench.frames import make_frames

ALWAYS = ["torch float32", "torch bfloat16", "OpenVINO float32", "OpenVINO bfloat16"]
WITH_ONNXRUNTIME = ["ONNX Runtime float32", "ONNX Runtime int8"]


@pytest.mark.slow
def test_every_backend_is_timed_and_scored_on_the_bags_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "student", tiny_student("llama"))
    bag = write_scene(tmp_path / "bag", 1, keyframes=3)
    words = ["--checkpoint", str(tmp_path / "student"), "--bag", str(bag), "--rounds", "4"]
    level = logging.getLogger().level
    assert main(["bench", "backends", *words, "--out", str(tmp_path / "b.json")]) == 0
    assert logging.getLogger().level == level
    found = json.loads((tmp_path / "b.json").read_text())
    rows = {row["name"]: row for row in found["backends"]}
    assert [name for name in rows if name != "OpenVINO int8"] == [*ALWAYS, *WITH_ONNXRUNTIME]
    for row in rows.values():
        parts = row["vision_p50_ms"] + row["decision_p50_ms"]
        assert 0 < parts < 2 * row["both_p50_ms"] and row["both_p50_ms"] <= row["both_p99_ms"]
        assert 0.0 <= row["macro_f1"] <= 1.0
    for name in ("torch float32", "OpenVINO float32", "ONNX Runtime float32"):
        assert rows[name]["same_as_float32_frac"] == 1.0
    assert "CPU" in found["device"] and found["versions"]["openvino"]
    said = capsys.readouterr().out
    assert all(name in said for name in rows)


def test_backends_take_turns_in_changing_order_each_after_a_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    class Noted(TorchBackend):
        def encode(self, *args: object) -> object:
            log.append(self.noted)
            return super().encode(*args)

    def build(name: str) -> Noted:
        backend = Noted(tiny_student("llama"), "cpu", bf16=False)
        backend.noted = name
        return backend

    monkeypatch.setattr(contest, "SETTLE_S", 0.25)
    monkeypatch.setattr(time, "sleep", lambda s: log.append(f"rest {s}"))
    builds = {name: lambda name=name: build(name) for name in "ab"}
    rows = bench.measure(builds, make_frames(1), rounds=9, bag=None)
    assert [row.name for row in rows] == ["a", "b"]
    assert log[::2] == ["rest 0.25"] * 24  # 3 rounds are not counted
    rounds = np.reshape(log[1::2], (12, 2)).tolist()
    assert all(sorted(each) == ["a", "b"] for each in rounds)
    assert {tuple(each) for each in rounds} == {("a", "b"), ("b", "a")}


def test_roots_loggers_level_is_put_back_also_after_a_failure() -> None:
    level = logging.getLogger().level
    with pytest.raises(ValueError, match="no graph"), bench._errors_alone():
        assert logging.getLogger().level == logging.ERROR != level
        raise ValueError("no graph")
    assert logging.getLogger().level == level


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "rounds is 0, expected at least 1"),
        (["--preset", "nano", "--bag", "b"], "--preset has random weights"),
    ],
)
def test_words_that_make_no_sense_are_refused(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "backends", "--out", str(tmp_path / "b.json"), *words]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b.json").exists()
