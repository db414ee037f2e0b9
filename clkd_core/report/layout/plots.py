"""Small drawings as inline SVG: no fonts, scripts or files of their own, colours from the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clkd_core.metrics.intervals import Interval
from clkd_core.types import Trajectory

_WIDTH = 560
_HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 18, 26


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Data to pixels in one plot; y grows upwards in data and downwards in SVG."""

    x_max: float
    y_max: float

    def x(self, value: float) -> float:
        share = min(max(value / self.x_max, 0), 1)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(max(value / self.y_max, 0), 1)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)


def draw_rsdr_curve(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    marks: Mapping[str, Mapping[float, Interval]],
    *,
    deadline_ms: float,
    majority: float,
) -> str:
    """RSDR over the deadline: a line per latency, its printed points with their intervals.

    Args:
        curves: (deadline, RSDR) points by latency name; the name becomes the CSS class.
        marks: intervals at the printed deadlines by latency name.
        deadline_ms: drawn as a vertical line.
        majority: RSDR of the majority answer, which is always in time.
    """
    axes = _Axes(x_max=max((x for curve in curves.values() for x, _ in curve)), y_max=1.0)
    parts = [_frame(axes, _round_ticks(axes.x_max), percent=True)]
    parts.append(_vertical(axes, deadline_ms, f"{deadline_ms:g} ms", "deadline"))
    y = axes.y(majority)
    parts.append(
        f'<line class="majority" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="note" x="{_WIDTH - _RIGHT}" y="{y - 5}" text-anchor="end">'
        f"majority answer {majority:.0%}</text>"
    )
    for name, curve in curves.items():
        parts.append(f'<polyline class="series {name}" points="{axes.line(curve)}"/>')
    for name, points in marks.items():
        for deadline, interval in points.items():
            parts.append(_whisker(axes, deadline, interval, name))
    label = "Share of keyframes that are right and in time, by deadline"
    return _svg("".join(parts), label)


def draw_histogram(latencies_ms: Mapping[str, Sequence[float]], *, deadline_ms: float) -> str:
    """Latencies of one run as overlaid histograms; what lies beyond the axis is in its last bin.

    Args:
        latencies_ms: by name; values that are not finite are left out. The name becomes the
            CSS class.
        deadline_ms: drawn as a vertical line.
    """
    known = {
        name: [value for value in values if math.isfinite(value)]
        for name, values in latencies_ms.items()
    }
    known = {name: values for name, values in known.items() if values}
    largest = max((float(np.percentile(values, 99.5)) for values in known.values()), default=0)
    x_max = _round_up(max(deadline_ms * 1.25, largest))
    edges = np.linspace(0, x_max, 61)
    counts = {
        name: np.histogram(np.clip(values, 0, x_max), edges)[0] for name, values in known.items()
    }
    axes = _Axes(x_max=x_max, y_max=max((int(c.max()) for c in counts.values()), default=1) * 1.08)
    parts = [_frame(axes, _round_ticks(x_max), percent=False)]
    for name, bins in counts.items():
        outline = [(float(edges[0]), 0.0)]
        for left, right, count in zip(edges[:-1], edges[1:], bins, strict=True):
            outline += [(float(left), float(count)), (float(right), float(count))]
        outline.append((float(edges[-1]), 0.0))
        parts.append(f'<polygon class="bars {name}" points="{axes.line(outline)}"/>')
    parts.append(_vertical(axes, deadline_ms, f"{deadline_ms:g} ms", "deadline"))
    return _svg("".join(parts), "Histogram of latencies in milliseconds")


def draw_whisker(interval: Interval, css_class: str) -> str:
    """A value between 0 and 1 with its interval, to stand in a table's cell."""
    low, high, value = (
        round(4 + 112 * min(max(x, 0), 1), 1)
        for x in (
            _finite(interval.low, interval.value),
            _finite(interval.high, interval.value),
            interval.value,
        )
    )
    return (
        f'<svg class="whisker {css_class}" viewBox="0 0 120 14" aria-hidden="true">'
        f'<line class="rail" x1="4" x2="116" y1="7" y2="7"/>'
        f'<line class="range" x1="{low}" x2="{high}" y1="7" y2="7"/>'
        f'<circle cx="{value}" cy="7" r="4"/></svg>'
    )


def draw_birds_eye(plan: Trajectory | None, truth: Trajectory | None) -> str:
    """Planned and driven path seen from above: forward is up, left is left; a ring every 10 m."""
    paths = [("truth", truth), ("plan", plan)]
    known = [path.xy_m for _, path in paths if path is not None]
    if not known:
        return ""
    ahead_m = max(12.0, *(float(xy[:, 0].max()) for xy in known))
    aside_m = max(float(np.abs(xy[:, 1]).max()) for xy in known)
    scale = min(148 / ahead_m, 72 / max(aside_m, 1.0))
    parts = [
        f'<circle class="ring" cx="80" cy="158" r="{radius * scale:.1f}"/>'
        for radius in range(10, math.ceil(170 / scale) + 10, 10)
    ]
    for name, path in paths:
        if path is not None:
            dots = [(80 - y * scale, 158 - x * scale) for x, y in path.xy_m.tolist()]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(80.0, 158.0), *dots])
            parts.append(f'<polyline class="{name}" points="{line}"/>')
            parts += [
                f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in dots
            ]
    parts.append('<path class="ego" d="M80 150 l5.5 13 l-5.5 -3.2 l-5.5 3.2 z"/>')
    label = "Bird's-eye view of the planned and the driven path"
    return (
        f'<svg class="birdseye" viewBox="0 0 160 172" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _svg(content: str, label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{content}</svg>"
    )


def _frame(axes: _Axes, x_ticks: Sequence[float], *, percent: bool) -> str:
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else _round_ticks(axes.y_max, least=1.0)
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
        f'y1="{axes.y(tick)}" y2="{axes.y(tick)}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{axes.y(tick) + 4}" text-anchor="end">'
        f"{f'{tick:.0%}' if percent else f'{tick:g}'}</text>"
        for tick in y_ticks
    ]
    parts += [
        f'<text class="tick" x="{axes.x(tick)}" y="{_HEIGHT - _BOTTOM + 16}" '
        f'text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    return "".join(parts)


def _vertical(axes: _Axes, x: float, text: str, css_class: str) -> str:
    return (
        f'<line class="{css_class}" x1="{axes.x(x)}" x2="{axes.x(x)}" '
        f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="note {css_class}" x="{axes.x(x)}" y="{_TOP - 4}" '
        f'text-anchor="middle">{text}</text>'
    )


def _whisker(axes: _Axes, x: float, interval: Interval, css_class: str) -> str:
    return (
        f'<g class="mark {css_class}"><line x1="{axes.x(x)}" x2="{axes.x(x)}" '
        f'y1="{axes.y(_finite(interval.low, interval.value))}" '
        f'y2="{axes.y(_finite(interval.high, interval.value))}"/>'
        f'<circle cx="{axes.x(x)}" cy="{axes.y(interval.value)}" r="4"/></g>'
    )


def _finite(value: float, instead: float) -> float:
    return value if math.isfinite(value) else instead


def _round_up(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten, so that ticks are round."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        power * step for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 10) if value <= power * step
    )


def _round_ticks(x_max: float, *, least: float = 0.0) -> list[float]:
    """At most seven from 0 on, a round step of at least ``least`` apart."""
    step = max(_round_up(x_max / 6), least)
    return [step * number for number in range(math.floor(x_max / step + 1e-9) + 1)]
