"""The 13 tables of nuScenes for drives of a few keyframes whose every number a test chooses."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clkd_core.data.nuscenes.motion import CAN_FOLDER
from clkd_core.types import CAMERAS

Row = dict[str, Any]
Tables = dict[str, list[Row]]

VERSION = "v1.0-tiny"
FIRST_US = 1_500_000_000_000_000
KEY_US = 500_000
LIDAR_M = (0.9437, 0.0, 1.8402)
"""nuScenes' mounting; its x axis points right."""
_TABLES = (
    *("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor"),
    *("ego_pose", "log", "scene", "sample", "sample_data", "sample_annotation", "map"),
)


def yaw_quaternion(yaw: float) -> list[float]:
    """w, x, y, z of a turn about z."""
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def fixed_tables() -> Tables:
    """Sensors, a category of agents, a log with its map."""
    tables: Tables = {name: [] for name in _TABLES}
    tables["category"] = [{"token": "car", "name": "vehicle.car", "description": ""}]
    tables["log"] = [{"token": "log", "location": "nowhere"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "filename": "maps/a.png"}]
    for channel in (*CAMERAS, "LIDAR_TOP"):
        is_camera = channel in CAMERAS
        modality = "camera" if is_camera else "lidar"
        tables["sensor"].append({"token": channel, "channel": channel, "modality": modality})
        mount: Row = {"token": f"cs-{channel}", "sensor_token": channel}
        mount["translation"] = [1.5, 0.0, 1.5] if is_camera else list(LIDAR_M)
        mount["rotation"] = yaw_quaternion(0.0 if is_camera else -math.pi / 2)
        mount["camera_intrinsic"] = [[100, 0, 80], [0, 100, 45], [0, 0, 1]] if is_camera else []
        tables["calibrated_sensor"].append(mount)
    return tables


def add_scene(
    tables: Tables,
    name: str,
    count: int,
    pose_at: Callable[[float], Sequence[float]],
    *,
    sweeps: int = 0,
    agents: Sequence[Callable[[float], Sequence[float] | None]] = (),
    start_us: int = FIRST_US,
) -> None:
    """A drive of ``count`` keyframes at 2 Hz.

    Args:
        tables: from :func:`fixed_tables`.
        name: of the scene; tokens begin with it.
        count: keyframes.
        pose_at: seconds since the first keyframe -> x, y [m], yaw [rad] of the ego frame.
        sweeps: LIDAR sweeps between two keyframes.
        agents: seconds -> x, y, yaw in the world, or None where it is not annotated.
        start_us: of the first keyframe.
    """
    tokens = [f"{name}-{i:02}" for i in range(count)]
    tables["scene"].append(
        {
            "token": name,
            "name": name,
            "description": "",
            "log_token": "log",
            "nbr_samples": count,
            "first_sample_token": tokens[0],
            "last_sample_token": tokens[-1],
        }
    )
    for i, token in enumerate(tokens):
        row: Row = {"token": token, "timestamp": start_us + i * KEY_US, "scene_token": name}
        row["prev"] = tokens[i - 1] if i else ""
        row["next"] = tokens[i + 1] if i + 1 < count else ""
        tables["sample"].append(row)
    for channel in (*CAMERAS, "LIDAR_TOP"):
        steps = 1 if channel in CAMERAS else sweeps + 1
        _add_channel(tables, tokens, channel, pose_at, steps, start_us)
    for number, agent in enumerate(agents):
        _add_agent(tables, tokens, f"{name}-agent{number}", agent)


