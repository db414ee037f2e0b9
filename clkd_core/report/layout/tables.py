"""The report's tables as HTML. Whatever comes from data is escaped here."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from html import escape

import numpy as np
from numpy.typing import NDArray

from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.intervals import Interval
from clkd_core.report.layout.plots import draw_whisker
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.cases import CASES
from clkd_core.report.scoring.scores import LATENCIES, RunScores
from clkd_core.report.scoring.words import MODELS, NOT_MEASURED, why_no_rsdr, why_not_built
from clkd_core.types import PathAction, SpeedAction

LATENCY_WORDS = {
    "inference_ms": "inference_ms: encoded images in, decision out",
    "response_ms": "response_ms: last image sent, decision received",
    "node_response_ms": "node_response_ms: set complete, decision published",
    "plan_inference_ms": "plan_inference_ms: encoded images in, trajectory out",
}


def build_table(head: Sequence[str], rows: Sequence[str], css_class: str = "") -> str:
    """A table from escaped head cells and finished rows, in a box that scrolls on a phone."""
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f'<div class="scroll"><table class="{css_class}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def build_action_table(scores: RunScores, provenance: Provenance) -> str:
    """Accuracy and macro-F1 of every model, regular, corner and all; or why it is not there."""
    assert scores.actions is not None
    head = ["", "frames"]
    head += [f"{case}<br>accuracy" for case in CASES] + [f"{case}<br>macro-F1" for case in CASES]
    absent = why_not_built(scores, provenance)
    rows = [
        _action_row(name, scores.actions[model], main=model == "student")
        if model in scores.actions
        else word_row(name, escape(absent[model]), len(head))
        for model, name in MODELS.items()
    ]
    return build_table([*head, ""], rows)


def build_rsdr_table(scores: RunScores) -> str:
    """RSDR at each deadline by latency, and at all cases of the student."""
    rows = []
    deadlines: Sequence[float] = ()
    for latency, models in scores.rsdr.items():
        if models is None:
            rows.append(word_row(latency, why_no_rsdr(scores), 4))
            continue
        for case, curve in models["student"].items():
            deadlines = list(curve)
            cells = "".join(f"<td>{percent_cell(each)}</td>" for each in curve.values())
            main = ' class="main"' if case == "all" else ""
            rows.append(f'<tr{main}><th scope="row">{latency}, {case}</th>{cells}</tr>')
    for case, curve in (_first_known(scores) or {}).items():
        if case == "all":
            cells = "".join(f"<td>{percent_cell(each)}</td>" for each in curve.values())
            rows.append(f'<tr><th scope="row">Majority answer, in no time</th>{cells}</tr>')
    return build_table(["", *(f"{deadline:g} ms" for deadline in deadlines)], rows)


def build_latency_table(scores: RunScores) -> str:
    """Percentiles of every latency."""
    rows = []
    for name in LATENCIES:
        stats = scores.latencies.get(name)
        words = escape(LATENCY_WORDS[name])
        if stats is None:
            rows.append(word_row(words, NOT_MEASURED, 5))
            continue
        numbers = (stats.p50, stats.p95, stats.p99, stats.largest)
        cells = "".join(f"<td>{value:.1f}</td>" for value in numbers)
        rows.append(f'<tr><th scope="row">{words}</th>{cells}<td>{stats.frames}</td></tr>')
    return build_table(["", "p50", "p95", "p99", "largest", "frames"], rows)


def build_f1_table(student: Mapping[str, ActionScores]) -> str:
    """F1 of each action; a dash where no label has it."""
    rows = []
    actions: list[SpeedAction | PathAction] = [*SpeedAction, *PathAction]
    for action in actions:
        cells = ""
        for case in CASES:
            scores = student.get(case)
            cells += f"<td>{_f1_words(scores, action) if scores else '&ndash;'}</td>"
        labels = _label_count(student["all"], action)
        rows.append(f'<tr><th scope="row">{action.name}</th><td>{labels}</td>{cells}</tr>')
    return build_table(["action", "labels", *(f"F1 {case}" for case in CASES)], rows)


def build_case_table(by_case_name: Mapping[str, tuple[int, int]]) -> str:
    """Right answers by case name."""
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{frames}</td><td>{right}</td>'
        f"<td>{right / frames:.0%}</td></tr>"
        for name, (frames, right) in by_case_name.items()
    ]
    return build_table(["case", "frames", "right", "accuracy"], rows)


def build_confusion_table(counts: NDArray[np.int64], actions: type[IntEnum], title: str) -> str:
    """Labels down, answers across; the shade is the share of the label's frames."""
    names = [action.name for action in actions]
    rows = []
    for number, name in enumerate(names):
        total = max(1, int(counts[number].sum()))
        cells = "".join(
            _confusion_cell(int(count), total, right=column == number)
            for column, count in enumerate(counts[number])
        )
        rows.append(f'<tr><th scope="row">{name.replace("_", " ")}</th>{cells}</tr>')
    head = ["", *(name.replace("_", " ") for name in names), "no answer"]
    return f"<h3>{title}: labels down, answers across</h3>" + build_table(head, rows, "confusion")


