"""Start a child process without losing a Ctrl-C and without ever leaving it behind."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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
