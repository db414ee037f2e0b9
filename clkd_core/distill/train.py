"""The training loop, top to bottom: data, teacher, student, verdict.

Loss (Eq. 7): ``Loss_H2G + alpha(t) * Loss_KD``, plus the routers' small terms. The teacher sees
regular samples only; the student, cut out of it, sees all. One process or several compute the
same: each its rows of every micro-step, with divisors that count the tokens of all.
"""

import copy
import json
import logging
import math
import os
import shutil
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
from clkd_core.distill.clock import Clock
from clkd_core.distill.config import CourseConfig, TrainConfig
from clkd_core.distill.evaluate import judge
from clkd_core.distill.feed.ahead import prefetched, shown_steps
from clkd_core.distill.feed.batches import Batch, balance_weights, build_batch, draw_looks
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.distill.frozen import FrozenFeatures, SoftLabelSource
from clkd_core.distill.losses import (
    answer_token_loss,
    distill_kl,
    mean_token_loss,
    select_hard,
)
from clkd_core.distill.processes.parts import Outputs, PartedModel
from clkd_core.distill.processes.sharding import shard, whole_state
from clkd_core.distill.processes.world import World, joined_world
from clkd_core.distill.record.metrics_log import MetricsLog, read_metrics
from clkd_core.distill.record.report import remove_report, write_curves, write_report
from clkd_core.distill.record.versions import collect_versions
from clkd_core.distill.schedule import one_cycle_lr
from clkd_core.distill.setup import (
    build_optimizer,
    build_student,
    build_teacher,
    describe_size,
    ensure_data,
    find_teacher,
    load_train,
    load_unseen,
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
    optimizer_tensors,
    restore_optimizer,
    save_state,
)
from clkd_core.distill.terms import TermInputs
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.ego_status import fit_ego_status_baseline
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import (
    WEIGHTS,
    load_vlm,
    load_weights,
    save_checkpoint,
    unique_state,
)
from clkd_core.models.tuning import merge_lora
from clkd_core.models.vlm import DrivingVlm, count_parameters

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
    with joined_world(device) as world:
        if not world.is_main:
            logging.getLogger("clkd_core").setLevel(logging.WARNING)
        return _train(config, device, world, resume=resume)


def _train(config: TrainConfig, device: torch.device, world: World, *, resume: bool) -> Path:
    # ---- where the run stands -------------------------------------------------------------
    if config.fsdp and world.size == 1:
        raise ConfigError("fsdp is true and this is the only process: start several with torchrun")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.cpu_parts))
    states = config.out / "state"
    result = config.out / "student" if config.distill else config.teacher_folder
    found = find_state(states) if resume else None
    stage, start_step = (found[1].stage, found[1].step) if found else (STAGES[0], 0)
    if found:
        check_same_config(found[0], config_to_dict(config), found[1].config)
    elif resume:
        log.info("%s holds no state: starting anew", config.out)
    if stage == "done":
        log.info("%s is finished: %s", config.out, result)
        return result
    world.wait()  # nobody may still be reading what is removed now
    if world.is_main:
        if world.size > 1:
            log.info("%d processes", world.size)
        if not resume:
            shutil.rmtree(states, ignore_errors=True)  # of an earlier run: not ours to resume
            remove_report(config.out)
        discard_leftovers(states)
        save_config(config, config.out / "config.yaml")
        versions = json.dumps(collect_versions(str(device)), indent=1)
        write_text_atomic(config.out / "versions.json", versions)

    # ---- data -----------------------------------------------------------------------------
    if world.is_main:
        ensure_data(config.data)
        everything = load_train(config)
    world.wait()  # one process decodes, the others read what it has stored
    if not world.is_main:
        everything = load_train(config)
    regular = everything.subset(
        [i for i, k in enumerate(everything.keyframes) if k.case_name == "regular"]
    )
    taught = regular if config.teacher_data == "regular" else everything
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
                save_checkpoint(result, student, note=note)

        # ---- 3. baselines, verdict, report ------------------------------------------------
        if world.is_main:
            write_verdict(run, models, everything, result)
            done = Progress("done", 0, config_to_dict(config))
            save_state(states, {}, {}, done, keep=config.keep_states)
            shutil.rmtree(config.out / "cache", ignore_errors=True)  # served resuming
    world.wait()
    return result


