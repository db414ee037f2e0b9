"""The gallery: one card per frame, its pictures embedded. Whatever comes from data is escaped."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from clkd_core.metrics.frames import FrameRow
from clkd_core.report.layout.plots import draw_birds_eye
from clkd_core.report.pictures import FRONT
from clkd_core.report.scoring.words import NOT_MEASURED
from clkd_core.types import CAMERAS, META_ACTIONS

_PROBABILITIES_SHOWN = 4
_FILTERS = ("all", "right", "wrong", "regular", "corner")

Views = Mapping[str, bytes]


def build_gallery(rows: Sequence[FrameRow], gallery: Mapping[int, Views]) -> str:
    """Cards of all rows that have pictures, by row number and in their order; empty if none."""
    shown = {number: row for number, row in enumerate(rows) if number in gallery}
    if not shown:
        return ""
    cards = "".join(_build_card(row, gallery[number]) for number, row in shown.items())
    labelled = any(row.label is not None for row in shown.values())
    return f"{_build_filter() if labelled else ''}{cards}"


def _build_filter() -> str:
    buttons = "".join(
        f'<label><input type="radio" name="show" value="{name}"'
        f"{' checked' if name == 'all' else ''}>{name}</label>"
        for name in _FILTERS
    )
    return f'<fieldset class="filter"><legend>Frames shown</legend>{buttons}</fieldset>'


def _build_card(row: FrameRow, views: Views) -> str:
    return (
        f'<article class="frame {_css_classes(row)}"><div>{_build_views(row, views)}</div>'
        f"<div>{_build_words(row)}{_build_probabilities(row)}"
        f"{draw_birds_eye(row.plan, row.truth)}</div></article>"
    )


def _css_classes(row: FrameRow) -> str:
    if row.label is None:
        return "unlabelled"
    return f"{'right' if row.correct else 'wrong'} {'corner' if row.corner else 'regular'}"


def _build_views(row: FrameRow, views: Views) -> str:
    answer = row.answer.text if row.answer else "no decision"
    front = _image(views[FRONT], f"Front view, decision {answer}") if FRONT in views else ""
    others = "".join(
        f"<div>{_image(views[camera], name)}<span>{name}</span></div>"
        for camera in CAMERAS
        if camera != FRONT and camera in views
        for name in [camera.removeprefix("CAM_").replace("_", " ").lower()]
    )
    missing = "" if front else '<p class="word">no front view</p>'
    return f'{front}{missing}<div class="views">{others}</div>'


def _image(jpeg: bytes, words: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{escape(words)}" src="data:image/jpeg;base64,{data}">'


def _build_words(row: FrameRow) -> str:
    answer = row.answer.text if row.answer else "no decision"
    verdict = "not labelled" if row.label is None else "right" if row.correct else "wrong"
    if row.outcome != "answered":
        verdict += f", {row.outcome.value}"
    facts = {
        "should be": row.label.text if row.label and not row.correct else "",
        "case": row.case_name,
        "drive": row.scene,
        "speed": "" if math.isnan(row.speed_mps) else f"{row.speed_mps:.1f} m/s",
        "route": row.command.value if row.command else "unknown",
        "inference_ms": _milliseconds(row.inference_ms),
        "response_ms": _milliseconds(row.response_ms),
        "degraded": row.reason if row.degraded else "",
        "reason": row.reason if not row.degraded else "",
    }
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(words)}</dd>" for name, words in facts.items() if words
    )
    return f'<h3>{escape(answer)}</h3><span class="verdict">{verdict}</span><dl>{listed}</dl>'


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if math.isfinite(value) else NOT_MEASURED


def _build_probabilities(row: FrameRow) -> str:
    """The most probable actions, and the right one wherever it stands."""
    if row.probabilities is None:
        return ""
    order = sorted(range(len(META_ACTIONS)), key=lambda i: -(row.probabilities or ())[i])
    shown = order[:_PROBABILITIES_SHOWN]
    if row.label is not None and row.label.index not in shown:
        shown.append(row.label.index)
    lines = "".join(_probability_line(row, index, row.probabilities[index]) for index in shown)
    return f'<ul class="bars20">{lines}</ul>'


def _probability_line(row: FrameRow, index: int, probability: float) -> str:
    action = META_ACTIONS[index]
    css = ' class="label"' if action == row.label else ""
    share = min(max(probability, 0.0), 1.0)
    return (
        f'<li{css}><span>{action.text}</span><i style="width:{share:.1%}"></i>'
        f"<span>{probability:.0%}</span></li>"
    )
