"""Where each record of a sidecar is, and what training asks of all of them without parsing.

Building the index reads and checks every record once. It is kept beside the sidecar, so that the
set opens at once from then on. It holds the sidecar's size and bears the sidecar's own
modification time, hence says the same bytes for the same records, and is built again when
either differs.
"""

import io
import json
import logging
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar_record import SPLITS, keyframe_from_json, parse_record, split_of
from clkd_core.errors import DataError
from clkd_core.progress import progress
from clkd_core.types import CAMERAS, META_ACTIONS

log = logging.getLogger(__name__)

MAX_RECORD_BYTES = 32 << 20
"""A longer line is not read: nuScenes' longest are some 50 KB."""

_FORMAT = 2
"""Raised when the columns below change."""
_EDGE_BYTES = 1 << 16
"""So much of either end of the sidecar is held against the index at opening."""
_UNLABELLED = -1


@dataclass(frozen=True)
class SidecarIndex:
    """Columns over the N records of a sidecar, in the order of its lines."""

    starts: NDArray[np.int64]
    """(N + 1,) where each line begins [bytes]; the last one is the sidecar's size."""
    splits: NDArray[np.int8]
    """(N,) index into :data:`SPLITS`."""
    actions: NDArray[np.int8]
    """(N,) index of the meta-action, -1 where there is none."""
    corners: NDArray[np.bool_]
    """(N,) whether it counts among the corner cases."""
    questions: NDArray[np.int32]
    """(N,) how many questions it has."""
    regions: NDArray[np.int64]
    """(N,) checksum of the region that is marked in a view, 0 where none is."""
    stamps_ns: NDArray[np.int64]
    """(N,) capture time of the newest image."""
    scene_numbers: NDArray[np.int32]
    """(N,) index into :attr:`scene_names`."""
    scene_text: NDArray[np.uint8]
    """The scenes' names as JSON."""
    image_text: NDArray[np.uint8]
    """All image paths one after the other, UTF-8."""
    image_ends: NDArray[np.int64]
    """(N * C,) where each path ends; an absent view's has no length."""
    edge: NDArray[np.int64]
    """(2,) format, and a checksum of both ends of the sidecar."""

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def size_bytes(self) -> int:
        """Size of the sidecar."""
        return int(self.starts[-1])

    @cached_property
    def scene_names(self) -> tuple[str, ...]:
        """All scenes, in the order of their first records."""
        return tuple(json.loads(self.scene_text.tobytes()))

    def image_names(self, line: int) -> list[str]:
        """(C,) image paths of a record relative to the root; empty where a view is absent."""
        ends = self.image_ends[line * len(CAMERAS) : (line + 1) * len(CAMERAS)].tolist()
        before = int(self.image_ends[line * len(CAMERAS) - 1]) if line else 0
        starts = [before, *ends[:-1]]
        return [
            self.image_text[start:end].tobytes().decode()
            for start, end in zip(starts, ends, strict=True)
        ]


def region_checksum(keyframe: Keyframe) -> int:
    """Differs where another part of a view is marked; 0 where none is."""
    return 0 if keyframe.region is None else 1 + zlib.crc32(repr(keyframe.region).encode())


def index_path(sidecar: Path) -> Path:
    """Where the index of a sidecar is kept."""
    return sidecar.with_name(f"{sidecar.stem}.index.npz")


def load_index(sidecar: Path) -> SidecarIndex:
    """The index of a sidecar, from disk where it is kept and still true, else built and kept.

    Where it cannot be kept it serves this process only, and the log says so.

    Raises:
        DataError: the sidecar is missing or damaged, or one of its records is.
    """
    try:
        stat = sidecar.stat()
    except FileNotFoundError as err:
        raise DataError(f"{sidecar}: no such file, expected a set of keyframes") from err
    except (OSError, ValueError) as err:
        raise DataError(f"{sidecar}: cannot be read: {err}") from err
    kept = _read_kept(sidecar, stat)
    if kept is not None:
        return kept
    index = build_index(sidecar)
    try:
        keep_index(index, sidecar, mtime_ns=stat.st_mtime_ns)
    except DataError as err:
        log.warning("%s: its index serves this process only and will be built again", err)
    return index


def build_index(
    sidecar: Path, *, root: Path | None = None, shown: Path | None = None
) -> SidecarIndex:
    """Read and check every record.

    Args:
        sidecar: the file.
        root: what image paths are relative to; the folder above the sidecar's when None.
        shown: what messages call the file; its own path when None.

    Raises:
        DataError: the file cannot be read, ends within a line, has an overlong line or a token
            twice, or a record is damaged; names the line.
    """
    builder = _Builder(root or sidecar.parent.parent)
    shown = shown or sidecar
    try:
        with sidecar.open("rb") as file:
            lines = progress(_lines(file, shown), desc=f"index {shown.name}", unit="records")
            for number, line in enumerate(lines, 1):
                builder.add(line, f"{shown}:{number}")
    except OSError as err:
        raise DataError(f"{shown}: cannot be read: {err.strerror or err}") from err
    return builder.finish(_edge_checksum(sidecar))


