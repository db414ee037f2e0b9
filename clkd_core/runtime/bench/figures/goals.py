"""What the figures are held against; the numbers are the project's own goals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clkd_core.runtime.bench.contenders.line_up import (
    CONTROL,
    EM_BEST,
    EM_TEXT,
    OURS,
    SENNA,
)
from clkd_core.runtime.bench.figures.rows import Row

ENOUGH_FRAMES = 10_000
"""That a share of 0.1 % is told by."""
_T5, _LARGE = "t5-small", "senna-3.5b"

Rows = Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One goal and what came of it."""

    goal: str
    value: float | None
    """None: who it is about did not take part."""
    limit: float
    at_least: bool
    """``value`` is to be no less than the limit, else no more."""
    remark: str = ""

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class _Goal:
    words: str
    needs: tuple[str, ...]
    """Rows, the first of them the one whose frames count."""
    value: Callable[[Rows], float]
    limit: float
    at_least: bool = False
    is_share: bool = False


def _ratio(above: str, below: str) -> Callable[[Rows], float]:
    return lambda rows: rows[above].p50_ms / rows[below].p50_ms


def _beyond_control(rows: Rows) -> float:
    return rows[OURS].late_frac - rows[CONTROL].late_frac


_ON_CPU = (
    _Goal(f"{OURS}: p50 [ms]", (OURS,), lambda rows: rows[OURS].p50_ms, 45.0),
    _Goal(f"{OURS}: p99 [ms]", (OURS,), lambda rows: rows[OURS].p99_ms, 80.0),
    _Goal(f"{EM_TEXT} / {OURS}", (OURS, EM_TEXT), _ratio(EM_TEXT, OURS), 20.0, at_least=True),
    _Goal(f"{EM_BEST} / {OURS}", (OURS, EM_BEST), _ratio(EM_BEST, OURS), 5.0, at_least=True),
    _Goal(
        f"{OURS}: share over 80 ms beyond {CONTROL}'s",
        (OURS, CONTROL),
        _beyond_control,
        0.001,
        is_share=True,
    ),
)
_ON_GPU = (
    _Goal(f"{_T5}: p50 [ms]", (_T5,), lambda rows: rows[_T5].p50_ms, 6.0),
    _Goal(f"{_T5}: p99 [ms]", (_T5,), lambda rows: rows[_T5].p99_ms, 10.0),
    _Goal(
        f"{_T5}: share over 80 ms", (_T5,), lambda rows: rows[_T5].late_frac, 0.0, is_share=True
    ),
    _Goal(f"{_LARGE}: p50 [ms]", (_LARGE,), lambda rows: rows[_LARGE].p50_ms, 22.0),
    _Goal(f"{SENNA} / {_LARGE}", (_LARGE, SENNA), _ratio(SENNA, _LARGE), 8.0, at_least=True),
    _Goal(
        f"{_LARGE}: share over 80 ms",
        (_LARGE,),
        lambda rows: rows[_LARGE].late_frac,
        0.0,
        is_share=True,
    ),
)


def judge(rows: Sequence[Row], *, on_gpu: bool) -> list[Verdict]:
    """Each goal of the device's kind: two CPU cores, or one data-centre GPU."""
    named = {row.name: row for row in rows}
    return [_judge(goal, named) for goal in (_ON_GPU if on_gpu else _ON_CPU)]


def _judge(goal: _Goal, rows: Rows) -> Verdict:
    missing = [name for name in goal.needs if name not in rows]
    remark = f"not measured: {', '.join(missing)} did not take part" if missing else ""
    if not missing and goal.is_share and rows[goal.needs[0]].frames < ENOUGH_FRAMES:
        remark = f"of {rows[goal.needs[0]].frames} frames, {ENOUGH_FRAMES:,} are wanted"
    return Verdict(
        goal=goal.words,
        value=None if missing else goal.value(rows),
        limit=goal.limit,
        at_least=goal.at_least,
        remark=remark,
    )
