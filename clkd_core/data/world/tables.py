"""The 13 tables of the nuScenes v1.0 schema, as far as its devkit reads them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import WorldFrame
from clkd_core.data.world.render.cameras import build_cameras
from clkd_core.data.world.scene.actors import CATEGORIES, PEOPLE, VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive

Row = dict[str, Any]
Tables = dict[str, list[Row]]

TABLE_NAMES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)
LIDAR_STUB = "samples/LIDAR_TOP/empty.pcd.bin"
"""There is no LIDAR; this file of one point stands in, so that its pose table exists."""
LIDAR_M = (0.94, 0.0, 1.84)
"""nuScenes' mounting place; its axes are x right, y forward."""
_ATTRIBUTES = ("vehicle.moving", "vehicle.stopped", "pedestrian.moving", "pedestrian.standing")


def token_of(*parts: object) -> str:
    """32 hexadecimal digits that depend on the parts alone."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def image_name(frame: WorldFrame, camera: str) -> str:
    """Path of an image below the set's root."""
    return f"samples/{camera}/{frame.scene}__{camera}__{frame.image_stamps_ns[camera] // 1000}.jpg"


def fixed_tables(config: WorldConfig) -> Tables:
    """What all drives share: categories, attributes, sensors."""
    tables: Tables = {name: [] for name in TABLE_NAMES}
    for name in sorted(set(CATEGORIES.values())):
        row = {"token": token_of("category", name), "name": name, "description": ""}
        tables["category"].append(row)
    for name in _ATTRIBUTES:
        row = {"token": token_of("attribute", name), "name": name, "description": ""}
        tables["attribute"].append(row)
    for level, text in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), 1):
        tables["visibility"].append({"token": str(level), "level": text, "description": ""})
    for camera in build_cameras(config.width_px, config.height_px).values():
        _add_sensor(
            tables,
            camera.name,
            "camera",
            camera.translation_m.tolist(),
            list(camera.quaternion_wxyz),
            camera.intrinsic.tolist(),
        )
    half = float(np.sqrt(0.5))
    _add_sensor(tables, "LIDAR_TOP", "lidar", list(LIDAR_M), [half, 0.0, 0.0, -half], [])
    return tables


def drive_tables(drive: Drive, frames: Sequence[WorldFrame]) -> Tables:
    """The rows that belong to one drive."""
    tables: Tables = {name: [] for name in TABLE_NAMES}
    name = drive.spec.name
    log, scene = token_of("log", name), token_of("scene", name)
    samples = [sample_token(frame) for frame in frames]
    tables["log"].append(
        {
            "token": log,
            "logfile": name,
            "vehicle": "clkd",
            "date_captured": "2023-11-14",
            "location": f"world-{name}",
        }
    )
    tables["map"].append(
        {
            "token": token_of("map", name),
            "log_tokens": [log],
            "category": "semantic_prior",
            "filename": map_name(name),
        }
    )
    tables["scene"].append(
        {
            "token": scene,
            "name": name,
            "description": f"{drive.spec.case_name}, {drive.spec.cause}, {drive.spec.manoeuvre}",
            "log_token": log,
            "nbr_samples": len(samples),
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
        }
    )
    for i, frame in enumerate(frames):
        _add_sample(tables, drive, frame, scene, _neighbours(samples, i))
    _add_annotations(tables, drive, frames)
    return tables


def sample_token(frame: WorldFrame) -> str:
    """Token of a keyframe's sample."""
    return token_of("sample", frame.scene, frame.stamp_ns)


def region_token(frame: WorldFrame) -> str:
    """Token of a keyframe's twin with questions about a part of a view; it has no sample."""
    return token_of("region", frame.scene, frame.stamp_ns)


def map_name(scene: str) -> str:
    """Path of a drive's map mask below the set's root."""
    return f"maps/{token_of('map', scene)}.png"


def _neighbours(tokens: Sequence[str], i: int) -> tuple[str, str]:
    return tokens[i - 1] if i else "", tokens[i + 1] if i + 1 < len(tokens) else ""