def keep_index(index: SidecarIndex, sidecar: Path, *, mtime_ns: int) -> None:
    """Write the index beside its sidecar, whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    path = index_path(sidecar)
    content = io.BytesIO()
    np.savez(content, **{field.name: getattr(index, field.name) for field in fields(index)})
    part = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        part.write_bytes(content.getvalue())
        os.utime(part, ns=(mtime_ns, mtime_ns))
        os.replace(part, path)
    except OSError as err:
        raise DataError(f"cannot write {path}: {err.strerror or err}") from err
    finally:
        with suppress(OSError):
            part.unlink()


def _read_kept(sidecar: Path, stat: os.stat_result) -> SidecarIndex | None:
    """The kept index, or None where there is none that fits; a damaged one is built again."""
    path = index_path(sidecar)
    try:
        if path.stat().st_mtime_ns != stat.st_mtime_ns:
            return None
        with np.load(path, allow_pickle=False) as kept:
            index = SidecarIndex(
                **{field.name: kept[field.name] for field in fields(SidecarIndex)}
            )
        fits = _is_sound(index) and index.size_bytes == stat.st_size
        return index if fits and (index.edge == _edge_checksum(sidecar)).all() else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _is_sound(index: SidecarIndex) -> bool:
    """Whether the columns fit each other, so that no record is looked for outside the file."""
    count, views = len(index.splits), len(index.splits) * len(CAMERAS)
    shapes: dict[str, tuple[int, ...]] = {
        "starts": (count + 1,),
        "image_ends": (views,),
        "edge": (2,),
        **dict.fromkeys(_PLAIN_COLUMNS, (count,)),
    }
    if any(getattr(index, name).shape != shape for name, shape in shapes.items()):
        return False
    kinds = {field.name: getattr(index, field.name).dtype.kind for field in fields(index)}
    if any(kind != _KINDS.get(name, "i") for name, kind in kinds.items()):
        return False
    last = int(index.image_ends[-1]) if views else 0
    return (
        bool((np.diff(index.starts) > 0).all() and (np.diff(index.image_ends) >= 0).all())
        and last == index.image_text.size
        and int(index.starts[0]) == 0
        and _within(index.splits, 0, len(SPLITS))
        and _within(index.actions, _UNLABELLED, len(META_ACTIONS))
        and _within(index.scene_numbers, 0, len(index.scene_names))
    )


def _within(values: NDArray[Any], low: int, end: int) -> bool:
    return not len(values) or (int(values.min()) >= low and int(values.max()) < end)


_PLAIN_COLUMNS = (
    "splits",
    "actions",
    "corners",
    "questions",
    "regions",
    "stamps_ns",
    "scene_numbers",
)
_KINDS = {"corners": "b", "scene_text": "u", "image_text": "u"}


def _edge_checksum(sidecar: Path) -> NDArray[np.int64]:
    try:
        with sidecar.open("rb") as file:
            crc = zlib.crc32(file.read(_EDGE_BYTES))
            file.seek(max(os.fstat(file.fileno()).st_size - _EDGE_BYTES, 0))
            crc = zlib.crc32(file.read(_EDGE_BYTES), crc)
    except OSError as err:
        raise DataError(f"{sidecar}: cannot be read: {err.strerror or err}") from err
    return np.array([_FORMAT, crc], np.int64)


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise DataError(f"{path}:{number}: longer than {MAX_RECORD_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise DataError(f"{path}:{number}: ends within a line, the file is truncated")
        yield line


class _Builder:
    """Collects the columns, record by record."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._starts, self._image_ends = [0], [0]
        self._rows: list[tuple[int, int, bool, int, int, int, int]] = []
        self._scenes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._images = bytearray()

    def add(self, line: bytes, where: str) -> None:
        """Check a record and note its place."""
        record = parse_record(line, where)
        split = SPLITS.index(split_of(record, where))
        keyframe = keyframe_from_json(record, self._root, where)
        token, number = keyframe.sample_token, len(self._rows) + 1
        if self._tokens.setdefault(token, number) != number:
            earlier = self._tokens[token]
            raise DataError(f"{where}: sample token {token[:60]!r} is that of line {earlier}, too")
        scene = self._scenes.setdefault(keyframe.scene, len(self._scenes))
        action = _UNLABELLED if keyframe.action is None else keyframe.action.index
        asked, marked = len(keyframe.questions), region_checksum(keyframe)
        row = (split, action, keyframe.is_corner, asked, marked, keyframe.stamp_ns, scene)
        self._rows.append(row)
        self._starts.append(self._starts[-1] + len(line))
        for camera in CAMERAS:
            self._images += record["images"].get(camera, "").encode()
            self._image_ends.append(len(self._images))

    def finish(self, edge: NDArray[np.int64]) -> SidecarIndex:
        """All columns."""
        columns: list[Any] = list(zip(*self._rows, strict=True)) or [[]] * len(_PLAIN_COLUMNS)
        names = json.dumps(list(self._scenes)).encode()
        return SidecarIndex(
            starts=np.array(self._starts, np.int64),
            splits=np.array(columns[0], np.int8),
            actions=np.array(columns[1], np.int8),
            corners=np.array(columns[2], np.bool_),
            questions=np.array(columns[3], np.int32),
            regions=np.array(columns[4], np.int64),
            stamps_ns=np.array(columns[5], np.int64),
            scene_numbers=np.array(columns[6], np.int32),
            scene_text=np.frombuffer(names, np.uint8),
            image_text=np.frombuffer(bytes(self._images), np.uint8),
            image_ends=np.array(self._image_ends[1:], np.int64),
            edge=edge,
        )
