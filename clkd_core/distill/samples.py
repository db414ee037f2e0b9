"""Keyframes as training samples: decoded views in memory, conversations, batches.

Everything random about a batch follows from (seed, stage, step) alone, so that a run that was
killed goes on with exactly the batches it would have seen.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.data.prompts import (
    PREAMBLE,
    VIEW_NAMES,
    answer_text,
    mirrored_text,
    plan_question,
    turn_text,
)
from clkd_core.distill.config import AugmentConfig
from clkd_core.errors import DataError, FrameError
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.models.vlm import TextBatch
from clkd_core.progress import progress
from clkd_core.runtime.decode import decode_views
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand

MIRRORED_CAMERAS: tuple[int, ...] = tuple(
    CAMERAS.index(mirrored_text(camera)) for camera in CAMERAS
)
"""Which camera stands where in a mirrored scene."""

_MIRRORED_COMMANDS = {
    command: RouteCommand(mirrored_text(command.value)) for command in RouteCommand
}


@dataclass(frozen=True)
class SampleSet:
    """Keyframes with their views decoded once."""

    keyframes: list[Keyframe]
    """N of them."""
    views: NDArray[np.uint8]
    """(N, C, 3, H, W) RGB; zeros where a view is missing."""
    present: NDArray[np.bool_]
    """(N, C)."""

    def subset(self, keep: Sequence[int]) -> "SampleSet":
        """The samples at ``keep``; pixels are shared when it is all of them."""
        if len(keep) == len(self.keyframes):
            return self
        index = np.asarray(keep, dtype=np.int64)
        return SampleSet([self.keyframes[i] for i in keep], self.views[index], self.present[index])


@dataclass(frozen=True)
class Batch:
    """One step's samples on the model's device."""

    views: Tensor
    """(B, C, 3, H, W) float32, 0..255, or uint8 when nothing was varied."""
    present: Tensor
    """(B, C) bool."""
    text: TextBatch
    is_corner: Tensor
    """(B,) bool."""
    sample_tokens: tuple[str, ...]
    """B names, for error messages."""


def load_samples(
    keyframes: Sequence[Keyframe],
    size_hw: tuple[int, int],
    *,
    workers: int,
    cache: Path | None = None,
) -> SampleSet:
    """Decode all views once, or read them back from an earlier run's cache.

    Args:
        keyframes: at least one.
        size_hw: (H, W) of a view.
        workers: threads that decode.
        cache: folder for the decoded arrays; None keeps nothing on disk.

    Raises:
        DataError: an image is missing or damaged.
    """
    if not keyframes:
        raise DataError("no keyframes came, expected at least one")
    path = None if cache is None else cache / f"views-{_fingerprint(keyframes, size_hw)}.npz"
    if path is not None and path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return SampleSet(list(keyframes), stored["views"], stored["present"])
    samples = _decode_samples(keyframes, size_hw, workers)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
        np.savez(temporary, views=samples.views, present=samples.present)
        temporary.replace(path)
    return samples


def _decode_samples(
    keyframes: Sequence[Keyframe], size_hw: tuple[int, int], workers: int
) -> SampleSet:
    views = np.zeros((len(keyframes), len(CAMERAS), 3, *size_hw), np.uint8)
    present = np.zeros((len(keyframes), len(CAMERAS)), np.bool_)

    def decode(index: int) -> None:
        try:
            frame = surround_frame(keyframes[index])
            views[index], present[index] = decode_views(frame, size_hw)
        except FrameError as err:
            token = keyframes[index].sample_token
            raise DataError(f"images of keyframe {token}: {err}") from err

    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        done = pool.map(decode, range(len(keyframes)))
        try:
            for _ in progress(done, total=len(keyframes), desc="decode views", unit="keyframe"):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return SampleSet(list(keyframes), views, present)


def _fingerprint(keyframes: Sequence[Keyframe], size_hw: tuple[int, int]) -> str:
    """Changes when an image file, the order or the size does."""
    digest = hashlib.sha256(repr(size_hw).encode())
    for keyframe in keyframes:
        for camera, path in sorted(keyframe.image_paths.items()):
            try:
                stat = path.stat()
            except OSError as err:
                raise DataError(f"{path}: image cannot be read: {err.strerror}") from err
            digest.update(f"{camera} {path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def tokenizer_texts(keyframes: Sequence[Keyframe]) -> list[str]:
    """What the tokenizer learns from: all our prompts, and the questions and answers at hand."""
    texts = [PREAMBLE, *VIEW_NAMES.values(), *(answer_text(action) for action in META_ACTIONS)]
    for speed in range(61):
        ego = EgoState(stamp_ns=0, speed_mps=float(speed))
        texts += [plan_question(ego, command) for command in (None, *RouteCommand)]
    texts += texts[:16]  # a pair of letters merges from its second occurrence on
    turns = {(q.question, q.answer) for keyframe in keyframes for q in keyframe.questions}
    for question, answer in sorted(turns):
        for text in (turn_text(question), f" {answer}"):
            texts += [text, mirrored_text(text)]
    return texts


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
    swap = mirrored_text if mirror else str
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


def encode_conversations(
    conversations: Sequence[Sequence[tuple[str, str]]], tokenizer: TextTokenizer
) -> TextBatch:
    """Token ids with every answer followed by ``<end>``; the answers and ends are learnt."""
    rows: list[list[int]] = []
    answer_rows: list[list[int]] = []
    for turns in conversations:
        ids: list[int] = []
        answer_at: list[int] = []
        for question, answer in turns:
            ids += tokenizer.encode(question)
            learnt = (*tokenizer.encode(answer), tokenizer.end_id)
            answer_at += range(len(ids), len(ids) + len(learnt))
            ids += learnt
        rows.append(ids)
        answer_rows.append(answer_at)
    ids_tensor = _padded(rows, tokenizer.pad_id)
    keep = _padded([[1] * len(row) for row in answer_rows], 0).bool()
    return TextBatch(ids_tensor, _padded(answer_rows, 0), keep)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    longest = max(1, *(len(row) for row in rows)) if len(rows) > 1 else max(1, len(rows[0]))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def draw_indices(
    weights: NDArray[np.float64], batch_size: int, *, seed: tuple[int, int, int]
) -> NDArray[np.int64]:
    """The samples of one step, drawn by weight, each at most once where there are enough.

    Args:
        weights: (N,) positive.
        batch_size: B.
        seed: (seed, stage, step).
    """
    rng = np.random.default_rng((*seed, 0))
    return rng.choice(
        len(weights),
        size=batch_size,
        replace=len(weights) < batch_size,
        p=weights / weights.sum(),
    )


def balance_weights(keyframes: Sequence[Keyframe], balance: float) -> NDArray[np.float64]:
    """(N,) how likely each sample is drawn: (number with the same action) ** -balance."""
    labels = [-1 if k.action is None else k.action.index for k in keyframes]
    counts = {label: labels.count(label) for label in set(labels)}
    return np.asarray([counts[label] ** -balance for label in labels], np.float64)


def build_batch(
    samples: SampleSet,
    indices: Sequence[int] | NDArray[np.int64],
    tokenizer: TextTokenizer,
    augment: AugmentConfig,
    *,
    questions_per_sample: int,
    seed: tuple[int, int, int],
    device: torch.device,
) -> Batch:
    """One step's batch; what is random follows from ``seed``, (seed, stage, step)."""
    rng = np.random.default_rng((*seed, 1))
    keyframes = [samples.keyframes[i] for i in indices]
    mirror = rng.random(len(keyframes)) < augment.mirror
    conversations = [
        conversation(
            keyframe,
            questions=_draw_questions(keyframe, questions_per_sample, rng),
            mirror=bool(mirrored),
            drop_ego=bool(rng.random() < augment.drop_ego),
            drop_command=bool(rng.random() < augment.drop_command),
        )
        for keyframe, mirrored in zip(keyframes, mirror, strict=True)
    ]
    text = encode_conversations(conversations, tokenizer)
    present = samples.present[np.asarray(indices)].copy()
    views = torch.from_numpy(samples.views[np.asarray(indices)])
    views, present = _mirror(views, present, mirror)
    present &= _draw_kept_views(len(keyframes), augment.drop_views, rng)
    return Batch(
        views=_vary_pixels(views, augment, rng).to(device),
        present=torch.from_numpy(present).to(device),
        text=TextBatch(text.ids.to(device), text.answer_at.to(device), text.keep.to(device)),
        is_corner=torch.tensor([k.case_name != "regular" for k in keyframes], device=device),
        sample_tokens=tuple(k.sample_token for k in keyframes),
    )


