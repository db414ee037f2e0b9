"""Build ``metrics.json``, ``report.md`` and ``report.html`` from a finished run's files.

What ``metrics.json`` holds is described in :mod:`clkd_core.report.scoring.values`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.frames import FrameRow, read_frames
from clkd_core.report.layout.markdown import build_markdown
from clkd_core.report.layout.page import build_page
from clkd_core.report.pictures import GALLERY_FOLDER, read_gallery
from clkd_core.report.provenance import Provenance, read_provenance
from clkd_core.report.scoring.answers import ANSWERS_FILE, read_answers
from clkd_core.report.scoring.published import PUBLISHED_FILE, KeptScores
from clkd_core.report.scoring.scores import RunScores, score_run
from clkd_core.report.scoring.values import Json, compute_metrics

FRAMES_FILE = "frames.csv"
OTHER_FILES = {
    "blank": "frames_blank.csv",
    "shuffled": "frames_shuffled.csv",
    "ego_status": "frames_ego_status.csv",
    "majority": "frames_majority.csv",
}
"""The labelled keyframes answered by something else, by model."""
DIRECT_FILE = "frames_direct.csv"
"""The labelled keyframes of a live run answered by the same student without a transport."""
METRICS_FILE = "metrics.json"
MARKDOWN_FILE = "report.md"
PAGE_FILE = "report.html"

ANSWERED_FRAC_MIN = 0.95
"""Of the labelled keyframes: below this the demo calls itself failed."""


class ScoredRun(NamedTuple):
    """What a run's page is laid out from."""

    rows: Sequence[FrameRow]
    provenance: Provenance
    gallery: Mapping[int, Mapping[str, bytes]]
    scores: RunScores
    metrics: Json
    """What ``metrics.json`` holds."""


def build_report(run: Path) -> Json:
    """Score a run folder and write the report; each file appears whole or not at all.

    Args:
        run: holds ``frames.csv`` and ``provenance.json``; and, where there are any, those of
            ``OTHER_FILES``, ``DIRECT_FILE``, ``answers.jsonl`` and ``gallery/``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DataError: a file is missing or damaged, or there is no frame.
    """
    scored = score_folder(run)
    write_pages(run, scored)
    return scored.metrics


def score_folder(run: Path) -> ScoredRun:
    """Score a run folder and write ``metrics.json``, the first half of :func:`build_report`.

    Raises:
        DataError: as there; nothing is written then.
    """
    rows = read_frames(run / FRAMES_FILE)
    if not rows:
        raise DataError(f"{run / FRAMES_FILE} has no frame, expected at least one row")
    provenance, gallery = read_provenance(run), read_gallery(run)
    others = {
        model: read_frames(run / name)
        for model, name in OTHER_FILES.items()
        if (run / name).exists()
    }
    scores = score_run(
        rows,
        provenance,
        others=others,
        direct=read_frames(run / DIRECT_FILE) if (run / DIRECT_FILE).exists() else None,
        answers=read_answers(run / ANSWERS_FILE) if (run / ANSWERS_FILE).exists() else [],
        publish=KeptScores(run / PUBLISHED_FILE),
    )
    metrics = compute_metrics(scores, provenance)
    write_text_atomic(run / METRICS_FILE, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    return ScoredRun(rows, provenance, gallery, scores, metrics)


def write_pages(run: Path, scored: ScoredRun) -> None:
    """Write ``report.md`` and ``report.html``, the second half of :func:`build_report`.

    Raises:
        DataError: the folder cannot be written.
    """
    rows, provenance, gallery, scores, _ = scored
    title = run.resolve().name
    write_text_atomic(run / MARKDOWN_FILE, build_markdown(scores, provenance, title=title))
    page = build_page(rows, scores, provenance, gallery, title=title)
    write_text_atomic(run / PAGE_FILE, page)


def clear_report(run: Path) -> None:
    """Remove what was made of another run's frames in the same folder, but for the frames."""
    made = (METRICS_FILE, MARKDOWN_FILE, PAGE_FILE, ANSWERS_FILE, PUBLISHED_FILE, DIRECT_FILE)
    for name in (*made, *OTHER_FILES.values()):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / GALLERY_FOLDER, ignore_errors=True)


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
