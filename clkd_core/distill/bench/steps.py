"""The steps that are timed: one student and one optimizer, trained in different company.

Models, batches, losses and soft labels are those of :mod:`clkd_core.distill.train`; what is not
here is drawing batches, which training does in a thread beside a step, writing the record, and
a config's ``extra_terms``.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import load_keyframes
from clkd_core.distill.config import CourseConfig, TrainConfig
from clkd_core.distill.feed.batches import Batch, Look, balance_weights, build_batch, draw_looks
from clkd_core.distill.feed.samples import SampleSet, load_samples
from clkd_core.distill.frozen.sources import FrozenFeatures, SoftLabelSource
from clkd_core.distill.losses import (
    answer_token_loss,
    distill_kl,
    mean_token_loss,
    select_hard,
)
from clkd_core.distill.processes.parts import PartedModel
from clkd_core.distill.setup import (
    build_optimizer,
    build_student,
    build_teacher,
    describe_size,
    ensure_data,
    prepare,
)
from clkd_core.distill.state import STAGES
from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase

PLAIN = "plain fine-tuning"
H2G = "with H2G"
LIVE = "H2G + KD, live teacher"
CACHED = "H2G + KD, labels from disk"
SELECTION = "select_hard alone"

DISTINCT_STEPS = 8
"""Steps whose batches differ; they come again in turn."""
LOOKS = 8
"""Of a config without ``data.looks``: labels can be kept only of looks that have names."""
TOP_K = 64
"""Of a config without ``cache.teacher_top_k``."""
PEAK_LR = 1e-5
"""Time does not depend on it, and weights without a course's warm-up stay finite."""


class BenchSteps:
    """A config's student on a config's batches; a step is forward, loss, backward, optimizer."""

    def __init__(
        self, config: TrainConfig, folder: Path, device: torch.device, *, distinct: int
    ) -> None:
        """Build teacher and student, draw the batches, and let the teacher fill the store.

        Args:
            config: of a training run.
            folder: for what the bench keeps on disk; the caller's to remove.
            device: where everything runs.
            distinct: steps whose batches differ.

        Raises:
            ConfigError: the config has no student's course or wants several processes.
            DataError: the driving set cannot be used.
        """
        self.config, self._course = _with_store(config, folder)
        self.parts = config.cpu_parts if device.type == "cpu" else 1
        ensure_data(config.data)
        keyframes = load_keyframes(config.data.root, config.data.version, "train")
        looks = _draw_looks(self.config, self._course, keyframes, distinct)
        samples, looks = _load_seen(self.config, keyframes, looks)

        torch.manual_seed(config.seed)
        # All texts, of which the tokenizer learns, so that V is that of training
        teacher = build_teacher(config, replace(samples, keyframes=keyframes)).to(device).eval()
        student = build_student(config, teacher)
        self.sizes = {"teacher": describe_size(teacher), "student": describe_size(student)}
        prepare(student, config.tune, checkpoint_blocks=config.checkpoint_blocks)
        self._learning = [p for p in student.parameters() if p.requires_grad]
        self._optimizer = build_optimizer(student, self._course)
        self._parted = PartedModel(student, self.parts, bf16=config.bf16)
        self._features = FrozenFeatures(student, self.config, samples)
        self._live = self._labels_of(teacher, samples, None)
        self._cached = self._labels_of(teacher, samples, self.config.cache.teacher_top_k)

        build = partial(
            build_batch,
            samples,
            model=student,
            augment=config.augment,
            questions_per_sample=config.questions_per_sample,
            device=device,
        )
        self.batches = [[build(micro) for micro in step] for step in looks]
        self._token_losses = [[self._meet(batch) for batch in step] for step in self.batches]

    def contenders(self) -> dict[str, Callable[[int], object]]:
        """What is timed, by name; each is called with the number of a round."""
        return {
            PLAIN: partial(self.step, hard=False, labels=None),
            H2G: partial(self.step, hard=True, labels=None),
            LIVE: partial(self.step, hard=True, labels=self._live),
            CACHED: partial(self.step, hard=True, labels=self._cached),
            SELECTION: self.select,
        }

    def step(self, number: int, *, hard: bool, labels: SoftLabelSource | None) -> None:
        """One optimizer step as :func:`clkd_core.distill.train.train` makes them (Eq. 7).

        Args:
            number: which batches.
            hard: learn from hard tokens of hard samples only (H2G), else from all.
            labels: what to ask for the teacher's distributions; None leaves KD out.
        """
        self._optimizer.zero_grad(set_to_none=True)
        for batch in self.batches[number % len(self.batches)]:
            outputs = self._parted.forward(self._features.attach(batch))
            keep = batch.text.keep
            token_loss = answer_token_loss(outputs.logits, batch.text.targets)
            tokens = self._hard_tokens(token_loss, keep) if hard else keep
            part = mean_token_loss(token_loss, tokens)
            if labels is not None:
                soft = labels.soft_labels(batch, outputs.logits.detach())
                release = self.config.release
                kd = distill_kl(outputs.logits, soft, keep, temperature=release.temperature)
                part = part + release.alpha0 * kd
            if (moe := self.config.student.moe) is not None:
                balance, router_z = outputs.router_losses
                part = part + moe.balance_weight * balance + moe.router_z_weight * router_z
            (part / self._course.accumulate).backward()  # type: ignore[no-untyped-call]
            self._parted.backward()
        nn.utils.clip_grad_norm_(self._learning, self.config.max_grad_norm)
        self._optimizer.step()

    def select(self, number: int) -> None:
        """The selection of hard tokens in one step, and nothing else of it."""
        index = number % len(self.batches)
        for batch, loss in zip(self.batches[index], self._token_losses[index], strict=True):
            self._hard_tokens(loss, batch.text.keep)

    @property
    def vocabulary(self) -> int:
        """V of the logits."""
        return int(self._parted.infer(self.batches[0][0].rows(slice(1))).shape[-1])

    def describe_batches(self) -> str:
        """What a step computes on, in words."""
        keeps = [batch.text.keep for step in self.batches for batch in step]
        rows, answers = len(keeps[0]), sum(int(keep.sum()) for keep in keeps) / len(keeps)
        longest = max(keep.shape[1] for keep in keeps)
        return (
            f"{self._course.accumulate} x {rows} samples, each time {answers:.0f} answer tokens, "
            f"at most {longest} a sample, V {self.vocabulary:,}"
        )

    def close(self) -> None:
        """Close what lies on disk."""
        self._features.close()
        self._cached.close()
        self._live.close()

    def _hard_tokens(self, token_loss: Tensor, keep: Tensor) -> Tensor:
        h2g = self.config.h2g
        shares = {"sample_frac": h2g.sample_frac, "token_frac": h2g.token_frac}
        return select_hard(token_loss.detach(), keep, **shares).tokens

    def _labels_of(
        self, teacher: VlmBase, samples: SampleSet, top_k: int | None
    ) -> SoftLabelSource:
        config = replace(self.config, cache=replace(self.config.cache, teacher_top_k=top_k))
        return SoftLabelSource(teacher, config, samples, parts=self.parts, bf16=config.bf16)

    def _meet(self, batch: Batch) -> Tensor:
        """(B, K) losses of the student before any step; puts the teacher's labels on disk."""
        logits = self._parted.infer(self._features.attach(batch))
        self._cached.soft_labels(batch, logits)
        return answer_token_loss(logits, batch.text.targets)


