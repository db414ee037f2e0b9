"""The bag that is played: the user's, or drives of the synthetic world at the cameras' real size.

The made one holds one drive after the other without a gap, so that the cameras send at one rate
from the first set to the last, odometry at 50 Hz and the route command; no labels. The same values
give the same images.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import METADATA, open_bag, write_bag
from clkd_core.data.bags.messages import (
    Pose,
    image_to_msg,
    odometry_to_msg,
    route_command_to_msg,
)
from clkd_core.data.bags.ros_types import load_typestore
from clkd_core.data.bags.sources.world import ODOMETRY_LEAD_NS, ODOMETRY_NS, Message
from clkd_core.data.bags.topics import BagTopics
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import render_frame
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.drive import Drive
from clkd_core.data.world.scene.script import DriveSpec, plan_drives
from clkd_core.data.world.workers import worker_pool
from clkd_core.errors import DataError, FrameError
from clkd_core.progress import progress
from clkd_core.runtime.decode import read_image_header
from clkd_core.types import CameraImage, RouteCommand
from clkd_ros.bench_pipeline.stages import PlayedSets
from clkd_ros.convert import stamp_ns_from_cdr
from clkd_ros.live_replay import Views
from clkd_ros.sources import hash_sources

SEED = 20
"""Of the world; no drive of it was trained on by anybody."""
DRIVE_S = 8.0
"""Of each drive; the next one begins where it ends."""
JPEG_QUALITY = 98
"""Drawn images have little noise and weigh 80 kB at 85; so 174 kB, as nuScenes' 150 to 250."""

_START_NS = 1_700_000_000_000_000_000
_PART = 20
"""Camera sets that one process draws at a time."""


@dataclass(frozen=True, kw_only=True)
class MadeCameras:
    """What a made bag holds."""

    sets: int
    hz: float
    width_px: int = 1600
    height_px: int = 900
    jpeg_quality: int = JPEG_QUALITY
    seed: int = SEED

    @property
    def sets_per_drive(self) -> int:
        """At least one."""
        return max(1, math.floor(DRIVE_S * self.hz))

    @property
    def world(self) -> WorldConfig:
        """Whose validation drives are drawn, in their order."""
        return WorldConfig(
            seed=self.seed,
            val_drives=math.ceil(self.sets / self.sets_per_drive),
            drive_s=DRIVE_S,
            width_px=self.width_px,
            height_px=self.height_px,
            jpeg_quality=self.jpeg_quality,
            region_questions=False,
        )

    def stamp_ns(self, number: int) -> int:
        """Of the newest image of a set."""
        return _START_NS + round(number * 1e9 / self.hz)


@dataclass(frozen=True)
class _Part:
    """Some sets of one drive; drawn by one process."""

    cameras: MadeCameras
    spec: DriveSpec
    numbers: range
    """Of the sets within the bag."""


def make_bag(cameras: MadeCameras, work: Path) -> Path:
    """The bag of these cameras in ``work``; drawn unless it is there already.

    Raises:
        DataError: it cannot be written.
    """
    code = hash_sources(Path(__file__).resolve().parents[2], __name__)
    key = hashlib.sha256(f"{sorted(asdict(cameras).items())} {code}".encode()).hexdigest()
    path = work / f"cameras-{key[:12]}"
    if not (path / METADATA).is_file():
        _write(cameras, path)
    return path


