"""What a run starts from: device, data, teacher, student, optimizer."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clkd_core.config import config_to_dict, load_config
from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import (
    SIDECAR,
    action_indices,
    load_keyframes,
    question_counts,
    subset_of,
)
from clkd_core.data.sidecar_images import (
    SKIP_WORD,
    leave_out_missing,
    list_image_files,
    refuse_missing,
    stat_image_files,
)
from clkd_core.distill.config import CourseConfig, DataConfig, TrainConfig, TuneConfig
from clkd_core.distill.feed.samples import SampleSet, load_samples, tokenizer_texts
from clkd_core.distill.state import changed_keys
from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import load_vlm
from clkd_core.models.checkpoint_files import CONFIG, MANIFEST
from clkd_core.models.families import build_from_config
from clkd_core.models.halving import halve
from clkd_core.models.pretrained.start import load_start
from clkd_core.models.pretrained.tokens.tokenizers import load_tokenizer
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.models.tuning import add_lora, freeze_text_embedding, freeze_vision
from clkd_core.models.vlm import count_parameters

log = logging.getLogger(__name__)

TEACHER_KEYS = (
    "seed",
    "bf16",
    "vocab_size",
    "questions_per_sample",
    "max_grad_norm",
    "augment",
    "init",
    "model",
    "tune",
    "teacher",
    "teacher_data",
)
"""What of a config decides what its teacher becomes, the data set's own keys apart."""


def pick_device(name: str) -> torch.device:
    """``auto`` becomes CUDA where there is one; of several processes each takes a GPU of its own.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise ConfigError(f"device is {name!r}, expected auto or a torch device") from err
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def ensure_data(data: DataConfig) -> None:
    """Generate the driving set where it is missing and a world config says how; index nuScenes.

    Raises:
        ConfigError: the world config cannot be used, or nuScenes' devkit is not installed.
        DataError: a set cannot be read or written.
    """
    for root in {data.root: None, data.val_root or data.root: None}:
        _ensure_nuscenes(root, data)
    if data.world is None or (data.root / data.version).is_dir():
        return
    from clkd_core.data.world.config import WorldConfig
    from clkd_core.data.world.generate import write_world

    log.info("%s is not there: generating it from %s", data.root, data.world)
    write_world(load_config(WorldConfig, data.world), data.root)


def _ensure_nuscenes(root: Path, data: DataConfig) -> None:
    """Index the tables of nuScenes where they have no sidecar yet."""
    from clkd_core.data.nuscenes.devkit import has_tables

    if (root / data.version / SIDECAR).is_file() or not has_tables(root, data.version):
        return
    from clkd_core.data.nuscenes.index import index_nuscenes

    log.info("%s has not been indexed yet: doing it once", root / data.version)
    counts = index_nuscenes(root, data.version, skip_missing=data.skip_missing)
    log.info("%s", counts.describe())


def check_images(data: DataConfig) -> None:
    """Look for all images that are learnt from or judged on, before anything is decoded.

    Raises:
        DataError: some are missing and may not be skipped; names and counts them.
    """
    if data.skip_missing:
        return
    names = list_image_files(load_keyframes(data.root, data.version, "train"))
    with suppress(DataError):  # nothing to judge on: said when it comes to judging
        names += list_image_files(load_keyframes(data.val_root or data.root, data.version, "val"))
    refuse_missing(stat_image_files(names), way_out=SKIP_WORD)


def load_train(config: TrainConfig) -> SampleSet:
    """All samples of the training split that say anything.

    Raises:
        DataError: the set is missing or damaged, image files are missing, or there is nothing to
            be learnt.
    """
    vision = config.model.vision
    keyframes = load_keyframes(config.data.root, config.data.version, "train")
    return load_samples(
        _shown(_with_answers(keyframes, config.questions_per_sample), config.data),
        (vision.height_px, vision.width_px),
        workers=config.data.workers,
        cache=config.out / "cache",
    )


def load_unseen(config: TrainConfig) -> SampleSet | None:
    """The validation split, or None where there is none.

    Raises:
        DataError: image files are missing.
    """
    root, vision = config.data.val_root or config.data.root, config.model.vision
    try:
        keyframes = _shown(load_keyframes(root, config.data.version, "val"), config.data)
    except DataError as err:
        log.info("no validation split to judge on: %s", err)
        return None
    return load_samples(
        keyframes,
        (vision.height_px, vision.width_px),
        workers=config.data.workers,
        cache=config.out / "cache",
    )


def _with_answers(keyframes: Sequence[Keyframe], asked: int) -> Sequence[Keyframe]:
    """Without those that have neither an action nor a question: the last 3 s of a plain drive.

    Drawn into a batch they would only make it smaller.
    """
    has_answer = action_indices(keyframes) >= 0
    if asked > 0:
        has_answer |= question_counts(keyframes) > 0
    if has_answer.all():
        return keyframes
    log.info("%d of %d keyframes have nothing to be learnt", (~has_answer).sum(), len(has_answer))
    if not has_answer.any():
        raise DataError("no keyframe has an action or a question, expected something to learn")
    return subset_of(keyframes, np.flatnonzero(has_answer))


def _shown(keyframes: Sequence[Keyframe], data: DataConfig) -> Sequence[Keyframe]:
    """Without the images that are missing, where that is wanted."""
    return leave_out_missing(keyframes) if data.skip_missing else keyframes


def build_teacher(config: TrainConfig, samples: SampleSet) -> VlmBase:
    """A teacher with fresh weights, or those that ``init`` names.

    Raises:
        ConfigError: the architecture does not fit what ``init`` brings, or nobody trains the
            teacher and ``init`` brings nothing.
        CheckpointError: a source of weights cannot be used.
    """
    sources = (config.init.vlm, config.init.language, config.init.vision)
    if config.teacher is None and not any(sources):
        raise ConfigError(
            f"teacher is null, {config.teacher_folder} holds none and init names no weights, "
            "expected one of the three"
        )
    teacher = build_from_config(config.model, _build_tokenizer(config, samples))
    load_start(
        teacher, vlm=config.init.vlm, language=config.init.language, vision=config.init.vision
    )
    return teacher


def _build_tokenizer(config: TrainConfig, samples: SampleSet) -> TextTokenizer:
    init = config.init
    source = init.tokenizer or init.vlm or init.language
    if source is not None:
        return load_tokenizer(source)
    return train_tokenizer(tokenizer_texts(samples.keyframes), vocab_size=config.vocab_size)


def build_student(config: TrainConfig, teacher: VlmBase) -> VlmBase:
    """The student cut from its teacher, its experts fresh from the run's seed.

    Raises:
        ConfigError: it would be larger than its teacher.
    """
    torch.manual_seed(config.seed + 1)
    student = halve(
        teacher, config.student.keep, config.student.moe, least=config.student.min_blocks
    )
    log.info(
        "student: %s parameters of the teacher's %s",
        describe_size(student),
        describe_size(teacher),
    )
    return student


def prepare(model: VlmBase, tune: TuneConfig, *, checkpoint_blocks: bool) -> VlmBase:
    """Freeze what does not learn, add LoRA, arrange for less memory; in training mode.

    Raises:
        ConfigError: LoRA is wanted for layers that are not there.
    """
    if not tune.vision:
        freeze_vision(model)
    if tune.lora is not None:
        add_lora(model, **vars(tune.lora))
    if not tune.text_embedding:
        freeze_text_embedding(model)
    elif tune.lora is not None:
        model.text_embedding().requires_grad_(True)
    if checkpoint_blocks:
        model.checkpoint_blocks()
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("%s parameters learn", f"{learning:,}")
    model.train()
    return model


def build_optimizer(model: nn.Module, course: CourseConfig) -> torch.optim.Optimizer:
    """AdamW over what learns; weight decay on matrices only."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": course.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=course.peak_lr, fused=True)


