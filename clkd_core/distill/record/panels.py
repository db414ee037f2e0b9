"""Small multiples: a picture of many small panels, each with a few curves over the steps."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.distill.record.metrics_log import is_number

if TYPE_CHECKING:  # matplotlib takes most of a second, --help does not need it
    from matplotlib.figure import Figure

COLOURS = (
    "#0b7a6b",
    "#d9722b",
    "#3b6fb6",
    "#b03a6e",
    "#7a8b1e",
    "#7b5ba6",
    "#2a2f35",
    "#c9a227",
    "#4fb3bf",
    "#8c5a3c",
)
"""Of curves, in the order they are given out; they start again after the last."""

_INK, _SOFT, _LINE = "#171a1d", "#5a636d", "#e2e2da"
_WIDTH_IN, _HEIGHT_IN, _DPI = 3.3, 2.1, 120
_WORDS_IN = 0.25
"""Height of the note, and of a row of the legend."""
_MOST_COLUMNS = 4
_DOTS_UP_TO = 12
"""Curves of no more points show each of them."""
_LEAST_BAND = 0.05
"""Bands of a stack that end lower than this have no room for their number."""

_DASH = 5
"""Line widths that a dash is long."""
_HIDDEN = 0.005
"""Share of a curve's range by which another may differ and still lie on it."""
_ALONE = 0.5
"""Steps shown on either side of a single one."""

Points = Sequence[tuple[float, float]]
"""(step, value), in the order they were logged."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line in a panel."""

    points: Points
    colour: str
    label: str = ""
    """Stands in the panel's legend; none where the picture has one for all."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small plot; curves that say nothing are left out by :func:`is_telling`."""

    title: str
    curves: Sequence[Curve]
    share: bool = False
    """The values are shares: the axis goes from 0 to 1."""
    stacked: bool = False
    """The curves are parts of a whole, drawn as bands that stand on each other."""
    steps: tuple[float, float] | None = None
    """First and last step of the axis, for panels that are read across; None: those there are."""
    smooth: bool = True
    """Whether a running mean may be drawn; not of what follows a plan and has no noise."""
    mark: tuple[float, str] | None = None
    """A step that is marked, and what happened there."""


def is_telling(points: Points) -> bool:
    """Whether there is a value that is not zero: a term that was never on shows nothing."""
    return any(value != 0 for _, value in points)


def collect_points(
    metrics: Sequence[Mapping[str, Any]], stage: str, key: str, *, item: int | None = None
) -> list[tuple[float, float]]:
    """A metric's points; lines without it, or where it is null, are left out.

    So is a ``kd`` of 0: it stands for a teacher that was not asked, not for one that agreed.

    Args:
        metrics: lines of ``metrics.jsonl``.
        stage: whose lines.
        key: name of the metric.
        item: which element, where the metric is a list.
    """
    points = []
    for line in metrics:
        value: Any = line.get(key)
        if item is not None:
            value = value[item] if isinstance(value, list) and item < len(value) else None
        unasked = key == "kd" and value == 0
        if line["stage"] == stage and is_number(value) and not unasked:
            points.append((float(line["step"]), float(value)))
    return points


def stage_steps(metrics: Sequence[Mapping[str, Any]], stage: str) -> tuple[float, float] | None:
    """First and last logged step of a stage; None where it has none."""
    steps = [float(line["step"]) for line in metrics if line["stage"] == stage]
    return (min(steps), max(steps)) if steps else None


def running_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Mean over a window around each value, cut off at both ends.

    Args:
        values: (N,), N >= 1.
        window: values in a whole window, >= 1; of an even number one more lies behind than
            ahead.

    Returns:
        (N,) float64.

    Raises:
        ValueError: the window or the values are empty.
    """
    if window < 1 or not values:
        raise ValueError(f"window is {window} of {len(values)} values, expected both >= 1")
    count = len(values)
    ones = np.ones(min(window, 2 * count))  # so long a window holds all values anywhere
    kept = slice((len(ones) - 1) // 2, (len(ones) - 1) // 2 + count)
    total = np.convolve(np.asarray(values, np.float64), ones)[kept]
    return np.asarray(total / np.convolve(np.ones(count), ones)[kept])


def draw_panels(
    panels: Sequence[Panel],
    *,
    smooth: float = 1,
    legend: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Lay the panels out in rows, on a white ground.

    Args:
        panels: may be empty, the picture then says so.
        smooth: lines are the running mean of so many points, what was logged stands faintly
            behind; below 1: of that share of a curve's points.
        legend: (name, colour) of each run or the like, one legend for all panels.

    Returns:
        A PNG's bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / _MOST_COLUMNS)
    columns = math.ceil(len(panels) / max(rows, 1)) or 1
    height = rows * _HEIGHT_IN + _WORDS_IN * (1 + math.ceil(len(legend) / columns))
    figure = Figure(figsize=(columns * _WIDTH_IN, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.09, h_pad=0.09)
    for number, panel in enumerate(panels, start=1):
        place = figure.add_subplot(rows, columns, number)
        _draw_panel(place, panel, smooth if panel.smooth else 1)
    if legend:
        _draw_legend(figure, legend, columns)
    figure.supxlabel(_note(panels, smooth), x=0.01, ha="left", fontsize=7.5, color=_SOFT)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a name in letters that the font lacks: boxes say enough
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _note(panels: Sequence[Panel], smooth: float) -> str:
    """What the axes and lines are, once for all panels."""
    if not panels:
        return "Nothing was logged."
    lengths = [len(curve.points) for panel in panels if panel.smooth for curve in panel.curves]
    if all(_count_window(smooth, length) == 1 for length in lengths):
        return "Across: optimizer steps."
    width = f"{smooth:.0%} of a curve's" if smooth < 1 else f"{smooth:g}"
    return (
        "Across: optimizer steps. Faint: as logged. Lines and bands: running mean over "
        f"{width} points."
    )


def _draw_panel(place: Any, panel: Panel, smooth: float) -> None:
    _style(place, panel.title)
    if panel.stacked:
        _draw_stack(place, panel.curves, smooth)
    else:
        _draw_curves(place, panel.curves, smooth)
    aside = 0.0 if panel.stacked else 0.03  # a dot at the very edge is seen whole
    if panel.share:
        place.set_ylim(-aside, 1 + aside)
    if panel.steps is not None:
        first, last = panel.steps
        beyond = aside * (last - first) if last > first else _ALONE
        place.set_xlim(first - beyond, last + beyond)
    if panel.mark is not None:
        _draw_mark(place, *panel.mark)
    if any(curve.label for curve in panel.curves) and not panel.stacked:
        _draw_key(place, panel.curves)


def _draw_key(place: Any, curves: Sequence[Curve]) -> None:
    """The panel's own legend, at the height of its title."""
    from matplotlib.lines import Line2D

    place.legend(
        [Line2D([], [], color=curve.colour, linewidth=1.5) for curve in curves],
        [curve.label for curve in curves],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(curves),
        frameon=False,
        fontsize=7.5,
        labelcolor=_SOFT,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=0.9,
        borderpad=0,
        borderaxespad=0.45,
    )


