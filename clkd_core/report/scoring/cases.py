"""Regular, corner and all: every score is told for each."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

CASES = ("regular", "corner", "all")


class Cased(Protocol):
    """Whatever belongs to a kind of case."""

    @property
    def corner(self) -> bool | None:
        """True on a corner case, False on a regular frame, None where nobody said."""


T = TypeVar("T", bound=Cased)


def rows_of_case(rows: Iterable[T], case: str) -> list[T]:
    """The rows of ``regular``, ``corner`` or ``all``."""
    return [row for row in rows if case == "all" or row.corner is (case == "corner")]
