"""What frozen networks said, kept on disk, trains like asking them again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlm import SQUARES_VERSION, tiny_config, write_squares

from clkd_core.distill.config import (
    CacheConfig,
    CourseConfig,
    DataConfig,
    ReleaseConfig,
    StudentConfig,
    TrainConfig,
    TuneConfig,
)
from clkd_core.distill.frozen import sources as frozen
from clkd_core.distill.processes.parts import PartedModel
from clkd_core.distill.record.metrics_log import read_metrics
from clkd_core.distill.train import train
from clkd_core.models.moe import MoeConfig
from clkd_core.models.vision.patch_tower import PatchConfig


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    write_squares(root, train=8, val=2)
    return root


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_for(squares: Path, out: Path, **changes: Any) -> TrainConfig:
    course = CourseConfig(steps=5, batch_size=8)
    config = TrainConfig(
        out=out,
        device="cpu",
        bf16=False,
        vocab_size=512,
        questions_per_sample=1,
        log_every_steps=1,
        save_every_steps=0,
        tensorboard=False,
        data=DataConfig(root=squares, version=SQUARES_VERSION, workers=1, looks=1),
        model=tiny_config(),
        tune=TuneConfig(vision=False),
        teacher=course,
        student=StudentConfig(moe=MoeConfig(lora_rank=1, adapter_experts=2)),
        distill=course,
        release=ReleaseConfig(gamma=1.0),
    )
    return replace(config, **changes)


def losses_of(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def asked_anew(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("anew") / "run"
    train(config_for(squares, out))
    return losses_of(out)


def test_kept_features_and_whole_soft_labels_give_the_same_losses(
    squares: Path, tmp_path: Path, asked_anew: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    infer = PartedModel.infer

    def count(self, batch):
        asked.append(len(batch.sample_tokens))
        return infer(self, batch)

    monkeypatch.setattr(PartedModel, "infer", count)
    cache = CacheConfig(features=True, teacher_top_k=10_000, folder=tmp_path / "kept")
    train(config_for(squares, tmp_path / "run", cache=cache))
    assert losses_of(tmp_path / "run") == pytest.approx(asked_anew, abs=1e-5)
    # 5 steps of 8 looks; regular and corner samples are few, so most looks have come before
    assert len(asked) < 5
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "kept").glob("*.sqlite"))
    assert kept == ["features", "features", "labels"]


def test_tower_that_halving_leaves_alone_shares_its_features_between_the_stages(
    squares: Path, tmp_path: Path
) -> None:
    model = tiny_config(vision=PatchConfig(height_px=36, width_px=64, patch_px=4, width=8))
    plain = config_for(squares, tmp_path / "plain", model=model)
    cache = CacheConfig(features=True, folder=tmp_path / "kept")
    train(plain)
    train(replace(plain, out=tmp_path / "run", cache=cache))
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "plain"), abs=1e-5)
    assert len(list((tmp_path / "kept").glob("features-*.sqlite"))) == 1


def test_another_run_with_the_same_teacher_asks_nobody(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CacheConfig(features=True, teacher_top_k=8, folder=tmp_path / "kept")
    shared = {"cache": cache, "teacher_dir": tmp_path / "teacher"}
    train(config_for(squares, tmp_path / "first", **shared))

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(PartedModel, "infer", refuse)
    monkeypatch.setattr(frozen.FrozenFeatures, "_encode", refuse)
    plain = StudentConfig(moe=None)  # another row of the table: same teacher, looks and tower
    train(config_for(squares, tmp_path / "second", student=plain, **shared))
    lines = read_metrics(tmp_path / "second" / "metrics.jsonl")
    assert [line["stage"] for line in lines] == ["distill"] * 5
    assert all(line["kd"] > 0 for line in lines)


def test_the_cost_of_short_labels_is_measured_and_said(
    squares: Path, tmp_path: Path, asked_anew: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clkd_core")
    train(config_for(squares, tmp_path / "run", cache=CacheConfig(teacher_top_k=4)))
    lines = [
        x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if x["stage"] == "distill"
    ]
    assert all(0 < line["soft_label_error"] < 1 for line in lines)
    assert "soft labels of 4 tokens lose" in caplog.text
    short = losses_of(tmp_path / "run")[5]
    assert short < asked_anew[5]  # a lower bound of the divergence over all tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": DataConfig()}, r"cache needs data\.looks"),
        ({"tune": TuneConfig()}, r"cache\.features needs tune\.vision: false"),
        ({"fsdp": True}, "fsdp and cache are both wanted"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    squares: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_for(squares, tmp_path, cache=CacheConfig(features=True), **changes)
