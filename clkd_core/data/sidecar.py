"""Sets of keyframes on disk: ``<root>/<version>/clkd_keyframes.jsonl``, one JSON object a line.

Every data set is brought into this form once; training, evaluation and pictures read nothing
else. Image paths are relative to ``<root>``; images are opened only when a frame is asked for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import HISTORY_STEPS, AgentFuture, Keyframe, QuestionAnswer, Region
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.errors import ClkdError, DataError
from clkd_core.types import (
    CAMERAS,
    EgoState,
    MetaAction,
    RouteCommand,
    Trajectory,
)

SIDECAR = "clkd_keyframes.jsonl"
"""File name inside the version folder."""
SPLITS = ("train", "val")


def load_keyframes(root: Path, version: str, split: str) -> list[Keyframe]:
    """Read all keyframes of one split in the order they were driven.

    Raises:
        DataError: the sidecar is missing, ends within a line, lacks a field, holds a number that
            is none, or has no keyframe of that split.
    """
    path = Path(root) / version / SIDECAR
    if split not in SPLITS:
        raise DataError(f"split is {split!r}, expected one of {list(SPLITS)}")
    keyframes = [
        _keyframe_from_json(record, Path(root), f"{path}:{number}")
        for number, record in _records(path)
        if record.get("split") == split
    ]
    if not keyframes:
        raise DataError(f"{path}: no keyframe of split {split!r}")
    return keyframes


def keyframe_to_json(keyframe: Keyframe, *, split: str, root: Path) -> dict[str, Any]:
    """The sidecar's record of a keyframe; image paths become relative to ``root``."""
    ego, future, region = keyframe.ego, keyframe.future, keyframe.region
    return {
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
        "future": None if future is None else _rounded(future.xy_m, 4),
        "action": None if keyframe.action is None else keyframe.action.text,
        "agents": [
            {"category": a.category, "size_m": list(a.size_m), "poses": _rounded(a.poses, 3)}
            for a in keyframe.agents
        ],
        "questions": [[q.kind, q.question, q.answer] for q in keyframe.questions],
        "history": None if keyframe.history is None else _rounded(keyframe.history, 4),
        "region": None if region is None else [region.camera, list(region.box_xywh_px)],
    }


def _rounded(values: NDArray[np.float32], digits: int) -> list[list[float]]:
    rows: list[list[float]] = np.round(values.astype(np.float64), digits).tolist()
    return rows


def _records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file, expected a set of keyframes") from err
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {err}") from err
    if not text.endswith("\n"):
        raise DataError(f"{path}: ends within a line, the file is truncated")
    return [(n, _record(line, f"{path}:{n}")) for n, line in enumerate(text.splitlines(), 1)]


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise DataError(f"{where}: not JSON: {err}") from err
    if not isinstance(record, dict):
        raise DataError(f"{where}: is a {type(record).__name__}, expected an object")
    return record


def _keyframe_from_json(record: Mapping[str, Any], root: Path, where: str) -> Keyframe:
    try:
        return Keyframe(
            sample_token=str(record["sample_token"]),
            scene=str(record["scene"]),
            case_name=str(record["case_name"]),
            stamp_ns=int(record["stamp_ns"]),
            image_paths=_image_paths(record["images"], root),
            image_stamps_ns={c: int(record["image_stamps_ns"][c]) for c in record["images"]},
            ego=_ego(record["ego"]),
            command=None if record["command"] is None else RouteCommand(record["command"]),
            **_future_and_action(record),
            agents=tuple(_agent(agent) for agent in record["agents"]),
            questions=tuple(
                QuestionAnswer(kind=str(kind), question=str(question), answer=str(answer))
                for kind, question, answer in record["questions"]
            ),
            history=_history(record.get("history")),
            region=_region(record.get("region")),
        )
    except KeyError as err:
        raise DataError(f"{where}: field {err} is missing") from err
    except (ClkdError, TypeError, ValueError) as err:
        raise DataError(f"{where}: {err}") from err


def _image_paths(images: Mapping[str, str], root: Path) -> dict[str, Path]:
    unknown = sorted(set(images) - set(CAMERAS))
    if unknown:
        raise ValueError(f"unknown cameras {unknown}, expected names from {list(CAMERAS)}")
    return {camera: root / images[camera] for camera in CAMERAS if camera in images}


def _ego(values: Any) -> EgoState | None:
    if values is None:
        return None
    stamp_ns, speed, yaw_rate = values
    return EgoState(stamp_ns=int(stamp_ns), speed_mps=float(speed), yaw_rate_radps=float(yaw_rate))


def _future_and_action(record: Mapping[str, Any]) -> dict[str, Any]:
    """Future and label; a label that does not follow from its future is refused."""
    if record["future"] is None:
        return {"future": None, "action": None}
    future = Trajectory(xy_m=np.asarray(record["future"], dtype=np.float32))
    action = MetaAction.from_text(record["action"])
    derived = meta_action_from_future(lidar_from_ego(future.xy_m))
    if derived != action:
        raise ValueError(f"action is {action.text!r}, its future says {derived.text!r}")
    return {"future": future, "action": action}


def _history(rows: Any) -> NDArray[np.float32] | None:
    if rows is None:
        return None
    history = np.asarray(rows, dtype=np.float32)
    if history.shape != (HISTORY_STEPS, 2) or not np.isfinite(history).all():
        raise ValueError(f"history is {history.shape}, expected finite ({HISTORY_STEPS}, 2)")
    return history


def _region(values: Any) -> Region | None:
    if values is None:
        return None
    camera, (left, top, width, height) = values
    box = (float(left), float(top), float(width), float(height))
    if camera not in CAMERAS or not np.isfinite(box).all() or min(width, height) <= 0:
        raise ValueError(f"region is {values}, expected a camera and a box x, y, w > 0, h > 0")
    return Region(camera=camera, box_xywh_px=box)


def _agent(record: Mapping[str, Any]) -> AgentFuture:
    poses = np.asarray(record["poses"], dtype=np.float32)
    if poses.ndim != 2 or poses.shape[1] != 3 or not np.isfinite(poses).all():
        raise ValueError(f"agent poses are {poses.shape}, expected finite (T + 1, 3)")
    length, width = record["size_m"]
    return AgentFuture(
        category=str(record["category"]), size_m=(float(length), float(width)), poses=poses
    )