def teacher_note(config: TrainConfig) -> dict[str, Any]:
    """What of the config decides what the teacher becomes, kept in its checkpoint."""
    plain = config_to_dict(config)
    note = {key: plain[key] for key in TEACHER_KEYS}
    note["data"] = {key: plain["data"][key] for key in ("root", "version", "looks")}
    return note


def find_teacher(config: TrainConfig) -> VlmBase | None:
    """The teacher that lies in a shared ``teacher_dir`` already, or None where there is none.

    Raises:
        CheckpointError: it is damaged.
        ConfigError: it became what it is by another config; names the keys.
    """
    folder = config.teacher_folder
    if config.teacher_dir is None or not (folder / MANIFEST).is_file():
        return None
    teacher = load_vlm(folder)
    theirs = _read_note(folder).get("teacher_config", {})
    changed = changed_keys(teacher_note(config), theirs)
    if config.teacher is not None and changed:
        raise ConfigError(
            f"{folder} holds a teacher made with other values of {', '.join(changed)}; "
            "name another teacher_dir, or set teacher to null to take it as it is"
        )
    wanted = (config.model.vision.height_px, config.model.vision.width_px)
    if teacher.image_size != wanted:
        raise ConfigError(
            f"{folder} holds a teacher for views of {teacher.image_size}, expected {wanted}"
        )
    log.info("the teacher in %s is taken as it is", folder)
    return teacher


def _read_note(folder: Path) -> Mapping[str, Any]:
    try:
        note = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["note"]
    except (OSError, ValueError, KeyError) as err:
        raise CheckpointError(f"{folder / CONFIG}: no note of how it was trained: {err}") from err
    return note if isinstance(note, dict) else {}


def describe_size(model: nn.Module) -> str:
    """``1,234 (1,000 active)``."""
    total, active = count_parameters(model)
    return f"{total:,} ({active:,} active)"
