"""A run's picture and its report, made when it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clkd_core.distill.evaluate import Judged
from clkd_core.distill.record.metrics_log import is_number
from clkd_core.distill.record.panels import (
    COLOURS,
    Curve,
    Panel,
    collect_points,
    draw_panels,
    is_telling,
    stage_steps,
)
from clkd_core.distill.record.results import RESULTS_FILE, ResultRow, Results, write_results
from clkd_core.errors import DataError
from clkd_core.files import write_bytes_atomic, write_text_atomic

CURVES_FILE = "curves.png"
REPORT_FILE = "report.md"

_REGULAR, _CORNER, _TEACHER = COLOURS[0], COLOURS[1], COLOURS[2]
_SMOOTH = 0.05
"""Share of a curve's points in its running mean: none below 40 points."""

_TERMS = {
    "loss": "student: loss, all terms",
    "h2g": "student: H2G [nats/token]",
    "kd": "student: KD [nats/token]",
    "alpha": "alpha, weight of KD",
    "balance": "experts: balance term",
    "router_z": "experts: router z-term",
}
_USAGES = {
    "adapter_usage": "adapter experts: share of use",
    "expert_usage": "FFN experts: share of use",
}
_SHARES = {
    "hard samples": {
        "regular": "hard_regular_frac",
        "corner": "hard_corner_frac",
    },
    "hard tokens": {
        "all": "hard_token_frac",
        "regular": "hard_token_regular_frac",
        "corner": "hard_token_corner_frac",
    },
}
_SHARE_COLOURS = {"regular": _REGULAR, "corner": _CORNER, "all": "#9aa3ab"}
_NOT_LOSSES = {"stage", "step", "lr", "grad_norm", "samples_per_s", "peak_memory_mb"}


def write_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a run into one PNG, the panels of :func:`build_panels`.

    Args:
        metrics: lines of ``metrics.jsonl``.
        path: the file.

    Raises:
        DataError: the folder cannot be written.
    """
    png = draw_panels(build_panels(metrics), smooth=_SMOOTH)
    write_bytes_atomic(path, png)


def build_panels(metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What happened in a run, in reading order.

    Losses of teacher and student, each term apart, the teacher's weight, what was found hard,
    how much each expert is used, and the learning rate. What a run does not have, as a dense
    student has no experts, gets no panel.
    """
    panels = (
        _single(metrics, "teacher", "loss", "teacher: loss [nats/token]"),
        *(_single(metrics, "distill", key, title) for key, title in _TERMS.items()),
        *(_single(metrics, "distill", key, f"student: {key}") for key in _other_terms(metrics)),
        *(_shares(metrics, title, keys) for title, keys in _SHARES.items()),
        *(_usage(metrics, key, title) for key, title in _USAGES.items()),
        _learning_rate(metrics),
    )
    return [panel for panel in panels if panel.curves]


def write_report(
    path: Path,
    parameters: Mapping[str, tuple[int, int]],
    table: Sequence[Judged],
    metrics: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
    *,
    why_empty: str = "No validation split was there to judge on.",
) -> None:
    """Write ``report.md`` for people and ``results.json`` beside it for programs.

    The report shows ``curves.png`` where :func:`write_curves` has put it into the same folder.

    Args:
        path: of the report.
        parameters: (total, active) by model name.
        table: what :func:`clkd_core.distill.evaluate.judge` gave; empty without validation data.
        metrics: lines of ``metrics.jsonl``.
        versions: from :func:`clkd_core.distill.record.versions.collect_versions`.
        why_empty: what stands in the place of an empty table.

    Raises:
        DataError: the folder cannot be written.
    """
    rows = tuple(_result_row(judged) for judged in table)
    lines = ["# Training run", "", "| model | parameters | active |", "|---|---:|---:|"]
    lines += [f"| {name} | {all_:,} | {active:,} |" for name, (all_, active) in parameters.items()]
    lines += ["", "## Unseen drives", ""]
    lines += _table_lines(rows) or [why_empty]
    if (path.parent / CURVES_FILE).is_file():
        lines += ["", "## Course", "", f"![Curves of the run]({CURVES_FILE})"]
    lines += ["", "## Last step of each stage", ""]
    last = {str(line["stage"]): line for line in metrics}
    lines += [f"- {stage}: " + _short(line) for stage, line in last.items()]
    lines += ["", "## Made with", ""]
    lines += [f"- {name} {version}" for name, version in versions.items()]
    results = Results(parameters=parameters, table=rows, versions=versions)
    write_results(path.parent / RESULTS_FILE, results)
    write_text_atomic(path, "\n".join(lines) + "\n")


