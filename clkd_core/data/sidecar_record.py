"""One keyframe as a line of the sidecar: written, and read back with every field checked."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import HISTORY_STEPS, AgentFuture, Keyframe, QuestionAnswer, Region
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.errors import ClkdError, DataError
from clkd_core.types import CAMERAS, FUTURE_STEPS, EgoState, MetaAction, RouteCommand, Trajectory

SPLITS = ("train", "val")


def keyframe_to_json(keyframe: Keyframe, *, split: str, root: Path) -> dict[str, Any]:
    """The sidecar's record of a keyframe; image paths become relative to ``root``."""
    ego, future, region = keyframe.ego, keyframe.future, keyframe.region
    record = {
        "split": split,
        "sample_token": keyframe.sample_token,
        "scene": keyframe.scene,
        "case_name": keyframe.case_name,
        "stamp_ns": keyframe.stamp_ns,
        "images": {c: p.relative_to(root).as_posix() for c, p in keyframe.image_paths.items()},
        "image_stamps_ns": dict(keyframe.image_stamps_ns),
        "ego": None
        if ego is None
        else [ego.stamp_ns, round(ego.speed_mps, 4), round(ego.yaw_rate_radps, 5)],
        "command": None if keyframe.command is None else keyframe.command.value,
        # Not rounded, as lidar_future: a label at a threshold is to follow from it exactly.
        "future": None if future is None else future.xy_m.astype(np.float64).tolist(),
        "action": None if keyframe.action is None else keyframe.action.text,
        "agents": [
            {"category": a.category, "size_m": list(a.size_m), "poses": _rounded(a.poses, 3)}
            for a in keyframe.agents
        ],
        "questions": [[q.kind, q.question, q.answer] for q in keyframe.questions],
        "history": None if keyframe.history is None else _rounded(keyframe.history, 4),
        "region": None if region is None else [region.camera, list(region.box_xywh_px)],
    }
    if keyframe.lidar_future is not None:
        record["lidar_future"] = keyframe.lidar_future.astype(np.float64).tolist()
    return record


def _rounded(values: NDArray[np.float32], digits: int) -> list[list[float]]:
    rows: list[list[float]] = np.round(values.astype(np.float64), digits).tolist()
    return rows


