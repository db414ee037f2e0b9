"""The report as one HTML page that needs no network, no server and no script."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from clkd_core.metrics.decisions.rsdr import rsdr
from clkd_core.metrics.frames import FrameRow
from clkd_core.metrics.intervals import resampling_unit
from clkd_core.report.layout import tables
from clkd_core.report.layout.cards import Views, build_gallery
from clkd_core.report.layout.live import (
    LIVE_WORDS,
    build_agreement,
    describe_modes,
    said_by_nodes,
)
from clkd_core.report.layout.look import STYLE
from clkd_core.report.layout.plans import PLAN_WORDS, build_plan_tables
from clkd_core.report.layout.plots import draw_histogram, draw_rsdr_curve
from clkd_core.report.layout.texts import TEXT_WORDS, build_text_tables
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import LatencyStats, RunScores
from clkd_core.report.scoring.words import (
    NO_QUESTIONS,
    NOT_LABELLED,
    NOT_MEASURED,
    why_no_l2,
    why_no_rsdr,
)
from clkd_core.types import PathAction, SpeedAction

KINDS = {
    "live": "live replay through the nodes, in real time",
    "direct": "read directly, no transport",
    "untimed": "read directly, time not measured",
}
"""What a run was, by its mode."""

_CURVE_END_MS = 150


def build_page(
    rows: Sequence[FrameRow],
    scores: RunScores,
    provenance: Provenance,
    gallery: Mapping[int, Views],
    *,
    title: str,
) -> str:
    """Lay a run out; the headline numbers stand first.

    Args:
        rows: of the student.
        scores: of the same rows.
        provenance: of the run.
        gallery: JPEG bytes by row number and camera; may be empty.
        title: name of the run.
    """
    body = "".join(
        [
            _header(scores, provenance, title),
            "<main>",
            _tiles(scores, provenance),
            _frames_section(scores, provenance),
            _actions_section(rows, scores, provenance),
            _live_section(scores, provenance),
            _time_section(rows, scores, provenance),
            _per_action_section(scores),
            _planner_section(scores),
            _texts_section(scores),
            _gallery_section(rows, gallery),
            _provenance_section(provenance),
            "</main>",
            "<footer><p>Made by <code>clkd report</code> from this folder's "
            "<code>frames.csv</code>; every number is also in <code>metrics.json</code>.</p>"
            "</footer>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · CLKD Drive</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _header(scores: RunScores, provenance: Provenance, title: str) -> str:
    bags = provenance.bag.split(", ")
    bag = Path(provenance.bag).name if len(bags) == 1 else f"{len(bags)} bags"
    return (
        f'<header><p class="brand">CLKD Drive</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(_lead(scores, provenance))}</p>'
        f'<p class="meta">{escape(bag)} · {KINDS[provenance.mode]} · '
        f"{escape(provenance.device)} · {escape(provenance.created)}</p></header>"
    )


def _lead(scores: RunScores, provenance: Provenance) -> str:
    """The finding in three sentences."""
    counts = scores.counts
    if scores.actions is None:
        return (
            f"{counts.answered} of {counts.frames} frames were answered. No action is labelled, "
            "so nothing is said about right or wrong decisions."
        )
    beside = [
        f"{scores.actions[model]['all'].macro_f1.value:.2f} {words}"
        for model, words in (
            ("blank", "on blank images"),
            ("shuffled", "on another scene's images"),
            ("ego_status", "from ego status alone"),
            ("majority", f"for always answering {scores.majority}"),
        )
        if model in scores.actions
    ]
    return (
        f"{counts.answered} of {counts.labelled} labelled keyframes were answered. "
        f"The student's macro-F1 is {scores.actions['student']['all'].macro_f1.value:.2f}, "
        f"against {', '.join(beside)}. {_rsdr_sentence(scores, provenance)}"
    )


def _rsdr_sentence(scores: RunScores, provenance: Provenance) -> str:
    for latency, words in (
        ("response_ms", "of the last image"),
        ("inference_ms", "of inference time"),
    ):
        models = scores.rsdr.get(latency)
        if models is not None:
            share = models["student"]["all"][provenance.deadline_ms].value
            deadline = f"{provenance.deadline_ms:g} ms"
            return f"{share:.0%} of all keyframes got the right answer within {deadline} {words}."
    return ""


def _tiles(scores: RunScores, provenance: Provenance) -> str:
    counts = scores.counts
    late = f"{counts.late} late, {counts.dropped} dropped"
    tiles = [_tile("Frames answered", f"{counts.answered} / {counts.frames}", late)]
    if scores.actions is None:
        tiles += [_tile(name, NOT_LABELLED, "") for name in ("Accuracy", "Macro-F1")]
    else:
        student, majority = (scores.actions[m]["all"] for m in ("student", "majority"))
        tiles += [
            _tile(
                "Accuracy",
                f"{student.accuracy.value:.1%}",
                f"majority {majority.accuracy.value:.1%}",
            ),
            _tile(
                "Macro-F1",
                f"{student.macro_f1.value:.3f}",
                f"majority {majority.macro_f1.value:.3f}",
            ),
        ]
    tiles += [_rsdr_tile(scores, provenance, latency) for latency in scores.rsdr]
    tiles += [
        _latency_tile(name, scores.latencies.get(name)) for name in ("inference_ms", "response_ms")
    ]
    return f'<ul class="tiles">{"".join(tiles)}{_l2_tile(scores)}</ul>'


def _tile(name: str, value: str, beside: str) -> str:
    css = "value" if any(letter.isdigit() for letter in value) else "value word"
    return (
        f'<li><span class="name">{name}</span><span class="{css}">{value}</span>'
        f'<span class="beside">{beside}</span></li>'
    )


def _rsdr_tile(scores: RunScores, provenance: Provenance, latency: str) -> str:
    name = f"RSDR at {provenance.deadline_ms:g} ms, {latency}"
    models = scores.rsdr[latency]
    if models is None:
        return _tile(name, why_no_rsdr(scores), "")
    student, majority = (
        models[model]["all"][provenance.deadline_ms].value for model in ("student", "majority")
    )
    return _tile(name, f"{student:.1%}", f"majority {majority:.1%}")


def _latency_tile(name: str, stats: LatencyStats | None) -> str:
    if stats is None:
        return _tile(f"{name}, p99", NOT_MEASURED, "")
    return _tile(
        f"{name}, p99", f"{stats.p99:.0f} ms", f"p50 {stats.p50:.0f}, p95 {stats.p95:.0f}"
    )


def _l2_tile(scores: RunScores) -> str:
    if "planner" not in scores.plans.l2:
        return _tile("Planner's L2", why_no_l2(scores, "planner"), "")
    planner = scores.plans.l2["planner"]["all"]
    return _tile(
        "Planner's L2, average to 3 s",
        f"{planner.average_m[3].value:.2f} m",
        f"at 3 s {planner.horizon_m[3].value:.2f} m",
    )


def _section(heading: str, words: str, content: str, *, name: str = "") -> str:
    anchor = f' id="{name}"' if name else ""
    return f"<section{anchor}><h2>{heading}</h2><p>{words}</p>{content}</section>"


def _frames_section(scores: RunScores, provenance: Provenance) -> str:
    counts = scores.counts
    parts = {"answered": counts.in_time, "late": counts.late, "dropped": counts.dropped}
    bar = "".join(
        f'<i class="{name}" style="flex-grow:{count}"></i>'
        for name, count in parts.items()
        if count
    )
    words = {"answered": "answered in time", "late": "late", "dropped": "dropped"}
    key = "".join(
        f'<li><b class="{name}"></b>{count} {words[name]}</li>' for name, count in parts.items()
    )
    counted = "".join(
        f"<dt>{escape(reason)}</dt><dd>{count}</dd>"
        for reason, count in provenance.counters.items()
    )
    said = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>"
        for name, words in said_by_nodes(provenance).items()
    )
    kinds = (
        f"{counts.labelled} labelled keyframes, {counts.regular} regular and {counts.corner} of "
        "corner cases."
        if counts.labelled
        else f"{counts.frames} frames, not labelled."
    )
    held = "response_ms" if scores.response_measured else "inference_ms, as there is no transport"
    late = (
        "Time was not measured, so no answer is late."
        if provenance.mode == "untimed"
        else f"Late means after {provenance.deadline_ms:g} ms by {held}, or a repeated answer "
        f"({counts.stale})."
    )
    return _section(
        "Frames",
        f"{kinds} {late} {counts.degraded} answers were made with an input missing.",
        f'<div class="share" aria-hidden="true">{bar}</div><ul class="key">{key}</ul>'
        + (
            f"<h3>Counted on the way</h3><dl class='facts counts'>{counted}</dl>"
            if counted
            else ""
        )
        + (f"<h3>What the nodes said</h3><dl class='facts'>{said}</dl>" if said else ""),
    )


def _actions_section(rows: Sequence[FrameRow], scores: RunScores, provenance: Provenance) -> str:
    if scores.actions is None:
        return _section("Is it right?", f"Accuracy and macro-F1: {NOT_LABELLED}.", "")
    unit = resampling_unit([row.scene for row in rows if row.label is not None])
    words = (
        "A frame without an answer of its own counts as wrong. Macro-F1 is the mean of the speed "
        "and the path macro over the actions that occur in the labels, drawn at the right on a "
        f"scale from 0 to 1. Small figures: 95 % bootstrap interval over {unit}s. The majority "
        f"answer, {scores.majority}, is that of {scores.majority_of}."
    )
    return _section("Is it right?", words, tables.build_action_table(scores, provenance))


def _live_section(scores: RunScores, provenance: Provenance) -> str:
    if provenance.mode != "live":
        return ""
    return _section("Live against direct", LIVE_WORDS, build_agreement(scores, provenance))


def _time_section(rows: Sequence[FrameRow], scores: RunScores, provenance: Provenance) -> str:
    if provenance.mode == "untimed":
        words = f"RSDR and latency: {NOT_MEASURED}, as many frames were answered at a time. "
        words += "<code>clkd replay</code> and <code>clkd evaluate --time</code> measure them."
        return _section("Is it in time?", words, "")
    known = {name: models for name, models in scores.rsdr.items() if models is not None}
    curve = ""
    if known:
        labelled = [row for row in rows if row.label is not None]
        curve = draw_rsdr_curve(
            {name: _dense_curve(labelled, name) for name in known},
            {name: models["student"]["all"] for name, models in known.items()},
            deadline_ms=provenance.deadline_ms,
            majority=next(iter(known.values()))["majority"]["all"][provenance.deadline_ms].value,
        )
    histogram = draw_histogram(
        {name: [getattr(row, name) for row in rows] for name in scores.rsdr},
        deadline_ms=provenance.deadline_ms,
    )
    key = (
        '<ul class="key"><li><b class="inference_ms"></b>inference_ms</li>'
        '<li><b class="response_ms"></b>response_ms'
        f"{'' if scores.response_measured else ': ' + NOT_MEASURED}</li></ul>"
    )
    return _section(
        "Is it in time?",
        "RSDR is the share of all labelled keyframes whose decision is right and came within the "
        "deadline: dropped, repeated and wrong ones count 0. inference_ms is the paper's clock, "
        f"response_ms the one a vehicle feels. Measured on {escape(provenance.device)}.",
        f"{key}<div class='two'><div><h3>RSDR by deadline in ms</h3>{curve or _word(scores)}</div>"
        f"<div><h3>Latency in ms, number of frames</h3>{histogram}</div></div>"
        + (f"<h3>RSDR</h3>{tables.build_rsdr_table(scores)}" if known else "")
        + f"<h3>Latency in ms</h3>{tables.build_latency_table(scores)}",
    )


def _word(scores: RunScores) -> str:
    return f'<p class="word">{why_no_rsdr(scores)}</p>'


def _dense_curve(labelled: Sequence[FrameRow], latency: str) -> list[tuple[float, float]]:
    values = [getattr(row, latency) for row in labelled]
    correct = [row.correct and not row.late for row in labelled]
    return [(0.0, 0.0)] + [
        (float(deadline), rsdr(values, correct, deadline))
        for deadline in range(1, _CURVE_END_MS + 1)
    ]


def _per_action_section(scores: RunScores) -> str:
    if scores.actions is None:
        return ""
    student = scores.actions["student"]
    everything = student["all"]
    confusions = "".join(
        f"<div>{tables.build_confusion_table(counts, actions, title)}</div>"
        for counts, actions, title in (
            (everything.speed_confusion, SpeedAction, "Speed, all frames"),
            (everything.path_confusion, PathAction, "Path, all frames"),
        )
    )
    return _section(
        "Which actions?",
        "The student's F1 of each action (a dash: no label has it), what it took for what, and "
        "how often it was right in each kind of case.",
        f'<div class="two"><div>{tables.build_f1_table(student)}</div>'
        f"<div>{tables.build_case_table(scores.by_case_name)}</div></div>"
        f'<div class="two">{confusions}</div>',
    )


def _planner_section(scores: RunScores) -> str:
    if "planner" not in scores.plans.l2 and not scores.has_truth:
        return _section("Where would it go?", f"L2: {why_no_l2(scores, 'planner')}.", "")
    modes = f"<p>Plans by mode: {describe_modes(scores)}. Those of every mode are scored.</p>"
    tables_of_plans = (modes if scores.has_plans else "") + build_plan_tables(scores)
    return _section("Where would it go?", PLAN_WORDS, tables_of_plans)


def _texts_section(scores: RunScores) -> str:
    texts = scores.texts
    if not texts.by_kind and texts.decisions is None:
        return _section("What does it say?", f"Answers in words: {NO_QUESTIONS}.", "")
    return _section("What does it say?", TEXT_WORDS, build_text_tables(scores))


def _gallery_section(rows: Sequence[FrameRow], gallery: Mapping[int, Views]) -> str:
    shown = [row for number, row in enumerate(rows) if number in gallery]
    if not shown:
        return ""
    words = "Spread over the whole run. The map at the side has a ring every 10 m."
    if any(row.label is not None for row in shown):
        words = (
            "Chosen to be instructive, not typical: of each kind of case a right and a wrong one "
            "where there are both, so their share says nothing about accuracy. The map at the "
            "side has a ring every 10 m."
        )
    key = "".join(
        f'<li><b class="{name}"></b>{what} path</li>'
        for name, what, path in (
            ("plan", "planned", [row.plan for row in shown]),
            ("truth", "driven", [row.truth for row in shown]),
        )
        if any(path)
    )
    cards = build_gallery(rows, gallery)
    return _section("What it saw", words, f'<ul class="key">{key}</ul>{cards}', name="frames")


def _provenance_section(provenance: Provenance) -> str:
    facts = {
        "Command": provenance.command,
        "Checkpoint": provenance.checkpoint,
        "Input": provenance.bag,
        "Device": provenance.device,
        "Revision": provenance.git_revision,
        "Versions": ", ".join(f"{name} {text}" for name, text in provenance.versions.items()),
        "Seed of the intervals": str(provenance.seed),
        "Notes": "; ".join(provenance.notes),
    }
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    return _section("Where this comes from", "", f'<dl class="facts">{listed}</dl>')
