"""A drive as a stream of frames: what bags and data sets are written from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import HISTORY_STEPS, AgentFuture, QuestionAnswer
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.questions.facts import find_facts
from clkd_core.data.world.questions.regions import RegionQuestions, region_questions
from clkd_core.data.world.questions.scenes import scene_questions
from clkd_core.data.world.questions.sight import see
from clkd_core.data.world.render.cameras import CAMERA_STAMP_OFFSETS_NS
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.drive import Drive
from clkd_core.data.world.scene.script import SPLITS, DriveSpec
from clkd_core.errors import DataError
from clkd_core.types import STEP_S, EgoState, MetaAction, RouteCommand, Trajectory

_FIRST_NS = 1_700_000_000_000_000_000
_BETWEEN_DRIVES_NS = 60_000_000_000
_KEYFRAME_NS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class WorldFrame:
    """One instant of a drive with its six encoded views and all that is known about it."""

    t_s: float
    """Seconds since the drive's first keyframe."""
    stamp_ns: int
    """Of the newest image; all views show this instant."""
    images: Mapping[str, bytes]
    """JPEG files by camera."""
    image_stamps_ns: Mapping[str, int]
    """Staggered by a few milliseconds as in nuScenes; none is newer than ``stamp_ns``."""
    ego_pose: tuple[float, float, float]
    """x, y [m], yaw [rad] in the world frame."""
    ego: EgoState
    command: RouteCommand
    is_keyframe: bool
    """Whether this is one of the labelled 2 Hz instants."""
    action: MetaAction
    """The right decision; meant to be used at keyframes."""
    future: Trajectory
    history: NDArray[np.float32] | None
    """(HISTORY_STEPS, 2) past positions, see :class:`~clkd_core.data.keyframes.Keyframe`; None
    in a drive's first 2 s."""
    agents: tuple[AgentFuture, ...]
    questions: tuple[QuestionAnswer, ...]
    """About the whole scene; none between keyframes."""
    about: RegionQuestions | None
    """A part of a view with questions of its own, at keyframes of corner cases where there is
    something to point at."""
    scene: str
    case_name: str


def drive_start_ns(spec: DriveSpec) -> int:
    """Stamp of a drive's first keyframe; drives of a set follow each other without overlap."""
    number = spec.index + 100_000 * SPLITS.index(spec.split)
    return _FIRST_NS + number * _BETWEEN_DRIVES_NS


def drive_frames(spec: DriveSpec, config: WorldConfig, hz: float = 2.0) -> Iterator[WorldFrame]:
    """Simulate and render one drive.

    Args:
        spec: from :func:`clkd_core.data.world.scene.script.plan_drives`.
        config: the world.
        hz: frames per second; keyframes are met when it is a multiple of 2.

    Yields:
        frames from t = 0 up to, not including, the recorded length.
    """
    drive = build_drive(spec, config)
    renderer = DriveRenderer(drive)
    for i in range(round(config.drive_s * hz)):
        yield render_frame(drive, renderer, round(i * 1e9 / hz))


def render_frame(drive: Drive, renderer: DriveRenderer, since_start_ns: int) -> WorldFrame:
    """One frame of a drive at a time since its first keyframe."""
    t_s = since_start_ns / 1e9
    stamp_ns = drive_start_ns(drive.spec) + since_start_ns
    x, y, yaw = drive.ego_world_pose(t_s)
    images = renderer.render(t_s)
    is_keyframe = since_start_ns % _KEYFRAME_NS == 0
    questions, about = build_questions(drive, renderer, t_s) if is_keyframe else ((), None)
    return WorldFrame(
        t_s=t_s,
        stamp_ns=stamp_ns,
        images={c: encode_jpeg(i, drive.config.jpeg_quality) for c, i in images.items()},
        image_stamps_ns={c: stamp_ns + CAMERA_STAMP_OFFSETS_NS[c] for c in images},
        ego_pose=(float(x), float(y), float(yaw)),
        ego=drive.ego_state(t_s, stamp_ns),
        command=drive.command(t_s),
        is_keyframe=is_keyframe,
        action=drive.action(t_s),
        future=drive.future(t_s),
        history=drive.history(t_s) if t_s >= HISTORY_STEPS * STEP_S else None,
        agents=drive.agents(t_s),
        questions=questions,
        about=about,
        scene=drive.spec.name,
        case_name=drive.spec.case_name,
    )


def build_questions(
    drive: Drive, renderer: DriveRenderer, t_s: float
) -> tuple[tuple[QuestionAnswer, ...], RegionQuestions | None]:
    """What is asked about an instant: about the scene, and about a part of a view."""
    weather, cameras = renderer.weather, renderer.cameras
    sightings = see(drive, t_s, cameras, renderer.walls, weather.fog_m)
    facts = find_facts(drive, t_s, sightings, weather.name)
    about = None
    if drive.config.region_questions:
        about = region_questions(drive, t_s, facts, sightings, cameras)
    return scene_questions(facts, drive.action(t_s)), about


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """A JPEG file's bytes from (H, W, 3) uint8 RGB.

    Raises:
        DataError: OpenCV cannot encode it.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DataError(f"image of shape {image.shape} cannot be encoded as JPEG")
    return encoded.tobytes()
