"""What a config would train, counted without weights, data or a model hub."""

import copy
from pathlib import Path

import torch

from clkd_core.distill.config import CourseConfig, TrainConfig
from clkd_core.distill.feed.samples import tokenizer_texts
from clkd_core.distill.setup import describe_size, prepare
from clkd_core.models.base import VlmBase
from clkd_core.models.families import build_from_config
from clkd_core.models.halving import halve
from clkd_core.models.tokenizer import train_tokenizer


def describe_run(config: TrainConfig) -> list[str]:
    """The run in a few lines; everything but weights and data is built for real.

    Raises:
        ConfigError: the student would be larger than its teacher, or LoRA has no such layers.
        ValueError: parts of the architecture do not fit each other.
    """
    teacher, student = build_skeletons(config)
    lines = [f"teacher: {describe_size(teacher)} parameters, {_views(config)}"]
    if config.teacher is not None:
        lines.append(f"  {_course(config.teacher)}, on {config.teacher_data} samples")
    if student is not None and config.distill is not None:
        share = sum(p.numel() for p in student.parameters()) / max(
            1, sum(p.numel() for p in teacher.parameters())
        )
        lines.append(f"student: {describe_size(student)} parameters, {share:.0%} of the teacher's")
        lines.append(f"  {_course(config.distill)}, on all samples; {_losses(config)}")
    lines += [f"  {line}" for line in _missing(config)]
    return lines


def build_skeletons(config: TrainConfig) -> tuple[VlmBase, VlmBase | None]:
    """Teacher and student without storage for their weights; None where no student is wanted.

    Raises:
        ConfigError: the student would be larger than its teacher.
    """
    tokenizer = train_tokenizer(tokenizer_texts([]), vocab_size=config.vocab_size)
    with torch.device("meta"):
        teacher = build_from_config(config.model, tokenizer)
        if config.distill is None:
            check_tuning(config, teacher)
            return teacher, None
        student = halve(
            teacher, config.student.keep, config.student.moe, least=config.student.min_blocks
        )
        check_tuning(config, student)
        return teacher, student


def check_tuning(config: TrainConfig, model: VlmBase) -> None:
    """Freeze and adapt a copy of the model as training would.

    Raises:
        ConfigError: LoRA is wanted for layers that are not there.
    """
    prepare(copy.deepcopy(model), config.tune, checkpoint_blocks=config.checkpoint_blocks)


def _views(config: TrainConfig) -> str:
    vision = config.model.vision
    return (
        f"six views of {vision.height_px} x {vision.width_px} pixels, "
        f"{config.model.view_tokens} tokens each"
    )


def _course(course: CourseConfig) -> str:
    length = f"{course.steps} steps" if course.epochs is None else f"{course.epochs:g} epochs"
    return (
        f"{length} of {course.batch_size} samples, lr {course.peak_lr:g}, "
        f"weight decay {course.weight_decay:g}"
    )


def _losses(config: TrainConfig) -> str:
    h2g, schedule = config.h2g, config.release.schedule()
    return (
        f"H2G {h2g.sample_frac:.0%} of samples, {h2g.token_frac:.0%} of tokens; "
        f"alpha(0) {schedule.alpha0:g}, gamma {schedule.gamma:.6g}"
    )


def _missing(config: TrainConfig) -> list[str]:
    """What the run would need that is not on this machine."""
    missing = []
    data = config.data
    if data.world is None and not (data.root / data.version).is_dir():
        missing.append(f"not here: the driving set {data.root / data.version}")
    for name, source in vars(config.init).items():
        if source is not None and not Path(source).exists():
            missing.append(f"not here: init.{name} {source}, a model hub would be asked")
    return missing
