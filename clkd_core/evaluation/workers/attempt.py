"""One call in another process: its value or its failure, brought back in one piece."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from clkd_core.errors import ClkdError

T = TypeVar("T")
R = TypeVar("R")

MAX_LOSSES = 3
"""A task whose process died so often is not tried again: it is likely to be why."""


@dataclass(frozen=True)
class Result(Generic[R]):
    """What a call came to."""

    returned: R | None = None
    failure: ClkdError | str | None = None
    """An expected failure, or the traceback of another one."""

    def value(self) -> R:
        """What the call returned.

        Raises:
            ClkdError: the call raised it.
            RuntimeError: the call failed for another reason; holds its traceback.
        """
        if isinstance(self.failure, ClkdError):
            raise self.failure
        if self.failure is not None:
            raise RuntimeError(f"a worker failed:\n{self.failure}")
        return self.returned  # type: ignore[return-value]  # without failure it is what came


def attempt(call: Callable[[T], R], item: T) -> Result[R]:
    """Call, and let no exception out."""
    try:
        return Result(returned=call(item))
    except ClkdError as err:
        return Result(failure=err)
    except Exception:
        return Result(failure=traceback.format_exc())


def refuse_lost(name: str, losses: int) -> None:
    """Give up on a task whose process died too often.

    Raises:
        ClkdError: it did; names the task.
    """
    if losses >= MAX_LOSSES:
        raise ClkdError(
            f"task {name}: its worker died {losses} times (killed, most often for memory); "
            "what is finished is kept, fewer workers need less memory"
        )
