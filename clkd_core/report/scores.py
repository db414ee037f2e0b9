"""From rows to scores: every number of a report, before any of it is laid out.

What cannot be known has no number: it is None here, and ``not labelled``, ``no planner`` or
``not measured`` in ``metrics.json`` and on the page.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clkd_core.metrics.baselines.majority import majority_action
from clkd_core.metrics.decisions.meta_action import ActionScores, score_actions
from clkd_core.metrics.decisions.rsdr import DEADLINES_MS, rsdr_curve
from clkd_core.metrics.frames import FrameRow, Outcome, compute_point_distances
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.l2 import L2Scores, score_l2
from clkd_core.models.trajectories import constant_velocity_trajectory
from clkd_core.report.provenance import Provenance
from clkd_core.types import EgoState, Trajectory

NOT_LABELLED = "not labelled"
NOT_MEASURED = "not measured"
NO_PLANNER = "no planner"

CASES = ("regular", "corner", "all")
LATENCIES = ("inference_ms", "response_ms", "node_response_ms", "plan_inference_ms")
RSDR_LATENCIES = ("inference_ms", "response_ms")
PERCENTILES = (50, 95, 99)

Curve = Mapping[float, Interval]


@dataclass(frozen=True, kw_only=True)
class FrameCounts:
    """How many frames, and what became of them."""

    frames: int
    labelled: int
    regular: int
    corner: int
    in_time: int
    late: int
    dropped: int
    stale: int
    degraded: int

    @property
    def answered(self) -> int:
        """Frames with a decision of their own, in time or late; repeats do not count."""
        return self.in_time + self.late - self.stale


@dataclass(frozen=True, kw_only=True)
class LatencyStats:
    """Of the frames where it was measured; milliseconds."""

    frames: int
    p50: float
    p95: float
    p99: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """All that a run says. By model: student, majority, ego_status, blank; by case: see CASES."""

    counts: FrameCounts
    actions: Mapping[str, Mapping[str, ActionScores]] | None
    """By model and case; None where no frame is labelled."""
    by_case_name: Mapping[str, tuple[int, int]]
    """Frames and right answers of each case name, regular included; empty if unlabelled."""
    majority: str
    """The text of the majority answer, empty if unlabelled."""
    rsdr: Mapping[str, Mapping[str, Mapping[str, Curve]] | None]
    """By latency, model and case; None where that latency was not measured or no label is."""
    latencies: Mapping[str, LatencyStats | None]
    """By name; None where it was not measured."""
    l2: Mapping[str, Mapping[str, L2Scores]]
    """By model (planner, constant_velocity) and case; a model that cannot be scored is absent."""
    has_truth: bool
    """At least one frame says where the vehicle went."""
    has_plans: bool
    """At least one frame has a planned trajectory."""
    response_measured: bool
    """There was a transport; without one response_ms means nothing."""

    def why_no_l2(self, model: str) -> str:
        """The words that stand where the L2 of a model that is not in ``l2`` would be."""
        if not self.has_truth:
            return NOT_LABELLED
        return NO_PLANNER if model == "planner" and not self.has_plans else NOT_MEASURED

    def why_no_rsdr(self) -> str:
        """The words that stand where an RSDR that is None would be."""
        return NOT_LABELLED if self.actions is None else NOT_MEASURED


def score_run(
    rows: Sequence[FrameRow],
    provenance: Provenance,
    *,
    others: Mapping[str, Sequence[FrameRow]] | None = None,
) -> RunScores:
    """Score a run.

    Args:
        rows: of the student; at least one.
        provenance: of the run.
        others: rows of the same keyframes answered by something else, by model name.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("no row to score")
    labelled = [row for row in rows if row.label is not None]
    models = _rows_by_model(labelled, others or {}) if labelled else {}
    measured = provenance.mode == "live"
    return RunScores(
        counts=_count(rows),
        actions=_by_model(models, provenance.seed, _score_actions) if labelled else None,
        by_case_name=_count_by_case_name(labelled),
        majority=majority_action(row.label for row in labelled if row.label).text
        if labelled
        else "",
        rsdr={
            latency: _score_rsdr(models, latency, provenance)
            if labelled and (latency == "inference_ms" or measured)
            else None
            for latency in RSDR_LATENCIES
        },
        latencies={
            name: compute_latency_stats([getattr(row, name) for row in rows]) for name in LATENCIES
        },
        l2=_score_plans(rows, provenance.seed),
        has_truth=any(row.truth is not None for row in rows),
        has_plans=any(row.plan is not None for row in rows),
        response_measured=measured,
    )


def compute_latency_stats(latency_ms: Sequence[float]) -> LatencyStats | None:
    """Percentiles (linear between samples) of the finite values; None where there is none."""
    known = np.array([value for value in latency_ms if math.isfinite(value)])
    if not known.size:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(known, PERCENTILES))
    return LatencyStats(frames=known.size, p50=p50, p95=p95, p99=p99, largest=float(known.max()))


