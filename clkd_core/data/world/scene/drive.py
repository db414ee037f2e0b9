"""One drive, complete: where the ego is at any time, what is around it, what it is labelled.

Route command: the pose is taken on the *geometry* of the planned route, 6 s ahead at the road's
target speed. That is what a navigation system says; it knows the way but no red light, so it does
not give away whether the vehicle is about to wait.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import HISTORY_STEPS, AgentFuture
from clkd_core.data.labels import (
    lidar_from_ego,
    meta_action_from_future,
    route_command_from_pose,
)
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.scene.actors import CATEGORIES, Actor, Signal
from clkd_core.data.world.scene.layout import Layout
from clkd_core.data.world.scene.motion import Motion, ego_futures, relative_xy
from clkd_core.data.world.scene.path import Path2D
from clkd_core.data.world.scene.script import DriveSpec
from clkd_core.types import (
    FUTURE_STEPS,
    STEP_S,
    EgoState,
    MetaAction,
    RouteCommand,
    Trajectory,
)

COMMAND_HORIZON_S = 6.0
"""How far ahead the route command looks (Senna: 12 keyframes)."""
AGENT_RANGE_M = 60.0
"""Agents farther away are not annotated."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A simulated drive; times are seconds since its first keyframe, poses in the layout frame."""

    spec: DriveSpec
    config: WorldConfig
    layout: Layout
    path: Path2D
    motion: Motion
    actors: tuple[Actor, ...]
    signal: Signal | None
    cruise_mps: float
    """Target speed of the road."""

    @cached_property
    def key_times_s(self) -> NDArray[np.float64]:
        """(K,) 2 Hz."""
        return STEP_S * np.arange(round(self.config.drive_s / STEP_S))

    def ego_pose(self, t_s: float) -> NDArray[np.float64]:
        """(3,) x, y [m], yaw [rad] in the layout frame."""
        return self.path.pose_at(np.array(self.motion.at(t_s)[0]))

    def ego_world_pose(self, t_s: float) -> NDArray[np.float64]:
        """(3,) x, y [m], yaw [rad] in the exported world frame."""
        return self.to_world(self.ego_pose(t_s))

    def to_world(self, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Poses (..., 3) of the layout frame in the exported world frame."""
        x0, y0, turn = self.layout.world_from
        cos, sin = np.cos(turn), np.sin(turn)
        x = x0 + cos * pose[..., 0] - sin * pose[..., 1]
        y = y0 + sin * pose[..., 0] + cos * pose[..., 1]
        return np.stack([x, y, pose[..., 2] + turn], axis=-1)

    def ego_state(self, t_s: float, stamp_ns: int) -> EgoState:
        """What odometry says; the yaw rate follows from the path."""
        s, v = self.motion.at(t_s)
        yaws = self.path.pose_at(np.array([s - 0.25, s + 0.25]))[:, 2]
        return EgoState(
            stamp_ns=stamp_ns,
            speed_mps=float(v),
            yaw_rate_radps=float(v * (yaws[1] - yaws[0]) / 0.5),
        )

    def command(self, t_s: float) -> RouteCommand:
        """The route command (see the module's text)."""
        s, _ = self.motion.at(t_s)
        goal = self.path.pose_at(np.array(s + COMMAND_HORIZON_S * self.cruise_mps))
        forward, left = relative_xy(self.ego_pose(t_s)[None], goal[None, None, :2])[0, 0]
        return route_command_from_pose(float(forward), float(left))

    def future(self, t_s: float) -> Trajectory:
        """The next 3 s, rounded to 0.1 mm as it is written to disk."""
        xy = ego_futures(self.path, self.motion, np.array([t_s]))[0]
        return Trajectory(xy_m=np.round(xy, 4).astype(np.float32))

    def history(self, t_s: float) -> NDArray[np.float32]:
        """(HISTORY_STEPS, 2) where the ego was, in its frame of now; see ``Keyframe.history``."""
        times = t_s - STEP_S * np.arange(HISTORY_STEPS, 0, -1)
        poses = np.stack([self.ego_pose(float(t)) for t in times])
        xy = relative_xy(self.ego_pose(t_s)[None], poses[None, :, :2])[0]
        return np.asarray(np.round(xy, 4), dtype=np.float32)

    def action(self, t_s: float) -> MetaAction:
        """Senna's rule applied to :meth:`future`."""
        return meta_action_from_future(lidar_from_ego(self.future(t_s).xy_m))

    def agents(self, t_s: float) -> tuple[AgentFuture, ...]:
        """Everybody near the ego with their next 3 s, in the ego frame of now."""
        return tuple(
            AgentFuture(
                category=CATEGORIES[actor.kind],
                size_m=(actor.size_m[0], actor.size_m[1]),
                poses=self._relative_poses(actor, t_s),
            )
            for actor in self.near_actors(t_s)
        )

    def near_actors(self, t_s: float) -> list[Actor]:
        """Actors within :data:`AGENT_RANGE_M`."""
        x, y, _ = self.ego_pose(t_s)
        places = ((a, a.pose_at(t_s)) for a in self.actors)
        return [a for a, p in places if math.hypot(p[0] - x, p[1] - y) <= AGENT_RANGE_M]

    def _relative_poses(self, actor: Actor, t_s: float) -> NDArray[np.float32]:
        ego = self.ego_pose(t_s)
        poses = np.stack([actor.pose_at(t_s + STEP_S * i) for i in range(FUTURE_STEPS + 1)])
        xy = relative_xy(ego[None], poses[None, :, :2])[0]
        yaw = np.mod(poses[:, 2] - ego[2] + np.pi, 2 * np.pi) - np.pi
        relative = np.round(np.concatenate([xy, yaw[:, None]], axis=1), 3)
        return np.asarray(relative, dtype=np.float32)
