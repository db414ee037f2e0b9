"""Validation drives of the synthetic world as one bag, drawn while it is written.

Cameras at 10 Hz, odometry and transforms at 50 Hz, the route command when it changes, labels at
the 2 Hz keyframes. The drives follow each other with half a second between them. With keyframes
only the cameras are at 2 Hz too.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clkd_core.config import load_config
from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, Storage, write_bag
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    camera_info_to_msg,
    image_to_msg,
    label_to_msgs,
    motion_to_msgs,
    route_command_to_msg,
    transform_to_msg,
    transforms_to_msg,
)
from clkd_core.data.bags.ros_types import load_typestore
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import WorldFrame, drive_start_ns, render_frame
from clkd_core.data.world.render.cameras import build_cameras
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.drive import Drive
from clkd_core.data.world.scene.script import DriveSpec, plan_drives
from clkd_core.data.world.workers import worker_pool
from clkd_core.errors import DataError
from clkd_core.progress import progress
from clkd_core.types import CameraImage, RouteCommand

WORLD_FILE = "world.yaml"
"""The config inside a folder that ``clkd world`` wrote."""

FRAME_NS = 100_000_000
FRAMES_PER_KEYFRAME = 5
ODOMETRY_NS = 20_000_000
ODOMETRY_LEAD_NS = 10_000_000
"""Odometry comes this much before the frame: at the same instant it would be chance, live,
which of the two a node sees first, and the frame's speed with it."""
GAP_NS = 500_000_000
"""Between the last frame's end of one drive and the first frame of the next."""
AHEAD_NS = 40_000_000
"""The route command is there before the first image of the frame it belongs to."""

_FRAMES_PER_TASK = 50
"""A multiple of ``FRAMES_PER_KEYFRAME``."""


class Message(NamedTuple):
    """A serialized message and where it goes."""

    log_ns: int
    topic: str
    msgtype: str
    data: bytes


@dataclass(frozen=True)
class _Task:
    """A stretch of one drive; drawn by one process."""

    spec: DriveSpec
    config: WorldConfig
    shift_ns: int
    """Added to the drive's own stamps."""
    first: int
    """Number of its first frame."""
    count: int
    step: int
    """Every so many frames one is drawn."""


@dataclass(frozen=True, kw_only=True)
class WorldBagCounts:
    """What a bag of the world holds."""

    drives: int
    duration_s: float
    image_sets: int
    keyframes: int
    corner_keyframes: int


def load_world(path: Path) -> WorldConfig:
    """A world's config from its YAML file or from a folder that ``clkd world`` wrote.

    Raises:
        ConfigError: the file does not say what is needed.
        DataError: there is neither.
    """
    if path.is_dir():
        if not (path / WORLD_FILE).is_file():
            raise DataError(f"{path} has no {WORLD_FILE}, expected a folder of `clkd world`")
        path = path / WORLD_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist, expected a world's YAML file or folder")
    return load_config(WorldConfig, path)


def write_world_bag(
    config: WorldConfig,
    path: Path,
    *,
    storage: Storage = "mcap",
    keyframes_only: bool = False,
) -> WorldBagCounts:
    """Draw the validation drives on all cores and write them.

    Args:
        config: the world.
        path: where the bag goes.
        storage: kind of its file.
        keyframes_only: draw labelled keyframes only; odometry stays at 50 Hz.

    Raises:
        DataError: the bag cannot be written.
    """
    specs = plan_drives(config, "val")
    step = FRAMES_PER_KEYFRAME if keyframes_only else 1
    tasks = _plan_tasks(specs, config, step)
    with write_bag(path, storage=storage) as bag, _workers(config, len(tasks)) as pool:
        _write_fixed(bag, config, drive_start_ns(specs[0]) - FRAME_NS)
        drawn = pool.map(_draw, tasks) if pool else map(_draw, tasks)
        for messages in progress(drawn, total=len(tasks), desc="bag", unit="parts"):
            for message in messages:
                bag.write_serialized(*message)
    keyframes_per_drive = round(config.drive_s * 2)
    corner = sum(spec.case_name != "regular" for spec in specs)
    return WorldBagCounts(
        drives=len(specs),
        duration_s=len(specs) * config.drive_s + (len(specs) - 1) * GAP_NS * 1e-9,
        image_sets=len(specs) * _frames_per_drive(config) // step,
        keyframes=len(specs) * keyframes_per_drive,
        corner_keyframes=corner * keyframes_per_drive,
    )


def _frames_per_drive(config: WorldConfig) -> int:
    return round(config.drive_s * 1e9 / FRAME_NS)


