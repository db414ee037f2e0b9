"""`clkd bench backends`: all that are installed, on the same frames, honest about labels."""

import json
from pathlib import Path

import pytest
from shared_engines import tiny_student
from tiny_bags import write_scene

from clkd_core.cli import main
from clkd_core.models.checkpoint import save_checkpoint

ALWAYS = ["torch float32", "torch bfloat16", "OpenVINO float32", "OpenVINO bfloat16"]
WITH_ONNXRUNTIME = ["ONNX Runtime float32", "ONNX Runtime int8"]


@pytest.mark.slow
def test_every_backend_is_timed_and_scored_on_the_bags_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "student", tiny_student("llama"))
    bag = write_scene(tmp_path / "bag", 1, keyframes=3)
    words = ["--checkpoint", str(tmp_path / "student"), "--bag", str(bag), "--rounds", "4"]
    assert main(["bench", "backends", *words, "--out", str(tmp_path / "b.json")]) == 0
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
