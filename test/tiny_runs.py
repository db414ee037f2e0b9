"""The smallest training run, on coloured squares."""

from pathlib import Path

from tiny_vlm import SQUARES_VERSION, tiny_config

from clkd_core.distill.config import (
    CourseConfig,
    DataConfig,
    ReleaseConfig,
    StudentConfig,
    TrainConfig,
)
from clkd_core.models.moe import MoeConfig


def config_for(squares: Path, out: Path) -> TrainConfig:
    """Six steps of each stage, every one logged."""
    course = CourseConfig(steps=6, batch_size=6)
    return TrainConfig(
        out=out,
        device="cpu",
        bf16=False,
        vocab_size=512,
        questions_per_sample=1,
        log_every_steps=1,
        save_every_steps=2,
        data=DataConfig(root=squares, version=SQUARES_VERSION, workers=1),
        model=tiny_config(),
        teacher=course,
        student=StudentConfig(moe=MoeConfig(lora_rank=1, adapter_experts=2)),
        distill=course,
        release=ReleaseConfig(half_life_steps=2.0, min_alpha=0.2),
    )
