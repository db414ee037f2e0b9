"""The training loop, top to bottom: data, teacher, student, verdict.

Loss (Eq. 7): ``Loss_H2G + alpha(t) * Loss_KD``, plus the routers' small terms. The teacher sees
regular samples only; the student, cut out of it, sees all.
"""

import logging
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.contrib.logging import logging_redirect_tqdm

from clkd_core.config import config_to_dict, load_config, save_config
from clkd_core.data.keyframes import load_keyframes
from clkd_core.distill.config import CourseConfig, DataConfig, TrainConfig
from clkd_core.distill.evaluate import judge
from clkd_core.distill.losses import (
    answer_token_loss,
    distill_kl,
    h2g_loss,
    mean_token_loss,
    select_hard,
)
from clkd_core.distill.parts import PartedModel
from clkd_core.distill.run import (
    MetricsLog,
    Progress,
    collect_versions,
    load_progress,
    read_metrics,
    restore_state,
    save_state,
    write_curves,
    write_report,
)
from clkd_core.distill.samples import (
    Batch,
    SampleSet,
    balance_weights,
    build_batch,
    draw_indices,
    load_samples,
    tokenizer_texts,
)
from clkd_core.distill.schedule import one_cycle_lr
from clkd_core.errors import ConfigError, DataError
from clkd_core.metrics.ego_status import fit_ego_status_baseline
from clkd_core.models.checkpoint import load_checkpoint, save_checkpoint
from clkd_core.models.halving import halve
from clkd_core.models.llama_vlm import LlamaVlm
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vlm import DrivingVlm, count_parameters
from clkd_core.progress import progress

log = logging.getLogger(__name__)