def _add_channel(
    tables: Tables,
    tokens: Sequence[str],
    channel: str,
    pose_at: Callable[[float], Sequence[float]],
    steps: int,
    start_us: int,
) -> None:
    early_us = 1000 * (CAMERAS.index(channel) + 1) if channel in CAMERAS else 0
    total = (len(tokens) - 1) * steps + 1
    names = [f"{tokens[i // steps]}-{channel}-{i % steps}" for i in range(total)]
    for i, token in enumerate(names):
        since_us = i * KEY_US // steps
        stamp = start_us + since_us - early_us
        folder = "sweeps" if i % steps else "samples"
        suffix = "jpg" if channel in CAMERAS else "bin"
        x, y, yaw = pose_at((since_us - early_us) / 1e6)
        tables["ego_pose"].append(
            {
                "token": f"pose-{token}",
                "timestamp": stamp,
                "translation": [float(x), float(y), 0.0],
                "rotation": yaw_quaternion(float(yaw)),
            }
        )
        tables["sample_data"].append(
            {
                "token": token,
                "sample_token": tokens[i // steps],
                "ego_pose_token": f"pose-{token}",
                "calibrated_sensor_token": f"cs-{channel}",
                "timestamp": stamp,
                "fileformat": suffix,
                "is_key_frame": i % steps == 0,
                "height": 90,
                "width": 160,
                "filename": f"{folder}/{channel}/{token}.{suffix}",
                "prev": names[i - 1] if i else "",
                "next": names[i + 1] if i + 1 < total else "",
            }
        )


def _add_agent(
    tables: Tables,
    tokens: Sequence[str],
    instance: str,
    pose_at: Callable[[float], Sequence[float] | None],
) -> None:
    poses = [(token, pose_at(i * KEY_US / 1e6)) for i, token in enumerate(tokens)]
    seen = [(token, pose) for token, pose in poses if pose is not None]
    names = [f"{instance}@{token}" for token, _ in seen]
    tables["instance"].append(
        {
            "token": instance,
            "category_token": "car",
            "nbr_annotations": len(seen),
            "first_annotation_token": names[0],
            "last_annotation_token": names[-1],
        }
    )
    for i, (token, (x, y, yaw)) in enumerate(seen):
        tables["sample_annotation"].append(
            {
                "token": names[i],
                "sample_token": token,
                "instance_token": instance,
                "visibility_token": "",
                "attribute_tokens": [],
                "translation": [float(x), float(y), 0.8],
                "size": [1.9, 4.6, 1.6],
                "rotation": yaw_quaternion(float(yaw)),
                "prev": names[i - 1] if i else "",
                "next": names[i + 1] if i + 1 < len(seen) else "",
                "num_lidar_pts": 1,
                "num_radar_pts": 0,
            }
        )


def write_tables(root: Path, tables: Tables, version: str = VERSION) -> Path:
    """Tables, map and a little image for every keyframe's view; returns the version folder."""
    (root / "maps").mkdir(parents=True, exist_ok=True)
    (root / "maps" / "a.png").write_bytes(b"")
    for row in tables["sample_data"]:
        if str(row["filename"]).startswith("samples/CAM"):
            path = root / row["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"jpeg")
    folder = root / version
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def can_pose(utime: Any, speed: Any, rate: Any) -> dict[str, Any]:
    """A message of ``pose`` as the devkit's CAN bus expansion has it."""
    return {
        "accel": [0.1, 0.0, 9.8],
        "orientation": [1.0, 0.0, 0.0, 0.0],
        "pos": [100.0, 200.0, 0.0],
        "rotation_rate": [0.01, 0.02, rate],
        "utime": utime,
        "vel": [speed, 0.3, 0.0],
    }


def write_can(root: Path, scene: str, messages: Any) -> Path:
    """The CAN bus file of a scene: messages, or any text in their place."""
    path = root / CAN_FOLDER / f"{scene}_pose.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(messages if isinstance(messages, str) else json.dumps(messages))
    return path


def straight(speed_mps: float) -> Callable[[float], Sequence[float]]:
    """Along x."""
    return lambda t: (speed_mps * t, 0.0, 0.0)


def circle(
    speed_mps: float, radius_m: float, yaw: float = 0.0
) -> Callable[[float], Sequence[float]]:
    """To the left from the origin, heading ``yaw`` at first; a negative radius turns right."""

    def pose_at(t: float) -> Sequence[float]:
        turn = speed_mps * t / radius_m
        ahead, left = radius_m * math.sin(turn), radius_m * (1 - math.cos(turn))
        cos, sin = math.cos(yaw), math.sin(yaw)
        return (cos * ahead - sin * left, sin * ahead + cos * left, yaw + turn)

    return pose_at