def _style(place: Any, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    place.set_title(title, loc="left", fontsize=9, color=_INK, parse_math=False)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        place.spines[side].set_color(_LINE)
    place.tick_params(labelsize=7.5, color=_LINE, labelcolor=_SOFT, length=3)
    place.grid(axis="y", color=_LINE, linewidth=0.6)
    place.set_axisbelow(True)
    place.margins(x=0.02, y=0.08)
    place.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    place.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # Without the factor that matplotlib otherwise writes across the title.
    place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_curves(place: Any, curves: Sequence[Curve], smooth: float) -> None:
    few = max(len(curve.points) for curve in curves) <= _DOTS_UP_TO
    faint = 0.3 / math.sqrt(len(curves))
    for index, curve in enumerate(curves):
        steps, values = [step for step, _ in curve.points], [value for _, value in curve.points]
        window = _count_window(smooth, len(values))
        if window > 1:
            place.plot(steps, values, color=curve.colour, linewidth=0.6, alpha=faint)
        alike = [n for n, each in enumerate(curves) if n == index or _overlap(each, curve)]
        place.plot(
            steps,
            running_mean(values, window),
            color=curve.colour,
            linewidth=1.5,
            linestyle=_line_style(alike.index(index), len(alike)),
            marker="o" if few or len(steps) == 1 else "",
            markersize=3.2,
        )


def _overlap(curve: Curve, other: Curve) -> bool:
    """Whether one would hide the other, as far as both go."""
    values = [value for _, value in curve.points]
    near = _HIDDEN * (max(values) - min(values))
    return all(
        ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= near
        for ours, theirs in zip(curve.points, other.points, strict=False)
    )


def _line_style(rank: int, count: int) -> Any:
    """Of one among ``count`` curves that lie on each other: dashes, so that all are seen."""
    return (_DASH * (count - rank), (_DASH, _DASH * (count - 1))) if rank else "-"


def _draw_stack(place: Any, curves: Sequence[Curve], smooth: float) -> None:
    steps = [step for step, _ in curves[0].points]
    values = [[value for _, value in curve.points] for curve in curves]
    parts = np.array([running_mean(part, _count_window(smooth, len(part))) for part in values])
    if len(steps) == 1:  # a band needs a width
        steps, parts = [steps[0] - _ALONE, steps[0] + _ALONE], np.repeat(parts, 2, axis=1)
    place.stackplot(
        steps, parts, colors=[curve.colour for curve in curves], linewidth=0, alpha=0.85
    )
    place.margins(x=0)
    place.set_axisbelow(False)
    place.grid(False)
    tops = np.cumsum(parts[:, -1])
    for number, (top, part) in enumerate(zip(tops, parts[:, -1], strict=True), start=1):
        even = number / len(curves)
        place.axhline(even, xmax=even < 1, color="white", linewidth=0.8, linestyle=(0, (2, 3)))
        if part >= _LEAST_BAND:
            place.annotate(
                curves[number - 1].label,
                (1, top - part / 2),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=_SOFT,
            )


def _draw_mark(place: Any, step: float, words: str) -> None:
    place.axvline(step, color=_SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    low, high = place.get_xlim()
    on_the_right = step < (low + high) / 2
    place.annotate(
        words,
        (step, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4 if on_the_right else -4, -2),
        textcoords="offset points",
        ha="left" if on_the_right else "right",
        va="top",
        fontsize=7,
        color=_SOFT,
    )


def _draw_legend(figure: "Figure", names: Sequence[tuple[str, str]], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2.4) for _, colour in names]
    # Names go in afterwards: an older legend drops those that begin with an underscore.
    drawn = figure.legend(
        handles,
        ["name"] * len(handles),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )
    for text, (name, _) in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)
        text.set_parse_math(False)


def _count_window(smooth: float, points: int) -> int:
    return max(1, int(smooth if smooth >= 1 else smooth * points))
