"""What workers of the tests are told to do; a module of its own, so that they can import it."""

import os
import signal
import time
from pathlib import Path

from clkd_core.errors import DataError


def square(number: int) -> int:
    return number * number


def square_and_say_who(number: int) -> tuple[int, int]:
    time.sleep(0.05)
    return number * number, os.getpid()


def die_at_first(mark: Path) -> str:
    """Killed as if memory had run out, until the mark is there."""
    if not mark.exists():
        mark.write_text("was here")
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number == 2:
        raise DataError("item 2 is empty")
    return number


def fail(number: int) -> int:
    return 1 // (number - 1)


def sleep_long(number: int) -> int:
    time.sleep(60.0)
    return number
