"""What is the case at an instant of a drive, as far as the ego's cameras show it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.questions.sight import Sighting
from clkd_core.data.world.scene.actors import VEHICLES, Actor
from clkd_core.data.world.scene.causes import FRONT_M
from clkd_core.data.world.scene.drive import Drive

WAY_M = 32.0
"""How far ahead of its front the ego's way is looked at."""
_LANE_REACH_M = 1.3  # a vehicle whose middle is this near to a line drives on it
_CROSSES_M = 20.0  # a crossing vehicle matters within this distance of the ego's front
_CROSSES_S = (-1.2, 4.0)
_PASSED_M = 5.0  # a vehicle whose middle is nearer to the ego's front than this lets it go
_FOLLOWS_M = 22.0
_NEAR_JUNCTION_M, _FAR_JUNCTION_M = 18.0, 45.0
_ALONG = 0.5  # cosine of the angle to the way of those that drive along it, not across

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one instant; everybody named here is seen in a view."""

    light: str | None
    """State of the traffic light ahead, see :class:`~.scene.actors.Signal`."""
    on_way: tuple[Actor, ...]
    """Who stands or moves on the ego's planned way, the nearest first; no roadworks."""
    lead_brakes: bool
    """A vehicle on the way shows its brake lights."""
    works: bool
    """Barriers stand in the ego's lane ahead."""
    flagger_stops: bool | None
    """Whether the road worker ahead shows the red paddle; None where there is none."""
    crossing: Actor | None
    """A vehicle that is about to cross the ego's way, coming from ahead or from a side."""
    oncoming: Actor | None
    """The nearest vehicle driving towards the ego."""
    follower: Actor | None
    """The vehicle behind the ego in its lane."""
    junction: str | None
    """``near`` or ``far``; None where there is none ahead."""
    pedestrian_on_road: bool | None
    """Where the nearest pedestrian ahead is; None where none is seen."""
    front_left: Actor | None
    """The nearest one in that view."""
    front_right: Actor | None
    weather: str
    """``clear``, ``night``, ``fog`` or ``rain_glare``."""

    def is_on_way(self, actor: Actor) -> bool:
        """Whether somebody is one of ``on_way``; names are unique within a drive."""
        return any(actor.name == other.name for other in self.on_way)

    def person(self) -> Actor | None:
        """The nearest pedestrian on the ego's way."""
        return next((a for a in self.on_way if a.kind == "pedestrian"), None)

    def animal(self) -> Actor | None:
        """The nearest animal on the ego's way."""
        return next((a for a in self.on_way if a.kind == "animal"), None)

    def lead(self) -> Actor | None:
        """The vehicle ahead in the ego's lane."""
        return next((a for a in self.on_way if a.kind in VEHICLES), None)


def find_facts(drive: Drive, t_s: float, sightings: Sequence[Sighting], weather: str) -> Facts:
    """Look around at an instant.

    Args:
        drive: the drive.
        t_s: seconds since its first keyframe.
        sightings: who is seen, near ones first.
        weather: name of the weather.
    """
    seen = {s.actor.name: s.actor for s in sightings}
    ahead = [s for s in sightings if s.camera.startswith("CAM_FRONT")]
    on_way = actors_on_way(drive, t_s, list(seen.values()))
    others = set(seen) - {a.name for a in on_way}
    return Facts(
        light=light_ahead(drive, t_s),
        on_way=tuple(on_way),
        lead_brakes=any(a.kind in VEHICLES and a.is_on(t_s) for a in on_way),
        works=any(_in_lane_ahead(drive, t_s, s.actor) for s in ahead if s.actor.kind == "barrier"),
        flagger_stops=next((a.is_on(t_s) for a in seen.values() if a.kind == "flagger"), None),
        crossing=_crossing(drive, t_s, [a for a in seen.values() if a.name in others]),
        oncoming=_oncoming(drive, t_s, ahead),
        follower=_follower(drive, t_s, sightings),
        junction=_junction(drive, t_s),
        pedestrian_on_road=_pedestrian_on_road(drive, t_s, ahead),
        front_left=_nearest(sightings, "CAM_FRONT_LEFT"),
        front_right=_nearest(sightings, "CAM_FRONT_RIGHT"),
        weather=weather,
    )


def light_ahead(drive: Drive, t_s: float) -> str | None:
    """State of the traffic light in front of the ego; None when there is none in view."""
    if drive.signal is None:
        return None
    x, y, yaw = drive.ego_pose(t_s)
    head = drive.signal.heads_m[0]
    forward = np.cos(yaw) * (head[0] - x) + np.sin(yaw) * (head[1] - y)
    left = -np.sin(yaw) * (head[0] - x) + np.cos(yaw) * (head[1] - y)
    visible = 9.0 < forward < 75.0 and abs(left) < 0.5 * forward and abs(yaw) < 0.7
    return drive.signal.state_at(t_s) if visible else None


def actors_on_way(drive: Drive, t_s: float, actors: Sequence[Actor]) -> list[Actor]:
    """Which of the actors are on the ego's planned way ahead, the nearest first.

    Vehicles only where they drive along it; who crosses it is another matter.
    """
    way, along = _way_ahead(drive, t_s)
    found = []
    for actor in actors:
        if actor.kind in ("barrier", "flagger") or actor.name == "works-truck" or not len(way):
            continue
        x, y, yaw = actor.pose_at(t_s)
        gap = np.hypot(way[:, 0] - x, way[:, 1] - y)
        at = int(gap.argmin())
        if actor.kind in VEHICLES:
            on_way = gap[at] < _LANE_REACH_M and np.cos(yaw - way[at, 2]) > _ALONG
        else:
            on_way = gap[at] < drive.layout.lane_m / 2.0
        if on_way:
            found.append((float(along[at]) - actor.size_m[0] / 2.0, actor))
    return [actor for _, actor in sorted(found, key=lambda item: item[0])]


