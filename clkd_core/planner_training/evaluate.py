"""How good a planner is on validation drives: beside its baselines, and by its decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.collision import CollisionScores, score_collisions
from clkd_core.metrics.plans.l2 import L2Scores, score_horizons, score_l2
from clkd_core.models.drivable import is_drivable
from clkd_core.models.planner import NO_ACTION, Planner
from clkd_core.planner_training.features import PlannerSet
from clkd_core.planner_training.scoring.ego_status import EgoStatusPlanner
from clkd_core.planner_training.scoring.obedience import Obedience, score_obedience
from clkd_core.planner_training.scoring.plans import plan_set, point_distances, touched_steps

TRUE_ACTION = "planner, true meta-action"
STUDENT_ACTION = "planner, student's meta-action"
NO_META_ACTION = "planner, no meta-action"
BLANK_STUDENT = "  the student's, blank images"
BLANK_IMAGES = "  none, blank images"
EGO_STATUS = "ego-status MLP"
CONSTANT_VELOCITY = "constant velocity"

CASES = ("all", "regular", "corner")

COMPARED: tuple[tuple[str, str], ...] = (
    (NO_META_ACTION, TRUE_ACTION),
    (NO_META_ACTION, STUDENT_ACTION),
    (STUDENT_ACTION, TRUE_ACTION),
    (CONSTANT_VELOCITY, STUDENT_ACTION),
    (CONSTANT_VELOCITY, NO_META_ACTION),
    (EGO_STATUS, STUDENT_ACTION),
    (EGO_STATUS, NO_META_ACTION),
    (BLANK_STUDENT, STUDENT_ACTION),
    (BLANK_IMAGES, NO_META_ACTION),
)
"""What is expected to lose, and to whom."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """By how much one way to plan is better than another on the same frames; > 0 is better."""

    l2: tuple[Mapping[int, Interval], Mapping[int, Interval]]
    """Metres by horizon: averages (VAD), values at the horizon (UniAD)."""
    collisions: tuple[Mapping[int, Interval], Mapping[int, Interval]] | None
    """Shares of colliding steps likewise; None where nobody says who else is on the road."""


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """One kind of case."""

    l2: Mapping[str, L2Scores]
    """By name of the way to plan."""
    collisions: Mapping[str, CollisionScores]
    """Ditto; empty where nobody says who else is on the road."""
    gains: Mapping[tuple[str, str], Gain]
    """By pair of ``COMPARED``, where both of it are there."""


@dataclass(frozen=True, kw_only=True)
class PlannerScores:
    """Of each way to plan, over the same frames."""

    cases: Mapping[str, CaseScores]
    """``all``, ``regular``, ``corner``; one without a frame is absent."""
    obedience: Obedience | None
    """None where no frame has an ego state."""
    drivable_frac: Mapping[str, float]
    """Share of plans within the vehicle's limits, by name of the way; of the true paths, too."""

    @property
    def l2(self) -> Mapping[str, L2Scores]:
        """Over all frames. Constant velocity is there only when every frame has an ego state."""
        return self.cases["all"].l2

    def to_json(self) -> dict[str, Any]:
        """Numbers only, for ``metrics.jsonl``."""
        return {
            "validation": {name: _l2_json(score) for name, score in self.l2.items()},
            "cases": {case: _case_json(scores) for case, scores in self.cases.items()},
            "obedience": self.obedience.to_json() if self.obedience else None,
            "drivable_frac": dict(self.drivable_frac),
        }


def score_planner(
    planner: Planner, data: PlannerSet, *, ego_status: EgoStatusPlanner | None = None
) -> PlannerScores:
    """Plan every frame in each way that the set allows, and compare with the driven path.

    Args:
        planner: judged by what it would drive, see :meth:`Planner.drive`.
        data: validation frames, best encoded with ``judge=True``.
        ego_status: trained on the same keyframes; None leaves it out.
    """
    plans = _plans(planner, data, ego_status)
    distances = {name: point_distances(xy_m, data.truth_m) for name, xy_m in plans.items()}
    touched = {} if data.agents is None else {
        name: touched_steps(xy_m, data.agents) for name, xy_m in plans.items()
    }  # fmt: skip
    truth = None if data.agents is None else touched_steps(data.truth_m, data.agents)
    corner = np.array(data.is_corner)
    rows_of = {"all": corner | True, "regular": ~corner, "corner": corner}
    return PlannerScores(
        cases={
            case: _score_case(rows, data.scenes, distances, touched, truth)
            for case, rows in rows_of.items()
            if rows.any()
        },
        obedience=score_obedience(planner, data),
        drivable_frac=_drivable(planner, data, {**plans, "the driven path": data.truth_m}),
    )


