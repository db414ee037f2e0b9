"""What ``clkd bench pipeline`` shows: a table, what its figures are held to, and a picture."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clkd_core.metrics.frames import DEADLINE_MS
from clkd_ros.bench_pipeline.offline import PLANNING, OfflineStages
from clkd_ros.bench_pipeline.stages import STAGES, Figures, Spread

PLANNING_GOAL_MS = 15.0
"""Of the planner beyond the vision features that it shares."""
GOAL_HZ = 10.0
"""Cameras' rate that the response's goal speaks of."""

_COLOURS = {"transport": "#7fa7c9", "waiting": "#d9b36c", "inference": "#5b8c5a"}
_INK = "#333333"
_HEAD = f"  {'':20} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'mean ms':>8} {'share':>7}"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One figure and what it is to be at most."""

    what: str
    value_ms: float
    limit_ms: float

    @property
    def met(self) -> bool:
        """False where the value never came."""
        return self.value_ms <= self.limit_ms

    @property
    def line(self) -> str:
        """One line for a terminal."""
        word = "met" if self.met else "MISSED"
        return f"goal: {self.what} {self.value_ms:.1f} <= {self.limit_ms:g} ms: {word}"


def list_goals(
    arrangements: Sequence[Figures], offline: OfflineStages | None, camera_hz: float
) -> list[Goal]:
    """What there is to be held to; of the response only where the cameras send at 10 Hz."""
    goals = [
        Goal(
            what=f"{figures.name}, cameras at {GOAL_HZ:g} Hz, response p99",
            value_ms=figures.response.p99_ms,
            limit_ms=DEADLINE_MS,
        )
        for figures in arrangements
        if abs(camera_hz - GOAL_HZ) <= 0.5
    ]
    if offline is not None and PLANNING in offline.stages:
        goals.append(
            Goal(
                what="planning beyond the vision features, p99",
                value_ms=offline.stages[PLANNING].p99_ms,
                limit_ms=PLANNING_GOAL_MS,
            )
        )
    return goals


def format_table(
    described: Mapping[str, Any],
    arrangements: Sequence[Figures],
    offline: OfflineStages | None,
    goals: Sequence[Goal],
) -> list[str]:
    """Lines for a terminal; ``described`` is what the JSON file holds."""
    load = described["load_average"]
    lines = [
        f"device: {described['device']}; middleware: {described['middleware']}; load average "
        f"{load['before']:.2f} before, {load['after']:.2f} after",
        described["bag"]["line"],
        f"student: {described['checkpoint']}, device {described['model_device']}, threads "
        f"{described['threads']}",
    ]
    for figures in arrangements:
        lines += ["", *_format_arrangement(figures, described)]
    if len(arrangements) == 2:
        lines += ["", _format_ratio(*arrangements)]
    if offline is not None:
        lines += ["", *_format_offline(offline)]
    return [*lines, "", *(goal.line for goal in goals)]


def _format_arrangement(figures: Figures, described: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{figures.name}: {figures.frames} camera sets after the first {figures.left_out} "
        f"({described['warm_up_s']:g} s left out), {figures.decided} decided, "
        f"{figures.planned} planned, {figures.over_80_ms_frac:.2%} not within 80 ms",
        _HEAD,
    ]
    for stage in STAGES:
        lines.append(_row(stage, figures.stages[stage], figures.shares[stage]))
    lines.append(_row("= response", figures.response, sum(figures.shares.values())))
    lines.append(_row("of it, in the node", figures.node_response))
    if figures.plan_inference.count:
        lines.append(_row("plan: inference", figures.plan_inference))
        lines.append(_row("plan: response", figures.plan_response))
    costs = "  ".join(f"{one.name} {one.cpu_ms_per_frame:.1f}" for one in figures.processes)
    memory = "  ".join(f"{one.name} {one.resident_mib:.0f}" for one in figures.processes)
    lines.append(f"  CPU ms a set: {costs}; nodes {figures.nodes_cpu_ms_per_frame:.1f}")
    lines.append(f"  resident MiB: {memory}")
    lines.append(f"  other work took {figures.others_cpu_frac:.0%} of the machine meanwhile")
    for node, counts in figures.dropped.items():
        said = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        lines.append(f"  {node}: {said or 'nothing dropped or flagged'}")
    return lines


def _row(name: str, spread: Spread, share: float | None = None) -> str:
    shown = "" if share is None else f"{share:7.1%}"
    times = (spread.p50_ms, spread.p95_ms, spread.p99_ms, spread.mean_ms)
    return f"  {name:20} {' '.join(f'{value:8.1f}' for value in times)} {shown}".rstrip()


def _format_ratio(one: Figures, other: Figures) -> str:
    first, second = one.nodes_cpu_ms_per_frame, other.nodes_cpu_ms_per_frame
    return (
        f"CPU of the nodes a set: {other.name} {second:.1f} ms, {one.name} {first:.1f} ms, "
        f"ratio {second / first:.2f}"
    )


def _format_offline(offline: OfflineStages) -> list[str]:
    lines = [
        f"offline: {offline.frames} frames through one stage after the other, {offline.device}, "
        f"{offline.backend}, {offline.threads} thread{'' if offline.threads == 1 else 's'}",
        _HEAD,
    ]
    for name, spread in offline.stages.items():
        lines.append(_row(name, spread, offline.shares[name]))
    return [*lines, _row("decision as a whole", offline.decision)]


def draw_stages(arrangements: Sequence[Figures], device: str) -> bytes:
    """A PNG: each stage's mean from left to right, the whole's p50 and p99 as marks.

    Args:
        arrangements: from top to bottom.
        device: in words, below the bars.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.7 + 0.6 * len(arrangements)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    place = figure.subplots()
    places = range(len(arrangements) - 1, -1, -1)
    for row, figures in zip(places, arrangements, strict=True):
        left = 0.0
        for stage in STAGES:
            width = figures.stages[stage].mean_ms
            label = stage if figures is arrangements[0] else None
            place.barh(row, width, left=left, height=0.5, color=_COLOURS[stage], label=label)
            left += width
        for name, marker in (("p50", "|"), ("p99", "D")):
            at_ms = getattr(figures.response, f"{name}_ms")
            if math.isfinite(at_ms):
                label = f"{name} of the whole" if figures is arrangements[0] else None
                place.plot(at_ms, row, marker, color=_INK, markersize=7, label=label, ls="none")
    place.axvline(DEADLINE_MS, color="#b03030", lw=1.2, label=f"deadline {DEADLINE_MS:g} ms")
    place.set_yticks(list(places), [figures.name for figures in arrangements])
    place.set_xlim(0, None)
    place.set_ylim(-0.6, len(arrangements) - 0.4)
    place.set_xlabel(f"last image on the transport to decision seen [ms], means\n{device}")
    place.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=6, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
