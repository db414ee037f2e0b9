"""Keyframes as training samples: views decoded once, and the texts a tokenizer learns from."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.data.lexicon import lexicon_texts
from clkd_core.data.prompts import (
    PREAMBLE,
    VIEW_NAMES,
    answer_text,
    mirrored_text,
    plan_question,
    turn_text,
)
from clkd_core.errors import DataError, FrameError
from clkd_core.progress import progress
from clkd_core.runtime.decode import decode_views
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand


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
    """What the tokenizer learns from: driving English, our prompts, the questions at hand."""
    texts = [PREAMBLE, *VIEW_NAMES.values(), *(answer_text(action) for action in META_ACTIONS)]
    for speed in range(61):
        ego = EgoState(stamp_ns=0, speed_mps=float(speed))
        texts += [plan_question(ego, command) for command in (None, *RouteCommand)]
    texts += texts[:16]  # a pair of letters merges from its second occurrence on
    turns = {(q.question, q.answer) for keyframe in keyframes for q in keyframe.questions}
    for question, answer in sorted(turns):
        for text in (turn_text(question), f" {answer}"):
            texts += [text, mirrored_text(text)]
    return [*lexicon_texts(), *texts]
