"""A worker that is busy: one frame at a time, and of those that wait the newest only.

The rule of the nodes (:class:`clkd_core.runtime.deadline.NewestOnly`) in simulated time, where how
long each piece of work takes is known beforehand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """A piece of work that is finished."""

    item: T
    start_ns: int
    """When it was begun."""
    ready_ns: int
    """When its result is there."""


class BusyWorker(Generic[T]):
    """Takes items as they come; time is told it and only moves forward."""

    def __init__(self, duration_ns: Callable[[T], int]) -> None:
        """``duration_ns`` tells how long an item takes."""
        self._duration_ns = duration_ns
        self._running: Done[T] | None = None
        self._waiting: tuple[T] | None = None
        self.skipped = 0
        """Items that a newer one took the place of."""

    def offer(self, item: T, now_ns: int) -> None:
        """Hand in an item; call :meth:`due` for this instant first."""
        if self._running is None:
            self._start(item, now_ns)
            return
        self.skipped += self._waiting is not None
        self._waiting = (item,)

    def due(self, now_ns: int) -> list[Done[T]]:
        """What is finished by now, in order; who waited was begun the instant another ended."""
        finished = []
        while self._running is not None and self._running.ready_ns <= now_ns:
            finished.append(self._running)
            ended_ns, self._running = self._running.ready_ns, None
            if self._waiting is not None:
                (item,), self._waiting = self._waiting, None
                self._start(item, ended_ns)
        return finished

    def _start(self, item: T, now_ns: int) -> None:
        self._running = Done(item, now_ns, now_ns + self._duration_ns(item))
