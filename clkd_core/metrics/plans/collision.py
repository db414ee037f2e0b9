"""Whether the planned vehicle would touch somebody, in both published conventions.

``average`` is ST-P3's and VAD's (Hu et al. 2022; Jiang et al. 2023): the share of colliding
steps up to the horizon. ``horizon`` is UniAD's (Hu et al. 2023): the share of frames that collide
at the horizon itself. Like L2's two they are different numbers under one name.

Ours are rotated boxes tested exactly, the vehicle's heading taken from the planned path. The
published evaluations draw the agents into a grid of 0.5 m, keep the vehicle's box parallel to
where it points now, and look for common cells (Li et al. 2024, arXiv 2312.03031, on the false
collisions this makes; SparseDrive, Sun et al. 2024, tests boxes with a heading like ours), so
their numbers differ from ours on the same plans. They also leave out steps at which the true
trajectory collides; :func:`score_collisions` does where it is given them.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.data.keyframes import AgentFuture
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.l2 import score_horizons
from clkd_core.types import FUTURE_STEPS

OBSTACLES: tuple[str, ...] = ("vehicle.", "human.", "animal")
"""How the categories begin that can be collided with: VAD's vehicles and people, and animals.
Cones, barriers and racks are left out as there; UniAD counts vehicles only."""

STANDING_M = 0.5
"""Between the points beside a step, 1 s apart; below it the heading stays as it was: the points of
a standing vehicle's plan scatter, and a slow one turns by less than 0.1 rad in that."""


@dataclass(frozen=True, kw_only=True)
class EgoBox:
    """The ego vehicle seen from above.

    The defaults are ST-P3's and UniAD's box for nuScenes' Renault Zoe. There its centre lies
    0.5 m ahead of LIDAR_TOP, which by nuScenes' calibration is 0.94 m ahead of the rear axle.
    """

    length_m: float = 4.084
    width_m: float = 1.85
    center_ahead_m: float = 1.44
    """From the origin of the ego frame, under the rear axle, to the centre of the box."""


@dataclass(frozen=True, kw_only=True)
class CollisionScores:
    """Of N frames with a plan and agents; shares 0..1, lower is better, by horizon in seconds."""

    frames: int
    """N."""
    average_frac: Mapping[int, Interval]
    """VAD and ST-P3: colliding steps among all up to the horizon."""
    horizon_frac: Mapping[int, Interval]
    """UniAD: frames that collide at the horizon."""
    excused_steps: int | None
    """Steps not counted as collisions because the true trajectory collides there too; None where
    no true trajectory was looked at and every collision counts."""


