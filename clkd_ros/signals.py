"""Start a child process without losing a Ctrl-C that comes in the same moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block ends; then they are delivered.

    Python runs hooks around ``fork`` (of ``logging`` and ``random``, for example) and ignores
    what is raised in them: a KeyboardInterrupt there is lost. A child that is started in the
    block inherits the mask and calls :func:`release_signals` before it runs its program.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_signals() -> None:
    """In the child, as its ``preexec_fn`` or a part of it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
