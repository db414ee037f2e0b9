"""Keyframes as training samples: views decoded once, and the texts a tokenizer learns from."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from clkd_core.data.sidecar import region_checksums, subset_of
from clkd_core.data.sidecar_images import list_image_files, refuse_missing, stat_image_files
from clkd_core.errors import DataError, FrameError
from clkd_core.progress import progress
from clkd_core.runtime.decode import decode_views
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand


@dataclass(frozen=True)
class SampleSet:
    """Keyframes with their views decoded once; subsets share the pixels."""

    keyframes: Sequence[Keyframe]
    """N of them; lazy ones are parsed when a batch needs them."""
    views: NDArray[np.uint8]
    """(M, C, 3, H, W) RGB, M >= N; zeros where a view is missing. Mapped from disk where kept."""
    present: NDArray[np.bool_]
    """(M, C)."""
    places: NDArray[np.int64]
    """(N,) where in the M each keyframe's pixels are."""
    fingerprint: str
    """Changes when an image file, a marked region, the order or the size does; a subset has that
    of its set."""

    def subset(self, keep: Sequence[int] | NDArray[np.int64]) -> "SampleSet":
        """The samples at ``keep``; keyframes that are lazy stay so."""
        places = self.places[np.asarray(keep, np.int64)]
        return replace(self, keyframes=subset_of(self.keyframes, keep), places=places)

    def pixels(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(B, C, 3, H, W) and (B, C) of some samples, copies."""
        places = self.places[np.asarray(indices, np.int64)]
        return np.asarray(self.views[places]), self.present[places]


def load_samples(
    keyframes: Sequence[Keyframe],
    size_hw: tuple[int, int],
    *,
    workers: int,
    cache: Path | None = None,
) -> SampleSet:
    """Decode all views once, or find them decoded by an earlier run.

    Args:
        keyframes: at least one.
        size_hw: (H, W) of a view.
        workers: threads that decode.
        cache: folder for the decoded arrays, which are then mapped and shared by processes; None
            keeps them in memory.

    Raises:
        DataError: images are missing (named before any is decoded) or damaged, or the folder
            cannot be written.
    """
    if not len(keyframes):
        raise DataError("no keyframes came, expected at least one")
    fingerprint = _fingerprint(keyframes, size_hw)
    if cache is None:
        views, present = _empty_arrays(len(keyframes), size_hw, None)
        _decode(keyframes, size_hw, workers, views, present)
    else:
        views, present = _kept_arrays(keyframes, size_hw, workers, cache, fingerprint)
    places = np.arange(len(keyframes))
    return SampleSet(keyframes, views, present, places, fingerprint)


def _kept_arrays(
    keyframes: Sequence[Keyframe],
    size_hw: tuple[int, int],
    workers: int,
    cache: Path,
    fingerprint: str,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Arrays mapped from ``cache``, decoded there first where they are not; renamed when whole."""
    place, seen = cache / f"views-{fingerprint}.npy", cache / f"present-{fingerprint}.npy"
    try:
        if not place.is_file():
            cache.mkdir(parents=True, exist_ok=True)
            part = cache / f".views-{fingerprint}.{os.getpid()}.npy"
            try:
                views, present = _empty_arrays(len(keyframes), size_hw, part)
                _decode(keyframes, size_hw, workers, views, present)
                np.save(seen, present)
                part.replace(place)
            finally:
                part.unlink(missing_ok=True)
        return np.load(place, mmap_mode="r"), np.load(seen)
    except (OSError, ValueError) as err:
        raise DataError(f"decoded views in {cache} cannot be kept or read: {err}") from err


def _empty_arrays(
    count: int, size_hw: tuple[int, int], file: Path | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    shape, present = (count, len(CAMERAS), 3, *size_hw), np.zeros((count, len(CAMERAS)), np.bool_)
    if file is None:
        return np.zeros(shape, np.uint8), present
    mapped: NDArray[np.uint8] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        file, mode="w+", dtype=np.uint8, shape=shape
    )
    return mapped, present


def _decode(
    keyframes: Sequence[Keyframe],
    size_hw: tuple[int, int],
    workers: int,
    views: NDArray[np.uint8],
    present: NDArray[np.bool_],
) -> None:
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


def _fingerprint(keyframes: Sequence[Keyframe], size_hw: tuple[int, int]) -> str:
    """Changes when an image file, a marked region, the order or the size does.

    Raises:
        DataError: image files are missing.
    """
    files = stat_image_files(list_image_files(keyframes))
    refuse_missing(files)
    digest = hashlib.sha256(repr(size_hw).encode())
    sizes, mtimes_ns = files.sizes.tolist(), files.mtimes_ns.tolist()
    for row, row_sizes, row_mtimes in zip(files.names, sizes, mtimes_ns, strict=True):
        for seen in zip(CAMERAS, row, row_sizes, row_mtimes, strict=True):
            digest.update(" ".join(map(str, seen)).encode())
    digest.update(region_checksums(keyframes).tobytes())
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