@dataclass(frozen=True)
class Run:
    """What all stages share."""

    config: TrainConfig
    device: torch.device
    world: World
    metrics: MetricsLog
    states: Path


@dataclass
class Losses:
    """A micro-step's loss: this process's part, and the terms of all processes for the record."""

    part: Tensor
    """() float32, to be added over processes."""
    terms: dict[str, Tensor]
    """() float32 each, already added; ``loss`` is the sum that is minimised."""
    record: Callable[[], dict[str, Any]]
    """Further numbers, computed only when a line is written."""


def train_teacher(
    run: Run, teacher: VlmBase, samples: SampleSet, steps: int, start: int, state: Path | None
) -> VlmBase:
    """Plain fine-tuning: mean cross-entropy over all answer tokens."""
    course, world = run.config.teacher, run.world
    assert course is not None  # else nobody calls

    def loss_of(step: int, batch: Batch, outputs: Outputs) -> Losses:
        count = world.total(batch.text.keep.sum())
        token_loss = answer_token_loss(outputs.logits, batch.text.targets)
        part = mean_token_loss(token_loss, batch.text.keep, count)
        return Losses(part, {"loss": world.total(part.detach())}, dict)

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
    release, moe = config.release.schedule(), config.student.moe
    shares = {"sample_frac": config.h2g.sample_frac, "token_frac": config.h2g.token_frac}
    if config.fsdp:
        shard(teacher)
    labels = SoftLabelSource(teacher.eval(), config, parts=_parts(run), bf16=config.bf16)

    def loss_of(step: int, batch: Batch, outputs: Outputs) -> Losses:
        keep, alpha = batch.text.keep, release.alpha(step)
        count = world.total(keep.sum())

        # Loss_H2G: every hard token of every hard sample, once (Eq. 3-5); samples of all
        # processes compete, each process learns from those of its own that were chosen
        token_loss = answer_token_loss(outputs.logits, batch.text.targets)
        all_keep = world.gather(keep)
        hard = select_hard(world.gather(token_loss.detach()), all_keep, **shares)
        own = world.own_rows(len(all_keep))
        h2g = mean_token_loss(token_loss, hard.tokens[own], hard.tokens.sum())

        # Loss_KD: all answer tokens of all samples, while the teacher is still asked
        kd = torch.zeros_like(h2g)
        if alpha > 0 and alpha >= config.release.min_alpha:
            soft = labels.soft_labels(batch, outputs.logits.detach())
            kd = distill_kl(
                outputs.logits, soft, keep, temperature=config.release.temperature, count=count
            )

        # the routers' own terms: use all experts, keep logits small
        balance, router_z = outputs.router_losses / world.size
        part = h2g + alpha * kd
        if moe is not None:
            part = part + moe.balance_weight * balance + moe.router_z_weight * router_z
        extra: dict[str, Tensor] = {}
        for term in config.extra_terms:
            inputs = TermInputs(outputs.logits, batch.text.targets, keep, batch.is_corner, count)
            value = term.compute(inputs)
            part = part + term.weight * value
            extra[term.name] = value

        parts = {"loss": part, "h2g": h2g, "kd": kd, "balance": balance, "router_z": router_z}
        sums = world.total(torch.stack([v.detach() for v in (parts | extra).values()]))
        terms = dict(zip(parts | extra, sums.unbind(), strict=True))
        terms["alpha"] = torch.tensor(alpha)
        corner = world.gather(batch.is_corner)

        def record() -> dict[str, Any]:
            return {
                **hard_shares(hard.samples, hard.tokens, all_keep, corner),
                "expert_usage": world.mean_shares(outputs.ffn_usage),
                "adapter_usage": world.mean_shares(outputs.adapter_usage),
                **({"soft_label_error": labels.error.relative} if labels.error else {}),
            }

        return Losses(part, terms, record)

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
    parted = PartedModel(model, _parts(run), bf16=config.bf16)
    features = FrozenFeatures(model, config)
    clock = Clock(stage, steps)
    # fully_shard averages gradients over processes where our parts are to be added
    factor = float(world.size if config.fsdp else 1) / course.accumulate

    draw = partial(_draw_batches, run, samples, model, course, stage=STAGES.index(stage))
    numbers = shown_steps(start, steps, stage, quiet=not world.is_main)
    for step, batches in prefetched(draw, numbers):
        lr = one_cycle_lr(step, steps, peak_lr=course.peak_lr, warmup_frac=course.warmup_frac)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            outputs = parted.forward(features.attach(batch))
            losses = loss_of(step, batch, outputs)
            _check_finite(losses.terms["loss"], stage, step, batch, world)
            (losses.part * factor).backward()  # type: ignore[no-untyped-call]
            parted.backward()
        if not config.fsdp:
            world.add_gradients(learning)
        world.average_statistics(model)
        norm = nn.utils.clip_grad_norm_(learning, config.max_grad_norm)
        optimizer.step()

        clock.tick(course.batch_size)
        if step % config.log_every_steps == 0 or step == steps - 1:
            terms = {name: value.item() for name, value in losses.terms.items()}
            grad_norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
            values = {**terms, **losses.record(), "lr": lr, "grad_norm": grad_norm}
            run.metrics.write({"stage": stage, "step": step, **values, **clock.read()})
            log.info("%s", clock.line(step, terms, lr))
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