STAGES = ("teacher", "distill", "done")


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Train a teacher, distil its student, judge both, and write the run's folder.

    Args:
        config: of the run.
        resume: go on from the state that an interrupted run with the same config left; without
            one, or without this flag, the run starts anew.

    Returns:
        The student's checkpoint folder.

    Raises:
        ConfigError: the state to resume belongs to another config, or the student would be
            larger than its teacher.
        DataError: the data set cannot be used, or a loss is not finite (names the samples).
    """
    # ---- where the run stands -------------------------------------------------------------
    device = _pick_device(config.device)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.cpu_parts))
    state, student_dir = config.out / "state", config.out / "student"
    stage, start_step = _resume_point(config, state) if resume else (STAGES[0], 0)
    if stage == "done":
        log.info("%s is finished: %s", config.out, student_dir)
        return student_dir
    if not resume:
        shutil.rmtree(state, ignore_errors=True)  # of an earlier run: not ours to resume
    done_steps = {"teacher": config.teacher.steps, "distill": config.distill.steps}
    metrics = MetricsLog(
        config.out / "metrics.jsonl",
        resume_at={**({} if stage == "teacher" else done_steps), stage: start_step}
        if resume
        else None,
    )
    save_config(config, config.out / "config.yaml")
    config_dict = config_to_dict(config)

    # ---- data -----------------------------------------------------------------------------
    ensure_data(config.data)
    size_hw = (config.model.vision.height_px, config.model.vision.width_px)
    everything = load_samples(
        load_keyframes(config.data.root, config.data.version, "train"),
        size_hw,
        workers=config.data.workers,
        cache=config.out / "cache",
    )
    regular = everything.subset(
        [i for i, k in enumerate(everything.keyframes) if k.case_name == "regular"]
    )
    log.info(
        "%d keyframes to learn from, %d of them regular",
        len(everything.keyframes),
        len(regular.keyframes),
    )

    # ---- 1. the teacher, on regular samples -----------------------------------------------
    torch.manual_seed(config.seed)
    if stage == "teacher":
        tokenizer = train_tokenizer(
            tokenizer_texts(everything.keyframes), vocab_size=config.vocab_size
        )
        teacher = LlamaVlm(config.model, tokenizer).to(device)
        log.info("teacher: %s parameters, %d pieces", _count(teacher), tokenizer.vocab_size)
        optimizer = _build_optimizer(teacher, config.teacher)
        if start_step:
            restore_state(state, teacher, optimizer)
        train_teacher(teacher, optimizer, regular, config, metrics, state, start_step)
        save_checkpoint(config.out / "teacher", teacher, note={"trained_on": "regular"})
        start_step = 0
    teacher = load_checkpoint(config.out / "teacher", device)

    # ---- 2. the student, cut from it, on everything ---------------------------------------
    torch.manual_seed(config.seed + 1)
    student = halve(teacher, config.student.keep, config.student.moe)
    log.info("student: %s parameters", _count(student))
    optimizer = _build_optimizer(student, config.distill)
    if start_step:
        restore_state(state, student, optimizer)
    else:
        save_state(state, student, optimizer, Progress("distill", 0, config_dict))
    distil_student(student, teacher, optimizer, everything, config, metrics, state, start_step)
    versions = collect_versions()
    save_checkpoint(student_dir, student, note={"seed": config.seed, "versions": versions})

    # ---- 3. baselines, verdict, report ----------------------------------------------------
    labelled = [k for k in everything.keyframes if k.action is not None]
    labels = [k.action for k in labelled if k.action is not None]
    baseline = fit_ego_status_baseline(
        [k.ego for k in labelled], [k.command for k in labelled], labels, seed=config.seed
    )
    baseline.save(student_dir / "ego_status")
    unseen = _load_unseen(config, size_hw)
    table = []
    if unseen is not None:
        models: dict[str, DrivingVlm] = {"teacher": teacher, "student": student.eval()}
        table = judge(
            models,
            unseen,
            train_labels=labels,
            ego_baseline=baseline,
            device=device,
            bf16=config.bf16,
        )
    lines = read_metrics(metrics.path)
    write_curves(lines, config.out / "curves.png")
    parameters = {"teacher": count_parameters(teacher), "student": count_parameters(student)}
    write_report(config.out / "report.md", parameters, table, lines, versions)
    save_state(state, student, optimizer, Progress("done", 0, config_dict))
    shutil.rmtree(config.out / "cache", ignore_errors=True)  # served resuming; hundreds of MB
    return student_dir


def train_teacher(
    teacher: LlamaVlm,
    optimizer: torch.optim.Optimizer,
    samples: SampleSet,
    config: TrainConfig,
    metrics: MetricsLog,
    state: Path,
    start_step: int,
) -> None:
    """Plain fine-tuning: mean cross-entropy over all answer tokens."""
    course = config.teacher
    weights = balance_weights(samples.keyframes, course.balance)
    parted = PartedModel(teacher.train(), _parts(config, teacher), bf16=config.bf16)
    clock = _Clock("teacher", course.steps)
    draw = partial(_draw_batch, samples, weights, teacher, config, course, stage=0)
    for step, batch in _prefetched(draw, _steps(start_step, course.steps, "train teacher")):
        lr = _set_lr(optimizer, course, step)
        text = batch.text
        logits = parted.forward(batch).logits
        loss = mean_token_loss(answer_token_loss(logits, text.targets), text.keep)
        _check_finite(loss, "teacher", step, batch)
        grad_norm = _update(loss, parted, optimizer, config.max_grad_norm)

        if clock.tick(course.batch_size) and _is_due(step, course.steps, config.log_every_steps):
            values = {"loss": loss.item(), "lr": lr, "grad_norm": grad_norm}
            metrics.write({"stage": "teacher", "step": step, **values, **clock.read()})
            log.info("%s", clock.line(step, {"loss": values["loss"]}, lr))
        if _save_is_due(config, step):
            progress = Progress("teacher", step + 1, config_to_dict(config))
            save_state(state, teacher, optimizer, progress)


def distil_student(
    student: LlamaVlm,
    teacher: LlamaVlm,
    optimizer: torch.optim.Optimizer,
    samples: SampleSet,
    config: TrainConfig,
    metrics: MetricsLog,
    state: Path,
    start_step: int,
) -> None:
    """CLKD: hard tokens of hard samples, and a teacher that lets go (Eq. 7)."""
    course, moe, release = config.distill, config.student.moe, config.release.schedule()
    weights = balance_weights(samples.keyframes, course.balance)
    parted = PartedModel(student.train(), _parts(config, student), bf16=config.bf16)
    parted_teacher = PartedModel(teacher.eval(), _parts(config, teacher), bf16=config.bf16)
    clock = _Clock("distill", course.steps)
    draw = partial(_draw_batch, samples, weights, student, config, course, stage=1)
    for step, batch in _prefetched(draw, _steps(start_step, course.steps, "distil student")):
        lr = _set_lr(optimizer, course, step)
        alpha = release.alpha(step)
        text = batch.text
        logits, router_terms, usage = parted.forward(batch)

        # Loss_H2G: every hard token of every hard sample, once (Eq. 3-5)
        token_loss = answer_token_loss(logits, text.targets)
        shares = {
            "sample_frac": config.h2g.sample_frac,
            "token_frac": config.h2g.token_frac,
        }
        h2g = h2g_loss(token_loss, text.keep, **shares)

        # Loss_KD: all answer tokens of all samples, while the teacher is still asked
        kd = torch.zeros_like(h2g)
        if alpha >= config.release.min_alpha:
            soft_labels = parted_teacher.infer(batch)
            kd = distill_kl(logits, soft_labels, text.keep, temperature=config.release.temperature)

        # the routers' own terms: use all experts, keep logits small
        balance, router_z = router_terms
        loss = h2g + alpha * kd + moe.balance_weight * balance + moe.router_z_weight * router_z
        _check_finite(loss, "distill", step, batch)
        grad_norm = _update(loss, parted, optimizer, config.max_grad_norm)

        if clock.tick(course.batch_size) and _is_due(step, course.steps, config.log_every_steps):
            terms = {"loss": loss.item(), "h2g": h2g.item(), "kd": kd.item(), "alpha": alpha}
            hard = select_hard(token_loss, text.keep, **shares)
            values = {
                **terms,
                "balance": balance.item(),
                "router_z": router_z.item(),
                **_hard_shares(hard.samples, hard.tokens, text.keep, batch.is_corner),
                "expert_usage": usage,
                "lr": lr,
                "grad_norm": grad_norm,
            }
            metrics.write({"stage": "distill", "step": step, **values, **clock.read()})
            log.info("%s", clock.line(step, terms, lr))
        if _save_is_due(config, step):
            progress = Progress("distill", step + 1, config_to_dict(config))
            save_state(state, student, optimizer, progress)


def ensure_data(data: DataConfig) -> None:
    """Generate the driving set where it is missing and a world config says how.

    Raises:
        ConfigError: the world config cannot be used.
        DataError: a set cannot be written.
    """
    if data.world is None or (data.root / data.version).is_dir():
        return
    from clkd_core.data.world.config import WorldConfig
    from clkd_core.data.world.generate import write_world

    log.info("%s is not there: generating it from %s", data.root, data.world)
    write_world(load_config(WorldConfig, data.world), data.root)


def _load_unseen(config: TrainConfig, size_hw: tuple[int, int]) -> SampleSet | None:
    root = config.data.val_root or config.data.root
    try:
        keyframes = load_keyframes(root, config.data.version, "val")
    except DataError as err:
        log.info("no validation split to judge on: %s", err)
        return None
    return load_samples(
        keyframes, size_hw, workers=config.data.workers, cache=config.out / "cache"
    )


def _resume_point(config: TrainConfig, state: Path) -> tuple[str, int]:
    found = load_progress(state)
    if found is None:
        log.info("%s holds no state: starting anew", config.out)
        return STAGES[0], 0
    ours = _flat(config_to_dict(config))
    theirs = _flat(found.config)
    changed = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
    if changed:
        raise ConfigError(
            f"{state} was made with other values of {', '.join(changed)}; "
            "resume with the same config or start without --resume"
        )
    return found.stage, found.step


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as err:
        raise ConfigError(f"device is {name!r}, expected auto or a torch device") from err


def _parts(config: TrainConfig, model: nn.Module) -> int:
    """Parts of a batch; only a CPU gains from more than one."""
    return config.cpu_parts if next(model.parameters()).device.type == "cpu" else 1


def _build_optimizer(model: nn.Module, course: CourseConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": course.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=course.peak_lr, fused=True)


def _set_lr(optimizer: torch.optim.Optimizer, course: CourseConfig, step: int) -> float:
    lr = one_cycle_lr(step, course.steps, peak_lr=course.peak_lr, warmup_frac=course.warmup_frac)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def _draw_batch(
    samples: SampleSet,
    weights: NDArray[np.float64],
    model: LlamaVlm,
    config: TrainConfig,
    course: CourseConfig,
    *,
    stage: int,
    step: int,
) -> Batch:
    seed = (config.seed, stage, step)
    return build_batch(
        samples,
        draw_indices(weights, course.batch_size, seed=seed),
        model.tokenizer,
        config.augment,
        questions_per_sample=config.questions_per_sample,
        seed=seed,
        device=next(model.parameters()).device,
    )


def _update(
    loss: Tensor, parted: PartedModel, optimizer: torch.optim.Optimizer, max_norm: float
) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parted.backward()
    norm = nn.utils.clip_grad_norm_(parted.model.parameters(), max_norm)
    optimizer.step()
    return norm.item()


def _check_finite(loss: Tensor, stage: str, step: int, batch: Batch) -> None:
    if not bool(torch.isfinite(loss)):
        raise DataError(
            f"{stage} step {step}: loss is {loss.item()}, expected a finite number; "
            f"samples {', '.join(batch.sample_tokens)}"
        )


def _hard_shares(
    hard_samples: Tensor, hard_tokens: Tensor, keep: Tensor, is_corner: Tensor
) -> dict[str, float]:
    """Share of regular and of corner samples that were found hard, and of all answer tokens."""
    return {
        "hard_regular_frac": _share(hard_samples, ~is_corner),
        "hard_corner_frac": _share(hard_samples, is_corner),
        "hard_token_frac": _share(hard_tokens, keep),
    }


def _share(chosen: Tensor, among: Tensor) -> float:
    """NaN when there is nothing to choose from."""
    total = int(among.sum())
    return float((chosen & among).sum()) / total if total else math.nan


def _steps(start: int, stop: int, what: str) -> Iterable[int]:
    """Step numbers behind a progress bar; where nobody looks, the log's lines are enough."""
    steps: Sequence[int] = range(start, stop)
    if not sys.stderr.isatty():
        yield from steps
        return
    with ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        yield from progress(steps, desc=what, unit="step")


