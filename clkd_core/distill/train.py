"""The training loop, top to bottom: data, teacher, student, verdict.

Loss (Eq. 7): ``Loss_H2G + alpha(t) * Loss_KD``, plus the routers' small terms. The teacher sees
regular samples only; the student, cut out of it, sees all. One process or several compute the
same: each its rows of every micro-step, with divisors that count the tokens of all.
"""

import copy
import json
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from clkd_core.config import config_to_dict, save_config
from clkd_core.data.sidecar import corner_flags
from clkd_core.distill.config import CourseConfig, TrainConfig
from clkd_core.distill.feed.ahead import prefetched, shown_steps
from clkd_core.distill.feed.batches import Batch, balance_weights, build_batch, draw_looks
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.distill.frozen.sources import FrozenFeatures, SoftLabelSource
from clkd_core.distill.objective import Losses, clkd_loss, plain_loss
from clkd_core.distill.processes.parts import Outputs, PartedModel, draws_random_numbers
from clkd_core.distill.processes.sharding import shard, whole_state
from clkd_core.distill.processes.world import World, joined_world
from clkd_core.distill.record.clock import Clock
from clkd_core.distill.record.metrics_log import MetricsLog
from clkd_core.distill.record.report import remove_report
from clkd_core.distill.record.versions import collect_versions
from clkd_core.distill.schedule import one_cycle_lr
from clkd_core.distill.setup import (
    build_optimizer,
    build_student,
    build_teacher,
    check_images,
    describe_size,
    ensure_data,
    find_teacher,
    load_train,
    pick_device,
    prepare,
    teacher_note,
)
from clkd_core.distill.state import (
    STAGES,
    Progress,
    check_same_config,
    discard_leftovers,
    find_state,
    forget_states,
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from clkd_core.distill.verdict import write_verdict
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import write_text_atomic
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import load_vlm, load_weights, save_checkpoint, unique_state
from clkd_core.models.checkpoint_files import WEIGHTS
from clkd_core.models.tuning import merge_lora
from clkd_core.models.vlm import DrivingVlm

log = logging.getLogger(__name__)


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Train a teacher, distil its student, judge both, and write the run's folder.

    Args:
        config: of the run.
        resume: go on from the state that an interrupted run with the same config left; without
            one, or without this flag, the run starts anew.

    Returns:
        The student's checkpoint folder; the teacher's where no student is wanted.

    Raises:
        ConfigError: the state to resume belongs to another config, the teacher's folder holds
            another teacher, or the student would be larger than its teacher.
        DataError: the data set cannot be used, or a loss is not finite (names the samples).
    """
    device = pick_device(config.device)
    result = config.out / "student" if config.distill else config.teacher_folder
    with joined_world(device) as world:
        if not world.is_main:
            logging.getLogger("clkd_core").setLevel(logging.WARNING)
        trained = _train(config, device, world, resume=resume)
    if trained is None:
        log.info("%s is finished: %s", config.out, result)
    elif world.is_main:  # alone by now: judging may take longer than others would wait
        write_verdict(config, device, *trained)
    return result


Trained = tuple[dict[str, DrivingVlm], SampleSet]
"""The models of a run by name, and all samples they could learn from."""


def _train(
    config: TrainConfig, device: torch.device, world: World, *, resume: bool
) -> Trained | None:
    """All but the verdict; None where the run was finished before."""
    # ---- where the run stands -------------------------------------------------------------
    if config.fsdp and world.size == 1:
        raise ConfigError("fsdp is true and this is the only process: start several with torchrun")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.cpu_parts))
    states = config.out / "state"
    found = find_state(states) if resume else None
    stage, start_step = (found[1].stage, found[1].step) if found else (STAGES[0], 0)
    if found:
        check_same_config(found[0], config_to_dict(config), found[1].config)
    elif resume:
        log.info("%s holds no state: starting anew", config.out)
    if stage == "done":
        return None
    world.wait()  # nobody may still be reading what is removed now
    if world.is_main:
        if world.size > 1:
            log.info("%d processes", world.size)
        if not resume:
            forget_states(states)
            remove_report(config.out)
        discard_leftovers(states)
        save_config(config, config.out / "config.yaml")
        versions = json.dumps(collect_versions(str(device)), indent=1)
        write_text_atomic(config.out / "versions.json", versions)

    # ---- data -----------------------------------------------------------------------------
    if world.is_main:
        ensure_data(config.data)
        check_images(config.data)
        everything = load_train(config)
    world.wait()  # one process decodes, the others read what it has stored
    if not world.is_main:
        everything = load_train(config)
    regular = everything.subset(np.flatnonzero(~corner_flags(everything.keyframes)))
    taught = regular if config.teacher_data == "regular" else everything
    if config.teacher is not None and not len(taught.keyframes):
        raise DataError(f"{config.data.root} has no {config.teacher_data} samples for the teacher")
    steps = {
        "teacher": config.teacher.count_steps(len(taught.keyframes)) if config.teacher else 0,
        "distill": config.distill.count_steps(len(everything.keyframes)) if config.distill else 0,
    }
    metrics = MetricsLog.silent()
    if world.is_main:
        resume_at = {**(steps if stage == "distill" else {}), stage: start_step}
        metrics = MetricsLog(
            config.out / "metrics.jsonl",
            resume_at=resume_at if resume else None,
            tensorboard=config.tensorboard,
        )
    run = Run(config, device, world, metrics, states)

    with metrics:
        # ---- 1. a teacher for regular cases -----------------------------------------------
        teacher = find_teacher(config) if stage == "teacher" else load_vlm(config.teacher_folder)
        world.wait()  # all have looked before one of them writes
        if teacher is None:
            torch.manual_seed(config.seed)
            teacher = build_teacher(config, everything).to(device)
            log.info("teacher: %s parameters", describe_size(teacher))
            if config.teacher is not None:
                state = found[0] if found else None
                teacher = train_teacher(run, teacher, taught, steps["teacher"], start_step, state)
            if world.is_main:
                made_by = {"teacher_config": teacher_note(config)}
                save_checkpoint(config.teacher_folder, teacher, note=made_by)
            world.wait()
            teacher = load_vlm(config.teacher_folder)
            stage, start_step, found = "distill", 0, None
        teacher = teacher.to(device)

        # ---- 2. the student, cut from it, on everything -----------------------------------
        models: dict[str, DrivingVlm] = {"teacher": teacher}
        if config.distill is not None:
            student = build_student(config, teacher)
            state = found[0] if found and stage == "distill" and start_step else None
            step = start_step if state else 0
            if world.is_main and state is None:
                begun = Progress("distill", 0, config_to_dict(config))
                save_state(states, {}, {}, begun, keep=config.keep_states)
            student = distil_student(
                run, student, teacher, everything, steps["distill"], step, state
            )
            models["student"] = student.eval()
            if config.fsdp:  # the teacher is spread over the processes, the judge is one
                models["teacher"] = load_vlm(config.teacher_folder).to(device)
            if world.is_main:
                note = {"seed": config.seed, "versions": collect_versions(str(device))}
                save_checkpoint(config.out / "student", student, note=note)
    world.wait()
    return models, everything


@dataclass(frozen=True)
class Run:
    """What all stages share."""

    config: TrainConfig
    device: torch.device
    world: World
    metrics: MetricsLog
    states: Path


def train_teacher(
    run: Run, teacher: VlmBase, samples: SampleSet, steps: int, start: int, state: Path | None
) -> VlmBase:
    """Plain fine-tuning: mean cross-entropy over all answer tokens."""
    course, world = run.config.teacher, run.world
    assert course is not None  # else nobody calls

    def loss_of(step: int, batch: Batch, outputs: Outputs) -> Losses:
        return plain_loss(batch, outputs, world, moe=run.config.model.moe)

    return _run_stage(run, "teacher", teacher, course, samples, steps, start, state, loss_of)


def distil_student(
    run: Run,
    student: VlmBase,
    teacher: VlmBase,
    samples: SampleSet,
    steps: int,
    start: int,
    state: Path | None,
) -> VlmBase:
    """CLKD: hard tokens of hard samples, and a teacher that lets go (Eq. 7)."""
    config, world, course = run.config, run.world, run.config.distill
    assert course is not None  # else nobody calls
    release = config.release.schedule()
    if config.fsdp:
        shard(teacher)
    labels = SoftLabelSource(
        teacher.eval(), config, samples, parts=_parts(run, None), bf16=config.bf16
    )

    def loss_of(step: int, batch: Batch, outputs: Outputs) -> Losses:
        alpha = release.alpha(step)
        soft = None
        if alpha > 0 and alpha >= config.release.min_alpha:  # else nobody asks the teacher
            soft = labels.soft_labels(batch, outputs.logits.detach())
        losses = clkd_loss(config, batch, outputs, world, alpha=alpha, soft=soft)
        if labels.error is not None:
            losses.record["soft_label_error"] = labels.error.relative
        return losses

    try:
        return _run_stage(run, "distill", student, course, samples, steps, start, state, loss_of)
    finally:
        labels.close()


def _run_stage(
    run: Run,
    stage: str,
    model: VlmBase,
    course: CourseConfig,
    samples: SampleSet,
    steps: int,
    start: int,
    state: Path | None,
    loss_of: Callable[[int, Batch, Outputs], Losses],
) -> VlmBase:
    """Steps ``start`` to ``steps`` of a stage; returns the model with LoRA folded in."""
    config, world = run.config, run.world
    prepare(model, config.tune, checkpoint_blocks=config.checkpoint_blocks)
    if state is not None:
        load_weights(model, state / WEIGHTS)
    whole, keys = model, None
    if config.fsdp:
        whole = copy.deepcopy(model).cpu()
        keys = shard(model)
    optimizer = build_optimizer(model, course)
    if state is not None:
        restore_optimizer(state, optimizer)
    learning = [p for p in model.parameters() if p.requires_grad]
    parted = PartedModel(model, _parts(run, model), bf16=config.bf16)
    features = FrozenFeatures(model, config, samples)
    clock = Clock(stage, steps)
    # fully_shard averages gradients over processes where our parts are to be added
    factor = float(world.size if config.fsdp else 1) / course.accumulate

    weights = balance_weights(samples.keyframes, course.balance)
    draw = partial(_draw_batches, run, samples, weights, model, course, stage=STAGES.index(stage))
    numbers = shown_steps(start, steps, stage, quiet=not world.is_main)
    for step, batches in prefetched(draw, numbers):
        lr = one_cycle_lr(step, steps, peak_lr=course.peak_lr, warmup_frac=course.warmup_frac)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        done: list[Losses] = []
        for micro, batch in enumerate(batches):
            _seed(config.seed, STAGES.index(stage), step, micro, world.rank)
            outputs = parted.forward(features.attach(batch))
            losses = loss_of(step, batch, outputs)
            _check_finite(losses.terms["loss"], "loss", stage, step, batches, world)
            (losses.part * factor).backward()  # type: ignore[no-untyped-call]
            parted.backward()
            done.append(losses)
        if not config.fsdp:
            world.add_gradients(learning)
        world.average_statistics(model)
        norm = nn.utils.clip_grad_norm_(learning, config.max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        _check_finite(norm, "gradient norm", stage, step, batches, world)
        optimizer.step()

        clock.tick(course.batch_size)
        if step % config.log_every_steps == 0 or step == steps - 1:
            terms = _means([{n: v.item() for n, v in x.terms.items()} for x in done])
            record = _means([x.record for x in done])
            values = {**terms, **record, "lr": lr, "grad_norm": norm.item()}
            run.metrics.write({"stage": stage, "step": step, **values, **clock.read()})
            shown = terms | {name: record[name] for name in ("alpha",) if name in record}
            log.info("%s", clock.line(step, shown, lr))
        if config.save_every_steps and (step + 1) % config.save_every_steps == 0:
            _save(run, model, optimizer, keys, Progress(stage, step + 1, config_to_dict(config)))

    features.close()
    if keys is not None:
        whole.load_state_dict(whole_state(model, keys), strict=False)  # a tied twin is not there
        model = whole.to(run.device)
    merge_lora(model)
    return model


def _save(
    run: Run,
    model: VlmBase,
    optimizer: torch.optim.Optimizer,
    keys: list[str] | None,
    progress_made: Progress,
) -> None:
    weights = unique_state(model) if keys is None else whole_state(model, keys)
    moments = optimizer_tensors(optimizer)
    if run.world.is_main:
        save_state(run.states, weights, moments, progress_made, keep=run.config.keep_states)


def _parts(run: Run, model: VlmBase | None) -> int:
    """Parts of this process's rows; only a CPU gains from more than one.

    Threads would race for the random numbers of a model that learns with dropout.
    """
    if run.config.fsdp or run.device.type != "cpu" or (model and draws_random_numbers(model)):
        return 1
    return max(1, run.config.cpu_parts // run.world.size)


def _seed(*parts: int) -> None:
    """Let dropout follow from where the run is, so that a resumed run draws the same."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


def _means(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the micro-steps of a step; lists element by element, what is NaN left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN
        means = {
            name: np.nanmean([line[name] for line in lines if name in line], axis=0)
            for name in lines[0]
        }
    return {
        name: [] if np.ndim(mean) and not len(mean) else mean.tolist()
        for name, mean in means.items()
    }


def _draw_batches(
    run: Run,
    samples: SampleSet,
    weights: NDArray[np.float64],
    model: VlmBase,
    course: CourseConfig,
    *,
    stage: int,
    step: int,
) -> list[Batch]:
    """This process's rows of every micro-step of an optimizer step."""
    config, batches = run.config, []
    for micro in range(step * course.accumulate, (step + 1) * course.accumulate):
        looks = draw_looks(
            samples.keyframes,
            weights,
            course.micro_batch,
            seed=(config.seed, stage, micro),
            looks=config.data.looks,
        )
        batches.append(
            build_batch(
                samples,
                looks,
                model,
                config.augment,
                questions_per_sample=config.questions_per_sample,
                device=run.device,
                rows=run.world.own_rows(course.micro_batch),
            )
        )
    return batches


def _check_finite(
    value: Tensor, what: str, stage: str, step: int, batches: list[Batch], world: World
) -> None:
    if not bool(torch.isfinite(value)):
        names = [name for batch in batches for name in world.gather_names(batch.sample_tokens)]
        raise DataError(
            f"{stage} step {step}: {what} is {value.item()}, expected a finite number; "
            f"samples {', '.join(names)}"
        )
