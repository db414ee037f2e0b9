"""Build ``metrics.json`` and ``report.html`` from a finished run's files."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.frames import read_frames
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.l2 import L2Scores
from clkd_core.report.layout.page import build_page
from clkd_core.report.pictures import read_gallery
from clkd_core.report.provenance import Provenance, read_provenance
from clkd_core.report.scores import NOT_LABELLED, NOT_MEASURED, RunScores, score_run

FRAMES_FILE = "frames.csv"
BLANK_FILE = "frames_blank.csv"
EGO_STATUS_FILE = "frames_ego_status.csv"
METRICS_FILE = "metrics.json"
PAGE_FILE = "report.html"
FORMAT_VERSION = 1

ANSWERED_FRAC_MIN = 0.95
"""Of the labelled keyframes: below this the demo calls itself failed."""

Json = dict[str, Any]


def build_report(run: Path) -> Json:
    """Score a run folder and write the page; both files appear whole or not at all.

    Args:
        run: holds ``frames.csv`` and ``provenance.json``; and, where there are any,
            ``frames_blank.csv`` and ``frames_ego_status.csv`` (the same keyframes answered
            otherwise) and ``gallery/``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DataError: a file is missing or damaged, or there is no frame.
    """
    rows = read_frames(run / FRAMES_FILE)
    if not rows:
        raise DataError(f"{run / FRAMES_FILE} has no frame, expected at least one row")
    provenance = read_provenance(run)
    others = {
        model: read_frames(run / name)
        for model, name in (("ego_status", EGO_STATUS_FILE), ("blank", BLANK_FILE))
        if (run / name).exists()
    }
    scores = score_run(rows, provenance, others=others)
    metrics = compute_metrics(scores, provenance)
    page = build_page(rows, scores, provenance, read_gallery(run), title=run.resolve().name)
    write_text_atomic(run / METRICS_FILE, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_text_atomic(run / PAGE_FILE, page)
    return metrics


def demo_verdict(metrics: Mapping[str, Any]) -> list[str]:
    """What a finished demo falls short of, one sentence each; empty when it holds.

    At least 95 % of the labelled keyframes have a decision of their own (late ones included,
    repeats not); the student's macro-F1 over all frames is above the majority answer's and above
    its own on blank images.
    """
    actions = metrics["actions"]
    if not isinstance(actions, Mapping):
        return [f"the run is {actions}: nothing can be asserted"]
    frames = metrics["frames"]
    failures = []
    if frames["answered"] < ANSWERED_FRAC_MIN * frames["labelled"]:
        failures.append(
            f"{frames['answered']} of {frames['labelled']} labelled keyframes were answered, "
            f"expected at least {ANSWERED_FRAC_MIN:.0%}"
        )
    student = actions["student"]["all"]["macro_f1"]["value"]
    for model, words in (("majority", "the majority answer"), ("blank", "blank images")):
        if model not in actions:
            failures.append(f"there is no row for {words} to compare the student with")
            continue
        other = actions[model]["all"]["macro_f1"]["value"]
        if not student > other:
            failures.append(
                f"the student's macro-F1 is {student:.3f}, expected above {other:.3f}, "
                f"that of {words}"
            )
    return failures


def compute_metrics(scores: RunScores, provenance: Provenance) -> Json:
    """What ``metrics.json`` holds; a number that cannot be known is a word instead."""
    labelled = scores.actions is not None
    return {
        "format_version": FORMAT_VERSION,
        "frames": asdict(scores.counts) | {"answered": scores.counts.answered},
        "majority_answer": scores.majority or NOT_LABELLED,
        "actions": {
            model: {case: _actions(each) for case, each in cases.items()}
            for model, cases in scores.actions.items()
        }
        if scores.actions is not None
        else NOT_LABELLED,
        "cases": {
            name: {"frames": frames, "right": right}
            for name, (frames, right) in scores.by_case_name.items()
        }
        if labelled
        else NOT_LABELLED,
        "rsdr": {
            latency: _rsdr(models) if models else scores.why_no_rsdr()
            for latency, models in scores.rsdr.items()
        },
        "latency": {
            name: asdict(stats) if stats else NOT_MEASURED
            for name, stats in scores.latencies.items()
        },
        "l2_m": {
            model: _l2(scores.l2[model]) if model in scores.l2 else scores.why_no_l2(model)
            for model in ("planner", "constant_velocity")
        },
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


def _l2(cases: Mapping[str, L2Scores]) -> Json:
    return {
        case: {
            "frames": scores.frames,
            "average_vad_st_p3": {f"{s}s": _interval(x) for s, x in scores.average_m.items()},
            "at_horizon_uniad": {f"{s}s": _interval(x) for s, x in scores.horizon_m.items()},
        }
        for case, scores in cases.items()
    }


def _interval(interval: Interval) -> Json:
    return {name: _number(value) for name, value in asdict(interval).items()}


def _by_name(f1: Mapping[Any, float]) -> Json:
    return {action.name: _number(value) for action, value in f1.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