def parse_record(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object of one line.

    Raises:
        DataError: it is none; begins with ``where``.
    """
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise DataError(f"{where}: not JSON: {err}") from err
    if not isinstance(record, dict):
        raise DataError(f"{where}: is a {type(record).__name__}, expected an object")
    return record


def split_of(record: Mapping[str, Any], where: str) -> str:
    """Which split a record belongs to.

    Raises:
        DataError: it names none of :data:`SPLITS`.
    """
    split = record.get("split")
    if split not in SPLITS:
        raise DataError(f"{where}: split is {str(split)[:60]!r}, expected one of {list(SPLITS)}")
    return str(split)


def keyframe_from_json(record: Mapping[str, Any], root: Path, where: str) -> Keyframe:
    """The keyframe of a record.

    Args:
        record: as :func:`keyframe_to_json` writes it; ``history``, ``region`` and
            ``lidar_future`` may be missing.
        root: what image paths are relative to.
        where: file and line, for messages.

    Raises:
        DataError: a field is missing or wrong, an image path leaves ``root``, or the action does
            not follow from its future; begins with ``where``.
    """
    try:
        images = record["images"]
        if not isinstance(images, dict):
            raise ValueError(f"images is a {type(images).__name__}, expected an object")
        return Keyframe(
            sample_token=_text(record["sample_token"], "sample_token"),
            scene=_text(record["scene"], "scene"),
            case_name=_text(record["case_name"], "case_name"),
            stamp_ns=_stamp_ns(record["stamp_ns"]),
            image_paths=_image_paths(images, root),
            image_stamps_ns={c: _stamp_ns(record["image_stamps_ns"][c]) for c in images},
            ego=_ego(record["ego"]),
            command=None if record["command"] is None else RouteCommand(record["command"]),
            **_future_and_action(record),
            agents=_agents(record["agents"]),
            questions=tuple(_question(words) for words in record["questions"]),
            history=_history(record.get("history")),
            region=_region(record.get("region")),
        )
    except KeyError as err:
        raise DataError(f"{where}: field {err} is missing") from err
    except (ClkdError, TypeError, ValueError, OverflowError) as err:
        raise DataError(f"{where}: {err}") from err


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a {type(value).__name__}, expected text")
    value.encode()  # half of a surrogate pair is no text and no part of a path
    return value


def _stamp_ns(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"stamp is {str(value)[:30]}, expected nanoseconds, 0 or more")
    return value


def _image_paths(images: Mapping[str, Any], root: Path) -> dict[str, Path]:
    unknown = sorted(set(images) - set(CAMERAS))
    if unknown:
        raise ValueError(f"unknown cameras {unknown}, expected names from {list(CAMERAS)}")
    return {c: root / path_below(images[c], "image") for c in CAMERAS if c in images}


def path_below(value: Any, what: str) -> str:
    """A relative path that stays below the folder it is relative to; symlinks are not followed.

    Raises:
        ValueError: it is no text, empty, absolute, or climbs by ``..``.
    """
    path = PurePosixPath(_text(value, what))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in str(path):
        raise ValueError(f"{what} is {str(path)[:80]!r}, expected a path below the root")
    return path.as_posix()


def _numbers(value: Any, shape: tuple[int | None, int], what: str) -> NDArray[np.float64]:
    """Finite numbers of a shape; None stands for one row or more."""
    try:
        array = np.asarray(value)
    except ValueError as err:
        raise ValueError(f"{what} is ragged, expected {_shape_text(shape)} numbers") from err
    fits = (
        array.ndim == 2 and array.shape[1] == shape[1] and len(array) == (shape[0] or len(array))
    )
    if not fits or not len(array) or array.dtype.kind not in "iuf":
        raise ValueError(f"{what} is {array.shape}, expected {_shape_text(shape)} numbers")
    numbers = array.astype(np.float64)
    if not (np.abs(numbers) < _FAR_M).all():  # False for NaN
        raise ValueError(f"{what} has a number that is NaN, infinite or absurd, expected finite")
    return numbers


_FAR_M = 1e9
"""Farther from the vehicle than this is no place on Earth."""


def _shape_text(shape: tuple[int | None, int]) -> str:
    return f"({shape[0] or 'T + 1'}, {shape[1]})"


def _ego(values: Any) -> EgoState | None:
    if values is None:
        return None
    stamp_ns, speed, yaw_rate = values
    return EgoState(
        stamp_ns=_stamp_ns(stamp_ns), speed_mps=float(speed), yaw_rate_radps=float(yaw_rate)
    )


def _future_and_action(record: Mapping[str, Any]) -> dict[str, Any]:
    """Future and label; a label that does not follow from its future is refused."""
    if record["future"] is None:
        if record.get("action") is not None:
            raise ValueError(f"action is {record['action']!r} without a future, expected null")
        return {"future": None, "action": None}
    xy = _numbers(record["future"], (FUTURE_STEPS, 2), "future")
    lidar = record.get("lidar_future")
    seen = None if lidar is None else _numbers(lidar, (FUTURE_STEPS, 2), "lidar_future")
    future = Trajectory(xy_m=xy.astype(np.float32))
    derived = meta_action_from_future(lidar_from_ego(future.xy_m) if seen is None else seen)
    action = MetaAction.from_text(_text(record["action"], "action"))
    if derived != action:
        raise ValueError(f"action is {action.text!r}, its future says {derived.text!r}")
    return {"future": future, "action": action, "lidar_future": seen}


def _history(rows: Any) -> NDArray[np.float32] | None:
    if rows is None:
        return None
    return _numbers(rows, (HISTORY_STEPS, 2), "history").astype(np.float32)


def _region(values: Any) -> Region | None:
    if values is None:
        return None
    camera, (left, top, width, height) = values
    box = (float(left), float(top), float(width), float(height))
    if camera not in CAMERAS or not np.isfinite(box).all() or min(width, height) <= 0:
        raise ValueError(f"region is {values}, expected a camera and a box x, y, w > 0, h > 0")
    return Region(camera=camera, box_xywh_px=box)


def _agents(records: Any) -> tuple[AgentFuture, ...]:
    """All agents; their poses are checked in one go, which is most of a record's time."""
    rows = [list(record["poses"]) for record in records]
    if not rows:
        return ()
    if not all(rows):
        raise ValueError("agent poses are empty, expected (T + 1, 3) numbers")
    together = [row for poses in rows for row in poses]
    numbers = _numbers(together, (None, 3), "agent poses").astype(np.float32)
    ends = np.cumsum([len(poses) for poses in rows]).tolist()
    return tuple(
        _agent(record, numbers[start:end])
        for record, start, end in zip(records, [0, *ends], ends, strict=False)
    )


def _agent(record: Mapping[str, Any], poses: NDArray[np.float32]) -> AgentFuture:
    length, width = (float(side) for side in record["size_m"])
    if not (0 <= length < _FAR_M and 0 <= width < _FAR_M):
        raise ValueError(f"agent size is ({length}, {width}), expected length and width in metres")
    category = _text(record["category"], "category")
    return AgentFuture(category=category, size_m=(length, width), poses=poses)


def _question(words: Any) -> QuestionAnswer:
    kind, question, answer = words
    return QuestionAnswer(
        kind=_text(kind, "kind"),
        question=_text(question, "question"),
        answer=_text(answer, "answer"),
    )