def _write(cameras: MadeCameras, path: Path) -> None:
    parts = list(_plan_parts(cameras))
    workers = min(os.cpu_count() or 1, len(parts) // 2)  # starting one takes as long as a part
    with write_bag(path) as bag, ExitStack() as ending:
        pool = ending.enter_context(worker_pool(workers)) if workers > 1 else None
        drawn = pool.map(_draw, parts) if pool else map(_draw, parts)
        for messages in progress(drawn, total=len(parts), desc="bag", unit="parts"):
            for message in messages:
                bag.write_serialized(*message)


def _plan_parts(cameras: MadeCameras) -> Iterator[_Part]:
    each = cameras.sets_per_drive
    for index, spec in enumerate(plan_drives(cameras.world, "val")):
        end = min((index + 1) * each, cameras.sets)
        for first in range(index * each, end, _PART):
            yield _Part(cameras, spec, range(first, min(first + _PART, end)))


@lru_cache(maxsize=1)
def _prepare(spec: DriveSpec, config: WorldConfig) -> tuple[Drive, DriveRenderer]:
    drive = build_drive(spec, config)
    return drive, DriveRenderer(drive)


def _draw(part: _Part) -> list[Message]:
    """All messages of a part in the order of time."""
    cameras = part.cameras
    drive, renderer = _prepare(part.spec, cameras.world)
    messages: list[Message] = []
    for number in part.numbers:
        in_drive = number % cameras.sets_per_drive
        since_ns = round(in_drive * 1e9 / cameras.hz)
        now_ns = cameras.stamp_ns(number)
        frame = render_frame(drive, renderer, since_ns)
        before = drive.command((in_drive - 1) / cameras.hz) if in_drive else None
        if frame.command != before:
            messages.append(_command(frame.command, now_ns - 2 * ODOMETRY_LEAD_NS))
        for camera, encoded in frame.images.items():
            stamp_ns = now_ns + frame.image_stamps_ns[camera] - frame.stamp_ns
            image = image_to_msg(camera, CameraImage(stamp_ns=stamp_ns, encoded=encoded))
            topic = topics.image_topic(camera)
            messages.append(_message(stamp_ns, topic, topics.COMPRESSED_IMAGE, image))
        length_ns = cameras.stamp_ns(number + 1) - now_ns
        messages += _motion(drive, since_ns, now_ns, length_ns)
    return sorted(messages, key=lambda message: message.log_ns)


def _motion(drive: Drive, since_ns: int, now_ns: int, length_ns: int) -> Iterator[Message]:
    """Odometry from just before a set up to just before the next one."""
    for at_ns in range(-ODOMETRY_LEAD_NS, length_ns - ODOMETRY_LEAD_NS, ODOMETRY_NS):
        t_s = max(0.0, (since_ns + at_ns) / 1e9)
        x_m, y_m, yaw_rad = (float(value) for value in drive.ego_world_pose(t_s))
        ego = drive.ego_state(t_s, now_ns + at_ns)
        odometry = odometry_to_msg(ego, Pose.planar(x_m, y_m, yaw_rad))
        yield _message(now_ns + at_ns, topics.ODOMETRY, topics.ODOMETRY_TYPE, odometry)


def _command(command: RouteCommand, log_ns: int) -> Message:
    return _message(log_ns, topics.ROUTE_COMMAND, topics.STRING, route_command_to_msg(command))


def _message(log_ns: int, topic: str, msgtype: str, msg: Any) -> Message:
    data = load_typestore().serialize_cdr(msg, msgtype)
    return Message(log_ns, topic, msgtype, bytes(data))


@dataclass(frozen=True, kw_only=True)
class BagDescription:
    """What a bag's cameras send."""

    path: str
    made: bool
    """Drawn by this benchmark."""
    cameras: int
    image_sets: int
    hz: float
    """Of one camera at speed 1; the median."""
    seconds: float
    """Of the whole bag at speed 1."""
    width_px: int
    height_px: int
    format: str
    """``JPEG``, ``PNG`` or ``raw``."""
    image_kb_mean: float
    """Of one message [1000 bytes], as are the next two."""
    image_kb_p5: float
    image_kb_p95: float
    megabytes: float
    """All images together [million bytes]."""

    @property
    def line(self) -> str:
        """One line for a terminal."""
        return (
            f"{self.path}: {self.image_sets} sets of {self.cameras} {self.format}s "
            f"{self.width_px} x {self.height_px} at {self.hz:.4g} Hz, {self.image_kb_mean:.0f} kB "
            f"each (5 % below {self.image_kb_p5:.0f}, 5 % above {self.image_kb_p95:.0f}), "
            f"{self.megabytes:.0f} MB in all"
        )


def describe_bag(
    path: Path, views: Views, names: BagTopics | None = None, *, made: bool
) -> tuple[BagDescription, PlayedSets]:
    """What is in a bag, and its camera sets in the order they are played.

    Sets are told by the images of the camera that has most of them, of several by the one that
    comes last in the first set: answers carry the newest image's stamp.

    Raises:
        DataError: the bag cannot be read, or an image of it is none.
    """
    images = (names or BagTopics()).images
    wanted = {images[camera] for camera in views.cameras}
    seen: dict[str, list[tuple[int, int]]] = {topic: [] for topic in wanted}
    sizes: list[int] = []
    with open_bag(path) as bag:
        duration_s = bag.duration_s
        begin_ns = next((log_ns for _, _, log_ns, _ in bag.raw_messages()), 0)
        for topic, _, log_ns, data in bag.raw_messages(wanted):
            seen[topic].append((_stamp_ns(path, topic, bytes(data)) or log_ns, log_ns))
            sizes.append(len(data))
        _, _, first = next(bag.messages(wanted))
    chosen = max(seen.values(), key=lambda sent: (len(sent), sent[:1]))
    sets = PlayedSets(
        stamps_ns=[stamp_ns for stamp_ns, _ in chosen],
        offsets_s=[(log_ns - begin_ns) / 1e9 for _, log_ns in chosen],
    )
    height_px, width_px, kind = _shape(path, first)
    p5, p95 = np.percentile(sizes, (5, 95))
    described = BagDescription(
        path=str(path),
        made=made,
        cameras=sum(map(bool, seen.values())),
        image_sets=len(chosen),
        hz=sets.hz,
        seconds=duration_s,
        width_px=width_px,
        height_px=height_px,
        format=kind,
        image_kb_mean=float(np.mean(sizes)) / 1e3,
        image_kb_p5=float(p5) / 1e3,
        image_kb_p95=float(p95) / 1e3,
        megabytes=sum(sizes) / 1e6,
    )
    return described, sets


def _stamp_ns(path: Path, topic: str, cdr: bytes) -> int:
    try:
        return stamp_ns_from_cdr(cdr)
    except FrameError as err:
        raise DataError(f"{path}: {topic}: {err}") from err


def _shape(path: Path, msg: Any) -> tuple[int, int, str]:
    """(height, width, kind) of an image message."""
    if not hasattr(msg, "format"):
        return int(msg.height), int(msg.width), "raw image"
    try:
        header = read_image_header(msg.data.tobytes())
    except FrameError as err:
        raise DataError(f"{path}: its first image: {err}") from err
    return header.height, header.width, "JPEG" if header.is_jpeg else "PNG"
