"""From rows and answers to scores: every number of a report, before any of it is laid out.

What cannot be known has no number: it is None or absent here, and a word of ``words`` in
``metrics.json``, in ``report.md`` and on the page.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clkd_core.metrics.baselines.majority import answer_by_majority, majority_action
from clkd_core.metrics.decisions.meta_action import ActionScores, score_actions
from clkd_core.metrics.decisions.rsdr import DEADLINES_MS, rsdr_curve
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.texts.published import published_scores
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.answers import TextAnswer
from clkd_core.report.scoring.cases import CASES, rows_of_case
from clkd_core.report.scoring.plans import PlanScores, score_plans
from clkd_core.report.scoring.published import Publish
from clkd_core.report.scoring.texts import RunTexts, score_answers
from clkd_core.runtime.agreement import Agreement, compare_runs
from clkd_core.types import PlanMode

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
    """All that a run says. By model: see MODELS; by case: see CASES."""

    counts: FrameCounts
    actions: Mapping[str, Mapping[str, ActionScores]] | None
    """By model and case; None where no frame is labelled."""
    by_case_name: Mapping[str, tuple[int, int]]
    """Frames and right answers of each case name, regular included; empty if unlabelled."""
    majority: str
    """The text of the majority answer, empty if unlabelled."""
    majority_of: str
    """Whose majority it is: the training labels' where they are known, else the run's own."""
    rsdr: Mapping[str, Mapping[str, Mapping[str, Curve]] | None]
    """By latency, model and case; None where that latency was not measured or no label is."""
    latencies: Mapping[str, LatencyStats | None]
    """By name; None where it was not measured."""
    plans: PlanScores
    """L2 and collisions of planner and constant velocity."""
    plan_modes: Mapping[str, int]
    """Frames whose plan was in each mode, by its name in small letters, and ``none``; of the
    frames that ``counts`` counts."""
    agreement: Agreement | None
    """Of a live run with direct answers; None where there are none to compare with."""
    texts: RunTexts
    """What was said in words."""
    has_truth: bool
    """At least one frame says where the vehicle went."""
    has_plans: bool
    """At least one frame has a planned trajectory."""
    response_measured: bool
    """There was a transport; without one response_ms means nothing."""


def score_run(
    rows: Sequence[FrameRow],
    provenance: Provenance,
    *,
    others: Mapping[str, Sequence[FrameRow]] | None = None,
    direct: Sequence[FrameRow] | None = None,
    answers: Sequence[TextAnswer] = (),
    publish: Publish = published_scores,
) -> RunScores:
    """Score a run.

    Args:
        rows: of the student; at least one.
        provenance: of the run.
        others: rows of the same keyframes answered by something else, by model name. Where
            ``majority`` is not among them, the majority of the run's own labels answers.
        direct: the labelled keyframes of a live run answered without a transport.
        answers: what was generated in words; the decisions in the order of the labelled rows.
        publish: computes the published scores of texts.

    Raises:
        ValueError: there is no row.
        DataError: the generated decisions, or the direct answers, are not those of the labelled
            rows.
    """
    if not rows:
        raise ValueError("no row to score")
    labelled = [row for row in rows if row.label is not None]
    models = _rows_by_model(labelled, others or {}) if labelled else {}
    measured = {
        "inference_ms": provenance.mode != "untimed",
        "response_ms": provenance.mode == "live",
    }
    return RunScores(
        counts=_count(rows),
        actions=score_models(models, seed=provenance.seed) if labelled else None,
        by_case_name=_count_by_case_name(labelled),
        majority=_text_of(models["majority"][0]) if labelled else "",
        majority_of="the training labels" if "majority" in (others or {}) else "these labels",
        rsdr={
            latency: _score_rsdr(models, latency, provenance)
            if labelled and measured[latency]
            else None
            for latency in RSDR_LATENCIES
        },
        latencies={
            name: compute_latency_stats([getattr(row, name) for row in rows]) for name in LATENCIES
        },
        plans=score_plans(rows, provenance.seed),
        plan_modes=_count_modes(labelled or rows),
        agreement=compare_runs(labelled, direct) if labelled and direct is not None else None,
        texts=score_answers(answers, labelled, provenance.seed, publish),
        has_truth=any(row.truth is not None for row in rows),
        has_plans=any(row.plan is not None for row in rows),
        response_measured=measured["response_ms"],
    )


def compute_latency_stats(latency_ms: Sequence[float]) -> LatencyStats | None:
    """Percentiles (linear between samples) of the finite values; None where there is none."""
    known = np.array([value for value in latency_ms if math.isfinite(value)])
    if not known.size:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(known, PERCENTILES))
    return LatencyStats(frames=known.size, p50=p50, p95=p95, p99=p99, largest=float(known.max()))


def score_models(
    models: Mapping[str, Sequence[FrameRow]], *, seed: int
) -> dict[str, dict[str, ActionScores]]:
    """Score labelled rows by model and by case; a case without rows is absent."""
    scores: dict[str, dict[str, ActionScores]] = {}
    for model, rows in models.items():
        parts = {case: rows_of_case(rows, case) for case in CASES}
        scores[model] = {case: _score_actions(part, seed) for case, part in parts.items() if part}
    return scores


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


def _count_modes(rows: Sequence[FrameRow]) -> dict[str, int]:
    found = Counter(row.plan_mode for row in rows)
    return {mode.name.lower(): found[mode] for mode in PlanMode} | {"none": found[None]}


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
    constant = answer_by_majority(labelled, majority)
    models = {"student": list(labelled), "majority": constant}
    for name, rows in others.items():
        kept = [row for row in rows if row.label is not None]
        if kept:
            models[name] = kept
    return models


def _text_of(row: FrameRow) -> str:
    return row.answer.text if row.answer else ""


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
                [row.correct and not row.late for row in part],
                deadlines_ms,
                clusters=[row.scene for row in part],
                seed=provenance.seed,
            )
            for case, part in parts.items()
            if part
        }
    return curves
