"""From samples to batches: which are drawn, what is varied, which questions are asked.

A *look* is one way to see a sample, and everything random about it follows from the look's own
seed. So a run that was killed goes on with exactly the batches it would have seen, each of
several processes builds only its own rows, and what a frozen network makes of a look can be kept
on disk where a run limits the number of looks (``data.looks``).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.language.drivelm import mirrored_tags
from clkd_core.data.prompts import answer_text, mirrored_text, plan_question, turn_text
from clkd_core.data.sidecar import action_indices
from clkd_core.distill.config import AugmentConfig
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.errors import DataError
from clkd_core.models.vlm import DrivingVlm, TextBatch
from clkd_core.types import CAMERAS, RouteCommand

MIRRORED_CAMERAS: tuple[int, ...] = tuple(
    CAMERAS.index(mirrored_text(camera)) for camera in CAMERAS
)
"""Which camera stands where in a mirrored scene."""

_MIRRORED_COMMANDS = {
    command: RouteCommand(mirrored_text(command.value)) for command in RouteCommand
}

_GREY = 110.0
"""About the mean of a daylight image."""


@dataclass(frozen=True)
class Look:
    """One way to see one sample."""

    index: int
    """Which sample of the set."""
    seed: tuple[int, ...]
    """What the variation follows from."""
    key: str | None = None
    """Name under which results are kept on disk; None where looks never come again."""


@dataclass(frozen=True)
class Batch:
    """Samples of one micro-step, or a process's share of them, on the model's device."""

    views: Tensor
    """(B, C, 3, H, W) float32, 0..255, or uint8 when nothing was varied."""
    present: Tensor
    """(B, C) bool."""
    text: TextBatch
    is_corner: Tensor
    """(B,) bool."""
    sample_tokens: tuple[str, ...]
    """B names, for error messages."""
    look_keys: tuple[str | None, ...]
    """B names of the looks, see :class:`Look`."""
    features: Tensor | None = None
    """(B, C, P, D) of a frozen vision tower, in place of the views."""

    def rows(self, rows: slice) -> "Batch":
        """Some of the samples."""
        return Batch(
            views=self.views[rows],
            present=self.present[rows],
            text=self.text.rows(rows),
            is_corner=self.is_corner[rows],
            sample_tokens=self.sample_tokens[rows],
            look_keys=self.look_keys[rows],
            features=None if self.features is None else self.features[rows],
        )

    def with_features(self, features: Tensor) -> "Batch":
        """The same samples as a frozen vision tower sees them."""
        return replace(self, features=features)


def draw_looks(
    keyframes: Sequence[Keyframe],
    weights: NDArray[np.float64],
    count: int,
    *,
    seed: tuple[int, int, int],
    looks: int | None,
) -> list[Look]:
    """The looks of one micro-step.

    Args:
        keyframes: N of the set.
        weights: (N,) how likely each is drawn; all equal means epochs without repetition.
        count: looks of all processes together.
        seed: (seed, stage, micro-step counted over the whole stage).
        looks: different looks per sample; None makes every look a new one.
    """
    if np.ptp(weights) == 0.0:
        indices = _epoch_indices(len(weights), count, seed=seed)
    else:
        indices = draw_indices(weights, count, seed=seed)
    if looks is None:
        return [Look(int(index), (*seed, row)) for row, index in enumerate(indices)]
    numbers = np.random.default_rng((*seed, 2)).integers(looks, size=count)
    return [
        _returning_look(keyframes[index].sample_token, int(index), int(number), seed[0])
        for index, number in zip(indices, numbers, strict=True)
    ]


def _returning_look(token: str, index: int, number: int, seed: int) -> Look:
    """Follows from the sample itself, whose index differs between a set and its subsets."""
    return Look(index, (seed, zlib.crc32(token.encode()), number), key=f"{token}/{number}")


def draw_indices(
    weights: NDArray[np.float64], batch_size: int, *, seed: tuple[int, int, int]
) -> NDArray[np.int64]:
    """The samples of one micro-step, drawn by weight, each once where there are enough.

    Args:
        weights: (N,) positive.
        batch_size: B.
        seed: (seed, stage, micro-step).
    """
    rng = np.random.default_rng((*seed, 0))
    return rng.choice(
        len(weights),
        size=batch_size,
        replace=len(weights) < batch_size,
        p=weights / weights.sum(),
    )


def _epoch_indices(samples: int, count: int, *, seed: tuple[int, int, int]) -> NDArray[np.int64]:
    """The next ``count`` of an endless row of epochs, each a new order of all samples."""
    first = seed[2] * count
    picked = []
    for epoch in range(first // samples, (first + count - 1) // samples + 1):
        order = np.random.default_rng((*seed[:2], epoch, 0)).permutation(samples)
        start, stop = first - epoch * samples, first + count - epoch * samples
        picked.append(order[max(start, 0) : min(stop, samples)])
    return np.concatenate(picked)


def balance_weights(keyframes: Sequence[Keyframe], balance: float) -> NDArray[np.float64]:
    """(N,) how likely each sample is drawn: (number with the same action) ** -balance."""
    _, places, counts = np.unique(
        action_indices(keyframes), return_inverse=True, return_counts=True
    )
    return np.asarray(counts[places] ** -balance, np.float64)


def conversation(
    keyframe: Keyframe,
    *,
    questions: Sequence[int] = (),
    mirror: bool = False,
    drop_ego: bool = False,
    drop_command: bool = False,
) -> list[tuple[str, str]]:
    """(question, answer) turns: the plan first where it is known, then driving questions.

    Args:
        keyframe: what is asked about.
        questions: which of ``keyframe.questions``, in this order.
        mirror: ask about the mirror image.
        drop_ego: the speed reads "unknown".
        drop_command: the route reads "unknown".
    """
    turns: list[tuple[str, str]] = []
    swap = _mirrored if mirror else str
    if keyframe.action is not None:
        command = None if drop_command else keyframe.command
        if mirror and command is not None:
            command = _MIRRORED_COMMANDS[command]
        question = plan_question(None if drop_ego else keyframe.ego, command)
        turns.append((question, swap(answer_text(keyframe.action))))
    for index in questions:
        asked = keyframe.questions[index]
        turns.append((swap(turn_text(asked.question)), swap(f" {asked.answer}")))
    return turns


def _mirrored(text: str) -> str:
    return mirrored_tags(mirrored_text(text))


@dataclass(frozen=True)
class _Draw:
    """What was drawn for one look."""

    mirror: bool
    drop_ego: bool
    drop_command: bool
    questions: tuple[int, ...]
    kept_views: NDArray[np.bool_]
    crop: tuple[float, float, float]
    gain: float
    contrast: float


def build_batch(
    samples: SampleSet,
    looks: Sequence[Look],
    model: DrivingVlm,
    augment: AugmentConfig,
    *,
    questions_per_sample: int,
    device: torch.device,
    rows: slice = slice(None),
) -> Batch:
    """One micro-step's batch.

    Args:
        samples: of the set.
        looks: of all processes; their texts are padded together, so that all processes have the
            same shapes.
        model: packs the conversations.
        augment: what is varied.
        questions_per_sample: driving questions after the plan.
        device: where the batch goes.
        rows: this process's share of the looks.

    Raises:
        DataError: not one of the samples has anything to answer.
    """
    keyframes = [samples.keyframes[look.index] for look in looks]
    draws = [
        _draw(keyframe, look, augment, questions_per_sample)
        for keyframe, look in zip(keyframes, looks, strict=True)
    ]
    turns = [
        conversation(
            keyframe,
            questions=draw.questions,
            mirror=draw.mirror,
            drop_ego=draw.drop_ego,
            drop_command=draw.drop_command,
        )
        for keyframe, draw in zip(keyframes, draws, strict=True)
    ]
    if not any(turns):
        raise DataError(
            f"none of {len(turns)} samples has a plan, questions_per_sample is "
            f"{questions_per_sample} and the first has {len(keyframes[0].questions)} questions, "
            "expected something to answer"
        )
    keyframes, draws, looks = keyframes[rows], draws[rows], looks[rows]
    views, present = _vary(samples, [look.index for look in looks], draws, augment)
    return Batch(
        views=views.to(device),
        present=torch.from_numpy(present).to(device),
        text=model.pack(turns).rows(rows).to(device),
        is_corner=torch.tensor([k.is_corner for k in keyframes], device=device),
        sample_tokens=tuple(k.sample_token for k in keyframes),
        look_keys=tuple(look.key for look in looks),
    )


def _draw(keyframe: Keyframe, look: Look, augment: AugmentConfig, questions: int) -> _Draw:
    rng = np.random.default_rng((*look.seed, 1))
    low, high = 1.0 - augment.brightness, 1.0 + augment.brightness
    return _Draw(
        mirror=bool(rng.random() < augment.mirror),
        drop_ego=bool(rng.random() < augment.drop_ego),
        drop_command=bool(rng.random() < augment.drop_command),
        questions=tuple(int(i) for i in rng.permutation(len(keyframe.questions))[:questions]),
        kept_views=_draw_kept_views(augment.drop_views, rng),
        crop=(augment.zoom * rng.random(), rng.random(), rng.random()),
        gain=float(rng.uniform(low, high)),
        contrast=float(rng.uniform(low, high)),
    )


def _draw_kept_views(drop_share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(C,) bool; who loses views keeps one at least, CAM_FRONT in half of the cases."""
    kept = np.ones(len(CAMERAS), np.bool_)
    if rng.random() < drop_share:
        kept = rng.random(len(CAMERAS)) < rng.random()
        kept[0 if rng.random() < 0.5 else rng.integers(len(CAMERAS))] = True
    return kept


