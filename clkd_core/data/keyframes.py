"""Read the labelled keyframes of a written set: the sidecar beside its nuScenes tables.

``<root>/<version>/clkd_keyframes.jsonl`` holds one JSON object a line, written by
:mod:`clkd_core.data.world.tables`; images are opened only when a frame is asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.errors import ClkdError, DataError
from clkd_core.types import (
    CAMERAS,
    CameraImage,
    EgoState,
    MetaAction,
    RouteCommand,
    SurroundFrame,
    Trajectory,
)

SIDECAR = "clkd_keyframes.jsonl"
"""File name inside the version folder."""
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class QuestionAnswer:
    """A driving question about one keyframe with the answer that is right."""

    kind: str
    """``perception``, ``prediction``, ``planning`` or ``description``."""
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class AgentFuture:
    """Where another road user is now and in the next 3 s."""

    category: str
    """nuScenes category name, e.g. ``vehicle.car``."""
    size_m: tuple[float, float]
    """Length and width."""
    poses: NDArray[np.float32]
    """(T + 1, 3) x, y [m], yaw [rad] in the ego frame of NOW; row 0 is now, then 0.5 s steps."""


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """One labelled instant of a drive; the images stay on disk."""

    sample_token: str
    scene: str
    case_name: str
    """``regular`` or the name of the corner case."""
    stamp_ns: int
    """Capture time of the newest image."""
    image_paths: Mapping[str, Path]
    """By camera name; a view that does not exist is absent."""
    image_stamps_ns: Mapping[str, int]
    """Capture time of each image, same keys."""
    ego: EgoState | None
    command: RouteCommand | None
    future: Trajectory | None
    """None where less than 3 s follow."""
    action: MetaAction | None
    """Senna's rule applied to ``future``."""
    agents: tuple[AgentFuture, ...]
    questions: tuple[QuestionAnswer, ...]


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


def surround_frame(keyframe: Keyframe) -> SurroundFrame:
    """Read the keyframe's image files into what a decision looks at; nothing is decoded.

    Raises:
        DataError: an image file is missing or empty.
    """
    images = {
        camera: CameraImage(stamp_ns=keyframe.image_stamps_ns[camera], encoded=_read_image(path))
        for camera, path in keyframe.image_paths.items()
    }
    return SurroundFrame(
        stamp_ns=keyframe.stamp_ns, images=images, ego=keyframe.ego, command=keyframe.command
    )


def keyframe_to_json(keyframe: Keyframe, *, split: str, root: Path) -> dict[str, Any]:
    """The sidecar's record of a keyframe; image paths become relative to ``root``."""
    ego, future = keyframe.ego, keyframe.future
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
    }


def _rounded(values: NDArray[np.float32], digits: int) -> list[list[float]]:
    rows: list[list[float]] = np.round(values.astype(np.float64), digits).tolist()
    return rows


def _records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file, expected the sidecar of a world set") from err
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


def _agent(record: Mapping[str, Any]) -> AgentFuture:
    poses = np.asarray(record["poses"], dtype=np.float32)
    if poses.ndim != 2 or poses.shape[1] != 3 or not np.isfinite(poses).all():
        raise ValueError(f"agent poses are {poses.shape}, expected finite (T + 1, 3)")
    length, width = record["size_m"]
    return AgentFuture(
        category=str(record["category"]), size_m=(float(length), float(width)), poses=poses
    )


def _read_image(path: Path) -> bytes:
    try:
        encoded = path.read_bytes()
    except OSError as err:
        raise DataError(f"{path}: image cannot be read: {err.strerror}") from err
    if not encoded:
        raise DataError(f"{path}: image is empty")
    return encoded
