"""clkd_core.distill.bench.experts: every form computes the same, and the table follows from it."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clkd_core.config import load_config
from clkd_core.distill.bench import expert_forms, experts
from clkd_core.distill.bench.expert_forms import (
    BASES,
    DENSE,
    FULL_ALL,
    FULL_TOKENS,
    LORA_ALL,
    SIZES,
    ExpertForms,
    FfnSize,
)
from clkd_core.distill.config import TrainConfig
from clkd_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TINY = FfnSize(preset="nano", hidden=16, inner=24)
TINY_T5 = FfnSize(preset="t5-small", hidden=16, inner=24, family="t5")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    experts.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("size", [TINY, TINY_T5])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("keeps_stacked", [True, False])
def test_every_form_of_a_kind_computes_the_same(
    size: FfnSize, tokens: int, keeps_stacked: bool
) -> None:
    torch.manual_seed(4)
    forms = ExpertForms(size, torch.float32, CPU, keeps_stacked=keeps_stacked).forms()
    x = torch.randn(1, tokens, 16)
    outputs = {name: form(x) for name, (form, _) in forms.items()}
    for form, base in BASES.items():
        if base != DENSE:
            torch.testing.assert_close(outputs[form], outputs[base], atol=1e-5, rtol=0)
    for kind in (LORA_ALL, FULL_ALL):  # experts that do nothing would make all of it pointless
        assert outputs[kind].shape == (1, tokens, 16)
        assert not torch.allclose(outputs[kind], outputs[DENSE], atol=1e-4)


def test_gathered_form_sends_tokens_to_their_own_experts_and_the_other_to_all() -> None:
    built = ExpertForms(TINY, torch.float32, CPU, keeps_stacked=False)
    seen: list[int] = []
    for expert in built.full.experts:
        expert.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
    for form, sent in ((FULL_TOKENS, 2 * 40), (FULL_ALL, 4 * 40)):
        seen.clear()
        built.forms()[form][0](torch.randn(1, 40, 16))
        assert sum(seen) == sent


@pytest.mark.parametrize("size", [TINY, TINY_T5])
def test_every_form_of_a_kind_has_the_same_gradients(size: FfnSize) -> None:
    torch.manual_seed(4)
    forms = ExpertForms(size, torch.float32, CPU, keeps_stacked=False).forms()
    x = torch.randn(1, 30, 16, requires_grad=True)

    def derive(name: str) -> list[Tensor]:
        form, used = forms[name]
        inputs = (x, *used.parameters())
        return list(torch.autograd.grad(form(x).square().sum(), inputs))

    for form, base in BASES.items():
        if base != DENSE:
            for one, other in zip(derive(form), derive(base), strict=True):
                torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_the_presets(size: FfnSize) -> None:
    config = load_config(TrainConfig, ROOT / "config" / "train" / f"{size.preset}.yaml", [])
    language: Any = config.model.language  # type: ignore[attr-defined]  # families differ
    assert (language.hidden_size, language.ffn_size) == (size.hidden, size.inner)
    assert config.model.family == size.family  # type: ignore[attr-defined]
    if size.hidden < 4096:
        dense = ExpertForms(size, torch.float32, CPU, keeps_stacked=False).dense
        assert sum(p.numel() for p in dense.parameters()) == size.parameters


def test_command_writes_every_time_and_a_table_with_a_star_on_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(expert_forms, "SIZES", (TINY,))
    out = tmp_path / "experts.json"
    words = ["--sizes", "nano", "--tokens", "1", "5", "--rounds", "3", "--threads", "1"]
    assert experts.run(parse("--out", str(out), "--device", "cpu", *words)) == 0
    kept = json.loads(out.read_text())
    assert kept["threads"] == 1 and not kept["skipped"]
    cases = {(c["dtype"], c["mode"], c["tokens"]): c for c in kept["cases"]}
    assert len(cases) == 2 * 2 * 2
    for case in cases.values():
        times = {form["name"]: np.asarray(form["times_ms"]) for form in case["forms"]}
        assert all(len(rounds) == 3 and (rounds > 0).all() for rounds in times.values())
        for ratio in case["ratios"]:
            median = float(np.median(times[ratio["of"]] / times[ratio["over"]]))
            assert ratio["paired"]["value"] == pytest.approx(median)
        single = case["tokens"] == 1
        assert case["chosen"] == [LORA_ALL, FULL_TOKENS if single else FULL_ALL]
    table = capsys.readouterr().out.splitlines()
    head = next(place for place, line in enumerate(table) if "bfloat16, forward and" in line)
    starred = [line.strip() for line in table[head : head + 9] if "*" in line]
    assert [line.split("  ")[0] for line in starred] == [LORA_ALL, FULL_ALL, FULL_TOKENS]


def test_case_that_would_take_too_long_or_too_much_memory_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(expert_forms, "SIZES", (TINY,))
    words = ["--out", str(tmp_path / "e.json"), "--sizes", "nano", "--tokens", "2"]
    assert experts.run(parse(*words, "--limit-s", "0")) == 0
    assert "2 tokens: not measured, would take about" in capsys.readouterr().out
    huge = FfnSize(preset="nano", hidden=1 << 20, inner=1 << 20)
    monkeypatch.setattr(expert_forms, "SIZES", (huge,))
    assert experts.run(parse(*words)) == 0
    assert "2 tokens: not measured, needs" in capsys.readouterr().out
    reasons = [case["reason"] for case in json.loads((tmp_path / "e.json").read_text())["skipped"]]
    assert len(reasons) == 4 and all("GiB are free" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "2"], "rounds is 2, expected at least 3"),
        (["--tokens", "0", "5"], "tokens is 0, expected at least 1"),
        (["--threads", "0"], "threads is 0, expected at least 1"),
        (["--device", "no"], "device is 'no'"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experts.run(parse("--out", str(tmp_path / "e.json"), *words))
    assert not list(tmp_path.iterdir())
