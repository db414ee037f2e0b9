"""Build ``metrics.json``, ``report.md`` and ``report.html`` from a finished run's files.

What ``metrics.json`` holds is described in :mod:`clkd_core.report.scoring.values`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.frames import read_frames
from clkd_core.report.layout.markdown import build_markdown
from clkd_core.report.layout.page import build_page
from clkd_core.report.pictures import read_gallery
from clkd_core.report.provenance import read_provenance
from clkd_core.report.scoring.answers import ANSWERS_FILE, read_answers
from clkd_core.report.scoring.published import PUBLISHED_FILE, KeptScores
from clkd_core.report.scoring.scores import score_run
from clkd_core.report.scoring.values import Json, compute_metrics

FRAMES_FILE = "frames.csv"
OTHER_FILES = {
    "blank": "frames_blank.csv",
    "shuffled": "frames_shuffled.csv",
    "ego_status": "frames_ego_status.csv",
    "majority": "frames_majority.csv",
}
"""The labelled keyframes answered by something else, by model."""
METRICS_FILE = "metrics.json"
MARKDOWN_FILE = "report.md"
PAGE_FILE = "report.html"

ANSWERED_FRAC_MIN = 0.95
"""Of the labelled keyframes: below this the demo calls itself failed."""


def build_report(run: Path) -> Json:
    """Score a run folder and write the report; each file appears whole or not at all.

    Args:
        run: holds ``frames.csv`` and ``provenance.json``; and, where there are any, those of
            ``OTHER_FILES``, ``answers.jsonl`` and ``gallery/``.

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
        for model, name in OTHER_FILES.items()
        if (run / name).exists()
    }
    answers = read_answers(run / ANSWERS_FILE) if (run / ANSWERS_FILE).exists() else []
    publish = KeptScores(run / PUBLISHED_FILE)
    scores = score_run(rows, provenance, others=others, answers=answers, publish=publish)
    metrics = compute_metrics(scores, provenance)
    title = run.resolve().name
    page = build_page(rows, scores, provenance, read_gallery(run), title=title)
    write_text_atomic(run / METRICS_FILE, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    write_text_atomic(run / MARKDOWN_FILE, build_markdown(scores, provenance, title=title))
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
