"""Drives counted: a row per scenario, and regular, corner and all together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clkd_core.data.keyframes import REGULAR
from clkd_core.driving.results.comfort import Comfort, compute_comfort, felt_on
from clkd_core.driving.results.judge import Ending
from clkd_core.driving.results.record import Record

NOTES = (
    "others follow the world's script whatever the vehicle does: nobody brakes for it or waits "
    "for it, and whoever touched it is taken off the scene",
    "collisions: drives that ended with the vehicle running into somebody or something; hit: "
    "contacts while it stood, or by somebody from behind, who by script could not give way",
    "red: drives that crossed the stop line on red, of those with a traffic light",
    "route: mean share of the way that the script drives in the time given, plus the slack",
    "comfort: largest / 95 % value without sign; from speeds a tenth of a second apart",
)
"""What a reader must know about the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Counts of some drives."""

    scenario: str
    drives: int
    completed: int
    completion_frac: float
    """Mean."""
    collisions: int
    """Drives that ended with a contact at fault."""
    hit: int
    """Contacts that were not at fault."""
    red_lights_run: int
    """Drives in which one was."""
    with_light: int
    """Drives that have one."""
    left_route: int
    out_of_time: int
    comfort: Comfort


def build_rows(records: Sequence[Record]) -> list[Row]:
    """A row per scenario in the order of their first drives, then what they are together."""
    names = list(dict.fromkeys(record.scenario for record in records))
    groups = {name: [r for r in records if r.scenario == name] for name in names}
    regular = [r for r in records if r.case_name == REGULAR]
    corner = [r for r in records if r.case_name != REGULAR]
    together = {"regular": regular, "corner": corner, "all": list(records)}
    return [build_row(name, some) for name, some in {**groups, **together}.items() if some]


def build_row(scenario: str, records: Sequence[Record]) -> Row:
    """Count some drives.

    Raises:
        ValueError: there is none.
    """
    if not records:
        raise ValueError(f"{scenario}: no drive, expected at least one")
    driven = [record.driven for record in records]
    endings = [d.ending for d in driven]
    return Row(
        scenario=scenario,
        drives=len(driven),
        completed=endings.count(Ending.COMPLETED),
        completion_frac=sum(d.completion_frac for d in driven) / len(driven),
        collisions=endings.count(Ending.COLLISION),
        hit=sum(not contact.at_fault for d in driven for contact in d.contacts),
        red_lights_run=sum(bool(d.red_run_s) for d in driven),
        with_light=sum(d.has_signal for d in driven),
        left_route=endings.count(Ending.LEFT_ROUTE),
        out_of_time=endings.count(Ending.OUT_OF_TIME),
        comfort=compute_comfort([felt_on(d.steps) for d in driven]),
    )


_HEADS = (
    "scenario",
    "drives",
    "completed",
    "route %",
    "collisions",
    "hit",
    "red",
    "left route",
    "out of time",
    "accel m/s^2",
    "jerk m/s^3",
    "lateral m/s^2",
)


def _cells(row: Row) -> tuple[str, ...]:
    felt = row.comfort
    return (
        row.scenario,
        str(row.drives),
        str(row.completed),
        f"{100 * row.completion_frac:.0f}",
        str(row.collisions),
        str(row.hit),
        f"{row.red_lights_run}/{row.with_light}",
        str(row.left_route),
        str(row.out_of_time),
        f"{felt.accel_max_mps2:.1f} / {felt.accel_p95_mps2:.1f}",
        f"{felt.jerk_max_mps3:.1f} / {felt.jerk_p95_mps3:.1f}",
        f"{felt.lateral_max_mps2:.1f} / {felt.lateral_p95_mps2:.1f}",
    )


def text_lines(rows: Sequence[Row]) -> list[str]:
    """For a terminal."""
    cells = [_HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADS))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def markdown(tables: Mapping[str, Sequence[Row]], notes: Sequence[str]) -> str:
    """A page with a table per driver."""
    lines = ["# Closed-loop drives", ""]
    for driver, rows in tables.items():
        lines += [f"## {driver}", "", _bar(_HEADS), _bar(["---"] + ["---:"] * (len(_HEADS) - 1))]
        lines += [_bar(_cells(row)) for row in rows] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(row) for row in rows]
