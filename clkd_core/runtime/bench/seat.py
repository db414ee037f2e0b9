"""What a contender's process does when it is asked; torch comes with the contender."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd_core.runtime.bench.contenders.spec import Contender, NoRoomError, Setting, Work
from clkd_core.types import SurroundFrame

_DECODE_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a contender is and took, apart from its times."""

    backend: str
    """Library and number format."""
    threads: int
    """That one operation may spread over."""
    checkpoint: str | None
    """Folder of the weights; None: they are random, or there are none."""
    total_parameters: int
    active_parameters: int
    peak_memory_mib: float
    """Largest resident size of the process, libraries and building included."""
    gpu_peak_mib: float | None
    """Most memory that torch held on the GPU; None on a CPU."""
    decode_ms: float
    """Median time of decoding one frame's images alone."""
    work: Work | None
    """Of one answer; None where there is no model."""


class Preparation:
    """What is done for a contender before it is built."""

    def __init__(self, contender: Contender, setting: Setting) -> None:
        """Nothing is done yet."""
        self._contender, self._setting = contender, setting

    def run(self) -> None:
        """Do it.

        Raises:
            ClkdError: it cannot be done.
        """
        if self._contender.prepare is not None:
            self._contender.prepare(self._setting)


class Seat:
    """One contender, and the frames it is shown."""

    def __init__(
        self, contender: Contender, setting: Setting, frames: Sequence[SurroundFrame]
    ) -> None:
        """Build it.

        Raises:
            NoRoomError: its memory does not fit.
            ClkdError: its device, config or checkpoint cannot be used.
        """
        self._frames, self._device = frames, setting.device
        try:
            self._answerer: Any = contender.build(setting)  # control loops alone can calibrate
        except (MemoryError, RuntimeError) as err:
            raise _as_no_room(err) from err

    def warm_up(self) -> float:
        """Answer once, not counted; returns milliseconds.

        Raises:
            NoRoomError: memory ran out.
        """
        try:
            return self.time_ms(0)
        except (MemoryError, RuntimeError) as err:
            raise _as_no_room(err) from err

    def time_ms(self, number: int) -> float:
        """One answer, from encoded bytes to the host, on this process' own clock."""
        frame = self._frames[number % len(self._frames)]
        start_ns = time.perf_counter_ns()
        self._answerer.answer(frame)
        return (time.perf_counter_ns() - start_ns) / 1e6

    def calibrate(self, target_ms: float) -> int:
        """Of a control loop: see :meth:`ControlLoop.calibrate`."""
        return int(self._answerer.calibrate(target_ms))

    def threads(self) -> int:
        """That one operation may spread over."""
        return int(self._answerer.threads)

    def facts(self) -> Facts:
        """Read the peaks, then measure what would have raised them."""
        peaks = _peak_memory_mib(), _gpu_peak_mib(self._device)
        total, active = self._answerer.parameters
        folder = self._answerer.checkpoint
        return Facts(
            backend=self._answerer.backend,
            threads=self.threads(),
            checkpoint=None if folder is None else str(folder),
            total_parameters=total,
            active_parameters=active,
            peak_memory_mib=peaks[0],
            gpu_peak_mib=peaks[1],
            decode_ms=statistics.median(self._decode_ms() for _ in range(_DECODE_SAMPLES)),
            work=self._answerer.count_work(self._frames[0]),
        )

    def _decode_ms(self) -> float:
        start_s = time.perf_counter()
        self._answerer.decode(self._frames[0])
        return (time.perf_counter() - start_s) * 1e3


def _as_no_room(err: BaseException) -> BaseException:
    """Memory that ran out, under any of its names; what is something else stays what it is."""
    names = {kind.__name__ for kind in type(err).__mro__}  # torch's, where there is torch
    if names & {"MemoryError", "OutOfMemoryError"} or "can't allocate memory" in str(err):
        first = str(err).strip().partition("\n")[0]
        return NoRoomError(f"memory ran out while it was built: {first[:120]}")
    return err


def _gpu_peak_mib(device: str) -> float | None:
    """What torch held at most; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20


def _peak_memory_mib(status: Path = Path("/proc/self/status")) -> float:
    """Of this program alone: ``getrusage`` also remembers who started it."""
    lines = status.read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024
