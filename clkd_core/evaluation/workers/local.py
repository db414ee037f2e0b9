"""Processes beside this one: fresh ones, each with one task in hand, and none that outlives us.

A pool of the standard library gives up as a whole when one process dies and cannot say which task
it had; here the task of a lost process is known, and is given to a fresh one.
"""

import logging
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from clkd_core.evaluation.workers.attempt import Result, attempt, refuse_lost
from clkd_core.process import end_with_parent

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)

_END_S = 5.0
"""A process that ignores SIGTERM for so long is killed."""


def run_local(
    items: Sequence[T], call: Callable[[T], R], names: Sequence[str], *, workers: int
) -> Iterator[tuple[int, R]]:
    """Call for every item in processes beside this one.

    Args:
        items: what is called for; pickled.
        call: a module's function, or a ``functools.partial`` of one; pickled.
        names: of the items, for people.
        workers: processes at most.

    Yields:
        (index of the item, what the call returned) as they are done.

    Raises:
        ClkdError: what a call raised, or an item's process died too often.
        RuntimeError: a call failed for another reason; holds its traceback.
    """
    todo = deque(range(len(items)))
    lost: Counter[int] = Counter()
    team = [_Worker[T, R](call) for _ in range(min(workers, len(items)))]
    try:
        for worker in team:
            worker.give(todo.popleft(), items)
        while busy := [worker for worker in team if worker.index is not None]:
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                index, result = worker.take()
                if result is None:
                    lost[index] += 1
                    refuse_lost(names[index], lost[index])
                    _log.warning("%s: its process died, another one tries again", names[index])
                    todo.appendleft(index)
                    worker.start_again()
                if todo:
                    worker.give(todo.popleft(), items)
                if result is not None:
                    yield index, result.value()
    finally:
        for worker in team:
            worker.terminate()
        for worker in team:
            worker.end()


class _Worker(Generic[T, R]):
    """A process and the line to it."""

    def __init__(self, call: Callable[[T], R]) -> None:
        self._call = call
        self.index: int | None = None
        """The item in hand."""
        self._start()

    def give(self, index: int, items: Sequence[T]) -> None:
        self.index = index
        try:
            self.connection.send(items[index])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died meanwhile: the end of the line is what `take` will find

    def take(self) -> tuple[int, Result[R] | None]:
        """The item that was in hand and what came of it; None where the process died."""
        index, self.index = self.index, None
        assert index is not None  # only those with work are waited for
        try:
            return index, self.connection.recv()
        except (EOFError, OSError):
            return index, None

    def start_again(self) -> None:
        self.terminate()
        self.end()
        self._start()

    def terminate(self) -> None:
        self.connection.close()
        self._process.terminate()

    def end(self) -> None:
        """Wait until the process is gone."""
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # no threads or locks are inherited
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, self._call), daemon=True
        )
        with _no_interrupts():  # Ctrl-C reaches the whole group; the child inherits the mask
            self._process.start()
        theirs.close()  # else the line would not end with the process


def _serve(line: Connection, call: Callable[[T], R]) -> None:
    """Do one item after the other until the line ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    while True:
        try:
            item = line.recv()
        except (EOFError, OSError):
            os._exit(0)
        line.send(attempt(call, item))


@contextmanager
def _no_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
