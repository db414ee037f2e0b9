"""The picture: quality over time per answer, the larger a bubble the larger the model.

Whoever has no trained weights stands in a strip of its own below, on the same time axis: where it
would stand in quality is not known, and is not made up.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clkd_core.metrics.frames import DEADLINE_MS
from clkd_core.report.compare.entries import Entry

if TYPE_CHECKING:  # matplotlib takes most of a second, --help does not need it
    from matplotlib.figure import Figure

_COLOURS = {"ours": "#0b7a6b", "other": "#d9722b"}
_WORDS = {"ours": "our engine", "other": "others"}
_INK, _SOFT, _LINE, _LATE = "#171a1d", "#5a636d", "#e2e2da", "#b3261e"
_WIDTH_IN, _TOP_IN, _ROW_IN, _EDGES_IN, _DPI = 8.4, 3.4, 0.34, 1.7, 140
_AREA = 0.02
"""Points squared per square root of a parameter: 1.7 M is 26, 7 G is 1670, four orders of
magnitude still told apart and seen."""
_SIZES = (1_000_000, 100_000_000, 1_000_000_000)


def draw_comparison(entries: Sequence[Entry], devices: Sequence[str]) -> bytes:
    """A PNG's bytes.

    Args:
        entries: who is compared, at least one.
        devices: of the benchmarks, in the order of their numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rated = [entry for entry in entries if entry.quality is not None]
    bare = [entry for entry in entries if entry.quality is None]
    heights = [_TOP_IN] * bool(rated) + [_ROW_IN * (len(bare) + 1)] * bool(bare)
    size = (_WIDTH_IN, sum(heights) + _EDGES_IN + 0.16 * len(devices))
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    places = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    if rated:
        _draw_rated(places[0], rated, several=len(devices) > 1)
    if bare:
        _draw_bare(places[-1], bare, several=len(devices) > 1)
    _finish(figure, list(places), entries, devices)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a name in letters that the font lacks: boxes say enough
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def bubble_area(parameters: int) -> float:
    """Of a model in points squared: it grows as the square root of the parameters."""
    return _AREA * math.sqrt(parameters)


def _label(entry: Entry, several: bool) -> str:
    return f"{entry.name} ({entry.file})" if several else entry.name


def _draw_rated(place: Any, entries: Sequence[Entry], *, several: bool) -> None:
    for entry in entries:
        assert entry.quality is not None  # the caller has sorted them
        score = entry.quality.macro_f1
        _draw_bubble(place, entry, score.value)
        if math.isfinite(score.low) and math.isfinite(score.high):
            place.plot([entry.p50_ms] * 2, [score.low, score.high], color=_INK, lw=0.9, zorder=4)
        place.annotate(
            _label(entry, several),
            (entry.p50_ms, score.value),
            xytext=(4 + math.sqrt(bubble_area(entry.total_parameters)) / 2, 4),
            textcoords="offset points",
            fontsize=9,
            color=_INK,
            zorder=5,
        )
    place.set_ylim(0, 1.04)
    place.set_ylabel("macro-F1 of the meta-action", fontsize=9)


def _draw_bare(place: Any, entries: Sequence[Entry], *, several: bool) -> None:
    rows = sorted(entries, key=lambda entry: entry.p50_ms, reverse=True)
    for row, entry in enumerate(rows):
        _draw_bubble(place, entry, row)
    place.set_yticks(range(len(rows)), [_label(entry, several) for entry in rows], fontsize=9)
    place.set_ylim(-0.9, len(rows) - 0.1)
    place.set_title("no trained weights: quality unknown", fontsize=9, loc="left", color=_SOFT)


def _draw_bubble(place: Any, entry: Entry, height: float) -> None:
    """The bubble at the median, a line to the 99th percentile."""
    colour = _COLOURS.get(entry.kind, _COLOURS["other"])
    place.plot([entry.p50_ms, entry.p99_ms], [height] * 2, color=colour, lw=1.3, zorder=2)
    place.scatter(
        [entry.p50_ms],
        [height],
        s=bubble_area(entry.total_parameters),
        color=colour,
        alpha=0.75,
        edgecolor="white",
        linewidth=0.8,
        zorder=3,
    )


def _finish(
    figure: "Figure", places: Sequence[Any], entries: Sequence[Entry], devices: Sequence[str]
) -> None:
    """Axes that can be read, the deadline, the legend, and what was measured where."""
    for place in places:
        place.set_xscale("log")
        place.axvline(DEADLINE_MS, color=_LATE, lw=1.1, ls=(0, (5, 3)), zorder=1)
        place.grid(True, which="major", color=_LINE, lw=0.8)
        place.set_axisbelow(True)
        place.tick_params(which="both", labelsize=9, colors=_INK, length=0)
        for side in place.spines.values():
            side.set_visible(False)
    _label_time(places, entries)
    _draw_legend(figure, entries)
    notes = [f"({number}) {device}" for number, device in enumerate(devices, start=1)]
    notes = notes if len(notes) > 1 else [f"Measured on {devices[0]}."]
    notes.append("The area of a bubble grows as the square root of the parameters.")
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=8, color=_SOFT)


def _label_time(places: Sequence[Any], entries: Sequence[Entry]) -> None:
    """The axis that all share, below the last, and the deadline's name above the first."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low = min(entry.p50_ms for entry in entries)
    high = max(entry.p99_ms for entry in entries)
    last, words = places[-1], "ms from six JPEGs to an answer: bubble at the median, line to p99"
    last.set_xlim(min(low, DEADLINE_MS) / 1.8, max(high, DEADLINE_MS) * 1.8)
    last.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    last.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    last.xaxis.set_minor_formatter(NullFormatter())
    last.set_xlabel(words, fontsize=9)
    places[0].text(
        DEADLINE_MS,
        1.0,
        f"{DEADLINE_MS:.0f} ms",
        transform=places[0].get_xaxis_transform(),
        fontsize=8.5,
        color=_LATE,
        va="bottom",
        ha="center",
    )


def _draw_legend(figure: "Figure", entries: Sequence[Entry]) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in _COLOURS if any(entry.kind == kind for entry in entries)]
    marks = [(_WORDS[kind], _COLOURS[kind], 6.0) for kind in kinds]
    marks += [(_count_words(size), _SOFT, math.sqrt(bubble_area(size))) for size in _SIZES]
    handles = [
        Line2D([], [], ls="", marker="o", markersize=size, color=colour, label=words)
        for words, colour, size in marks
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handletextpad=1.1,
        columnspacing=2.6,
        borderpad=1.2,
    )


def _count_words(parameters: int) -> str:
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:g} G parameters"
    return f"{parameters / 1e6:g} M"
