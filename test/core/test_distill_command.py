import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.distill.__main__ import main

TINY_YAML = """
out: {out}
bf16: false
device: cpu
vocab_size: 512
questions_per_sample: 1
save_every_steps: 1
data: {{root: {root}, version: {version}}}
teacher: {{steps: {steps}, batch_size: 4}}
distill: {{steps: 2, batch_size: 4}}
student: {{moe: {{adapter_experts: 2, lora_rank: 1}}}}
model:
  tokens_per_view: 2
  vision:
    {{height_px: 36, width_px: 64, stem_width: 8, channels: [8, 8, 8, 16],
      side_channels: [8, 8, 8]}}
  language: {{hidden_size: 16, layers: 2, heads: 2, ffn_size: 24}}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    write_squares(tmp_path / "set", train=8, val=2)
    return write_config(tmp_path, steps=2)


def write_config(tmp_path: Path, *, steps: int) -> Path:
    text = TINY_YAML.format(
        out=tmp_path / "run", root=tmp_path / "set", version=SQUARES_VERSION, steps=steps
    )
    (tmp_path / "tiny.yaml").write_text(text)
    return tmp_path / "tiny.yaml"


def test_command_trains_and_says_where_the_student_is(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_file), "h2g.sample_frac=0.25", "alpha0=0.5", "gamma=0.9"]) == 0
    run = config_file.parent / "run"
    assert f"student: {run / 'student'}" in capsys.readouterr().out
    saved = (run / "config.yaml").read_text()
    for line in ("sample_frac: 0.25", "alpha0: 0.5", "gamma: 0.9"):
        assert line in saved


def test_unknown_key_is_one_line_and_exit_code_2(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_file), "release.gama=0.9"]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'release.gama', did you mean 'release.gamma'?" in error
    assert error.startswith("clkd: error: ")
    assert not (config_file.parent / "run").exists()


@pytest.mark.parametrize("override", ["h2g.token_frac=0", "teacher.steps=0", "release.gamma=2"])
def test_values_out_of_range_are_refused(
    config_file: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_file), override]) == 2
    section = override.split(".")[0]
    assert f"'{section}'" in capsys.readouterr().err


def start(config: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "clkd_core.distill", str(config), *words],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_state(run: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Until a state of at least that many steps of the first stage is there."""
    limit_s = time.monotonic() + 90
    while not any(int(p.name[-7:]) >= count for p in (run / "state").glob("teacher-*")):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < limit_s, f"no state of {count} steps within 90 s"
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_ends_within_three_seconds_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=8, val=2)
    process = start(write_config(tmp_path, steps=100_000))
    wait_for_state(tmp_path / "run", process, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=3) == 130
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_killed_run_resumes_as_if_nothing_had_happened(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=8, val=2)
    config = write_config(tmp_path, steps=40)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([str(config), f"out={whole}"]) == 0
    for steps in (3, 17):  # each kill falls wherever it falls, within a save included
        process = start(config, f"out={cut}", *(["--resume"] if steps > 3 else []))
        wait_for_state(cut, process, steps)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not (cut / "student").exists()
    assert main([str(config), f"out={cut}", "--resume"]) == 0

    def losses(run: Path) -> list[tuple[str, int, float]]:
        lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
        return [(line["stage"], line["step"], line["loss"]) for line in lines]

    assert losses(cut) == losses(whole)
    for model in ("teacher", "student"):
        ours, theirs = (load_file(run / model / "model.safetensors") for run in (cut, whole))
        assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert [path.name for path in (cut / "state").iterdir()] == ["done-0000000"]


def test_dry_run_counts_and_trains_nothing(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_file), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "teacher: " in printed and "student: " in printed
    assert "2 steps of 4 samples" in printed and "H2G 50% of samples, 60% of tokens" in printed
    assert not (config_file.parent / "run").exists()


@pytest.mark.slow
def test_smoke_config_works_alone_on_a_fresh_clone(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    begin_s = time.monotonic()
    code = main(
        [
            str(root / "config" / "train" / "smoke.yaml"),
            f"out={tmp_path / 'run'}",
            f"data.root={tmp_path / 'world'}",
            f"data.world={root / 'config' / 'world' / 'tiny.yaml'}",
        ]
    )
    assert code == 0
    assert (tmp_path / "run" / "student" / "model.safetensors").is_file()
    assert time.monotonic() - begin_s < 60
