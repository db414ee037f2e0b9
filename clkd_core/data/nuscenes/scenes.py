"""From a scene of nuScenes to labelled keyframes.

What each field is made of:

- ego frame: that of the LIDAR_TOP sweep's pose. ``future`` and ``history`` are positions of the
  ego frame's origin at the following and preceding keyframes, ``lidar_future`` those of the
  LIDAR_TOP sensor in its own frame of now, as Senna's converter has them; ``action`` follows from
  the latter by its rule. There is none where fewer than 6 keyframes follow, or where two of them
  are not 0.5 s apart (:data:`STEP_TOLERANCE_S`).
- ``ego``: the last CAN bus pose at or before the newest image, at most 0.1 s old (``vel[0]``,
  ``rotation_rate[2]``). Without one the difference of LIDAR_TOP poses over the last two sweeps
  (0.1 s), or since the last keyframe where there are no sweeps; at a scene's first pose the
  difference to the next. None in a scene with one pose only.
- ``command``: from the pose 12 keyframes (6 s) ahead, or from the scene's last where fewer follow,
  as the public converter does; at the last keyframe itself that reads "go straight".
- ``agents``: every annotated box within :data:`AGENT_RADIUS_M`, with its boxes at the following
  keyframes up to the first one that it is not annotated at.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import HISTORY_STEPS, REGULAR, AgentFuture, Keyframe
from clkd_core.data.labels import meta_action_from_future, route_command_from_pose
from clkd_core.data.nuscenes.motion import CanBus, compute_twists, ego_from_can
from clkd_core.data.nuscenes.scene_rows import Boxes, Row, SceneRows, collect_scene
from clkd_core.types import FUTURE_STEPS, STEP_S, EgoState, RouteCommand, Trajectory

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

log = logging.getLogger(__name__)

AGENT_RADIUS_M = 60.0
"""Boxes whose centres are farther from the ego frame's origin are left out."""
COMMAND_STEPS = 12
"""Keyframes ahead of the pose that the route command follows from: 6 s."""
STEP_TOLERANCE_S = 0.25
"""Keyframes are 0.5 s apart; across a pair that is farther off there is no trajectory."""


def read_scene(nusc: "NuScenes", scene: Row, *, can_bus: CanBus | None = None) -> list[Keyframe]:
    """All keyframes of a scene in the order of time; what has no image at all is left out.

    Args:
        nusc: from :func:`clkd_core.data.nuscenes.devkit.open_nuscenes`.
        scene: row of the table ``scene``.
        can_bus: where speeds come from first.

    Raises:
        DataError: the scene cannot be used as it stands, see
            :func:`clkd_core.data.nuscenes.scene_rows.collect_scene`; the CAN bus file is damaged.
    """
    rows = collect_scene(nusc, scene)
    keyframes = build_keyframes(rows, Path(nusc.dataroot), load_egos(rows, can_bus))
    if len(keyframes) < len(rows.tokens):
        left_out = len(rows.tokens) - len(keyframes)
        log.warning("%s: %d keyframes have no image and are left out", rows.name, left_out)
    return keyframes


@dataclass(frozen=True)
class Egos:
    """How the vehicle moved at N keyframes."""

    states: list[EgoState | None]
    from_can: list[bool]
    """Whether the CAN bus said so; else the poses did."""


def load_egos(rows: SceneRows, can_bus: CanBus | None) -> Egos:
    """The motion at every keyframe of a scene.

    Raises:
        DataError: the CAN bus file is damaged.
    """
    can = np.empty((0, 3)) if can_bus is None else can_bus.load_twists(rows.name)
    theirs = [ego_from_can(can, _newest_ns(rows, i)) for i in range(len(rows.tokens))]
    ours = _egos_from_poses(rows)
    return Egos(
        states=[can or poses for can, poses in zip(theirs, ours, strict=True)],
        from_can=[ego is not None for ego in theirs],
    )


def build_keyframes(rows: SceneRows, root: Path, egos: Egos) -> list[Keyframe]:
    """As :func:`read_scene`, from rows and motion that were looked up before."""
    return [
        _keyframe(rows, i, root, egos.states[i]) for i, images in enumerate(rows.images) if images
    ]


def count_gaps(rows: SceneRows) -> int:
    """Pairs of keyframes that are not 0.5 s apart."""
    return int((~_regular_steps(rows)).sum())


def _keyframe(rows: SceneRows, i: int, root: Path, ego: EgoState | None) -> Keyframe:
    images = rows.images[i]
    future, lidar_future = _future(rows, i)
    return Keyframe(
        sample_token=rows.tokens[i],
        scene=rows.name,
        case_name=REGULAR,
        stamp_ns=_newest_ns(rows, i),
        image_paths={camera: root / name for camera, (name, _) in images.items()},
        image_stamps_ns={camera: stamp for camera, (_, stamp) in images.items()},
        ego=ego,
        command=_command(rows, i),
        future=future,
        action=None if lidar_future is None else meta_action_from_future(lidar_future),
        agents=_agents(rows, i),
        questions=(),
        history=_history(rows, i),
        lidar_future=lidar_future,
    )


