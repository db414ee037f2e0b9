"""What ``metrics.json`` holds.

A number that cannot be known is a word instead: ``not labelled``, ``not measured``,
``no planner``, ``no questions``, ``not built``, ``not live``. An interval is ``{value, low,
high}``: the number and its 95 % bootstrap interval over whole drives, null where not finite.
``CASE`` is ``regular``, ``corner`` or ``all``; a case without frames is absent, and so is a model
that was not run.

- ``format_version``: of this layout.
- ``frames``: counts of labelled keyframes, or of all frames where none is labelled: ``frames``,
  ``labelled``, ``regular``, ``corner``, ``in_time``, ``late``, ``dropped``, ``stale``,
  ``degraded``, ``answered``.
- ``majority_answer``: its text; ``majority_of``: whose majority it is.
- ``actions.MODEL.CASE``: of the meta-action; MODEL is ``student``, ``blank`` (black images),
  ``shuffled`` (another keyframe's images), ``ego_status`` (an MLP without images), ``majority``:
  ``frames``, ``accuracy`` and ``macro_f1`` (intervals), ``speed_f1`` and ``path_f1`` by action
  (null where no label has it), ``speed_confusion`` and ``path_confusion`` (rows: labels; columns:
  answers, the last one none).
- ``not_built.NAME``: why a model is absent, or ``live_vs_direct`` a word.
- ``cases.NAME``: ``frames`` and ``right`` ones of each case name.
- ``rsdr.LATENCY.MODEL.CASE.DEADLINE``: intervals; LATENCY ``inference_ms`` or ``response_ms``,
  MODEL ``student`` or ``majority``, DEADLINE in milliseconds.
- ``latency.NAME``: ``frames``, ``p50``, ``p95``, ``p99``, ``largest`` in milliseconds.
- ``l2_m.MODEL.CASE``: MODEL ``planner``, ``constant_velocity`` or ``ego_status``: ``frames``;
  ``average_vad_st_p3`` (mean of the points up to the horizon) and ``at_horizon_uniad``, each with
  ``1s``, ``2s``, ``3s`` (intervals, metres).
- ``plan_modes.MODE``: ``frames`` whose plan was ``following`` a fresh decision,
  ``without_decision``, ``stopping``, or ``none``, and the ``share`` of all; ``l2_m`` and
  ``collision`` score the plans of all modes.
- ``live_vs_direct``: of a live run and the same keyframes answered without a transport:
  ``words`` (a sentence), ``frames``, ``same`` (the same action), ``late`` (of these),
  ``different``, ``by_outcome`` (of the different ones), ``explained`` and ``unexplained`` (lists:
  ``stamp_ns``, ``scene``, ``live``, ``direct``, ``outcome``, ``explanation``), ``largest_gap`` of
  a probability.
- ``collision.MODEL.CASE``: likewise, shares of steps and of frames; ``excused_steps``: collisions
  not counted because the driven path has them too.
- ``texts.KIND.CASE``: KIND is the data set's word for a question, or ``all``: ``questions``,
  ``unanswered``, our ``bleu4``, ``rouge_l`` and ``exact`` (intervals), and ``published``: the
  same questions by ``pycocoevalcap``, or the words ``not computed`` with the reason.
- ``generated_decisions``: of the meta-action written as text: ``ours`` (as in ``actions``, texts
  read strictly), ``senna_compat`` (the public script's counting: ``frames``, ``accuracy``,
  ``f1``, ``readable``), ``difference`` (sentences), ``agreement_with_one_pass`` (interval),
  ``legal_share`` of texts that are one of the 20 answers, ``agreement_where_legal`` (interval, or
  the words ``no legal text``), ``otherwise`` (list of the keyframes whose text is not the
  decision: ``stamp_ns``, ``scene``, ``text``, ``decision``, ``decision_probability``,
  ``text_probability``; a probability is null where it is not known).
- ``provenance``: what ran on what, from ``provenance.json``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.collision import CollisionScores
from clkd_core.metrics.plans.l2 import L2Scores
from clkd_core.metrics.texts.published import NotComputed
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.plans import PLAN_MODELS
from clkd_core.report.scoring.scores import RunScores
from clkd_core.report.scoring.texts import GeneratedDecisions, TextResult
from clkd_core.report.scoring.words import (
    NO_LEGAL_TEXT,
    NO_PLANNER,
    NO_QUESTIONS,
    NOT_LABELLED,
    NOT_MEASURED,
    why_no_agreement,
    why_no_collisions,
    why_no_decisions,
    why_no_l2,
    why_no_rsdr,
    why_not_built,
)
from clkd_core.runtime.agreement import Agreement, Difference, describe_agreement

FORMAT_VERSION = 2

Json = dict[str, Any]

T = TypeVar("T")


def compute_metrics(scores: RunScores, provenance: Provenance) -> Json:
    """The content of ``metrics.json``, as described above."""
    labelled = scores.actions is not None
    texts = scores.texts
    return {
        "format_version": FORMAT_VERSION,
        "frames": asdict(scores.counts) | {"answered": scores.counts.answered},
        "majority_answer": scores.majority or NOT_LABELLED,
        "majority_of": scores.majority_of if labelled else NOT_LABELLED,
        "actions": {
            model: {case: _actions(each) for case, each in cases.items()}
            for model, cases in scores.actions.items()
        }
        if scores.actions is not None
        else NOT_LABELLED,
        "not_built": why_not_built(scores, provenance),
        "cases": {
            name: {"frames": frames, "right": right}
            for name, (frames, right) in scores.by_case_name.items()
        }
        if labelled
        else NOT_LABELLED,
        "rsdr": {
            latency: _rsdr(models) if models else why_no_rsdr(scores)
            for latency, models in scores.rsdr.items()
        },
        "latency": {
            name: asdict(stats) if stats else NOT_MEASURED
            for name, stats in scores.latencies.items()
        },
        "l2_m": {
            model: _by_case(scores.plans.l2[model], _l2)
            if model in scores.plans.l2
            else why_no_l2(scores, model)
            for model in PLAN_MODELS
        },
        "collision": {
            model: _by_case(scores.plans.collisions[model], _collisions)
            if model in scores.plans.collisions
            else why_no_collisions(scores, model)
            for model in PLAN_MODELS
        },
        "plan_modes": _plan_modes(scores) if scores.has_plans else NO_PLANNER,
        "live_vs_direct": _agreement(scores.agreement)
        if scores.agreement
        else why_no_agreement(scores, provenance),
        "texts": {kind: _by_case(cases, _text) for kind, cases in texts.by_kind.items()}
        or NO_QUESTIONS,
        "generated_decisions": _decisions(texts.decisions)
        if texts.decisions
        else why_no_decisions(scores),
        "provenance": asdict(provenance) | {"notes": list(provenance.notes)},
    }


def _actions(scores: ActionScores) -> Json:
    return {
        "frames": scores.frames,
        "accuracy": _interval(scores.accuracy),
        "macro_f1": _interval(scores.macro_f1),
        "speed_f1": _by_name(scores.speed_f1),
        "path_f1": _by_name(scores.path_f1),
        "speed_confusion": scores.speed_confusion.tolist(),
        "path_confusion": scores.path_confusion.tolist(),
    }


def _rsdr(models: Mapping[str, Mapping[str, Mapping[float, Interval]]]) -> Json:
    return {
        model: {
            case: {f"{deadline:g}": _interval(each) for deadline, each in curve.items()}
            for case, curve in cases.items()
        }
        for model, cases in models.items()
    }


def _by_case(cases: Mapping[str, T], values: Callable[[T], Json]) -> Json:
    return {case: values(scores) for case, scores in cases.items()}


def _l2(scores: L2Scores) -> Json:
    return {
        "frames": scores.frames,
        "average_vad_st_p3": _by_horizon(scores.average_m),
        "at_horizon_uniad": _by_horizon(scores.horizon_m),
    }


def _collisions(scores: CollisionScores) -> Json:
    return {
        "frames": scores.frames,
        "excused_steps": scores.excused_steps,
        "average_vad_st_p3": _by_horizon(scores.average_frac),
        "at_horizon_uniad": _by_horizon(scores.horizon_frac),
    }


def _plan_modes(scores: RunScores) -> Json:
    total = sum(scores.plan_modes.values())
    return {
        mode: {"frames": count, "share": count / total}
        for mode, count in scores.plan_modes.items()
    }


def _agreement(agreement: Agreement) -> Json:
    return {
        "words": describe_agreement(agreement),
        "frames": agreement.frames,
        "same": agreement.same,
        "late": agreement.late,
        "different": len(agreement.differences),
        "by_outcome": dict(agreement.by_outcome),
        "explained": [_difference(one) for one in agreement.differences if one.explanation],
        "unexplained": [_difference(one) for one in agreement.unexplained],
        "largest_gap": agreement.largest_gap,
    }


def _difference(difference: Difference) -> Json:
    return asdict(difference) | {
        "live": difference.live.text if difference.live else None,
        "direct": difference.direct.text if difference.direct else None,
        "outcome": difference.outcome.value,
    }


def _text(result: TextResult) -> Json:
    ours, published = result.ours, result.published
    return {
        "questions": ours.count,
        "unanswered": result.unanswered,
        "bleu4": _interval(ours.bleu4),
        "rouge_l": _interval(ours.rouge_l),
        "exact": _interval(ours.exact),
        "published": f"not computed: {published.reason}"
        if isinstance(published, NotComputed)
        else asdict(published),
    }


def _decisions(decisions: GeneratedDecisions) -> Json:
    senna = decisions.senna
    return {
        "ours": _actions(decisions.ours),
        "senna_compat": {
            "frames": senna.frames,
            "accuracy": senna.accuracy,
            "f1": dict(senna.f1),
            "readable": senna.readable,
        },
        "difference": list(decisions.reasons),
        "agreement_with_one_pass": _interval(decisions.agreement),
        "legal_share": senna.readable / senna.frames,
        "agreement_where_legal": _interval(decisions.agreement_where_legal)
        if decisions.agreement_where_legal
        else NO_LEGAL_TEXT,
        "otherwise": [
            asdict(one) | {"decision": one.decision.text} for one in decisions.otherwise
        ],
    }


def _by_horizon(intervals: Mapping[int, Interval]) -> Json:
    return {f"{horizon}s": _interval(each) for horizon, each in intervals.items()}


def _interval(interval: Interval) -> Json:
    return {name: _number(value) for name, value in asdict(interval).items()}


def _by_name(f1: Mapping[Any, float]) -> Json:
    return {action.name: _number(value) for action, value in f1.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
