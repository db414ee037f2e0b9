"""clkd_core.distill.train on a merged set of questions: no plan to learn, none to judge."""

from dataclasses import replace
from pathlib import Path

import pytest
from annotation_files import write_coda, write_drivelm
from tiny_runs import config_for
from tiny_vlm import tiny_t5_config

from clkd_core.data.language.merge import MergeConfig, merge
from clkd_core.distill.config import CourseConfig, TrainConfig
from clkd_core.distill.record.metrics_log import read_metrics
from clkd_core.distill.train import train
from clkd_core.models.checkpoint import load_vlm


def merged_config(root: Path, family: str) -> TrainConfig:
    write_drivelm(root / "drivelm")
    coda = write_coda(root / "coda", ["Train/val_0001", "Train/val_0002", "Val/test_0001"])
    merge(MergeConfig(out=root / "set", drivelm=(root / "drivelm",), coda_lm=(coda,)))
    config = config_for(root / "set", root / "run")
    course = CourseConfig(steps=2, batch_size=4)
    return replace(
        config,
        data=replace(config.data, version="v1.0"),
        model=tiny_t5_config() if family == "t5" else config.model,
        questions_per_sample=3,
        teacher=course,
        distill=course,
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_set_without_plans_is_distilled_to_the_end(tmp_path: Path, family: str) -> None:
    config = merged_config(tmp_path, family)
    assert load_vlm(train(config)).image_size == (36, 64)
    lines = read_metrics(config.out / "metrics.jsonl")
    assert [line["stage"] for line in lines] == ["teacher"] * 2 + ["distill"] * 2
    assert "scores their answers in words" in (config.out / "report.md").read_text()
