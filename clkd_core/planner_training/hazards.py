"""Which trajectories of a vocabulary would touch somebody, by the training labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import AgentFuture
from clkd_core.metrics.plans.collision import (
    OBSTACLES,
    EgoBox,
    boxes_overlap,
    collision_steps,
    path_headings,
)
from clkd_core.progress import progress
from clkd_core.types import FUTURE_STEPS


def touching_shares(
    vocabulary_m: NDArray[np.float32],
    agents: Sequence[Sequence[AgentFuture]],
    truth_m: NDArray[np.float32],
) -> NDArray[np.float32]:
    """For every frame and trajectory the share of steps at which it touches an agent.

    The same boxes as in :func:`clkd_core.metrics.plans.collision.collision_steps`, tested only
    where they are near each other. A step at which the driven path touches somebody, too, is
    held against no trajectory.

    Args:
        vocabulary_m: (V, T, 2) metres.
        agents: (N,) of each frame.
        truth_m: (N, T, 2) metres, the driven path of each frame.

    Returns:
        (N, V) float32, 0 to 1.
    """
    ego = _ego_boxes(vocabulary_m)
    frames = progress(agents, total=len(agents), desc="who is in the way", unit="frames")
    rows = []
    for others, path in zip(frames, truth_m, strict=True):
        touched = _touched(ego, others)
        touched[:, collision_steps(path, others)] = False
        rows.append(touched.mean(axis=1, dtype=np.float32))
    return np.stack(rows)


def _ego_boxes(vocabulary_m: NDArray[np.float32]) -> NDArray[np.float64]:
    """(V, T, 5) of the vehicle on each trajectory."""
    box = EgoBox()
    headings = np.stack([path_headings(xy.astype(np.float64)) for xy in vocabulary_m])
    ahead = box.center_ahead_m * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    sizes = np.broadcast_to([box.length_m, box.width_m], vocabulary_m.shape)
    return np.concatenate([vocabulary_m + ahead, sizes, headings[..., None]], axis=-1)


def _touched(ego: NDArray[np.float64], agents: Sequence[AgentFuture]) -> NDArray[np.bool_]:
    """(V, T) whether the vehicle touches anybody."""
    touched = np.zeros(ego.shape[:2], bool)
    for agent in agents:
        if not agent.category.startswith(OBSTACLES):
            continue
        poses = agent.poses[1 : FUTURE_STEPS + 1].astype(np.float64)
        if not len(poses):
            continue
        sizes = np.broadcast_to(agent.size_m, (len(poses), 2))
        boxes = np.column_stack([poses[:, :2], sizes, poses[:, 2]])
        known = ego[:, : len(poses)]
        reach = (np.hypot(*agent.size_m) + np.hypot(ego[0, 0, 2], ego[0, 0, 3])) / 2
        apart = known[..., :2] - boxes[:, :2]
        one, step = np.nonzero(np.square(apart).sum(axis=-1) <= reach**2)
        if len(one):
            touched[one, step] |= boxes_overlap(known[one, step], boxes[step])
    return touched