def percent_cell(interval: Interval) -> str:
    """``71.2%`` over its interval."""
    low, high = (f"{end * 100:.0f}" for end in (interval.low, interval.high))
    return _cell(f"{interval.value:.1%}", low, high)


def f1_cell(interval: Interval) -> str:
    """``0.712`` over its interval."""
    return _cell(f"{interval.value:.3f}", f"{interval.low:.2f}", f"{interval.high:.2f}")


def metres_cell(interval: Interval) -> str:
    """``0.71 m`` over its interval."""
    return _cell(f"{interval.value:.2f} m", f"{interval.low:.2f}", f"{interval.high:.2f}")


def word_row(name: str, words: str, columns: int) -> str:
    """A row of one word across its columns, in place of numbers that nobody can know."""
    return f'<tr><th scope="row">{name}</th><td class="word" colspan="{columns}">{words}</td></tr>'


def _cell(value: str, low: str, high: str) -> str:
    return f"{value}<small>{low}&ndash;{high}</small>"


def _action_row(name: str, cases: Mapping[str, ActionScores], *, main: bool) -> str:
    accuracy = (percent_cell(cases[c].accuracy) if c in cases else "&ndash;" for c in CASES)
    macro = (f1_cell(cases[c].macro_f1) if c in cases else "&ndash;" for c in CASES)
    cells = "".join(f"<td>{cell}</td>" for cell in (*accuracy, *macro))
    whisker = draw_whisker(cases["all"].macro_f1, "main" if main else "")
    css = ' class="main"' if main else ""
    return (
        f'<tr{css}><th scope="row">{name}</th><td>{cases["all"].frames}</td>{cells}'
        f"<td>{whisker}</td></tr>"
    )


def _first_known(scores: RunScores) -> Mapping[str, Mapping[float, Interval]] | None:
    known = [models["majority"] for models in scores.rsdr.values() if models is not None]
    return known[0] if known else None


def _f1_words(scores: ActionScores, action: SpeedAction | PathAction) -> str:
    value = scores.speed_f1[action] if isinstance(action, SpeedAction) else scores.path_f1[action]
    return "&ndash;" if np.isnan(value) else f"{value:.2f}"


def _label_count(scores: ActionScores, action: SpeedAction | PathAction) -> int:
    counts = scores.speed_confusion if isinstance(action, SpeedAction) else scores.path_confusion
    return int(counts[action].sum())


def _confusion_cell(count: int, total: int, *, right: bool) -> str:
    if not count:
        return '<td class="zero" style="--share:0%;--tone:var(--good)">0</td>'
    tone = "var(--good)" if right else "var(--bad)"
    return f'<td style="--share:{12 + 48 * count / total:.0f}%;--tone:{tone}">{count}</td>'
