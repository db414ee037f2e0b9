"""What the figures are held against; the numbers are the project's own goals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clkd_core.runtime.bench.contenders.line_up import (
    CONTROL,
    EM_BEST,
    EM_TEXT,
    EM_TORCH,
    OURS,
    SENNA,
)
from clkd_core.runtime.bench.figures.rows import Row, compute_ratio

ENOUGH_FRAMES = 10_000
"""That a share of 0.1 % is told by."""
ENOUGH_FOR_P99 = 1_000
"""Ten lie beyond it then."""
CPU_CORES = 2
"""That the goals of a CPU are about, used by as many threads."""
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
    wanted_frames: int = 1


def _ratio(above: str, below: str) -> Callable[[Rows], float]:
    return lambda rows: compute_ratio(rows[above], rows[below])


def _beyond_control(rows: Rows) -> float:
    return rows[OURS].late_frac - rows[CONTROL].late_frac


_ON_CPU = (
    _Goal(f"{OURS}: p50 [ms]", (OURS,), lambda rows: rows[OURS].p50_ms, 45.0),
    _Goal(
        f"{OURS}: p99 [ms]",
        (OURS,),
        lambda rows: rows[OURS].p99_ms,
        80.0,
        wanted_frames=ENOUGH_FOR_P99,
    ),
    _Goal(f"{EM_TEXT} / {OURS}", (OURS, EM_TEXT), _ratio(EM_TEXT, OURS), 20.0, at_least=True),
    _Goal(f"{EM_TORCH} / {OURS}", (OURS, EM_TORCH), _ratio(EM_TORCH, OURS), 5.0, at_least=True),
    _Goal(f"{EM_BEST} / {OURS}", (OURS, EM_BEST), _ratio(EM_BEST, OURS), 5.0, at_least=True),
    _Goal(
        f"{OURS}: share over 80 ms beyond {CONTROL}'s",
        (OURS, CONTROL),
        _beyond_control,
        0.001,
        wanted_frames=ENOUGH_FRAMES,
    ),
)
_ON_GPU = (
    _Goal(f"{_T5}: p50 [ms]", (_T5,), lambda rows: rows[_T5].p50_ms, 6.0),
    _Goal(
        f"{_T5}: p99 [ms]",
        (_T5,),
        lambda rows: rows[_T5].p99_ms,
        10.0,
        wanted_frames=ENOUGH_FOR_P99,
    ),
    _Goal(
        f"{_T5}: share over 80 ms",
        (_T5,),
        lambda rows: rows[_T5].late_frac,
        0.0,
        wanted_frames=ENOUGH_FRAMES,
    ),
    _Goal(f"{_LARGE}: p50 [ms]", (_LARGE,), lambda rows: rows[_LARGE].p50_ms, 22.0),
    _Goal(f"{SENNA} / {_LARGE}", (_LARGE, SENNA), _ratio(SENNA, _LARGE), 8.0, at_least=True),
    _Goal(
        f"{_LARGE}: share over 80 ms",
        (_LARGE,),
        lambda rows: rows[_LARGE].late_frac,
        0.0,
        wanted_frames=ENOUGH_FRAMES,
    ),
)


def judge(rows: Sequence[Row], *, cores: int | None) -> list[Verdict]:
    """Each goal of the device's kind: two CPU cores, or one data-centre GPU.

    Args:
        rows: of all who took part.
        cores: of the CPU that the models ran on; None: they ran on a GPU.
    """
    named = {row.name: row for row in rows}
    return [_judge(goal, named, cores) for goal in (_ON_GPU if cores is None else _ON_CPU)]


def _judge(goal: _Goal, rows: Rows, cores: int | None) -> Verdict:
    missing = [name for name in goal.needs if name not in rows]
    absent = f"not measured: {', '.join(missing)} did not take part"
    return Verdict(
        goal=goal.words,
        value=None if missing else goal.value(rows),
        limit=goal.limit,
        at_least=goal.at_least,
        remark=absent if missing else _doubts(goal, rows, cores),
    )


def _doubts(goal: _Goal, rows: Rows, cores: int | None) -> str:
    """What keeps a figure from saying what its goal means; empty where nothing does."""
    doubts, frames = list[str](), rows[goal.needs[0]].frames
    if frames < goal.wanted_frames:
        doubts.append(f"of {frames} frames, {goal.wanted_frames:,} are wanted")
    threads = sorted({rows[name].threads for name in goal.needs})
    if cores is not None and (cores != CPU_CORES or threads != [CPU_CORES]):
        used = " and ".join(map(str, threads))
        doubts.append(f"on {cores} cores with {used} threads, meant for {CPU_CORES} of each")
    return "; ".join(doubts)
