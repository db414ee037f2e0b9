"""Processes that hold one thing each and are asked one after the other; none outlives us."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clkd_core.errors import ClkdError
from clkd_core.process import end_with_parent
from clkd_core.runtime.bench.contenders.spec import NoRoomError

_END_S = 5.0
"""A process that ignores SIGTERM for so long is killed."""
_SHOWN_LINES = 12
"""Of a dead process' error output."""


class Child:
    """A fresh process that makes an object and answers calls of its methods."""

    def __init__(self, name: str, make: Callable[[], object], log: Path) -> None:
        """Start the process; whatever ``make`` raises comes out of the first :meth:`ask`.

        Args:
            name: for people.
            make: a module's function, or a ``functools.partial`` of one or of a class.
            log: where its output goes, a file for it alone.
        """
        self.name, self._log = name, log
        context = multiprocessing.get_context("spawn")  # no threads or locks are inherited
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, log), daemon=True)
        with _no_interrupts():  # Ctrl-C reaches the whole group; the child inherits the mask
            self._process.start()
        theirs.close()  # else the line would not end with the process

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the object there and wait for what it returns.

        Raises:
            ClkdError: the call raised it, or the process died; then the message holds the last
                lines it wrote.
        """
        try:
            self._line.send((method, arguments))
            worked, value = self._line.recv()
        except (EOFError, OSError) as err:
            raise self._loss(method) from err
        if not worked:
            raise value
        return value

    def end(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        self._line.close()
        self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _loss(self, method: str) -> ClkdError:
        self._process.join(_END_S)
        code = self._process.exitcode
        if code == -signal.SIGKILL and method == "warm_up":
            return NoRoomError("killed while it was built, as systems do when memory runs out")
        how = f"killed by signal {-code}" if code and code < 0 else f"exit code {code}"
        written = self._log.read_text(errors="replace") if self._log.exists() else ""
        last = [line for line in written.splitlines() if line.strip()][-_SHOWN_LINES:]
        words = "\n  ".join(last) or "(it wrote nothing)"
        return ClkdError(f"contender {self.name} died ({how}) in {method}:\n  {words}")


def _serve(line: Connection, make: Callable[[], object], log: Path) -> None:
    """Answer calls until the line ends; what is no expected failure ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a terminated process
    with suppress(EOFError, OSError):
        _answer_all(line, make)
    os._exit(0)


def _answer_all(line: Connection, make: Callable[[], object]) -> None:
    made: object = None
    while True:
        method, arguments = line.recv()
        try:
            made = make() if made is None else made
            reply = (True, getattr(made, method)(*arguments))
        except ClkdError as err:
            reply = (False, err)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        line.send(reply)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
