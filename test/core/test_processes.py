"""Two processes, weights shared or spread, against one: real ones, started by torchrun."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.distill.__main__ import main
from clkd_core.distill.processes.world import World
from clkd_core.errors import ConfigError

CONFIG = """
out: {out}
bf16: false
device: cpu
cpu_parts: 2
vocab_size: 512
questions_per_sample: 1
save_every_steps: 2
log_every_steps: 1
tensorboard: false
data: {{root: {root}, version: {version}}}
teacher: {{steps: 3, batch_size: 8, accumulate: 2}}
distill: {{steps: 4, batch_size: 8}}
student: {{moe: {{adapter_experts: 2, lora_rank: 1}}}}
release: {{half_life_steps: 2.0, min_alpha: 0.4}}
model:
  tokens_per_view: 2
  vision:
    {{height_px: 36, width_px: 64, stem_width: 8, channels: [8, 8, 8, 16],
      side_channels: [8, 8, 8]}}
  language: {{hidden_size: 16, layers: 4, heads: 2, ffn_size: 24, init_std: 0.2}}
"""


def start(folder: Path, out: str, *words: str, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.run(
        [*launcher, "-m", "clkd_core.distill", str(folder / "config.yaml"), f"out={folder / out}",
         *words],
        capture_output=True, text=True, timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_squares(folder / "set", train=12, val=3)
    text = CONFIG.format(out=folder / "one", root=folder / "set", version=SQUARES_VERSION)
    (folder / "config.yaml").write_text(text)
    done = start(folder, "one", processes=1)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in ("loss", "h2g", "kd", "balance", "router_z", "grad_norm"):
            if name in its:
                assert mine[name] == pytest.approx(its[name], abs=1e-4), (name, its["step"])
        for name in ("hard_corner_frac", "hard_token_frac", "expert_usage", "adapter_usage"):
            if name in its:
                assert mine[name] == pytest.approx(its[name], abs=2e-4, nan_ok=True), name


def assert_same_weights(ours: Path, theirs: Path) -> None:
    for model in ("teacher", "student"):
        mine, its = (load_file(run / model / "model.safetensors") for run in (ours, theirs))
        assert mine.keys() == its.keys()
        for key, value in its.items():
            if key == "img_adapter.4.bias":
                continue  # the LayerNorm behind it takes away what it adds: no gradient but noise
            torch.testing.assert_close(mine[key], value, atol=1e-3, rtol=1e-3, msg=key)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(folder: Path) -> None:
    done = start(folder, "added", processes=2)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stderr
    assert_same(lines_of(folder / "added"), lines_of(folder / "one"))
    assert_same_weights(folder / "added", folder / "one")


@pytest.mark.slow
def test_sharded_processes_give_the_losses_of_one_and_resume(folder: Path) -> None:
    words, run = ("fsdp=true", "keep_states=9"), folder / "sharded"
    done = start(folder, "sharded", *words, processes=2)
    assert done.returncode == 0, done.stderr
    assert_same(lines_of(run), lines_of(folder / "one"))
    assert_same_weights(run, folder / "one")
    for later in ("done-0000000", "distill-0000004"):
        shutil.rmtree(run / "state" / later)
    done = start(folder, "sharded", *words, "--resume", processes=2)
    assert done.returncode == 0, done.stderr
    assert "distill step 0003/0004" in done.stderr and "distill step 0002" not in done.stderr
    assert_same(lines_of(run), lines_of(folder / "one"))


def test_sharding_in_one_process_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "config.yaml"), f"out={folder / 'alone'}", "fsdp=true"]) == 2
    assert "this is the only process: start several with torchrun" in capsys.readouterr().err


def test_one_process_is_a_world_of_its_own() -> None:
    world, values = World(), torch.arange(6.0).reshape(3, 2)
    assert world.is_main
    assert world.own_rows(7) == slice(0, 7)
    assert torch.equal(world.gather(values), values)
    assert torch.equal(world.total(values), values)
    assert world.gather_names(("a", "b")) == ("a", "b")


def test_rows_are_shared_out_evenly_or_not_at_all() -> None:
    assert [World(rank, 3).own_rows(6) for rank in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]
    with pytest.raises(ConfigError, match="a micro-step has 7 samples, expected a multiple of 3"):
        World(0, 3).own_rows(7)