def _with_store(config: TrainConfig, folder: Path) -> tuple[TrainConfig, CourseConfig]:
    """The config with looks that come again and labels kept in ``folder``, and its course."""
    if config.distill is None:
        raise ConfigError("distill is null, expected the student's course")
    if config.fsdp:
        raise ConfigError("fsdp is true, expected false: the bench is one process")
    top_k = config.cache.teacher_top_k or TOP_K
    changed = replace(
        config,
        data=replace(config.data, looks=config.data.looks or LOOKS),
        cache=replace(config.cache, teacher_top_k=top_k, folder=folder),
    )
    return changed, replace(config.distill, peak_lr=PEAK_LR)


def _draw_looks(
    config: TrainConfig, course: CourseConfig, keyframes: Sequence[Keyframe], steps: int
) -> list[list[list[Look]]]:
    """Of every micro-step of every step, as the student's course draws them."""
    weights = balance_weights(keyframes, course.balance)
    micro_steps = [
        draw_looks(
            keyframes,
            weights,
            course.micro_batch,
            seed=(config.seed, STAGES.index("distill"), micro),
            looks=config.data.looks,
        )
        for micro in range(steps * course.accumulate)
    ]
    each = course.accumulate
    return [micro_steps[step * each : (step + 1) * each] for step in range(steps)]


def _load_seen(
    config: TrainConfig, keyframes: Sequence[Keyframe], looks: list[list[list[Look]]]
) -> tuple[SampleSet, list[list[list[Look]]]]:
    """Only the samples that are looked at, and the looks with their places among those."""
    seen = sorted({look.index for step in looks for micro in step for look in micro})
    place = {index: position for position, index in enumerate(seen)}
    vision = config.model.vision
    samples = load_samples(
        [keyframes[index] for index in seen],
        (vision.height_px, vision.width_px),
        workers=config.data.workers,
    )
    moved = [
        [[replace(look, index=place[look.index]) for look in micro] for micro in step]
        for step in looks
    ]
    return samples, moved
