"""clkd_core.distill.bench: every ratio follows from the times, and training's own parts ran."""

import argparse
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_vlm import SQUARES_VERSION, write_squares
from torch.nn import functional

from clkd_core import cli
from clkd_core.config import load_config
from clkd_core.distill.bench import command, measure, steps
from clkd_core.distill.bench.measure import compute_ratio, measure_peaks, time_interleaved
from clkd_core.distill.bench.steps import CACHED, H2G, LIVE, PLAIN, SELECTION, BenchSteps
from clkd_core.distill.config import TrainConfig
from clkd_core.distill.losses import h2g_loss
from clkd_core.distill.processes.parts import PartedModel
from clkd_core.errors import ConfigError
from clkd_core.models.moe import router_terms

TINY_YAML = """
out: {out}
bf16: false
device: cpu
cpu_parts: 2
vocab_size: 512
questions_per_sample: 1
data: {{root: {root}, version: {version}, workers: 1}}
distill: {{batch_size: 8, accumulate: 2}}
student: {{moe: {{adapter_experts: 2, lora_rank: 1}}}}
model:
  tokens_per_view: 2
  vision:
    {{height_px: 36, width_px: 64, stem_width: 8, channels: [8, 8, 8, 16],
      side_channels: [8, 8, 8]}}
  language: {{hidden_size: 16, layers: 2, heads: 2, ffn_size: 24}}
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_squares(folder / "set", train=12, val=2)
    text = TINY_YAML.format(out=folder / "run", root=folder / "set", version=SQUARES_VERSION)
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(list(words))


@dataclass(frozen=True)
class Finished:
    """One run of the command."""

    result: dict[str, Any]
    printed: str
    config_file: Path

    @property
    def times(self) -> dict[str, NDArray[np.float64]]:
        return {row["name"]: np.array(row["times_ms"]) for row in self.result["contenders"]}


@pytest.fixture(scope="module")
def finished(config_file: Path) -> Finished:
    out, printed = config_file.parent / "bench.json", io.StringIO()
    words = ["bench", "distill", str(config_file), "h2g.token_frac=0.5"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(command, "LARGE_VOCABULARY", 1000)
        assert cli.main([*words, "--out", str(out), "--steps", "2"]) == 0
    return Finished(json.loads(out.read_text()), printed.getvalue(), config_file)


def test_every_contender_is_timed_and_printed(finished: Finished) -> None:
    assert list(finished.times) == [PLAIN, H2G, LIVE, CACHED, SELECTION]
    for row, times in zip(finished.result["contenders"], finished.times.values(), strict=True):
        assert len(times) == 2 and (times > 0).all()
        assert row["p50_ms"] == pytest.approx(np.median(times))
        assert row["name"] in finished.printed and f"{row['mean_ms']:.2f}" in finished.printed


def test_every_ratio_follows_from_the_times_in_the_file(finished: Finished) -> None:
    for row in finished.result["ratios"]:
        above, below = finished.times[row["of"]], finished.times[row["over"]]
        assert row["paired"]["value"] == pytest.approx(np.median(above / below))
        assert row["mean"]["value"] == pytest.approx(above.sum() / below.sum())
        assert row["name"] in finished.printed
        assert f"{row['paired']['value']:.4f}" in finished.printed
    compared = [(row["of"], row["over"], row["goal"]) for row in finished.result["ratios"]]
    assert compared == [
        (SELECTION, H2G, 0.03),
        (H2G, PLAIN, None),
        (CACHED, PLAIN, 1.15),
        (LIVE, PLAIN, 2.0),
    ]


def test_the_file_says_what_the_numbers_belong_to(finished: Finished) -> None:
    assert finished.result["config"]["h2g"]["token_frac"] == 0.5
    assert finished.result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert finished.result["device"] in finished.printed


def test_the_run_folder_of_the_config_stays_untouched(finished: Finished) -> None:
    assert not (finished.config_file.parent / "run").exists()


def test_memory_is_measured_for_a_large_and_the_own_vocabulary(finished: Finished) -> None:
    rows = finished.result["memory_bytes"]
    kinds = [(row["vocabulary"], row["dtype"]) for row in rows]
    (own,) = {vocabulary for vocabulary, _ in kinds} - {1000}
    assert kinds == [(v, dtype) for v in (1000, own) for dtype in ("float32", "bfloat16")]
    assert f"V {own:,}" in finished.result["batch"] and 50 < own <= 512
    for row in rows:
        assert row["ratio"] == row["kd"] / row["torch_cross_entropy"]
        assert row["ratio_short"] == row["kd_short"] / row["torch_cross_entropy"]
        assert row["met"] == (max(row["ratio"], row["ratio_short"]) <= 1.3)


def test_peaks_hold_the_gradient_at_least_and_tell_the_two_cross_entropies_apart() -> None:
    keep = torch.ones(4, 8, dtype=torch.bool)
    row = measure_peaks(keep, 16_000, torch.float32, top_k=8, temperature=2.0, goal=0.1)
    gradient = 4 * 8 * 16_000 * 4
    assert min(row.cross_entropy, row.kd, row.kd_short) >= gradient
    assert row.torch_cross_entropy >= 2 * gradient  # log-softmax is kept for the backward pass
    assert row.cross_entropy < row.torch_cross_entropy
    assert not row.met  # KD cannot be under a tenth
    assert row.ratio_to_ours == max(row.kd, row.kd_short) / row.cross_entropy


def slow_ratio(above: list[float], below: list[float]) -> float:
    pairs = sorted(a / b for a, b in zip(above, below, strict=True))
    half = len(pairs) // 2
    return pairs[half] if len(pairs) % 2 else (pairs[half - 1] + pairs[half]) / 2


def test_a_ratio_is_paired_by_round() -> None:
    rng = np.random.default_rng(3)
    weather = np.where(rng.random(40) < 0.5, 1.0, 3.0)  # a neighbour comes and goes
    times = {"a": 10 * weather, "b": 11 * weather * rng.uniform(0.98, 1.02, 40)}
    ratio = compute_ratio("b / a", times, of="b", over="a", goal=1.15)
    assert ratio.paired.value == pytest.approx(slow_ratio(list(times["b"]), list(times["a"])))
    assert 1.07 < ratio.paired.low <= ratio.paired.value <= ratio.paired.high < 1.13
    assert ratio.mean.value == pytest.approx(times["b"].sum() / times["a"].sum())
    assert ratio.mean.low <= ratio.mean.value <= ratio.mean.high
    assert ratio.met is True and ratio.sure is True


def test_one_round_has_a_ratio_without_spread() -> None:
    times = {"a": np.array([2.0]), "b": np.array([5.0])}
    ratio = compute_ratio("b / a", times, of="b", over="a", goal=2.0)
    assert ratio.paired.low == ratio.paired.value == ratio.paired.high == ratio.mean.value == 2.5
    assert ratio.met is False and ratio.sure is True


@pytest.mark.parametrize(
    ("goal", "met", "sure"), [(1.0, False, True), (1.2, True, False), (2.0, True, True)]
)
def test_a_verdict_is_sure_when_its_whole_interval_agrees(
    goal: float, met: bool, sure: bool
) -> None:
    times = {"a": np.ones(9), "b": np.linspace(1.05, 1.3, 9)}
    ratio = compute_ratio("b / a", times, of="b", over="a", goal=goal)
    assert (ratio.met, ratio.sure) == (met, sure)
    without = compute_ratio("b / a", times, of="b", over="a", goal=None)
    assert without.met is None and without.sure is None


def test_contenders_take_turns_in_changing_order() -> None:
    called: list[tuple[str, int]] = []

    def contender(name: str) -> Any:
        return lambda number: called.append((name, number))

    names = ["a", "b", "c"]
    cpu = torch.device("cpu")
    contenders = {name: contender(name) for name in names}
    times = time_interleaved(contenders, 12, seed=0, device=cpu)
    counted = called[measure.WARM_UP_ROUNDS * 3 :]
    rounds = [counted[start : start + 3] for start in range(0, 36, 3)]
    for number, calls in enumerate(rounds):
        assert sorted(calls) == [(name, number) for name in names]
    assert len({tuple(name for name, _ in calls) for calls in rounds}) > 2
    assert all(len(kept) == 12 for kept in times.values())


@pytest.fixture(scope="module")
def bench(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchSteps]:
    """With labels of the whole vocabulary, which say what the live teacher says."""
    words = ["data.looks=4", "cache.teacher_top_k=1000", "cpu_parts=1"]
    config = load_config(TrainConfig, config_file, words)
    folder = tmp_path_factory.mktemp("store")
    made = BenchSteps(config, folder, torch.device("cpu"), distinct=2)
    yield made
    made.close()


def test_only_the_live_contender_asks_the_teacher(
    bench: BenchSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    infer = PartedModel.infer

    def count(self: PartedModel, batch: Any) -> torch.Tensor:
        asked.append(len(batch.sample_tokens))
        return infer(self, batch)

    monkeypatch.setattr(PartedModel, "infer", count)
    calls = bench.contenders()
    for name, expected in ((PLAIN, 0), (H2G, 0), (CACHED, 0), (LIVE, 2), (SELECTION, 0)):
        asked.clear()
        calls[name](0)
        assert len(asked) == expected, name
    assert asked == [] and [len(b.sample_tokens) for b in bench.batches[0]] == [4, 4]


def slow_gradient(bench: BenchSteps, *, hard: bool, kd: bool) -> torch.Tensor:
    """Of the loss as the paper writes it, by autograd through everything at once."""
    config, student, total = bench.config, bench._parted.model, torch.zeros(())
    for batch in bench.batches[0]:
        seen, keep = (batch.views, batch.present, batch.text, None), batch.text.keep
        logits = student(*seen)
        loss = functional.cross_entropy(logits.mT, batch.text.targets, reduction="none")
        part = loss[keep].mean()
        if hard:
            part = h2g_loss(loss, keep, **vars(config.h2g))
        if kd:
            with torch.no_grad():
                target = (bench._live._parted.model(*seen)[keep] / 2.0).log_softmax(-1)
            ours = (logits[keep] / 2.0).log_softmax(-1)
            divergence = functional.kl_div(ours, target, log_target=True, reduction="batchmean")
            part = part + config.release.alpha0 * 4.0 * divergence
        balance, router_z = router_terms(student).losses
        assert config.student.moe is not None
        part = part + config.student.moe.balance_weight * balance
        part = part + config.student.moe.router_z_weight * router_z
        total = total + part / 2
    found = torch.autograd.grad(total, bench._learning, allow_unused=True)
    return torch.cat([grad.flatten() for grad in found if grad is not None])


@pytest.mark.parametrize(
    ("name", "hard", "kd"),
    [(PLAIN, False, False), (H2G, True, False), (LIVE, True, True), (CACHED, True, True)],
)
def test_each_contender_learns_from_the_loss_that_its_name_says(
    bench: BenchSteps, monkeypatch: pytest.MonkeyPatch, name: str, hard: bool, kd: bool
) -> None:
    monkeypatch.setattr(bench._optimizer, "step", lambda: None)
    monkeypatch.setattr(steps.nn.utils, "clip_grad_norm_", lambda *_: None)
    bench.contenders()[name](0)
    got = torch.cat([p.grad.flatten() for p in bench._learning if p.grad is not None])
    torch.testing.assert_close(got, slow_gradient(bench, hard=hard, kd=kd), rtol=1e-3, atol=1e-5)


def test_a_step_changes_the_student(bench: BenchSteps) -> None:
    before = [p.detach().clone() for p in bench._learning]
    bench.step(0, hard=True, labels=None)
    changed = [not torch.equal(a, b) for a, b in zip(before, bench._learning, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_the_configs_own_looks_and_label_size_are_kept(config_file: Path, tmp_path: Path) -> None:
    words = ["data.looks=3", "cache.teacher_top_k=5"]
    config = load_config(TrainConfig, config_file, words)
    made = BenchSteps(config, tmp_path, torch.device("cpu"), distinct=1)
    made.close()
    assert made.config.data.looks == 3 and made.config.cache.teacher_top_k == 5
    assert [path.name.partition("-")[0] for path in tmp_path.glob("*.sqlite")] == ["labels"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "0"], "steps is 0"),
        (["distill=null"], "distill is null"),
        (["fsdp=true"], "fsdp is true"),
    ],
)
def test_bench_refuses_what_it_cannot_time(
    config_file: Path, words: list[str], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "x.json"
    with pytest.raises(ConfigError, match=said):
        command.run(arguments(str(config_file), *words, "--out", str(out)))
    assert not out.exists()


def test_without_a_config_the_demos_is_taken() -> None:
    def split(*words: str) -> tuple[Path, list[str]]:
        return command._split_words(arguments(*words, "--out", "x").words)

    assert split() == (Path("config/train/demo.yaml"), [])
    assert split("seed=2") == (Path("config/train/demo.yaml"), ["seed=2"])
    assert split("a.yaml", "seed=2") == (Path("a.yaml"), ["seed=2"])
    assert command.DEFAULT_CONFIG.parts == ("config", "train", "demo.yaml")
