"""What a running node says about itself: rate, drops by reason, latency percentiles."""

import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import psutil


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """The state of one node at one instant."""

    rate_hz: float
    """Answers per second over the last :data:`RATE_WINDOW_S` seconds."""
    answered: int
    """Answers since the start."""
    drops: Mapping[str, int]
    """Inputs that got no answer since the start, by reason."""
    flags: Mapping[str, int]
    """Answers that were given although something was wrong, by reason."""
    latency_p50_ms: float
    """Of the newest answers; NaN before the first."""
    latency_p95_ms: float
    """As above."""
    latency_p99_ms: float
    """As above."""


DROPPED, FLAGGED = "dropped: ", "flagged: "
"""What comes before a reason in a node's diagnostics."""

RATE_WINDOW_S = 5.0
"""Seconds over which the rate of answers is counted."""

_LATENCY_WINDOW = 1000
_MIB = 1 << 20
_MAX_REASONS = 32
"""Distinct reasons kept; later ones are counted as ``other`` so that memory stays bounded."""


class Health:
    """Count what a node does; safe to call from several threads."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Start counting at zero.

        Args:
            clock_s: seconds of a clock that never jumps back.
        """
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCY_WINDOW)
        self._answer_times_s: deque[float] = deque()
        self._drops: Counter[str] = Counter()
        self._flags: Counter[str] = Counter()
        self._answered = 0

    def count_answer(self, latency_ms: float) -> None:
        """One answer was published, so many milliseconds after its inputs were complete."""
        now_s = self._clock_s()
        with self._lock:
            self._answered += 1
            self._latencies_ms.append(latency_ms)
            self._answer_times_s.append(now_s)
            self._forget_before(now_s - RATE_WINDOW_S)

    def count_drop(self, reason: str) -> None:
        """One input got no answer."""
        with self._lock:
            _count(self._drops, reason)

    def count_flag(self, reason: str) -> None:
        """One answer was given although something was wrong."""
        with self._lock:
            _count(self._flags, reason)

    def report(self) -> HealthReport:
        """The state now."""
        now_s = self._clock_s()
        with self._lock:
            self._forget_before(now_s - RATE_WINDOW_S)
            p50, p95, p99 = compute_percentiles(list(self._latencies_ms))
            return HealthReport(
                rate_hz=len(self._answer_times_s) / RATE_WINDOW_S,
                answered=self._answered,
                drops=dict(self._drops),
                flags=dict(self._flags),
                latency_p50_ms=p50,
                latency_p95_ms=p95,
                latency_p99_ms=p99,
            )

    def _forget_before(self, limit_s: float) -> None:
        while self._answer_times_s and self._answer_times_s[0] < limit_s:
            self._answer_times_s.popleft()


def _count(counter: "Counter[str]", reason: str) -> None:
    known = reason in counter or len(counter) < _MAX_REASONS
    counter[reason if known else "other"] += 1


def compute_percentiles(latencies_ms: list[float]) -> tuple[float, float, float]:
    """p50, p95 and p99 with linear interpolation; three NaN of an empty list."""
    if not latencies_ms:
        return math.nan, math.nan, math.nan
    p50, p95, p99 = np.percentile(np.asarray(latencies_ms, np.float64), (50, 95, 99))
    return float(p50), float(p95), float(p99)


def measure_memory() -> dict[str, str]:
    """Memory of this process [MiB]: resident, and what torch holds on each GPU it has used.

    Nodes that share a process share these figures.
    """
    memory = {"memory_mib": f"{psutil.Process().memory_info().rss / _MIB:.0f}"}
    torch = sys.modules.get("torch")  # whoever has not loaded it holds nothing there
    if torch is not None and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            if reserved := torch.cuda.memory_reserved(device):
                memory[f"memory_cuda{device}_mib"] = f"{reserved / _MIB:.0f}"
    return memory