def rows_of_case(rows: Sequence[FrameRow], case: str) -> list[FrameRow]:
    """The rows of ``regular``, ``corner`` or ``all``."""
    return [row for row in rows if case == "all" or row.corner is (case == "corner")]


def _count(rows: Sequence[FrameRow]) -> FrameCounts:
    labelled = [row for row in rows if row.label is not None]
    counted = labelled or rows  # labelled keyframes are what is counted wherever there are any
    outcomes = [row.outcome for row in counted]
    return FrameCounts(
        frames=len(counted),
        labelled=len(labelled),
        regular=len(rows_of_case(labelled, "regular")),
        corner=len(rows_of_case(labelled, "corner")),
        in_time=outcomes.count(Outcome.ANSWERED),
        late=outcomes.count(Outcome.LATE),
        dropped=outcomes.count(Outcome.DROPPED),
        stale=sum(row.stale and row.answered for row in counted),
        degraded=sum(row.degraded for row in counted),
    )


def _count_by_case_name(labelled: Sequence[FrameRow]) -> dict[str, tuple[int, int]]:
    names = sorted({row.case_name for row in labelled}, key=lambda name: (name != "regular", name))
    groups = {name: [row for row in labelled if row.case_name == name] for name in names}
    return {
        name: (len(group), sum(row.correct for row in group)) for name, group in groups.items()
    }


def _rows_by_model(
    labelled: Sequence[FrameRow], others: Mapping[str, Sequence[FrameRow]]
) -> dict[str, list[FrameRow]]:
    majority = majority_action(row.label for row in labelled if row.label)
    constant = [
        replace(row, answer=majority, stale=False, inference_ms=0.0, response_ms=0.0)
        for row in labelled
    ]
    models = {"student": list(labelled), "majority": constant}
    for name, rows in others.items():
        kept = [row for row in rows if row.label is not None]
        if kept:
            models[name] = kept
    return models


Score = Callable[[Sequence[FrameRow], int], ActionScores]


def _by_model(
    models: Mapping[str, Sequence[FrameRow]], seed: int, score: Score
) -> dict[str, dict[str, ActionScores]]:
    scores: dict[str, dict[str, ActionScores]] = {}
    for model, rows in models.items():
        parts = {case: rows_of_case(rows, case) for case in CASES}
        scores[model] = {case: score(part, seed) for case, part in parts.items() if part}
    return scores


def _score_actions(rows: Sequence[FrameRow], seed: int) -> ActionScores:
    return score_actions(
        [row.label for row in rows if row.label is not None],
        [None if row.stale else row.answer for row in rows],
        clusters=[row.scene for row in rows],
        seed=seed,
    )


def _score_rsdr(
    models: Mapping[str, Sequence[FrameRow]], latency: str, provenance: Provenance
) -> dict[str, dict[str, Curve]]:
    deadlines_ms = sorted({*DEADLINES_MS, provenance.deadline_ms})
    curves: dict[str, dict[str, Curve]] = {}
    for model in ("student", "majority"):
        parts = {case: rows_of_case(models[model], case) for case in CASES}
        curves[model] = {
            case: rsdr_curve(
                [getattr(row, latency) for row in part],
                [row.correct for row in part],
                deadlines_ms,
                clusters=[row.scene for row in part],
                seed=provenance.seed,
            )
            for case, part in parts.items()
            if part
        }
    return curves


def _constant_velocity(row: FrameRow) -> Trajectory:
    """At today's speed and rate of turn; straight ahead where no rate is known."""
    yaw_rate = row.yaw_rate_radps if math.isfinite(row.yaw_rate_radps) else 0.0
    return constant_velocity_trajectory(
        EgoState(stamp_ns=row.stamp_ns, speed_mps=row.speed_mps, yaw_rate_radps=yaw_rate)
    )


def _score_plans(rows: Sequence[FrameRow], seed: int) -> dict[str, dict[str, L2Scores]]:
    """Constant velocity is scored on the planner's frames, or on all where nothing planned."""
    planned = [row for row in rows if row.point_distances_m is not None]
    comparable = [
        row for row in planned or rows if row.truth is not None and math.isfinite(row.speed_mps)
    ]
    steady = [replace(row, plan=_constant_velocity(row)) for row in comparable]
    models = {"planner": planned, "constant_velocity": steady}
    return {
        model: {
            case: _score_l2(part, seed)
            for case in CASES
            if (part := rows_of_case(model_rows, case))
        }
        for model, model_rows in models.items()
        if model_rows
    }


def _score_l2(rows: Sequence[FrameRow], seed: int) -> L2Scores:
    distances = [
        compute_point_distances(row.plan, row.truth) for row in rows if row.plan and row.truth
    ]
    return score_l2(distances, clusters=[row.scene for row in rows], seed=seed)