def _way_ahead(drive: Drive, t_s: float) -> tuple[Array, Array]:
    """(N, 3) poses of the planned way ahead of the ego's front, (N,) distances along it."""
    s0 = drive.motion.at(t_s)[0] + FRONT_M
    near = (drive.path.s_m > s0) & (drive.path.s_m < s0 + WAY_M)
    poses = np.concatenate([drive.path.xy_m, drive.path.yaw_rad[:, None]], axis=1)
    return poses[near], drive.path.s_m[near] - s0


def _in_ego(drive: Drive, t_s: float, actor: Actor) -> tuple[float, float, float]:
    """Forward, left [m] and heading [rad] of an actor in the ego frame."""
    x, y, yaw = drive.ego_pose(t_s)
    ax, ay, heading = actor.pose_at(t_s)
    c, s = np.cos(yaw), np.sin(yaw)
    dx, dy = ax - x, ay - y
    turned = np.mod(heading - yaw + np.pi, 2 * np.pi) - np.pi
    return float(c * dx + s * dy), float(-s * dx + c * dy), float(turned)


def _in_lane_ahead(drive: Drive, t_s: float, actor: Actor) -> bool:
    """Whether something stands in the lane that the ego drives in now, not far ahead."""
    forward, left, _ = _in_ego(drive, t_s, actor)
    return FRONT_M < forward < FRONT_M + WAY_M and abs(left) < drive.layout.lane_m


def _crossing(drive: Drive, t_s: float, actors: Sequence[Actor]) -> Actor | None:
    """A vehicle that leads across the ego's way, not along it, and has not passed yet."""
    way, along = _way_ahead(drive, t_s)
    way = way[along < _CROSSES_M]
    for actor in actors:
        if actor.kind not in VEHICLES or not actor.moves_at(t_s) or not len(way):
            continue
        if _in_ego(drive, t_s, actor)[0] < FRONT_M + _PASSED_M:
            continue
        track = np.stack([actor.pose_at(t_s + float(s)) for s in np.arange(*_CROSSES_S, 0.2)])
        gap = np.hypot(*(track[:, None, :2] - way[None, :, :2]).transpose(2, 0, 1))
        across = np.cos(track[:, None, 2] - way[None, :, 2]) < _ALONG
        if (across & (gap < _LANE_REACH_M)).any():
            return actor
    return None


def _oncoming(drive: Drive, t_s: float, ahead: Sequence[Sighting]) -> Actor | None:
    for sighting in ahead:
        actor = sighting.actor
        if actor.kind in VEHICLES and actor.moves_at(t_s):
            forward, left, heading = _in_ego(drive, t_s, actor)
            if forward > FRONT_M and abs(left) < 12.0 and np.cos(heading) < -0.8:
                return actor
    return None


def _follower(drive: Drive, t_s: float, sightings: Sequence[Sighting]) -> Actor | None:
    s0 = drive.motion.at(t_s)[0]
    behind = (drive.path.s_m > s0 - _FOLLOWS_M) & (drive.path.s_m < s0 - 1.0)
    line = drive.path.xy_m[behind]
    for sighting in sightings:
        actor = sighting.actor
        if sighting.camera == "CAM_BACK" and actor.kind in VEHICLES and len(line):
            gap = np.linalg.norm(line - actor.pose_at(t_s)[:2], axis=1)
            if gap.min() < _LANE_REACH_M:
                return actor
    return None


def _junction(drive: Drive, t_s: float) -> str | None:
    x, y, yaw = drive.ego_pose(t_s)
    ahead = -(np.cos(yaw) * x + np.sin(yaw) * y) - drive.layout.box_m
    in_sight = ahead < _FAR_JUNCTION_M or light_ahead(drive, t_s) is not None
    if not drive.layout.crossing or ahead < 1.5 or not in_sight:
        return None
    return "near" if ahead < _NEAR_JUNCTION_M else "far"


def _pedestrian_on_road(drive: Drive, t_s: float, ahead: Sequence[Sighting]) -> bool | None:
    for sighting in ahead:
        if sighting.actor.kind == "pedestrian":
            return on_carriageway(drive, sighting.actor.pose_at(t_s)[:2])
    return None


def on_carriageway(drive: Drive, place: Array) -> bool:
    """Whether a place of the layout frame is between the edge lines of a road."""
    lines = (arm.center_line() for arm in drive.layout.arms.values())
    return any(_distance(line, place) < drive.layout.half_m for line in lines)


def _distance(line: Array, place: Array) -> float:
    """From a point to a polyline [m]."""
    step = np.diff(line, axis=0)
    share = ((place - line[:-1]) * step).sum(axis=1) / (step**2).sum(axis=1)
    foot = line[:-1] + np.clip(share, 0.0, 1.0)[:, None] * step
    return float(np.linalg.norm(foot - place, axis=1).min())


def _nearest(sightings: Sequence[Sighting], camera: str) -> Actor | None:
    return next((s.actor for s in sightings if s.camera == camera), None)
