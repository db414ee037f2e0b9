"""Newest frame wins, and decisions that are too old: what a node does about time."""

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from clkd_core.runtime.sync import JUMP_NS, LatestBefore
from clkd_core.types import Decision

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class NewestOnly(Generic[T]):
    """Work on one item at a time in a thread of its own; only the newest waits.

    An item that arrives while the work is busy takes the place of the one that waits, and the
    replaced one is counted: an old picture of the road is worth less than a new one, and a queue
    would make every later answer late.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        *,
        on_replaced: Callable[[T], None] = lambda item: None,
        name: str = "newest-only",
    ) -> None:
        """Start the thread.

        Args:
            work: called in the thread with each item that was not overtaken. What it raises is
                logged with its traceback and counted, and the next item is served.
            on_replaced: called in the submitting thread with each item that was overtaken.
            name: of the thread, for logs and debuggers.
        """
        self._work = work
        self._on_replaced = on_replaced
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._busy = False
        self._closed = False
        self.replaced_count = 0
        """Items overtaken by a newer one before their turn came."""
        self.failed_count = 0
        """Items whose work raised."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over the newest item; returns at once. After :meth:`close` it is ignored."""
        with self._changed:
            if self._closed:
                return
            replaced, self._waiting = self._waiting, [item]
            self.replaced_count += len(replaced)
            self._changed.notify_all()
        for old in replaced:
            self._on_replaced(old)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing waits and nothing runs; False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._waiting, timeout_s)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Forget what waits, let the running work end; False when it did not within the time."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._take()) is not None:
            try:
                self._work(item[0])
            except Exception:
                self.failed_count += 1
                _LOG.exception("%s: the work on one item failed", self._thread.name)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _take(self) -> list[T] | None:
        """The waiting item in a list of one; None after close."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            item, self._waiting = self._waiting, []
            self._busy = True
            return item


class FreshDecision:
    """The newest decision, as long as it is fresh; safe to use from two threads.

    Age is the difference of capture stamps: how much older the pictures behind the decision are
    than the pictures to be planned from. No clock is read, so a slow or fast replay changes
    nothing.

    A decision flagged stale repeats an earlier one under a newer stamp: its pictures are those of
    the one it repeats, which came before and still counts with its own age. So it is never what is
    followed, or a slow system that only repeats itself would look fresh for ever.
    """

    def __init__(self, max_age_s: float) -> None:
        """Decisions more than ``max_age_s`` older than a frame do not count for it."""
        self._max_age_ns = round(max_age_s * 1e9)
        self._lock = threading.Lock()
        self._decisions: LatestBefore[Decision] = LatestBefore()
        self._asked_ns: int | None = None

    def push(self, decision: Decision) -> None:
        """Take the newest decision."""
        if decision.stale:
            return
        with self._lock:
            self._decisions.push(decision.stamp_ns, decision)

    def at(self, stamp_ns: int) -> tuple[Decision | None, tuple[str, ...]]:
        """What to follow at a frame: (decision, ()) or (None, the reason why there is none)."""
        with self._lock:
            self._forget_another_time(stamp_ns)
            entry = self._decisions.at(stamp_ns)
        if entry is None:
            return None, ("no decision yet",)
        age_ns = stamp_ns - entry[0]
        if age_ns > self._max_age_ns:
            limit_s = self._max_age_ns / 1e9
            return None, (f"newest decision is {age_ns / 1e9:.1f} s old, limit {limit_s:g} s",)
        return entry[1], ()

    def _forget_another_time(self, stamp_ns: int) -> None:
        """Where frames begin again (a bag that loops), decisions from before do not count.

        One that is for the new beginning may be here already: it is among the first stamps.
        """
        newest = self._decisions.newest()
        began_again = self._asked_ns is not None and stamp_ns <= self._asked_ns - JUMP_NS
        if began_again and newest is not None and stamp_ns <= newest[0] - JUMP_NS:
            self._decisions = LatestBefore()
        self._asked_ns = stamp_ns
