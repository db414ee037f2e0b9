"""How far plans are from the driven path, and what they would hit, as tables."""

from collections.abc import Mapping

from clkd_core.metrics.intervals import Interval
from clkd_core.metrics.plans.l2 import HORIZONS_S
from clkd_core.report.layout.tables import build_table, metres_cell, percent_cell, word_row
from clkd_core.report.scoring.plans import PLAN_MODELS
from clkd_core.report.scoring.scores import RunScores
from clkd_core.report.scoring.words import why_no_collisions, why_no_l2

PLAN_NAMES = {
    "planner": "Planner",
    "constant_velocity": "Constant velocity",
    "ego_status": "Ego status only, a network",
}
"""By model, in the order of ``PLAN_MODELS``."""

CONVENTIONS = ("VAD, ST-P3", "UniAD")
"""The mean of the points up to the horizon, and the point at the horizon."""

PLAN_WORDS = (
    "Distance between the planned and the driven path, and the share of plans that touch another "
    "road user. Papers use two conventions: the mean of all points up to the horizon, and the "
    "value at the horizon. Constant velocity keeps speed and rate of turn. Where the driven path "
    "collides, too, a collision is excused, as in the papers; boxes are rotated and tested "
    "exactly, and not drawn into a grid as there. Networks that see only the ego state rival "
    "planners on such numbers (arXiv 2312.03031)."
)


def build_plan_tables(scores: RunScores) -> str:
    """L2 and collisions of every way to plan, both conventions, regular, corner and all."""
    return (
        f"<h3>L2</h3>{_build_l2_table(scores)}<h3>Collisions</h3>{_build_collision_table(scores)}"
    )


def _head() -> list[str]:
    head = ["", "frames"]
    head += [f"average to {s} s<br>{CONVENTIONS[0]}" for s in HORIZONS_S]
    return head + [f"at {s} s<br>{CONVENTIONS[1]}" for s in HORIZONS_S]


def _build_l2_table(scores: RunScores) -> str:
    rows = []
    for model in PLAN_MODELS:
        if model not in scores.plans.l2:
            rows.append(word_row(PLAN_NAMES[model], why_no_l2(scores, model), 7))
            continue
        for case, each in scores.plans.l2[model].items():
            cells = _cells(each.average_m) + _cells(each.horizon_m)
            rows.append(_row(model, case, each.frames, cells))
    return build_table(_head(), rows)


def _build_collision_table(scores: RunScores) -> str:
    rows = []
    for model in PLAN_MODELS:
        if model not in scores.plans.collisions:
            rows.append(word_row(PLAN_NAMES[model], why_no_collisions(scores, model), 7))
            continue
        for case, each in scores.plans.collisions[model].items():
            shares = (*each.average_frac.values(), *each.horizon_frac.values())
            cells = "".join(f"<td>{percent_cell(share)}</td>" for share in shares)
            rows.append(_row(model, case, each.frames, cells))
    return build_table(_head(), rows)


def _cells(distances: Mapping[int, Interval]) -> str:
    return "".join(f"<td>{metres_cell(interval)}</td>" for interval in distances.values())


def _row(model: str, case: str, frames: int, cells: str) -> str:
    main = ' class="main"' if (model, case) == ("planner", "all") else ""
    return (
        f'<tr{main}><th scope="row">{PLAN_NAMES[model]}, {case}</th><td>{frames}</td>{cells}</tr>'
    )
