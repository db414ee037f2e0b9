"""Start a child process without losing a Ctrl-C, and leave one's own without delay."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_HELD = (signal.SIGINT, signal.SIGTERM)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends; then they are delivered.

    Python runs hooks around ``fork`` (of ``logging`` and ``random``, for example) and ignores
    what is raised in them: a KeyboardInterrupt there is lost. A child that is started in the
    block inherits the mask; :func:`bind_to_parent` releases it there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def bind_to_parent() -> None:
    """As the child's ``preexec_fn``: signals work there, and it does not outlive us."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def leave(code: int) -> NoReturn:
    """End the process now; for a main module whose files and network are closed already.

    Python's own way out takes torch apart first: 1 to 3 s on a busy machine, longer than a
    launcher waits before it kills.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
