"""Keyframes and sidecars for tests: one that says something in every field, and many alike."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer, Region
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json
from clkd_core.types import CAMERAS, EgoState, RouteCommand, Trajectory

VERSION = "v"

FUTURES_M = {
    "go": [(4.0 * i, 0.0) for i in range(1, 7)],
    "stop": [(0.1 * i, 0.0) for i in range(1, 7)],
    "left": [(2.0 * i, 1.5 * i) for i in range(1, 7)],
}


def full_keyframe(root: Path) -> Keyframe:
    """Every field is set; its image files are there and hold the camera's name."""
    paths = {camera: root / "samples" / camera / "a.jpg" for camera in CAMERAS[:2]}
    for camera, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(camera.encode())
    future = Trajectory(xy_m=np.asarray(FUTURES_M["left"], np.float32))
    agent = AgentFuture(
        category="vehicle.car",
        size_m=(4.5, 1.8),
        poses=np.arange(21, dtype=np.float32).reshape(7, 3),
    )
    return Keyframe(
        sample_token="t",
        scene="s",
        case_name="regular",
        stamp_ns=50,
        image_paths=paths,
        image_stamps_ns={camera: 50 - 10 * number for number, camera in enumerate(paths)},
        ego=EgoState(stamp_ns=50, speed_mps=8.0, yaw_rate_radps=0.1),
        command=RouteCommand.LEFT,
        future=future,
        action=meta_action_from_future(lidar_from_ego(future.xy_m)),
        agents=(agent, replace(agent, category="human.pedestrian.adult", poses=agent.poses[:2])),
        questions=(QuestionAnswer(kind="perception", question="Who?", answer="Nobody."),),
        history=np.arange(-8, 0, dtype=np.float32).reshape(4, 2),
        region=Region(camera="CAM_FRONT", box_xywh_px=(1.0, 2.0, 3.0, 4.0)),
    )


def records(root: Path, count: int, *, val_from: int | None = None) -> list[dict[str, Any]]:
    """Records of ``count`` keyframes: every third goes, stops, turns; every fourth is fog."""
    template = full_keyframe(root)
    found = []
    for number in range(count):
        future = Trajectory(xy_m=np.asarray(list(FUTURES_M.values())[number % 3], np.float32))
        keyframe = replace(
            template,
            sample_token=f"token-{number}",
            scene=f"scene-{number // 5}",
            case_name="fog" if number % 4 == 3 else "regular",
            stamp_ns=1000 + number,
            future=future,
            action=meta_action_from_future(lidar_from_ego(future.xy_m)),
        )
        split = "val" if val_from is not None and number >= val_from else "train"
        found.append(keyframe_to_json(keyframe, split=split, root=root))
    return found


def tokens(keyframes: Iterable[Keyframe]) -> list[str]:
    """Who is there; here so that fresh processes can import it."""
    return [keyframe.sample_token for keyframe in keyframes]


def write_lines(root: Path, lines: list[Any], tail: str = "\n") -> Path:
    """A sidecar written by somebody else's program: whatever stands in ``lines``."""
    path = root / VERSION / SIDECAR
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + tail)
    return path