def _add_sensor(
    tables: Tables,
    channel: str,
    modality: str,
    translation: list[float],
    rotation: list[float],
    intrinsic: list[list[float]],
) -> None:
    sensor = token_of("sensor", channel)
    tables["sensor"].append({"token": sensor, "channel": channel, "modality": modality})
    tables["calibrated_sensor"].append(
        {
            "token": token_of("calibrated_sensor", channel),
            "sensor_token": sensor,
            "translation": translation,
            "rotation": rotation,
            "camera_intrinsic": intrinsic,
        }
    )


def _add_sample(
    tables: Tables, drive: Drive, frame: WorldFrame, scene: str, neighbours: tuple[str, str]
) -> None:
    sample, pose = sample_token(frame), token_of("ego_pose", frame.scene, frame.stamp_ns)
    before, after = neighbours
    tables["sample"].append(
        {
            "token": sample,
            "timestamp": frame.stamp_ns // 1000,
            "prev": before,
            "next": after,
            "scene_token": scene,
        }
    )
    x, y, yaw = frame.ego_pose
    tables["ego_pose"].append(
        {
            "token": pose,
            "timestamp": frame.stamp_ns // 1000,
            "rotation": _yaw_quaternion(yaw),
            "translation": [x, y, 0.0],
        }
    )
    size = (drive.config.height_px, drive.config.width_px)
    rows = [(c, image_name(frame, c), frame.image_stamps_ns[c], "jpg", size) for c in frame.images]
    rows.append(("LIDAR_TOP", LIDAR_STUB, frame.stamp_ns, "pcd", (0, 0)))
    for channel, filename, stamp_ns, fileformat, (height, width) in rows:
        tables["sample_data"].append(
            {
                "token": token_of("sample_data", sample, channel),
                "sample_token": sample,
                "ego_pose_token": pose,
                "calibrated_sensor_token": token_of("calibrated_sensor", channel),
                "timestamp": stamp_ns // 1000,
                "fileformat": fileformat,
                "is_key_frame": True,
                "height": height,
                "width": width,
                "filename": filename,
                "prev": token_of("sample_data", before, channel) if before else "",
                "next": token_of("sample_data", after, channel) if after else "",
            }
        )


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def _add_annotations(tables: Tables, drive: Drive, frames: Sequence[WorldFrame]) -> None:
    seen: dict[str, list[WorldFrame]] = {}
    for frame in frames:
        for actor in drive.near_actors(frame.t_s):
            seen.setdefault(actor.name, []).append(frame)
    for actor in drive.actors:
        if actor.name in seen:
            _add_instance(tables, drive, actor, seen[actor.name])


def _add_instance(
    tables: Tables, drive: Drive, actor: Actor, frames: Sequence[WorldFrame]
) -> None:
    instance = token_of("instance", drive.spec.name, actor.name)
    tokens = [token_of("annotation", instance, frame.stamp_ns) for frame in frames]
    tables["instance"].append(
        {
            "token": instance,
            "category_token": token_of("category", CATEGORIES[actor.kind]),
            "nbr_annotations": len(tokens),
            "first_annotation_token": tokens[0],
            "last_annotation_token": tokens[-1],
        }
    )
    length, width, height = actor.size_m
    for i, frame in enumerate(frames):
        x, y, yaw = drive.to_world(actor.pose_at(frame.t_s))
        before, after = _neighbours(tokens, i)
        tables["sample_annotation"].append(
            {
                "token": tokens[i],
                "sample_token": sample_token(frame),
                "instance_token": instance,
                "visibility_token": "4",
                "attribute_tokens": _attributes(actor, frame.t_s),
                "translation": [float(x), float(y), height / 2.0],
                "size": [width, length, height],
                "rotation": _yaw_quaternion(float(yaw)),
                "prev": before,
                "next": after,
                "num_lidar_pts": 1,
                "num_radar_pts": 0,
            }
        )


def _attributes(actor: Actor, t_s: float) -> list[str]:
    moving = actor.moves_at(t_s)
    if actor.kind in VEHICLES:
        return [token_of("attribute", "vehicle.moving" if moving else "vehicle.stopped")]
    if actor.kind in PEOPLE:
        return [token_of("attribute", "pedestrian.moving" if moving else "pedestrian.standing")]
    return []


def merged(parts: Sequence[Mapping[str, list[Row]]]) -> Tables:
    """Tables of several drives as one."""
    return {name: [row for part in parts for row in part[name]] for name in TABLE_NAMES}
