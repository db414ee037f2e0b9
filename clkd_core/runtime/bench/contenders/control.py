"""A loop without a model: when it is late, the machine was."""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clkd_core.runtime.bench.contenders.spec import Setting
from clkd_core.types import SurroundFrame

LENGTH = 1 << 16
"""Numbers that a thread works on: 256 kB, which its core's cache holds."""
ROOTS = 16
"""Square roots of them all between two meetings of the threads, some 0.3 ms."""
FIRST_REPEATS = 20
_ROUNDS, _SAMPLES = 12, 9
_CLOSE_FRAC = 0.03
_STEP = 4.0
"""One round changes the length by no more than this factor: a storm passes."""


class ControlLoop:
    """The same work over and over, as much as takes about as long as our engine's answer.

    As in the engine, threads work side by side and wait for each other many times in a frame,
    asleep: with torch's threads, which wait busily, neighbours on the same cores made a quarter
    of this loop's frames late and none of the engine's, and it was no measure any more.
    """

    checkpoint: Path | None = None
    """There is none."""
    parameters = (0, 0)
    backend = "numpy float32"

    def __init__(self, threads: int, *, repeats: int = FIRST_REPEATS) -> None:
        """``repeats`` meetings a frame, until :meth:`calibrate` says how many."""
        self.threads, self.repeats = threads, repeats
        self._pool = ThreadPoolExecutor(threads, "control")
        self._numbers = [np.full(LENGTH, 2.0, np.float32) for _ in range(threads)]

    def answer(self, frame: SurroundFrame) -> float:
        """Work; the frame is not looked at."""
        return self._work(self.repeats)

    def decode(self, frame: SurroundFrame) -> None:
        """Nothing."""

    def count_work(self, frame: SurroundFrame) -> None:
        """There is no model."""

    def calibrate(self, target_ms: float) -> int:
        """Set how often the threads meet in a frame, so that it is about the target; returns that.

        Measured again at the length found, until it fits: a neighbour on the same cores may come
        and go meanwhile.

        Args:
            target_ms: a time of undisturbed frames, as lower quartiles are.
        """
        for _ in range(_ROUNDS):
            found_ms = float(np.quantile([self._time_ms() for _ in range(_SAMPLES)], 0.25))
            if abs(found_ms / target_ms - 1) < _CLOSE_FRAC:
                break
            factor = min(max(target_ms / found_ms, 1 / _STEP), _STEP)
            self.repeats = max(1, round(self.repeats * factor))
        return self.repeats

    def _time_ms(self) -> float:
        start_s = time.perf_counter()
        self._work(self.repeats)
        return (time.perf_counter() - start_s) * 1e3

    def _work(self, repeats: int) -> float:
        last: Iterable[float] = ()
        for _ in range(repeats):
            last = list(self._pool.map(self._take_roots, range(self.threads)))
        return sum(last)

    def _take_roots(self, thread: int) -> float:
        numbers = self._numbers[thread]
        for _ in range(ROOTS):
            np.sqrt(numbers, out=numbers)  # they near 1 and stay there
        return float(numbers[0])


def build_control(setting: Setting, *, repeats: int | None) -> ControlLoop:
    """On the host, whatever the device; without ``repeats`` it is to be calibrated."""
    threads = setting.threads or os.cpu_count() or 1
    return ControlLoop(threads, repeats=repeats or FIRST_REPEATS)
