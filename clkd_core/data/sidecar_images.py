"""The image files of a set, all looked at once before anything long begins."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import Keyframes, with_views
from clkd_core.errors import DataError
from clkd_core.progress import progress
from clkd_core.types import CAMERAS

log = logging.getLogger(__name__)

SHOWN = 10
"""So many missing files are named; the rest is counted."""

SKIP_WORD = "--skip-missing goes on without them"
"""The way out of the commands that have this word."""

_THREADS = 16
"""A network file system answers in milliseconds, but many questions at a time."""
_AT_ONCE = 512


@dataclass(frozen=True)
class ImageFiles:
    """The files of N keyframes and what the file system says of them."""

    names: list[list[str]]
    """N times C paths in the order of :data:`CAMERAS`; empty where there is no view."""
    sizes: NDArray[np.int64]
    """(N, C) bytes; 0 where the file is missing, or empty, or where there is no view."""
    mtimes_ns: NDArray[np.int64]
    """(N, C) times of last modification."""

    @property
    def missing(self) -> list[str]:
        """Files that are not there or empty."""
        flat = (name for row in self.names for name in row)
        return [
            n for n, size in zip(flat, self.sizes.ravel().tolist(), strict=True) if n and not size
        ]

    @property
    def count(self) -> int:
        """Files that there should be."""
        return sum(bool(name) for row in self.names for name in row)


def list_image_files(keyframes: Sequence[Keyframe]) -> list[list[str]]:
    """N times C paths; parses nothing where the keyframes are lazy."""
    if isinstance(keyframes, Keyframes):
        return keyframes.image_files()
    return [[str(k.image_paths.get(camera, "")) for camera in CAMERAS] for k in keyframes]


def stat_image_files(names: list[list[str]]) -> ImageFiles:
    """Ask for all files' sizes and times, many at a time."""
    flat = [name for row in names for name in row]
    parts = [flat[start : start + _AT_ONCE] for start in range(0, len(flat), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(_stat_many, parts)
        each = (one for part in found for one in part)
        shown = progress(each, total=len(flat), desc="look for images", unit="files")
        stats = np.array(list(shown), np.int64)
    stats = stats.reshape(len(names), len(CAMERAS), 2)
    return ImageFiles(names, stats[..., 0], stats[..., 1])


def _stat_many(names: Sequence[str]) -> list[tuple[int, int]]:
    return [_stat(name) if name else (0, 0) for name in names]


def _stat(name: str) -> tuple[int, int]:
    try:
        stat = os.stat(name)
    except (OSError, ValueError):
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def refuse_missing(files: ImageFiles, *, way_out: str = "") -> None:
    """Check that every image is there.

    Args:
        files: what was found.
        way_out: how to go on without those that are missing, for the message.

    Raises:
        DataError: some are not; names the first :data:`SHOWN` and says how many.
    """
    if files.missing:
        raise DataError(describe_missing(files) + (f"; {way_out}" if way_out else ""))


def describe_missing(files: ImageFiles) -> str:
    """``3 of 60 image files are missing or empty: a.jpg, b.jpg, c.jpg``."""
    missing = files.missing
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    shown = ", ".join(missing[:SHOWN])
    return f"{len(missing)} of {files.count} image files are missing or empty: {shown}{more}"


def leave_out_missing(keyframes: Sequence[Keyframe]) -> Sequence[Keyframe]:
    """The keyframes without the views whose files are missing or empty; says so by logging.

    Raises:
        DataError: nothing is left.
    """
    files = stat_image_files(list_image_files(keyframes))
    if not files.missing:
        return keyframes
    kept = files.sizes > 0
    left = _with_views(keyframes, kept)
    log.warning(
        "%s; left out, and with them %d of %d keyframes that have no other view",
        describe_missing(files),
        len(keyframes) - len(left),
        len(keyframes),
    )
    if not len(left):
        raise DataError(f"no keyframe has an image: {describe_missing(files)}")
    return left


def _with_views(keyframes: Sequence[Keyframe], kept: NDArray[np.bool_]) -> Sequence[Keyframe]:
    if isinstance(keyframes, Keyframes):
        return keyframes.with_views(kept)
    seen = [with_views(k, row) for k, row in zip(keyframes, kept, strict=True)]
    return [keyframe for keyframe in seen if keyframe.image_paths]
