"""What the benchmark's tests let other processes hold; importable there by name."""

import os
import signal
import sys
import time
from pathlib import Path

from clkd_core.errors import DataError
from clkd_core.runtime.bench.contenders.spec import Contender, NoRoomError, Setting, Work
from clkd_core.types import SurroundFrame


class Counter:
    """Counts what it is asked."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, number: int) -> tuple[int, int]:
        """The new count, and which process counts."""
        self.count += number
        return self.count, os.getpid()

    def refuse(self) -> None:
        """An expected failure."""
        raise DataError("this is no good")

    def fail(self) -> None:
        """A defect."""
        print("some words before", file=sys.stderr)
        raise ZeroDivisionError("the very reason")

    def kill(self) -> None:
        """As the system does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)

    warm_up = kill

    def sleep(self) -> None:
        """Longer than a test waits."""
        time.sleep(600)

    def say(self) -> None:
        """To both outputs."""
        print("out", flush=True)
        print("err", file=sys.stderr, flush=True)

    def interrupt(self) -> str:
        """As Ctrl-C does to the whole group."""
        os.kill(os.getpid(), signal.SIGINT)
        return "still here"


def make_nothing() -> Counter:
    """Cannot be made."""
    raise DataError("there is nothing to count")


class Sleeper:
    """A contender that knows how long it takes."""

    backend, parameters, threads = "sleep float32", (10, 5), 3
    checkpoint: Path | None = None

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s

    def answer(self, frame: SurroundFrame) -> None:
        """As long as was said."""
        time.sleep(self._answer_s)

    def decode(self, frame: SurroundFrame) -> None:
        """A third of that."""
        time.sleep(self._answer_s / 3)

    def count_work(self, frame: SurroundFrame) -> Work:
        """Made up."""
        return Work(weight_bytes=40, flops=400, dtype="float32")


def build_sleeper(answer_s: float, setting: Setting) -> Sleeper:
    """A contender's builder."""
    return Sleeper(answer_s)


def build_without_room(setting: Setting) -> Sleeper:
    """Too large for anything."""
    raise NoRoomError("needs 9.0 GB of memory, 1.0 GB are free")


def build_out_of_memory(setting: Setting) -> Sleeper:
    """As torch says it on a CPU."""
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def build_wrongly(setting: Setting) -> Sleeper:
    """A defect."""
    raise RuntimeError("mat1 and mat2 do not fit")


def contender(name: str, build: object, every: int = 1) -> Contender:
    """With nothing said about it."""
    return Contender(name=name, what=f"{name} in words", build=build, every=every)  # type: ignore[arg-type]


def leave_mark(path: Path, setting: Setting) -> None:
    """What a preparation leaves on disk: which process it was."""
    path.write_text(str(os.getpid()))
