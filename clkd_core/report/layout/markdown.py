"""The report as one page of Markdown tables, to paste into an issue or a paper's draft."""

from collections.abc import Iterable, Mapping, Sequence

from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.l2 import HORIZONS_S
from clkd_core.metrics.texts.published import NotComputed
from clkd_core.report.layout.live import (
    DIFFERENCE_HEAD,
    describe_modes,
    difference_rows,
    said_by_nodes,
)
from clkd_core.report.layout.plans import CONVENTIONS, PLAN_NAMES
from clkd_core.report.layout.texts import (
    OTHERWISE_HEAD,
    PUBLISHED,
    compare_with_senna,
    describe_written,
    kind_words,
    otherwise_rows,
    shorten,
    why_not_published,
)
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.cases import CASES
from clkd_core.report.scoring.plans import PLAN_MODELS
from clkd_core.report.scoring.scores import LATENCIES, RunScores
from clkd_core.report.scoring.texts import GeneratedDecisions
from clkd_core.report.scoring.words import (
    MODELS,
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
from clkd_core.runtime.agreement import describe_agreement

NONE = "-"
"""A cell without a number: no frame is of this kind."""

Row = Sequence[str]


def build_markdown(scores: RunScores, provenance: Provenance, *, title: str) -> str:
    """Lay a run's scores out; brackets hold 95 % bootstrap intervals.

    Args:
        scores: of the run.
        provenance: of the run.
        title: name of the run.
    """
    counts = scores.counts
    sections = [
        [f"# {_plain(title)}", "", *_facts(provenance)],
        ["## Decisions", "", *_decisions(scores, provenance)],
        ["## Live against direct", "", *_live(scores, provenance)],
        ["## Time", "", *_time(scores)],
        ["## Plans", "", *_plans(scores)],
        ["## Words", "", *_words(scores)],
    ]
    sections[0] += [
        f"- frames: {counts.frames}, labelled {counts.labelled} ({counts.regular} regular, "
        f"{counts.corner} corner), answered {counts.answered}, late {counts.late}, "
        f"dropped {counts.dropped}, degraded {counts.degraded}"
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _facts(provenance: Provenance) -> list[str]:
    facts = {
        "checkpoint": provenance.checkpoint,
        "input": provenance.bag,
        "device": provenance.device,
        "seed": str(provenance.seed),
        "made": f"{provenance.created} {provenance.git_revision}".strip(),
    }
    lines = [f"- {name}: {_plain(text)}" for name, text in facts.items() if text]
    lines += [
        f"- {_plain(name)}: {_plain(said)}" for name, said in said_by_nodes(provenance).items()
    ]
    return lines + [f"- note: {_plain(note)}" for note in provenance.notes]


def _decisions(scores: RunScores, provenance: Provenance) -> list[str]:
    if scores.actions is None:
        return [f"Accuracy and macro-F1: {NOT_LABELLED}."]
    head = ["", "frames", *(f"accuracy, {c}" for c in CASES), *(f"macro-F1, {c}" for c in CASES)]
    absent = why_not_built(scores, provenance)
    rows = [
        [name, str(cases["all"].frames), *_action_cells(cases)]
        if (cases := scores.actions.get(model))
        else [f"Not run: {name[0].lower()}{name[1:]}", absent[model]]
        for model, name in MODELS.items()
    ]
    lines = _table(head, rows)
    return [
        *lines,
        "",
        f"The majority answer, {scores.majority}, is that of {scores.majority_of}.",
    ]


def _live(scores: RunScores, provenance: Provenance) -> list[str]:
    agreement = scores.agreement
    if agreement is None:
        return [f"Live against direct: {_plain(why_no_agreement(scores, provenance))}."]
    rows = difference_rows(agreement)
    line = f"{describe_agreement(agreement)}."
    return [line, "", *_table(DIFFERENCE_HEAD, rows)] if rows else [line]


def _action_cells(cases: Mapping[str, ActionScores]) -> list[str]:
    accuracy = [_percent(cases[c].accuracy) if c in cases else NONE for c in CASES]
    return accuracy + [_number(cases[c].macro_f1) if c in cases else NONE for c in CASES]


def _time(scores: RunScores) -> list[str]:
    rows = []
    for latency, models in scores.rsdr.items():
        if models is None:
            rows.append([latency, "", why_no_rsdr(scores)])
            continue
        for model in ("student", "majority"):
            for deadline, share in models[model]["all"].items():
                rows.append([f"{latency}, {model}", f"{deadline:g} ms", _percent(share)])
    lines = _table(["RSDR", "deadline", "all keyframes"], rows)
    latencies = []
    for name in LATENCIES:
        stats = scores.latencies.get(name)
        numbers = (stats.p50, stats.p95, stats.p99) if stats else ()
        cells = [f"{value:.1f}" for value in numbers] or [NOT_MEASURED, "", ""]
        latencies.append([name, *cells])
    return [*lines, "", *_table(["latency [ms]", "p50", "p95", "p99"], latencies)]


def _plans(scores: RunScores) -> list[str]:
    conventions = [f"average to {s} s ({CONVENTIONS[0]})" for s in HORIZONS_S]
    conventions += [f"at {s} s ({CONVENTIONS[1]})" for s in HORIZONS_S]
    l2, collisions = [], []
    for model in PLAN_MODELS:
        name = PLAN_NAMES[model]
        for case, each in scores.plans.l2.get(model, {}).items():
            metres = [*each.average_m.values(), *each.horizon_m.values()]
            l2.append([f"{name}, {case}", str(each.frames), *(f"{m.value:.2f}" for m in metres)])
        if model not in scores.plans.l2:
            l2.append([name, why_no_l2(scores, model)])
        for case, hits in scores.plans.collisions.get(model, {}).items():
            shares = [*hits.average_frac.values(), *hits.horizon_frac.values()]
            percents = (f"{share.value:.2%}" for share in shares)
            collisions.append([f"{name}, {case}", str(hits.frames), *percents])
        if model not in scores.plans.collisions:
            collisions.append([name, why_no_collisions(scores, model)])
    return [
        *([f"Plans by mode: {describe_modes(scores)}.", ""] if scores.has_plans else []),
        *_table(["L2 [m]", "frames", *conventions], l2),
        "",
        *_table(["collisions", "frames", *conventions], collisions),
    ]


def _words(scores: RunScores) -> list[str]:
    texts = scores.texts
    lines = [f"Answers in words: {NO_QUESTIONS}."]
    if texts.by_kind:
        head = ["questions", "count", "unanswered", "BLEU-4", "ROUGE-L", "exactly right"]
        head += [f"published {name}" for name in PUBLISHED]
        lines = _table(head, _text_rows(scores))
        reason = why_not_published(scores)
        lines += ["", f"A dash: {_plain(reason)}."] if reason else []
    lines.append("")
    if texts.decisions is None:
        return [*lines, f"The decision in words: {why_no_decisions(scores)}."]
    return lines + _written(texts.decisions)


def _text_rows(scores: RunScores) -> list[Row]:
    rows: list[Row] = []
    for kind, cases in scores.texts.by_kind.items():
        for case, result in cases.items():
            ours, published = result.ours, result.published
            known = not isinstance(published, NotComputed)
            theirs = [
                f"{getattr(published, field):.3f}" if known else NONE
                for field in PUBLISHED.values()
            ]
            rows.append(
                [
                    f"{kind_words(kind)}, {case}",
                    str(ours.count),
                    str(result.unanswered),
                    _number(ours.bleu4),
                    _number(ours.rouge_l),
                    _percent(ours.exact),
                    *theirs,
                ]
            )
    return rows


def _written(decisions: GeneratedDecisions) -> list[str]:
    rows = compare_with_senna(decisions.ours, decisions.senna)
    lines = _table(["the decision, written", "ours, read strictly", "Senna's script"], rows)
    lines += ["", f"{describe_written(decisions)}.", ""]
    lines += [f"- {_plain(reason)}" for reason in decisions.reasons]
    listed = otherwise_rows(decisions)
    return [*lines, "", *_table(OTHERWISE_HEAD, listed)] if listed else lines


def _table(head: Row, rows: Iterable[Row]) -> list[str]:
    lines = [_line(head), "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
    return lines + [_line([*row, *[""] * (len(head) - len(row))]) for row in rows]


def _line(cells: Row) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text of a table's cell: on one line, and nothing of it taken for markup."""
    line = shorten(text)
    for sign in "\\|`*_[]":
        line = line.replace(sign, f"\\{sign}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _percent(share: Interval) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _number(value: Interval) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"
