"""The end of a process: what was written is out, nothing is waited for."""

import logging
import multiprocessing
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process now; for a main module whose files and network are closed already.

    Python's own way out takes torch apart and joins its threads first: 1 to 4 s on a busy
    machine, longer than a launcher or a person who pressed Ctrl-C waits.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def end_with_parent() -> None:
    """End this process when the one that started it is gone, killed or not; returns at once.

    For children of ``multiprocessing``: a parent that was killed cannot end them, and they would
    wait for work for ever.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