def remove_report(folder: Path) -> None:
    """Take away what an earlier run left in a folder that is trained in anew.

    ``results.json`` is what tells a finished run from one that is not.

    Raises:
        DataError: a file of it cannot be removed.
    """
    for name in (RESULTS_FILE, REPORT_FILE, CURVES_FILE):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as err:
            raise DataError(f"cannot remove {folder / name}: {err.strerror or err}") from err


def _single(metrics: Sequence[Mapping[str, Any]], stage: str, key: str, title: str) -> Panel:
    points = collect_points(metrics, stage, key)
    mark = None
    if key in ("kd", "alpha"):
        released = _released_at(metrics)
        mark = None if released is None else (released, "teacher let go")
    colour = _TEACHER if stage == "teacher" else COLOURS[0]
    curves = [Curve(points=points, colour=colour)] if is_telling(points) else []
    planned = key == "alpha"
    return Panel(
        title=title,
        curves=curves,
        mark=mark,
        smooth=not planned,
        steps=stage_steps(metrics, stage),
    )


def _released_at(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """First logged step at which the teacher was not asked any more; None where it always was."""
    asked = collect_points(metrics, "distill", "kd")
    later = [
        float(line["step"])
        for line in metrics
        if line["stage"] == "distill" and asked and line["step"] > asked[-1][0]
    ]
    return min(later, default=None)


def _other_terms(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Terms of the student's loss that a config added."""
    known = _NOT_LOSSES | _TERMS.keys() | {k for keys in _SHARES.values() for k in keys.values()}
    found = {
        key: None
        for line in metrics
        if line["stage"] == "distill"
        for key, value in line.items()
        if key not in known and is_number(value)
    }
    return list(found)


def _shares(metrics: Sequence[Mapping[str, Any]], title: str, keys: Mapping[str, str]) -> Panel:
    points = {name: collect_points(metrics, "distill", key) for name, key in keys.items()}
    curves = [
        Curve(points=found, colour=_SHARE_COLOURS[name], label=name)
        for name, found in points.items()
        if found
    ]
    return Panel(title=title, curves=curves, share=True, steps=stage_steps(metrics, "distill"))


def _usage(metrics: Sequence[Mapping[str, Any]], key: str, title: str) -> Panel:
    whole = [line for line in metrics if _is_usage(line.get(key))]
    experts = min((len(line[key]) for line in whole), default=0)
    curves = [
        Curve(
            points=collect_points(whole, "distill", key, item=number),
            colour=COLOURS[number % len(COLOURS)],
            label=str(number),
        )
        for number in range(experts)
    ]
    told = [curve for curve in curves if curve.points]
    return Panel(
        title=title, curves=told, share=True, stacked=True, steps=stage_steps(metrics, "distill")
    )


def _is_usage(value: Any) -> bool:
    return isinstance(value, list) and any(value) and all(map(is_number, value))


def _learning_rate(metrics: Sequence[Mapping[str, Any]]) -> Panel:
    stages = {"teacher": ("teacher", _TEACHER), "student": ("distill", COLOURS[0])}
    curves = [
        Curve(points=points, colour=colour, label=name)
        for name, (stage, colour) in stages.items()
        if is_telling(points := collect_points(metrics, stage, "lr"))
    ]
    return Panel(title="learning rate", curves=curves, smooth=False)


def _result_row(judged: Judged) -> ResultRow:
    scores = judged.scores
    return ResultRow(
        name=judged.name,
        cases=judged.cases,
        frames=scores.frames,
        accuracy=scores.accuracy.value,
        macro_f1=scores.macro_f1,
    )


def _table_lines(table: Sequence[ResultRow]) -> list[str]:
    if not table:
        return []
    head = [
        "| who | cases | frames | accuracy | macro-F1 (95 % interval) |",
        "|---|---|---:|---:|---|",
    ]
    return head + [
        f"| {row.name} | {row.cases} | {row.frames} | {row.accuracy:.3f} "
        f"| {row.macro_f1.value:.3f} ({row.macro_f1.low:.3f} to {row.macro_f1.high:.3f}) |"
        for row in table
    ]


def _short(line: Mapping[str, Any]) -> str:
    numbers = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "stage"}
    return ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