def _prefetched(draw: Callable[..., Batch], steps: Iterable[int]) -> Iterator[tuple[int, Batch]]:
    """(step, its batch); while one step computes, a thread draws the next one's batch."""
    with ThreadPoolExecutor(1, "draw") as pool:
        waiting: tuple[int, Future[Batch]] | None = None
        for step in steps:
            upcoming = (step, pool.submit(draw, step=step))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = upcoming
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _is_due(step: int, steps: int, every: int) -> bool:
    return step % every == 0 or step == steps - 1


def _save_is_due(config: TrainConfig, step: int) -> bool:
    return bool(config.save_every_steps) and (step + 1) % config.save_every_steps == 0


def _count(model: nn.Module) -> str:
    total, active = count_parameters(model)
    return f"{total:,} ({active:,} active)"


class _Clock:
    """Time per step since the last report, and the time that is left."""

    def __init__(self, stage: str, steps: int) -> None:
        self._stage, self._steps = stage, steps
        self._since_s = time.perf_counter()
        self._ticks = self._samples = 0
        self._step_s = math.nan

    def tick(self, samples: int) -> bool:
        """Count a step; always true, so that it can stand before a condition."""
        self._ticks += 1
        self._samples += samples
        return True

    def read(self) -> dict[str, float]:
        """Speed and memory since the last reading."""
        now_s = time.perf_counter()
        elapsed_s = max(now_s - self._since_s, 1e-9)
        self._step_s = elapsed_s / max(self._ticks, 1)
        rate = self._samples / elapsed_s
        self._since_s, self._ticks, self._samples = now_s, 0, 0
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"samples_per_s": round(rate, 2), "peak_memory_mb": round(peak_mb, 1)}

    def line(self, step: int, terms: Mapping[str, float], lr: float) -> str:
        """``teacher step 0120/0400 | loss 1.234 | lr 3.0e-04 | 412 ms/step | eta 1.9 min``."""
        shown = " | ".join(f"{name} {value:.3f}" for name, value in terms.items())
        eta_min = self._step_s * (self._steps - step - 1) / 60
        return (
            f"{self._stage} step {step + 1:04d}/{self._steps:04d} | {shown} | lr {lr:.1e} | "
            f"{self._step_s * 1e3:.0f} ms/step | eta {eta_min:.1f} min"
        )