def _plan_tasks(specs: Sequence[DriveSpec], config: WorldConfig, step: int) -> list[_Task]:
    """Stretches of all drives, put one after the other in time."""
    frames = _frames_per_drive(config)
    tasks = []
    for number, spec in enumerate(specs):
        start_ns = drive_start_ns(specs[0]) + number * (frames * FRAME_NS + GAP_NS)
        for first in range(0, frames, _FRAMES_PER_TASK):
            count = min(_FRAMES_PER_TASK, frames - first)
            shift_ns = start_ns - drive_start_ns(spec)
            tasks.append(_Task(spec, config, shift_ns, first, count, step))
    return tasks


@contextmanager
def _workers(config: WorldConfig, tasks: int) -> Iterator[ProcessPoolExecutor | None]:
    """Fresh processes that end with us, also when interrupted; None where one core is all."""
    count = min(config.workers or os.cpu_count() or 1, tasks)
    if count <= 1:
        yield None
        return
    with worker_pool(count) as pool:
        yield pool


@lru_cache(maxsize=1)
def _prepare(spec: DriveSpec, config: WorldConfig) -> tuple[Drive, DriveRenderer]:
    drive = build_drive(spec, config)
    return drive, DriveRenderer(drive)


def _draw(task: _Task) -> list[Message]:
    """All messages of a stretch in the order of time."""
    drive, renderer = _prepare(task.spec, task.config)
    messages: list[Message] = []
    step_ns = task.step * FRAME_NS
    for number in range(task.first, task.first + task.count, task.step):
        since_ns = number * FRAME_NS
        before = drive.command((since_ns - step_ns) / 1e9) if number else None
        frame = render_frame(drive, renderer, since_ns)
        messages += _frame_messages(frame, before, task.shift_ns)
        messages += _motion_messages(drive, since_ns, step_ns, task.shift_ns)
    return sorted(messages, key=lambda message: message.log_ns)


def _message(log_ns: int, topic: str, msgtype: str, msg: Any) -> Message:
    data = load_typestore().serialize_cdr(msg, msgtype)
    return Message(log_ns, topic, msgtype, bytes(data))


def _frame_messages(
    frame: WorldFrame, before: RouteCommand | None, shift_ns: int
) -> Iterator[Message]:
    """Images, a route command that differs from the one ``before``, and the label."""
    now_ns = frame.stamp_ns + shift_ns
    if frame.command != before:
        command = route_command_to_msg(frame.command)
        yield _message(now_ns - AHEAD_NS, topics.ROUTE_COMMAND, topics.STRING, command)
    for camera, encoded in frame.images.items():
        stamp_ns = frame.image_stamps_ns[camera] + shift_ns
        image = image_to_msg(camera, CameraImage(stamp_ns=stamp_ns, encoded=encoded))
        yield _message(stamp_ns, topics.image_topic(camera), topics.COMPRESSED_IMAGE, image)
    if frame.is_keyframe:
        label = Label(
            stamp_ns=now_ns,
            scene=frame.scene,
            case_name=frame.case_name,
            action=frame.action,
            future=frame.future,
        )
        for topic, msgtype, msg in label_to_msgs(label):
            yield _message(now_ns, topic, msgtype, msg)


def _motion_messages(
    drive: Drive, since_ns: int, step_ns: int, shift_ns: int
) -> Iterator[Message]:
    """Odometry and transform from just before this frame up to just before the next one."""
    first_ns = since_ns - ODOMETRY_LEAD_NS
    for at_ns in range(first_ns, first_ns + step_ns, ODOMETRY_NS):
        stamp_ns = drive_start_ns(drive.spec) + shift_ns + at_ns
        ego = drive.ego_state(at_ns / 1e9, stamp_ns)
        x, y, yaw = (float(value) for value in drive.ego_world_pose(at_ns / 1e9))
        pose = Pose.planar(x, y, yaw)
        for topic, msgtype, msg in motion_to_msgs(ego, pose):
            yield _message(stamp_ns, topic, msgtype, msg)


def _write_fixed(bag: BagWriter, config: WorldConfig, now_ns: int) -> None:
    """Camera calibration and mounting: latched, once."""
    mountings = []
    for name, camera in build_cameras(config.width_px, config.height_px).items():
        info = camera_info_to_msg(
            name, now_ns, camera.intrinsic, camera.width_px, camera.height_px
        )
        bag.write(topics.camera_info_topic(name), topics.CAMERA_INFO, now_ns, info)
        ego_from_camera = np.hstack([camera.camera_from_ego.T, camera.translation_m[:, None]])
        frame = topics.camera_frame(name)
        pose = Pose.from_matrix(ego_from_camera)
        mountings.append(transform_to_msg(now_ns, topics.EGO_FRAME, frame, pose))
    bag.write(topics.TF_STATIC, topics.TF_MESSAGE, now_ns, transforms_to_msg(mountings))