def _vary(
    samples: SampleSet, indices: Sequence[int], draws: Sequence[_Draw], augment: AugmentConfig
) -> tuple[Tensor, NDArray[np.bool_]]:
    """(B, C, 3, H, W) pixels and (B, C) bool, mirrored, cropped and re-lit as drawn."""
    pixels, present = samples.pixels(indices)
    views = torch.from_numpy(pixels)
    for row, draw in enumerate(draws):
        if draw.mirror:
            order = list(MIRRORED_CAMERAS)
            views[row] = torch.flip(views[row][order], dims=(-1,))
            present[row] = present[row][order]
        kept = present[row] & draw.kept_views
        if kept.any():  # a sample with a single view may be drawn to lose that one
            present[row] = kept
    if not (augment.zoom or augment.brightness):
        return views, present
    varied = torch.empty(views.shape)
    for row, draw in enumerate(draws):
        varied[row] = _relit(_crop(views[row], *draw.crop), draw)
    return varied, present


def _relit(views: Tensor, draw: _Draw) -> Tensor:
    # x -> gain * ((x - grey) * contrast + grey), in one multiplication and one addition
    shift = draw.gain * _GREY * (1.0 - draw.contrast)
    return views.mul_(draw.gain * draw.contrast).add_(shift).clamp_(0, 255)


def _crop(views: Tensor, away: float, down: float, right: float) -> Tensor:
    """(C, 3, H, W) with the share ``away`` of each side cut off, brought back to its size.

    ``down`` and ``right`` in 0..1 say how much of what is cut lies above and to the left.
    """
    height, width = views.shape[-2:]
    rows, columns = round(height * (1.0 - away)), round(width * (1.0 - away))
    if (rows, columns) == (height, width):
        return views.float()
    top, left = round((height - rows) * down), round((width - columns) * right)
    crop = views[..., top : top + rows, left : left + columns].float()
    return functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
