"""Who can be seen in which view: inside the image, near enough, not behind walls or vehicles.

Judged on the plan, with heights: an obstacle hides what lies behind its silhouette, and somebody
of whom more than half is hidden counts as not seen. Trees, posts and leaves hide nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.cameras import Camera
from clkd_core.data.world.render.surroundings import Walls
from clkd_core.data.world.scene.actors import VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive

RANGE_M = 45.0
"""Nobody farther away is asked about."""
FOG_RANGE = 1.6
"""In fog the range is this many times the distance at which contrast falls to 1/e."""
_SEEN = 0.6  # share of a silhouette's points that must be free
_INSET = 0.8  # the points lie this far out from the middle towards the corners

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """Somebody in a view."""

    actor: Actor
    camera: str
    distance_m: float
    """From the lens to its middle, on the ground."""


def see(
    drive: Drive, t_s: float, cameras: Mapping[str, Camera], walls: Walls, fog_m: float
) -> list[Sighting]:
    """Everybody whose middle is inside a view and who is not hidden, near ones first.

    Args:
        drive: the drive.
        t_s: seconds since its first keyframe.
        cameras: the views.
        walls: of the buildings along the roads.
        fog_m: distance at which contrast has fallen to 1/e.
    """
    ego, actors = drive.ego_pose(t_s), drive.near_actors(t_s)
    if not actors:
        return []
    poses = np.stack([a.pose_at(t_s) for a in actors])
    reach = min(RANGE_M, FOG_RANGE * fog_m)
    blockers = _blockers(actors, poses, walls, ego)
    found = []
    for camera in cameras.values():
        eye = place_of_lens(camera, ego)
        distance = np.hypot(*(poses[:, :2] - eye[:2]).T)
        for i in np.flatnonzero((distance < reach) & _inside(camera, ego, poses)):
            if _free_share(eye, actors[i], poses[i], int(i), blockers) >= _SEEN:
                place = Sighting(
                    actor=actors[i], camera=camera.name, distance_m=float(distance[i])
                )
                found.append(place)
    return sorted(found, key=lambda sighting: sighting.distance_m)


def place_of_lens(camera: Camera, ego: Array) -> Array:
    """(3,) of a lens in the layout frame."""
    c, s = np.cos(ego[2]), np.sin(ego[2])
    x, y, z = camera.translation_m
    return np.array([ego[0] + c * x - s * y, ego[1] + s * x + c * y, z])


def in_ego_frame(points: Array, ego: Array) -> Array:
    """(..., 3) points of the layout frame in the ego frame."""
    c, s = np.cos(ego[2]), np.sin(ego[2])
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    moved: Array = (points - np.array([ego[0], ego[1], 0.0])) @ turn
    return moved


def _inside(camera: Camera, ego: Array, poses: Array) -> NDArray[np.bool_]:
    """(N,) whose middle, at knee height, has a column of the image."""
    points = np.concatenate([poses[:, :2], np.full((len(poses), 1), 0.5)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = camera.project(in_ego_frame(points, ego))
    inside: NDArray[np.bool_] = (
        (seen[:, 2] > 1.0) & (seen[:, 0] >= 0) & (seen[:, 0] < camera.width_px)
    )
    return inside


@dataclass(frozen=True)
class _Blockers:
    """Segments on the ground that hide what is behind them up to a height."""

    start: Array
    """(S, 2) metres."""
    end: Array
    top: Array
    """(S,) metres."""
    owner: NDArray[np.intp]
    """(S,) index of the vehicle a segment belongs to; -1 for walls."""


def _blockers(actors: list[Actor], poses: Array, walls: Walls, ego: Array) -> _Blockers:
    """Walls near the ego, and both diagonals of every vehicle."""
    near = np.hypot(*(walls.start - ego[:2]).T) < RANGE_M + 15.0
    starts, ends, tops, owners = [walls.start[near]], [walls.end[near]], [walls.top[near]], []
    owners.append(np.full(int(near.sum()), -1, np.intp))
    for i, actor in enumerate(actors):
        if actor.kind in VEHICLES:
            corners = footprint(actor, poses[i], 1.0)
            starts.append(corners[:2])
            ends.append(corners[2:])
            tops.append(np.full(2, actor.size_m[2]))
            owners.append(np.full(2, i, np.intp))
    return _Blockers(
        np.concatenate(starts), np.concatenate(ends), np.concatenate(tops), np.concatenate(owners)
    )


def footprint(actor: Actor, pose: Array, share: float) -> Array:
    """(4, 2) corners on the ground in turn, drawn in towards the middle."""
    length, width, _ = actor.size_m
    c, s = np.cos(pose[2]), np.sin(pose[2])
    ahead, left = np.array([c, s]) * length / 2.0, np.array([-s, c]) * width / 2.0
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return np.stack([pose[:2] + share * (a * ahead + b * left) for a, b in signs])


def _free_share(eye: Array, actor: Actor, pose: Array, number: int, blockers: _Blockers) -> float:
    """Share of five points of an actor that are not hidden up to half of its height."""
    points = np.concatenate([pose[None, :2], footprint(actor, pose, _INSET)])
    others = blockers.owner != number
    hidden = hidden_height(
        eye, points, blockers.start[others], blockers.end[others], blockers.top[others]
    )
    return float((hidden < actor.size_m[2] / 2.0).mean())


def hidden_height(eye: Array, points: Array, start: Array, end: Array, top: Array) -> Array:
    """Up to which height the points are hidden from an eye.

    Args:
        eye: (3,) x, y, z [m].
        points: (P, 2) on the ground.
        start: (S, 2) of segments that hide.
        end: (S, 2).
        top: (S,) height of the segments.

    Returns:
        (P,) metres; -inf where nothing lies between.
    """
    sight, along, away = points - eye[:2], end - start, start - eye[:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        across = _cross(sight[:, None], along[None])
        reach = _cross(away, along)[None] / across  # share of the way to the point
        place = _cross(away[None], sight[:, None]) / across  # share of the segment
        height = eye[2] + (top[None] - eye[2]) / reach
    hits = (reach > 0.0) & (reach < 1.0) & (place >= 0.0) & (place <= 1.0)
    hidden: Array = np.where(hits, height, -np.inf).max(axis=1, initial=-np.inf)
    return hidden


def _cross(a: Array, b: Array) -> Array:
    z: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return z