def _newest_ns(rows: SceneRows, i: int) -> int:
    """Of the images; where there are none, of the LIDAR."""
    return max((stamp for _, stamp in rows.images[i].values()), default=int(rows.stamps_ns[i]))


def _egos_from_poses(rows: SceneRows) -> list[EgoState | None]:
    if len(rows.sweep_stamps_ns) < 2:
        return [None] * len(rows.tokens)
    twists = compute_twists(rows.sweep_stamps_ns, rows.sweep_world_from_ego)
    places = np.searchsorted(rows.sweep_stamps_ns, rows.stamps_ns)
    return [
        EgoState(stamp_ns=int(stamp), speed_mps=float(speed), yaw_rate_radps=float(rate))
        for stamp, (speed, rate) in zip(rows.stamps_ns, twists[places], strict=True)
    ]


def _regular_steps(rows: SceneRows) -> NDArray[np.bool_]:
    """(N - 1,) whether each keyframe follows the one before it after about 0.5 s."""
    return np.asarray(np.abs(np.diff(rows.stamps_ns) * 1e-9 - STEP_S) <= STEP_TOLERANCE_S)


def _future(rows: SceneRows, i: int) -> tuple[Trajectory | None, NDArray[np.float64] | None]:
    """The ego frame's way in its frame of now, the LIDAR's in its own."""
    steps = _regular_steps(rows)[i : i + FUTURE_STEPS]
    if len(steps) < FUTURE_STEPS or not steps.all():
        return None, None
    after = slice(i + 1, i + 1 + FUTURE_STEPS)
    xy = _seen_from(rows.world_from_ego[i], rows.world_from_ego[after, :3, 3])[:, :2]
    lidar = rows.world_from_ego @ rows.ego_from_lidar
    lidar_xy = _seen_from(lidar[i], lidar[after, :3, 3])[:, :2]
    return Trajectory(xy_m=xy.astype(np.float32)), lidar_xy


def _history(rows: SceneRows, i: int) -> NDArray[np.float32] | None:
    if i < HISTORY_STEPS or not _regular_steps(rows)[i - HISTORY_STEPS : i].all():
        return None
    before = rows.world_from_ego[i - HISTORY_STEPS : i, :3, 3]
    return _seen_from(rows.world_from_ego[i], before)[:, :2].astype(np.float32)


def _command(rows: SceneRows, i: int) -> RouteCommand:
    goal = rows.world_from_ego[min(i + COMMAND_STEPS, len(rows.tokens) - 1), :3, 3]
    forward, left, _ = _seen_from(rows.world_from_ego[i], goal[None])[0].tolist()
    return route_command_from_pose(forward, left)


def _seen_from(
    world_from_frame: NDArray[np.float64], places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, 3) points of the world in a frame."""
    return np.asarray((places - world_from_frame[:3, 3]) @ world_from_frame[:3, :3])


def _agents(rows: SceneRows, i: int) -> tuple[AgentFuture, ...]:
    boxes, last = rows.boxes, len(rows.tokens)
    following = range(i, min(i + FUTURE_STEPS + 1, last))
    tracks = _tracks(boxes, following)
    poses = _box_poses(boxes, rows.world_from_ego[i])
    agents = []
    for track in tracks:
        row = track[0]
        if np.hypot(*poses[row, :2]) <= AGENT_RADIUS_M:
            size = (float(boxes.sizes_m[row, 0]), float(boxes.sizes_m[row, 1]))
            future = poses[track].astype(np.float32)
            agents.append(AgentFuture(category=boxes.categories[row], size_m=size, poses=future))
    return tuple(agents)


def _box_poses(boxes: Boxes, world_from_ego: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 3) x, y [m], yaw [rad] of all boxes in the ego frame of one instant."""
    xy = _seen_from(world_from_ego, boxes.places)[:, :2]
    heading = boxes.headings @ world_from_ego[:3, :3]
    return np.column_stack([xy, np.arctan2(heading[:, 1], heading[:, 0])])


def _tracks(boxes: Boxes, samples: range) -> list[list[int]]:
    """Rows of every agent of the first sample, at it and as long as every next one has it."""
    rows_of = [
        dict(zip(boxes.instances[found].tolist(), found.tolist(), strict=True))
        for found in (np.flatnonzero(boxes.samples == sample) for sample in samples)
    ]
    tracks = []
    for instance in rows_of[0]:
        track: list[int] = []
        for rows in rows_of:
            if instance not in rows:
                break
            track.append(rows[instance])
        tracks.append(track)
    return tracks
