"""Sets of keyframes on disk: ``<root>/<version>/clkd_keyframes.jsonl``, one JSON object a line.

Every data set is brought into this form once; training, evaluation and pictures read nothing
else. Image paths are relative to ``<root>``; images are opened only when a frame is asked for,
and records are parsed only when they are: see :class:`Keyframes`.
"""

import functools
import json
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar_index import (
    SidecarIndex,
    build_index,
    index_path,
    keep_index,
    load_index,
    region_checksum,
)
from clkd_core.data.sidecar_record import (
    SPLITS,
    keyframe_from_json,
    keyframe_to_json,
    parse_record,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

__all__ = [
    "SIDECAR",
    "SPLITS",
    "Keyframes",
    "action_indices",
    "corner_flags",
    "keyframe_to_json",
    "load_keyframes",
    "question_counts",
    "region_checksums",
    "subset_of",
    "with_views",
    "write_sidecar",
    "write_sidecar_lines",
]

SIDECAR = "clkd_keyframes.jsonl"
"""File name inside the version folder."""

_PARSED_BYTES = 32 << 20
"""Records of about so much JSON stay parsed: a small set wholly, of a large one the newest."""


def load_keyframes(root: Path, version: str, split: str) -> "Keyframes":
    """Open the keyframes of one split, in the order of the sidecar.

    The first time that anybody opens a set, all its records are read, checked and indexed; from
    then on it opens at once however large it is.

    Raises:
        DataError: the sidecar is missing, ends within a line, lacks a field, holds a number that
            is none, a sample token twice or a label that does not follow from its future, or has
            no keyframe of that split.
    """
    path = Path(root) / version / SIDECAR
    if split not in SPLITS:
        raise DataError(f"split is {split!r}, expected one of {list(SPLITS)}")
    index = load_index(path)
    lines = np.flatnonzero(index.splits == SPLITS.index(split))
    if not len(lines):
        raise DataError(f"{path}: no keyframe of split {split!r}")
    return Keyframes(SidecarFile(Path(root), path, index), lines)


def write_sidecar(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write a whole set's records and their index; what stood at ``path`` goes when they are good.

    Args:
        path: ``<root>/<version>/clkd_keyframes.jsonl``; missing folders are made.
        records: as :func:`keyframe_to_json` makes them, one at a time.

    Returns:
        How many there were.

    Raises:
        DataError: the folder cannot be written, or a record would be refused by its readers.
    """
    return write_sidecar_lines(path, (json.dumps(record).encode() for record in records))


def write_sidecar_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Like :func:`write_sidecar`, for records that are JSON already, without line ends.

    Raises:
        DataError: as there.
    """
    part = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for line in lines:
                file.write(line + b"\n")
        index = build_index(part, root=path.parent.parent, shown=path)
        mtime_ns = part.stat().st_mtime_ns
        os.replace(part, path)
    except OSError as err:
        raise DataError(f"cannot write {path}: {err.strerror or err}") from err
    finally:
        with suppress(OSError):
            part.unlink()
    keep_index(index, path, mtime_ns=mtime_ns)
    return len(index)


class SidecarFile:
    """An open sidecar with its index: records by the number of their line.

    Read by position, so that threads and forked processes may share it. Another process that it
    is sent to opens the file for itself. A file that was replaced meanwhile goes on being read as
    it was; one that was written over is refused.
    """

    def __init__(self, root: Path, path: Path, index: SidecarIndex) -> None:
        """Open the file.

        Args:
            root: what image paths are relative to.
            path: the sidecar.
            index: its own.

        Raises:
            DataError: it cannot be read, or is not as long as when it was indexed.
        """
        self.root, self.path, self.index = root, path, index
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
            size_bytes = os.fstat(self._descriptor).st_size
        except OSError as err:
            raise DataError(f"{path}: cannot be read: {err.strerror or err}") from err
        if size_bytes != index.size_bytes:
            raise DataError(f"{path} has changed since it was indexed; open it again")
        mean_bytes = index.size_bytes // max(len(index), 1) + 1
        self.read: Callable[[int], Keyframe] = functools.lru_cache(
            maxsize=max(_PARSED_BYTES // mean_bytes, 1)
        )(functools.partial(_read_record, root, path, index, self._descriptor))

    def __reduce__(self) -> tuple[Any, ...]:
        if not index_path(self.path).is_file():  # nobody could keep it: it travels along
            return SidecarFile, (self.root, self.path, self.index)
        return _reopen, (self.root, self.path, self.index.size_bytes, *self.index.edge.tolist())


def _read_record(
    root: Path, path: Path, index: SidecarIndex, descriptor: int, line: int
) -> Keyframe:
    where = f"{path}:{line + 1}"
    start, end = int(index.starts[line]), int(index.starts[line + 1])
    try:
        text = os.pread(descriptor, end - start, start)
        same_size = os.fstat(descriptor).st_size == index.size_bytes
    except OSError as err:
        raise DataError(f"{where}: cannot be read: {err.strerror or err}") from err
    if not same_size or text.find(b"\n") != end - start - 1:
        raise DataError(f"{path} has been written over since it was opened; open it again")
    keyframe = keyframe_from_json(parse_record(text, where), root, where)
    if keyframe.stamp_ns != index.stamps_ns[line]:
        raise DataError(f"{where}: is another record than when it was indexed; open the set again")
    return keyframe


@functools.lru_cache(maxsize=4)
def _reopen(root: Path, path: Path, size_bytes: int, *edge: int) -> SidecarFile:
    """What arrives in another process; tasks that come one after the other share it there.

    Raises:
        DataError: the file there is another one.
    """
    index = load_index(path)
    if index.size_bytes != size_bytes or index.edge.tolist() != list(edge):
        raise DataError(f"{path} is not the set that was sent here; open it again")
    return SidecarFile(root, path, index)


@dataclass(frozen=True, eq=False)
class Keyframes(Sequence[Keyframe]):
    """Keyframes of a sidecar, each parsed when it is asked for; subsets share the file.

    Safe to read from several threads, after a fork, and in a process it is sent to (pickle).
    """

    file: SidecarFile
    lines: NDArray[np.int64]
    """(N,) which records of the file."""
    views: NDArray[np.bool_] | None = None
    """(N, C) views that are not left out; None: all that there are."""

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Keyframe: ...
    @overload
    def __getitem__(self, index: slice) -> "Keyframes": ...
    def __getitem__(self, index: int | slice) -> "Keyframe | Keyframes":
        """One keyframe, or a lazy subset.

        Raises:
            DataError: the file was written over since it was opened.
        """
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        place = operator.index(index)
        keyframe = self.file.read(int(self.lines[place]))
        return keyframe if self.views is None else with_views(keyframe, self.views[place])

    def subset(self, indices: ArrayLike) -> "Keyframes":
        """The keyframes at ``indices`` ((K,) integers), in that order, none parsed."""
        chosen = _places(indices)
        views = None if self.views is None else self.views[chosen]
        return Keyframes(self.file, self.lines[chosen], views)

    @property
    def action_indices(self) -> NDArray[np.int64]:
        """(N,) index of each keyframe's meta-action, -1 where it has none."""
        return self.file.index.actions[self.lines].astype(np.int64)

    @property
    def is_corner(self) -> NDArray[np.bool_]:
        """(N,) whether each counts among the corner cases."""
        return self.file.index.corners[self.lines]

    @property
    def question_counts(self) -> NDArray[np.int64]:
        """(N,) how many questions each has; views that are left out may take theirs along."""
        return self.file.index.questions[self.lines].astype(np.int64)

    @property
    def region_checksums(self) -> NDArray[np.int64]:
        """(N,) of what is marked in a view, 0 where nothing is."""
        return self.file.index.regions[self.lines]

    @property
    def scenes(self) -> list[str]:
        """N names of drives."""
        names = self.file.index.scene_names
        return [names[number] for number in self.file.index.scene_numbers[self.lines]]

    @property
    def stamps_ns(self) -> NDArray[np.int64]:
        """(N,) capture times of the newest images, those left out included."""
        return self.file.index.stamps_ns[self.lines]

    def image_files(self) -> list[list[str]]:
        """N times C paths in the order of :data:`CAMERAS`; empty where there is no view."""
        root = str(self.file.root)
        rows = [
            [os.path.join(root, name) if name else "" for name in self.file.index.image_names(i)]
            for i in self.lines.tolist()
        ]
        if self.views is not None:
            return [
                [name if seen else "" for name, seen in zip(row, views, strict=True)]
                for row, views in zip(rows, self.views.tolist(), strict=True)
            ]
        return rows

    def with_views(self, views: NDArray[np.bool_]) -> "Keyframes":
        """The keyframes without some of their images; those that lose all are left out.

        Args:
            views: (N, C) what stays, in the order of :data:`CAMERAS`.
        """
        kept = views if self.views is None else views & self.views
        return Keyframes(self.file, self.lines, kept).subset(np.flatnonzero(kept.any(axis=1)))


def with_views(keyframe: Keyframe, views: NDArray[np.bool_]) -> Keyframe:
    """The keyframe with only those of its images that ``views`` ((C,) bool) keeps.

    Questions about a region go with the view that it is in.
    """
    kept = [camera for camera, keep in zip(CAMERAS, views, strict=True) if keep]
    kept = [camera for camera in kept if camera in keyframe.image_paths]
    if len(kept) == len(keyframe.image_paths):
        return keyframe
    stamps = {camera: keyframe.image_stamps_ns[camera] for camera in kept}
    is_seen = keyframe.region is None or keyframe.region.camera in kept
    return replace(
        keyframe,
        image_paths={camera: keyframe.image_paths[camera] for camera in kept},
        image_stamps_ns=stamps,
        stamp_ns=max(stamps.values(), default=keyframe.stamp_ns),
        questions=keyframe.questions if is_seen else (),
        region=keyframe.region if is_seen else None,
    )


def action_indices(keyframes: Sequence[Keyframe]) -> NDArray[np.int64]:
    """(N,) index of each keyframe's meta-action, -1 where it has none; parses nothing if lazy."""
    if isinstance(keyframes, Keyframes):
        return keyframes.action_indices
    return np.array([-1 if k.action is None else k.action.index for k in keyframes], np.int64)


def corner_flags(keyframes: Sequence[Keyframe]) -> NDArray[np.bool_]:
    """(N,) whether each keyframe is a corner case; parses nothing if lazy."""
    if isinstance(keyframes, Keyframes):
        return keyframes.is_corner
    return np.array([k.is_corner for k in keyframes], np.bool_)


def question_counts(keyframes: Sequence[Keyframe]) -> NDArray[np.int64]:
    """(N,) how many questions each keyframe has; parses nothing if lazy."""
    if isinstance(keyframes, Keyframes):
        return keyframes.question_counts
    return np.array([len(k.questions) for k in keyframes], np.int64)


def region_checksums(keyframes: Sequence[Keyframe]) -> NDArray[np.int64]:
    """(N,) of what is marked in a view, 0 where nothing is; parses nothing if lazy."""
    if isinstance(keyframes, Keyframes):
        return keyframes.region_checksums
    return np.array([region_checksum(k) for k in keyframes], np.int64)


def subset_of(keyframes: Sequence[Keyframe], indices: ArrayLike) -> Sequence[Keyframe]:
    """The keyframes at ``indices`` ((K,) integers); lazy if they were."""
    if isinstance(keyframes, Keyframes):
        return keyframes.subset(indices)
    return [keyframes[place] for place in _places(indices).tolist()]


def _places(indices: ArrayLike) -> NDArray[np.int64]:
    """A mask in place of indices would choose the first two keyframes again and again."""
    chosen = np.asarray(indices)
    if chosen.size and chosen.dtype.kind not in "iu":
        raise ValueError(f"indices are {chosen.dtype}, expected integers")
    return chosen.astype(np.int64).reshape(-1)
