"""How fast a stage goes, and the dense line that says so."""

import math
import resource
import time
from collections.abc import Mapping

import torch


class Clock:
    """Time per step since the last report, and the time that is left."""

    def __init__(self, stage: str, steps: int) -> None:
        """Start counting; ``steps`` are those of the whole stage."""
        self._stage, self._steps = stage, steps
        self._since_s = time.perf_counter()
        self._ticks = self._samples = 0
        self._step_s = math.nan

    def tick(self, samples: int) -> None:
        """Count a step of so many samples."""
        self._ticks += 1
        self._samples += samples

    def read(self) -> dict[str, float]:
        """Speed and memory since the last reading."""
        now_s = time.perf_counter()
        elapsed_s = max(now_s - self._since_s, 1e-9)
        self._step_s = elapsed_s / max(self._ticks, 1)
        rate = self._samples / elapsed_s
        self._since_s, self._ticks, self._samples = now_s, 0, 0
        return {"samples_per_s": round(rate, 2), "peak_memory_mb": round(peak_memory_mb(), 1)}

    def line(self, step: int, terms: Mapping[str, float], lr: float) -> str:
        """``teacher step 0120/0400 | loss 1.234 | lr 3.0e-04 | 412 ms/step | eta 1.9 min``."""
        shown = " | ".join(f"{name} {value:.3f}" for name, value in terms.items())
        eta_min = self._step_s * (self._steps - step - 1) / 60
        return (
            f"{self._stage} step {step + 1:04d}/{self._steps:04d} | {shown} | lr {lr:.1e} | "
            f"{self._step_s * 1e3:.0f} ms/step | eta {eta_min:.1f} min"
        )


def peak_memory_mb() -> float:
    """Most memory this process has held: on the GPU where there is one in use, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
