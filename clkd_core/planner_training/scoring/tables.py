"""What the scores look like on a terminal."""

from collections.abc import Iterator, Mapping

from clkd_core.metrics.intervals import Interval
from clkd_core.planner_training.evaluate import CaseScores, PlannerScores
from clkd_core.planner_training.scoring.obedience import GOAL_FRAC, Obedience
from clkd_core.types import META_ACTIONS

_NAME = 33


def score_lines(scores: PlannerScores) -> list[str]:
    """All tables: distances, collisions and gains by case, drivability, the 20 actions."""
    lines: list[str] = []
    for case, part in scores.cases.items():
        frames = next(iter(part.l2.values())).frames
        lines += [f"{case}: {frames} frames", *_case_lines(part), ""]
    lines.append("within the vehicle's limits: " + ", ".join(
        f"{name.strip()} {100 * share:.1f} %" for name, share in scores.drivable_frac.items()
    ))  # fmt: skip
    if scores.obedience is not None:
        lines += ["", *obedience_lines(scores.obedience)]
    return lines


def _case_lines(part: CaseScores) -> Iterator[str]:
    yield f"  {'L2 [m]':<{_NAME}}VAD average 1/2/3 s      UniAD at 1/2/3 s"
    for name, score in part.l2.items():
        yield f"  {name:<{_NAME}}{_values(score.average_m):<25}{_values(score.horizon_m)}"
    if part.collisions:
        yield f"  {'collisions [%]':<{_NAME}}VAD average 1/2/3 s      UniAD at 1/2/3 s"
    for name, hits in part.collisions.items():
        average, horizon = _values(hits.average_frac, 100), _values(hits.horizon_frac, 100)
        yield f"  {name:<{_NAME}}{average:<25}{horizon}"
    yield "  better at 3 s by, with 95 % intervals over drives (> 0 is better)"
    for (worse, better), gain in part.gains.items():
        yield f"    {better} over {worse.strip()}"
        yield f"      L2 [m]: {_ranges(gain.l2, 1)}"
        if gain.collisions is not None:
            yield f"      collisions [%]: {_ranges(gain.collisions, 100)}"


def obedience_lines(obedience: Obedience) -> Iterator[str]:
    """A table of the 20 actions, and what it comes to."""
    yield f"  {'commanded':<28}frames that can  obeyed [%]"
    for action in META_ACTIONS:
        share = obedience.obeyed_frac([action.index])
        pairs = int(obedience.reachable[:, action.index].sum())
        obeyed = f"{100 * share.value:.1f}" if pairs else "-"
        yield f"  {action.text:<28}{pairs:>15}  {obeyed:>10}"
    every = obedience.obeyed_frac()
    verdict = "reached" if every.value >= GOAL_FRAC else "missed"
    yield (
        f"  reachable {100 * obedience.reachable_frac:.1f} % of {obedience.reachable.size} pairs; "
        f"obeyed {_range(every, 100)} % of those, goal {100 * GOAL_FRAC:.0f} % {verdict}"
    )


def _values(by_horizon: Mapping[int, Interval], scale: float = 1.0) -> str:
    return " / ".join(f"{scale * value.value:.2f}" for value in by_horizon.values())


def _ranges(pair: tuple[Mapping[int, Interval], Mapping[int, Interval]], scale: float) -> str:
    last = max(pair[0])
    return f"VAD {_range(pair[0][last], scale)}, UniAD {_range(pair[1][last], scale)}"


def _range(interval: Interval, scale: float) -> str:
    value, low, high = (scale * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