def write_verdict(
    run: Run, models: dict[str, DrivingVlm], everything: SampleSet, result: Path
) -> None:
    """Judge the models on unseen drives beside the baselines; write curves and report."""
    config = run.config
    labelled = [k for k in everything.keyframes if k.action is not None]
    labels = [k.action for k in labelled if k.action is not None]
    baseline = fit_ego_status_baseline(
        [k.ego for k in labelled], [k.command for k in labelled], labels, seed=config.seed
    )
    if config.distill is not None:
        baseline.save(result / "ego_status")
    unseen = load_unseen(config)
    table = []
    if unseen is not None:
        table = judge(
            models,
            unseen,
            train_labels=labels,
            ego_baseline=baseline,
            device=run.device,
            bf16=config.bf16,
        )
    lines = read_metrics(run.metrics.path)
    write_curves(lines, config.out / "curves.png")
    parameters = {name: count_parameters(model) for name, model in models.items()}  # type: ignore[arg-type]
    versions = collect_versions(str(run.device))
    write_report(config.out / "report.md", parameters, table, lines, versions)


def hard_shares(
    hard_samples: Tensor, hard_tokens: Tensor, keep: Tensor, is_corner: Tensor
) -> dict[str, float]:
    """Share of samples and of answer tokens that were found hard, regular and corner apart."""
    return {
        "hard_regular_frac": _share(hard_samples, ~is_corner),
        "hard_corner_frac": _share(hard_samples, is_corner),
        "hard_token_regular_frac": _share(hard_tokens, keep & ~is_corner[:, None]),
        "hard_token_corner_frac": _share(hard_tokens, keep & is_corner[:, None]),
        "hard_token_frac": _share(hard_tokens, keep),
    }


def _share(chosen: Tensor, among: Tensor) -> float:
    """NaN when there is nothing to choose from."""
    total = int(among.sum())
    return float((chosen & among).sum()) / total if total else math.nan


def _parts(run: Run) -> int:
    """Parts of this process's rows; only a CPU gains from more than one."""
    if run.config.fsdp or run.device.type != "cpu":
        return 1
    return max(1, run.config.cpu_parts // run.world.size)


def _draw_batches(
    run: Run,
    samples: SampleSet,
    model: VlmBase,
    course: CourseConfig,
    *,
    stage: int,
    step: int,
) -> list[Batch]:
    """This process's rows of every micro-step of an optimizer step."""
    config, batches = run.config, []
    weights: NDArray[np.float64] = balance_weights(samples.keyframes, course.balance)
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


def _check_finite(loss: Tensor, stage: str, step: int, batch: Batch, world: World) -> None:
    if not bool(torch.isfinite(loss)):
        names = world.gather_names(batch.sample_tokens)
        raise DataError(
            f"{stage} step {step}: loss is {loss.item()}, expected a finite number; "
            f"samples {', '.join(names)}"
        )