def _draw_questions(keyframe: Keyframe, count: int, rng: np.random.Generator) -> list[int]:
    drawn = rng.permutation(len(keyframe.questions))[:count]
    return [int(index) for index in drawn]


def _mirror(
    views: Tensor, present: NDArray[np.bool_], mirror: NDArray[np.bool_]
) -> tuple[Tensor, NDArray[np.bool_]]:
    rows = torch.from_numpy(np.flatnonzero(mirror))
    if len(rows):
        swapped = views[rows][:, list(MIRRORED_CAMERAS)]
        views[rows] = torch.flip(swapped, dims=(-1,))
        present[mirror] = present[mirror][:, list(MIRRORED_CAMERAS)]
    return views, present


def _draw_kept_views(count: int, drop_share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(B, C) bool; who loses views keeps one at least, CAM_FRONT in half of the cases."""
    kept = np.ones((count, len(CAMERAS)), np.bool_)
    for row in np.flatnonzero(rng.random(count) < drop_share):
        kept[row] = rng.random(len(CAMERAS)) < rng.random()
        kept[row, 0 if rng.random() < 0.5 else rng.integers(len(CAMERAS))] = True
    return kept


def _vary_pixels(views: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Crop, gain and contrast, one draw per sample for all its views."""
    if augment.zoom:
        pixels = torch.empty(views.shape)
        for row, (zoom, down, right) in enumerate(rng.random((len(views), 3))):
            pixels[row] = _crop(views[row], zoom * augment.zoom, float(down), float(right))
        views = pixels
    if not augment.brightness:
        return views
    low, high = 1.0 - augment.brightness, 1.0 + augment.brightness
    gain, contrast = (
        torch.from_numpy(rng.uniform(low, high, (len(views), 1, 1, 1, 1)).astype(np.float32))
        for _ in range(2)
    )
    grey = 110.0  # about the mean of a daylight image
    # x -> gain * ((x - grey) * contrast + grey), in one multiplication and one addition
    return views.float().mul_(gain * contrast).add_(gain * grey * (1.0 - contrast)).clamp_(0, 255)


def _crop(views: Tensor, away: float, down: float, right: float) -> Tensor:
    """(C, 3, H, W) with the share ``away`` of each side cut off, brought back to its size.

    ``down`` and ``right`` in 0..1 say how much of what is cut lies above and to the left.
    """
    height, width = views.shape[-2:]
    rows, columns = round(height * (1.0 - away)), round(width * (1.0 - away))
    top, left = round((height - rows) * down), round((width - columns) * right)
    crop = views[..., top : top + rows, left : left + columns].float()
    return functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)