def score_collisions(
    steps: ArrayLike,
    *,
    true_steps: ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> CollisionScores:
    """Average the collisions over frames.

    Args:
        steps: (N, T) bool from :func:`collision_steps` of the plans, N >= 1.
        true_steps: (N, T) bool, the same of the true trajectories. With them a step at which the
            truth collides counts as no collision of the plan, and stays in the denominator, as
            in ST-P3, VAD and UniAD alike; without them every collision counts.
        clusters: (N,) the drive of each frame, for the intervals; None draws single frames.
        seed: of the bootstrap.

    Raises:
        ValueError: another shape or type, no frame, or clusters of another length.
    """
    hits = _checked_steps(steps, "steps")
    excused = None
    if true_steps is not None:
        truth = _checked_steps(true_steps, "true_steps")
        if truth.shape != hits.shape:
            raise ValueError(f"true_steps are {truth.shape}, expected {hits.shape} like steps")
        excused = int((hits & truth).sum())
        hits = hits & ~truth
    average, horizon = score_horizons(hits.astype(np.float64), clusters=clusters, seed=seed)
    return CollisionScores(
        frames=len(hits), average_frac=average, horizon_frac=horizon, excused_steps=excused
    )


def collision_steps(
    plan_xy_m: ArrayLike,
    agents: Sequence[AgentFuture],
    ego_box: EgoBox | None = None,
    *,
    categories: Sequence[str] = OBSTACLES,
) -> NDArray[np.bool_]:
    """At which steps the planned vehicle touches an agent.

    Args:
        plan_xy_m: (T, 2) where the origin of the ego frame will be, in the ego frame of now, one
            step apart, the first point one step ahead.
        agents: in the same frame; one whose future ends early is unknown from there on and
            touches nobody, as does one that nobody sees yet now.
        ego_box: the vehicle; None is :class:`EgoBox`.
        categories: how the categories begin that count; the others are ignored.

    Returns:
        (T,).

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    plan = np.asarray(plan_xy_m, dtype=np.float64)
    headings = path_headings(plan)
    box = ego_box or EgoBox()
    ahead = box.center_ahead_m * np.column_stack([np.cos(headings), np.sin(headings)])
    sizes = np.broadcast_to([box.length_m, box.width_m], plan.shape)
    ego = np.column_stack([plan + ahead, sizes, headings])
    boxes, at = _agent_boxes(agents, categories, len(plan))
    touched = np.zeros(len(plan), dtype=bool)
    touched[at[boxes_overlap(ego[at], boxes)]] = True
    return touched


def path_headings(xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a vehicle points that follows a path with its rear axle, which cannot slip sideways.

    The direction from the point before to the point after, exact on arcs at constant speed. At
    the last point the turn is continued. A path that goes backwards is one driven in reverse.

    Args:
        xy_m: (T, 2) in the ego frame of now, T >= 1; (0, 0) and heading 0 lie one step before.

    Returns:
        (T,) rad, counter-clockwise from x.

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    if xy_m.ndim != 2 or xy_m.shape[1] != 2 or not len(xy_m) or not np.isfinite(xy_m).all():
        raise ValueError(f"path is {xy_m.shape}, expected (T >= 1, 2) finite metres")
    points = np.vstack([np.zeros((1, 2)), xy_m])
    headings, heading = [], 0.0
    for step in range(1, len(points)):
        is_last = step == len(points) - 1
        x, y = (points[step if is_last else step + 1] - points[step - 1]).tolist()
        if math.hypot(x, y) >= STANDING_M:
            turn = math.remainder(math.atan2(y, x) - heading, math.tau)
            if abs(turn) > math.pi / 2:
                turn = math.remainder(turn + math.pi, math.tau)
            heading += 2 * turn if is_last else turn
        headings.append(heading)
    return np.array(headings)


def boxes_overlap(first: ArrayLike, second: ArrayLike) -> NDArray[np.bool_]:
    """Whether two rotated rectangles have a point in common; touching is one.

    Two convex shapes are apart when a line along a side of one of them separates them
    (separating axis theorem), so four directions are tried.

    Args:
        first: (..., 5) centre x, y, length along the heading, width [m], heading [rad].
        second: (..., 5) likewise; the leading shapes are broadcast. A length or width may be 0.

    Returns:
        (...) bool.

    Raises:
        ValueError: another last axis, a number that is not finite, a negative length or width.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    for boxes in (one, other):
        if boxes.shape[-1:] != (5,) or not np.isfinite(boxes).all() or (boxes[..., 2:4] < 0).any():
            raise ValueError(f"boxes are {boxes.shape}, expected (..., 5) finite, sides >= 0")
    return ~(_is_separated(one, other) | _is_separated(other, one))


def _is_separated(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a line along a side of ``one`` has the boxes on different sides."""
    apart, turn = other[..., :2] - one[..., :2], other[..., 4] - one[..., 4]
    cos, sin = np.cos(one[..., 4]), np.sin(one[..., 4])
    along = np.abs(cos * apart[..., 0] + sin * apart[..., 1])
    across = np.abs(cos * apart[..., 1] - sin * apart[..., 0])
    # Half of the other box's shadow on the two directions of this one.
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    reach_along = (one[..., 2] + other[..., 2] * cos + other[..., 3] * sin) / 2
    reach_across = (one[..., 3] + other[..., 2] * sin + other[..., 3] * cos) / 2
    return np.asarray((along > reach_along) | (across > reach_across))


def _agent_boxes(
    agents: Sequence[AgentFuture], categories: Sequence[str], steps: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(M, 5) boxes of all agents at all steps they are known at, and (M,) which step it is."""
    boxes, at = [np.zeros((0, 5))], [np.zeros(0, dtype=np.intp)]
    for agent in agents:
        if agent.category.startswith(tuple(categories)):
            poses = agent.poses[1 : steps + 1].astype(np.float64)
            sizes = np.broadcast_to(agent.size_m, (len(poses), 2))
            boxes.append(np.column_stack([poses[:, :2], sizes, poses[:, 2]]))
            at.append(np.arange(len(poses)))
    return np.vstack(boxes), np.concatenate(at)


def _checked_steps(steps: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(steps)
    if array.ndim != 2 or array.shape[1] != FUTURE_STEPS or not len(array):
        raise ValueError(f"{name} are {array.shape}, expected (N >= 1, {FUTURE_STEPS})")
    if array.dtype != bool:
        raise ValueError(f"{name} are {array.dtype}, expected bool")
    return array
