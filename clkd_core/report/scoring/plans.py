"""How far plans are from the driven path, and what they would hit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from clkd_core.metrics.frames import FrameRow, compute_point_distances
from clkd_core.metrics.plans.collision import CollisionScores, score_collisions
from clkd_core.metrics.plans.l2 import L2Scores, score_l2
from clkd_core.models.trajectories import constant_velocity_trajectory
from clkd_core.report.scoring.cases import CASES, rows_of_case
from clkd_core.types import EgoState, Trajectory

PLAN_MODELS = ("planner", "constant_velocity", "ego_status")
"""In the order they are shown. ``ego_status``, a network from ego state to trajectory (arXiv
2312.03031), is not built yet: its row says so."""

Scores = TypeVar("Scores")


@dataclass(frozen=True, kw_only=True)
class PlanScores:
    """By model and case; a model that cannot be scored is absent."""

    l2: Mapping[str, Mapping[str, L2Scores]]
    collisions: Mapping[str, Mapping[str, CollisionScores]]


def score_plans(rows: Sequence[FrameRow], seed: int) -> PlanScores:
    """Score planner and constant velocity on the same frames.

    Constant velocity is scored on the planner's frames, or on all where nothing planned.
    """
    planned = [row for row in rows if row.point_distances_m is not None]
    comparable = [
        row for row in planned or rows if row.truth is not None and math.isfinite(row.speed_mps)
    ]
    steady = [
        replace(row, plan=constant_velocity(row), plan_collisions=row.steady_collisions)
        for row in comparable
    ]
    models = {"planner": planned, "constant_velocity": steady}
    known = {
        model: [row for row in model_rows if row.plan_collisions and row.true_collisions]
        for model, model_rows in models.items()
    }
    return PlanScores(
        l2=_by_model(models, lambda part: _score_l2(part, seed)),
        collisions=_by_model(known, lambda part: _score_collisions(part, seed)),
    )


def constant_velocity(row: FrameRow) -> Trajectory:
    """At today's speed and rate of turn; straight ahead where no rate is known.

    Raises:
        FrameError: the speed is not known.
    """
    yaw_rate = row.yaw_rate_radps if math.isfinite(row.yaw_rate_radps) else 0.0
    return constant_velocity_trajectory(
        EgoState(stamp_ns=row.stamp_ns, speed_mps=row.speed_mps, yaw_rate_radps=yaw_rate)
    )


def _by_model(
    models: Mapping[str, Sequence[FrameRow]], score: Callable[[Sequence[FrameRow]], Scores]
) -> dict[str, dict[str, Scores]]:
    return {
        model: {case: score(part) for case in CASES if (part := rows_of_case(rows, case))}
        for model, rows in models.items()
        if rows
    }


def _score_l2(rows: Sequence[FrameRow], seed: int) -> L2Scores:
    distances = [
        compute_point_distances(row.plan, row.truth) for row in rows if row.plan and row.truth
    ]
    return score_l2(distances, clusters=[row.scene for row in rows], seed=seed)


def _score_collisions(rows: Sequence[FrameRow], seed: int) -> CollisionScores:
    return score_collisions(
        np.array([row.plan_collisions for row in rows], bool),
        true_steps=np.array([row.true_collisions for row in rows], bool),
        clusters=[row.scene for row in rows],
        seed=seed,
    )
