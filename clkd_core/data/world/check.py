"""``clkd world check``: does looking pay in this world? Judge a finished training run by it.

In a world whose actions have visible causes, a student that sees beats the same student before
black images, and a model that knows only speed, yaw rate and route. The run must have judged its
student on validation drives (``val_on_disk`` of the world); 60 or more make intervals narrow.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clkd_core.distill.record.results import RESULTS_FILE, ResultRow, read_results
from clkd_core.errors import DataError

STUDENT = "student"
BLIND = ("student, blank images", "ego status only")
"""Rows that see nothing."""
CASES = ("all", "regular", "corner")
GAP = 0.15
"""What looking must add to macro-F1, over all cases."""


@dataclass(frozen=True)
class Gain:
    """What looking adds on some cases, over one that sees nothing."""

    student: ResultRow
    blind: ResultRow

    @property
    def gap(self) -> float:
        """Difference of the macro-F1s."""
        return self.student.macro_f1.value - self.blind.macro_f1.value

    @property
    def apart(self) -> bool:
        """Whether the 95 % intervals do not touch."""
        return self.student.macro_f1.low > self.blind.macro_f1.high

    def is_enough(self, gap: float) -> bool:
        """Whether it is that much and the intervals are apart; never where one is unknown."""
        return self.gap >= gap and self.apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd world check``."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a finished training run")
    parser.add_argument(
        "--gap",
        type=float,
        default=GAP,
        help="what looking must add to macro-F1 over all cases: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Print what looking adds; 0 where it is enough, else 1.

    Raises:
        DataError: the folder holds no results, or none of a student beside the baselines.
    """
    table = read_results(args.run_folder / RESULTS_FILE).table
    judged = {row.cases for row in table if row.name == STUDENT}
    if "all" not in judged:
        raise DataError(f"{args.run_folder}: no {STUDENT} was judged on validation drives")
    gains = {cases: find_gains(table, cases) for cases in CASES if cases in judged}
    for cases, found in gains.items():
        print("\n".join(_lines(cases, found)))
    enough = all(gain.is_enough(args.gap) for gain in gains["all"])
    wanted = f"expected a gap >= {args.gap:.2f} and intervals apart over all cases"
    print(f"world check: {'passed' if enough else f'failed, {wanted}'}")
    return 0 if enough else 1


def find_gains(table: Sequence[ResultRow], cases: str) -> list[Gain]:
    """The student beside each of those that see nothing.

    Raises:
        DataError: a row is missing.
    """
    rows = {row.name: row for row in table if row.cases == cases}
    missing = [name for name in (STUDENT, *BLIND) if name not in rows]
    if missing:
        raise DataError(f"results on {cases} cases lack {missing}, found {sorted(rows)}")
    return [Gain(rows[STUDENT], rows[name]) for name in BLIND]


def _lines(cases: str, gains: Sequence[Gain]) -> list[str]:
    student = gains[0].student
    lines = [f"{cases}, {student.frames} keyframes: {_shown(student)}"]
    for gain in gains:
        apart = "intervals apart" if gain.apart else "intervals not apart"
        lines.append(f"  {_shown(gain.blind)}, gap {gain.gap:+.3f}, {apart}")
    return lines


def _shown(row: ResultRow) -> str:
    f1 = row.macro_f1
    return f"{row.name} {f1.value:.3f} ({f1.low:.3f} to {f1.high:.3f})"
