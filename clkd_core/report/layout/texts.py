"""What was said in words, as tables. Questions and answers come from data and are escaped here."""

from html import escape

from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.decisions.senna_compat import SennaScores
from clkd_core.metrics.texts.published import NotComputed
from clkd_core.report.layout.tables import build_table, f1_cell, percent_cell
from clkd_core.report.scoring.answers import TextAnswer
from clkd_core.report.scoring.scores import RunScores
from clkd_core.report.scoring.texts import ALL_KINDS, GeneratedDecisions, TextResult
from clkd_core.report.scoring.words import NO_QUESTIONS, why_no_decisions
from clkd_core.types import PathAction, SpeedAction

SHOWN_OTHERWISE = 20
"""Keyframes listed whose text is not the decision; all of them are in ``metrics.json``."""
SHOWN_CHARACTERS = 300
"""Of a question or an answer; a longer one is cut."""

TEXT_WORDS = (
    "Greedy answers to the questions of the set, by kind of question. BLEU-4, ROUGE-L and the "
    "share of answers that are exactly right are ours, with their 95 % intervals; beside them "
    "what published papers print, by pycocoevalcap. A question that could not be answered counts "
    "as an empty answer."
)


def build_text_tables(scores: RunScores) -> str:
    """Scores by kind and case, decisions read from words beside Senna's counting, examples."""
    texts = scores.texts
    parts = [f'<p class="word">Answers in words: {NO_QUESTIONS}.</p>']
    if texts.by_kind:
        parts = [build_score_table(scores), *_published_note(scores)]
    parts.append("<h3>The decision, written</h3>")
    if texts.decisions is None:
        parts.append(f'<p class="word">{why_no_decisions(scores)}</p>')
    else:
        parts.append(build_decision_table(texts.decisions))
    if texts.examples:
        parts += ["<h3>Examples</h3>", *map(_example, texts.examples)]
    return "".join(parts)


def build_score_table(scores: RunScores) -> str:
    """One row per kind of question and kind of case."""
    rows = [
        _score_row(kind, case, result)
        for kind, cases in scores.texts.by_kind.items()
        for case, result in cases.items()
    ]
    head = ["", "questions", "unanswered", "BLEU-4", "ROUGE-L", "exactly right"]
    return build_table([*head, *(f"published<br>{name}" for name in PUBLISHED)], rows)


PUBLISHED = {"BLEU-4": "bleu4", "METEOR": "meteor", "ROUGE-L": "rouge_l"}
"""Field of the published scores by name."""


def _score_row(kind: str, case: str, result: TextResult) -> str:
    ours, published = result.ours, result.published
    cells = f"<td>{f1_cell(ours.bleu4)}</td><td>{f1_cell(ours.rouge_l)}</td>"
    cells += f"<td>{percent_cell(ours.exact)}</td>"
    for field in PUBLISHED.values():
        known = not isinstance(published, NotComputed)
        cells += f"<td>{getattr(published, field):.3f}</td>" if known else "<td>&ndash;</td>"
    main = ' class="main"' if (kind, case) == ("all", "all") else ""
    return (
        f'<tr{main}><th scope="row">{escape(kind_words(kind))}, {case}</th><td>{ours.count}</td>'
        f"<td>{result.unanswered}</td>{cells}</tr>"
    )


def kind_words(kind: str) -> str:
    """A kind of question by its name."""
    return "all questions" if kind == ALL_KINDS else shorten(kind)


def _published_note(scores: RunScores) -> list[str]:
    reason = why_not_published(scores)
    return [f'<p class="word">A dash: {escape(reason)}</p>'] if reason else []


def why_not_published(scores: RunScores) -> str:
    """Why there are no published scores, empty where there are."""
    reasons = [
        result.published.reason
        for cases in scores.texts.by_kind.values()
        for result in cases.values()
        if isinstance(result.published, NotComputed)
    ]
    return f"not computed: {'; '.join(dict.fromkeys(reasons))}" if reasons else ""


def build_decision_table(decisions: GeneratedDecisions) -> str:
    """Our strict reading of the written decisions beside the public script's counting."""
    rows = [
        f'<tr><th scope="row">{name}</th><td>{ours}</td><td>{senna}</td></tr>'
        for name, ours, senna in compare_with_senna(decisions.ours, decisions.senna)
    ]
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in decisions.reasons)
    return (
        f"<p>{describe_written(decisions)}.</p>"
        + build_table(["", "ours, read strictly", "Senna's script"], rows)
        + f"<ul>{reasons}</ul>"
        + _otherwise_table(decisions)
    )


OTHERWISE_HEAD = ("keyframe", "drive", "text", "its probability", "one pass", "its probability")


def describe_written(decisions: GeneratedDecisions) -> str:
    """How many texts are legal, and how many of them are what one pass decides."""
    senna, same = decisions.senna, decisions.agreement_where_legal
    line = (
        f"Of {senna.frames} labelled keyframes, {senna.readable} texts are one of the 20 answers"
    )
    if same is None:
        return line
    share = f"{same.value:.1%} of these (95 % interval {same.low:.1%} to {same.high:.1%})"
    return f"{line}. The text is what one pass decides in {share}"


def otherwise_rows(decisions: GeneratedDecisions) -> list[list[str]]:
    """Cells under :data:`OTHERWISE_HEAD`; at the end how many are left."""
    shown = decisions.otherwise[:SHOWN_OTHERWISE]
    rows = [
        [
            str(one.stamp_ns),
            shorten(one.scene),
            shorten(one.text),
            _probability(one.text_probability),
            one.decision.text,
            _probability(one.decision_probability),
        ]
        for one in shown
    ]
    left = len(decisions.otherwise) - len(shown)
    return [*rows, [f"and {left} more in metrics.json", *[""] * 5]] if left else rows


def _probability(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _otherwise_table(decisions: GeneratedDecisions) -> str:
    rows = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for cells in otherwise_rows(decisions)
    ]
    return build_table(OTHERWISE_HEAD, rows) if rows else ""


def compare_with_senna(ours: ActionScores, senna: SennaScores) -> list[tuple[str, str, str]]:
    """(what, by us, by the public script) of everything that one of the two prints."""
    f1 = {a.name: f"{v:.3f}" for a, v in (*ours.speed_f1.items(), *ours.path_f1.items())}
    rows = [
        ("accuracy", f"{ours.accuracy.value:.2%}", f"{senna.accuracy:.2%}"),
        ("macro-F1", f"{ours.macro_f1.value:.3f}", "none"),
    ]
    for action in (*SpeedAction, *PathAction):
        by_us = f1[action.name].replace("nan", "no label")
        by_senna = f"{senna.f1[action.name]:.3f}" if action.name in senna.f1 else "none"
        rows.append((f"F1 {action.name}", by_us, by_senna))
    return rows


def _example(answer: TextAnswer) -> str:
    said = "no usable image" if answer.answer is None else answer.answer
    facts = {
        f"{answer.kind}, {answer.case_name}": answer.question,
        "right": answer.reference,
        "said": said,
    }
    listed = "".join(
        f"<dt>{escape(shorten(name))}</dt><dd>{escape(shorten(text)) or '&ndash;'}</dd>"
        for name, text in facts.items()
    )
    return f'<dl class="facts said">{listed}</dl>'


def shorten(text: str) -> str:
    """On one line, cut where it is too long, without what no file could hold (half a pair)."""
    line = " ".join(text.split()).encode("utf-8", "replace").decode()
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
