"""Switches of a run, each through the whole of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import config_for
from tiny_vlm import tiny_config, tiny_t5_config, tiny_t5_language, write_squares

from clkd_core.distill import setup
from clkd_core.distill import train as train_module
from clkd_core.distill.config import (
    CourseConfig,
    LoraConfig,
    StudentConfig,
    TrainConfig,
    TuneConfig,
)
from clkd_core.distill.record.metrics_log import read_metrics
from clkd_core.distill.terms import Confidence
from clkd_core.distill.train import train
from clkd_core.errors import ConfigError
from clkd_core.models.checkpoint import load_vlm
from clkd_core.models.llama_vlm import LlamaVlm
from clkd_core.models.t5_vlm import T5Vlm


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    write_squares(root)
    return root


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def short(squares: Path, out: Path, **changes: Any) -> TrainConfig:
    course = CourseConfig(steps=2, batch_size=6)
    config = replace(config_for(squares, out), teacher=course, distill=course, tensorboard=False)
    return replace(config, **changes)


def stages_of(out: Path) -> list[str]:
    return [line["stage"] for line in read_metrics(out / "metrics.jsonl")]


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_both_families_go_through_the_same_loop(squares: Path, tmp_path: Path) -> None:
    for name, family, change in (
        ("llama", LlamaVlm, {}),
        ("t5", T5Vlm, {"model": tiny_t5_config()}),
    ):
        train(short(squares, tmp_path / name, **change))
        assert stages_of(tmp_path / name) == ["teacher"] * 2 + ["distill"] * 2
        student = load_vlm(tmp_path / name / "student")
        assert isinstance(student, family)
        assert student.config.moe is not None
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        assert all(line["grad_norm"] > 0 for line in lines)
        assert sum(lines[-1]["adapter_usage"]) == pytest.approx(1.0, abs=1e-3)


def test_lora_run_leaves_plain_checkpoints_and_frozen_parts_as_they_were(
    squares: Path, tmp_path: Path
) -> None:
    tune = TuneConfig(vision=False, text_embedding=False, lora=LoraConfig(rank=2))
    dense = StudentConfig(moe=None, keep=(0, 1, 2, 3))  # all blocks: weights keep their names
    train(short(squares, tmp_path / "run", tune=tune, student=dense))
    teacher, student = (weights_of(tmp_path / "run" / m) for m in ("teacher", "student"))
    assert teacher.keys() == student.keys() and not any("lora" in key for key in student)
    same = {key for key, value in teacher.items() if torch.equal(student[key], value)}
    frozen = {key for key in teacher if key.startswith("vision_tower.")}
    assert frozen | {"language.model.embed_tokens.weight"} <= same
    attention = [key for key in teacher if key.endswith("_proj.weight") and "self_attn" in key]
    assert attention and not same & set(attention)
    assert {key for key in teacher if ".mlp." in key} <= same


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_blocks": True},
        {"extra_terms": (Confidence(weight=0.0),)},
    ],
    ids=["blocks computed again", "a term of weight zero"],
)
def test_what_must_not_change_the_losses_does_not(
    squares: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    for name, changes in (("plain", {}), ("changed", change)):
        train(short(squares, tmp_path / name, **changes))
    plain, changed = (read_metrics(tmp_path / n / "metrics.jsonl") for n in ("plain", "changed"))
    for ours, theirs in zip(changed, plain, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_micro_steps_make_one_optimizer_step_of_their_mean_gradient(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = train_module.PartedModel.forward

    def count(self, batch):
        seen.append(len(batch.sample_tokens))
        return forward(self, batch)

    monkeypatch.setattr(train_module.PartedModel, "forward", count)
    course = CourseConfig(steps=2, batch_size=6, accumulate=3)
    train(short(squares, tmp_path / "run", teacher=course, distill=None))
    assert seen == [2] * 6
    assert stages_of(tmp_path / "run") == ["teacher"] * 2


def test_epochs_decide_the_number_of_steps(squares: Path, tmp_path: Path) -> None:
    course = CourseConfig(epochs=1.5, batch_size=8, balance=0.0)
    train(short(squares, tmp_path / "run", teacher=course, distill=course))
    # 24 samples, 4 of them fog: 1.5 x 20 / 8 is 3.75 steps, 1.5 x 24 / 8 is 4.5
    assert stages_of(tmp_path / "run") == ["teacher"] * 4 + ["distill"] * 5


def test_teacher_alone_is_what_a_run_without_distillation_leaves(
    squares: Path, tmp_path: Path
) -> None:
    config = short(squares, tmp_path / "run", distill=None)
    assert train(config) == tmp_path / "run" / "teacher"
    assert not (tmp_path / "run" / "student").exists()
    table = json.loads((tmp_path / "run" / "results.json").read_text())["table"]
    assert {"teacher", "teacher, blank images", "ego status only"} <= {
        row["name"] for row in table
    }


def test_merged_teacher_sees_corner_samples_too(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    draw = train_module._draw_batches

    def spy(*args, **kwargs):
        batches = draw(*args, **kwargs)
        seen.extend(batches[0].is_corner.tolist())
        return batches

    monkeypatch.setattr(train_module, "_draw_batches", spy)
    course = CourseConfig(steps=3, batch_size=12)
    config = short(squares, tmp_path / "run", teacher_data="merged", teacher=course, distill=None)
    train(config)
    assert any(seen)


def test_shared_teacher_is_trained_once_and_never_taken_for_another(
    squares: Path, tmp_path: Path
) -> None:
    shared = {"teacher_dir": tmp_path / "teacher"}
    train(short(squares, tmp_path / "row1", distill=None, **shared))
    before = weights_of(tmp_path / "teacher")
    train(short(squares, tmp_path / "row2", student=StudentConfig(moe=None), **shared))
    assert stages_of(tmp_path / "row2") == ["distill"] * 2
    assert all(torch.equal(before[k], v) for k, v in weights_of(tmp_path / "teacher").items())
    other = short(squares, tmp_path / "row3", seed=2, **shared)
    with pytest.raises(ConfigError, match=r"made with other values of seed; name another"):
        train(other)
    train(replace(other, teacher=None))
    assert stages_of(tmp_path / "row3") == ["distill"] * 2


def test_teacher_that_nobody_trains_and_nobody_has_is_an_error(
    squares: Path, tmp_path: Path
) -> None:
    config = short(squares, tmp_path / "run", teacher=None, teacher_dir=tmp_path / "misspelt")
    with pytest.raises(ConfigError, match="misspelt holds none and init names no weights"):
        train(config)
    assert not (tmp_path / "misspelt").exists()


def test_teacher_for_views_of_another_size_is_refused(squares: Path, tmp_path: Path) -> None:
    shared = {"teacher_dir": tmp_path / "teacher"}
    train(short(squares, tmp_path / "row1", distill=None, **shared))
    vision = replace(tiny_config().vision, height_px=34)
    other = replace(tiny_config(), vision=vision)
    config = short(squares, tmp_path / "row2", teacher=None, model=other, **shared)
    with pytest.raises(ConfigError, match=r"views of \(36, 64\), expected \(34, 64\)"):
        train(config)


def test_set_without_a_single_plan_is_learnt_and_not_judged(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = setup.load_keyframes

    def without_plans(*words):
        return [replace(k, action=None, future=None) for k in load(*words)]

    monkeypatch.setattr(setup, "load_keyframes", without_plans)
    config = short(squares, tmp_path / "run")
    train(config)
    assert stages_of(tmp_path / "run") == ["teacher"] * 2 + ["distill"] * 2
    assert json.loads((tmp_path / "run" / "results.json").read_text())["table"] == []
    train(config, resume=True)  # finished, not crashing again


@pytest.mark.parametrize(
    "change",
    [
        {"tune": TuneConfig(lora=LoraConfig(rank=2, dropout=0.3))},
        {"model": replace(tiny_t5_config(), language=tiny_t5_language(dropout=0.2))},
    ],
    ids=["lora", "t5"],
)
def test_runs_with_dropout_resume_bit_for_bit(
    squares: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    course = CourseConfig(steps=4, batch_size=6)
    changes = {**change, "teacher": course, "distill": None, "save_every_steps": 2}
    whole, cut = (short(squares, tmp_path / name, **changes, keep_states=9) for name in "ab")
    train(whole)
    train(cut)
    for later in ("done-0000000", "teacher-0000004"):
        shutil.rmtree(cut.out / "state" / later)
    train(cut, resume=True)
    ours, theirs = (read_metrics(c.out / "metrics.jsonl") for c in (cut, whole))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]


def test_lora_on_feed_forward_layers_reaches_those_below_the_students_experts(
    squares: Path, tmp_path: Path
) -> None:
    tune = TuneConfig(lora=LoraConfig(rank=1, targets=("q_proj", "gate_proj")))
    train(short(squares, tmp_path / "run", tune=tune))
    assert stages_of(tmp_path / "run") == ["teacher"] * 2 + ["distill"] * 2


def test_only_as_many_processes_as_share_out_a_batch_may_start(
    squares: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="accumulate is 4, expected a divisor of batch_size 6"):
        CourseConfig(batch_size=6, accumulate=4)
    with pytest.raises(ValueError, match="teacher and distill are both null"):
        short(squares, tmp_path, teacher=None, distill=None)