def _plans(
    planner: Planner, data: PlannerSet, ego_status: EgoStatusPlanner | None
) -> dict[str, Tensor]:
    without = data.inputs._replace(action=torch.full_like(data.inputs.action, NO_ACTION))
    asked = {TRUE_ACTION: data.inputs}
    if data.student_action is not None:
        asked[STUDENT_ACTION] = data.inputs._replace(action=data.student_action)
    asked[NO_META_ACTION] = without
    if data.blank_features is not None:
        blank = data.blank_features.expand_as(data.inputs.features)
        if data.student_action is not None:
            asked[BLANK_STUDENT] = asked[STUDENT_ACTION]._replace(features=blank)
        asked[BLANK_IMAGES] = without._replace(features=blank)
    plans = {name: plan_set(planner, inputs) for name, inputs in asked.items()}
    if ego_status is not None:
        with torch.inference_mode():
            plans[EGO_STATUS] = ego_status(data.inputs)
    if bool(data.inputs.has_ego.all()):
        plans[CONSTANT_VELOCITY] = data.inputs.steady_xy_m
    return plans


def _score_case(
    rows: NDArray[np.bool_],
    scenes: Sequence[str],
    distances: Mapping[str, NDArray[np.float64]],
    touched: Mapping[str, NDArray[np.bool_]],
    truth: NDArray[np.bool_] | None,
) -> CaseScores:
    drives = [scenes[i] for i in np.flatnonzero(rows)]
    # As published: a step at which the true path collides, too, is not held against a plan.
    hits = {} if truth is None else {
        name: (steps & ~truth)[rows].astype(np.float64) for name, steps in touched.items()
    }  # fmt: skip
    gains = {
        (worse, better): Gain(
            l2=score_horizons(distances[worse][rows] - distances[better][rows], clusters=drives),
            collisions=score_horizons(hits[worse] - hits[better], clusters=drives)
            if hits
            else None,
        )
        for worse, better in COMPARED
        if worse in distances and better in distances
    }
    return CaseScores(
        l2={name: score_l2(apart[rows], clusters=drives) for name, apart in distances.items()},
        collisions={} if truth is None else {
            name: score_collisions(steps[rows], true_steps=truth[rows], clusters=drives)
            for name, steps in touched.items()
        },
        gains=gains,
    )  # fmt: skip


def _drivable(planner: Planner, data: PlannerSet, plans: Mapping[str, Tensor]) -> dict[str, float]:
    speed = torch.where(data.inputs.has_ego, data.inputs.speed_mps, torch.nan).numpy()
    return {
        name: float(is_drivable(xy_m.numpy(), speed, planner.vehicle).mean())
        for name, xy_m in plans.items()
    }


def _l2_json(score: L2Scores) -> dict[str, Any]:
    return {
        "frames": score.frames,
        "l2_average_m": {f"{h}s": v.value for h, v in score.average_m.items()},
        "l2_horizon_m": {f"{h}s": v.value for h, v in score.horizon_m.items()},
    }


def _case_json(scores: CaseScores) -> dict[str, Any]:
    return {
        "l2": {
            name: {"frames": s.frames, "average_vad_st_p3": _intervals(s.average_m),
                   "at_horizon_uniad": _intervals(s.horizon_m)}
            for name, s in scores.l2.items()
        },
        "collisions": {
            name: {"average_vad_st_p3": _intervals(s.average_frac),
                   "at_horizon_uniad": _intervals(s.horizon_frac)}
            for name, s in scores.collisions.items()
        },
        "gains": [
            {"of": better.strip(), "over": worse.strip(),
             "l2_m": {"average_vad_st_p3": _intervals(gain.l2[0]),
                      "at_horizon_uniad": _intervals(gain.l2[1])},
             "collisions": None if gain.collisions is None else
             {"average_vad_st_p3": _intervals(gain.collisions[0]),
              "at_horizon_uniad": _intervals(gain.collisions[1])}}
            for (worse, better), gain in scores.gains.items()
        ],
    }  # fmt: skip


def _intervals(by_horizon: Mapping[int, Interval]) -> dict[str, dict[str, float]]:
    return {
        f"{horizon}s": {"value": i.value, "low": i.low, "high": i.high}
        for horizon, i in by_horizon.items()
    }
