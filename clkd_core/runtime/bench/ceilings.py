"""What a device can do at most, measured: bytes from its memory, products of matrices."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clkd_core.runtime.bench.contenders.spec import Setting

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES, _MOST_BYTES = 1 << 28, 1 << 30
"""Of the stream on a CPU: twice the largest cache, within these."""
_GPU_BYTES = 1 << 30
_CPU_SIDE, _GPU_SIDE = 2048, 8192
"""Of the matrices."""
_SECONDS = 0.6
"""For each measurement; the fastest repetition counts."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Of the device that all contenders of a run have used."""

    device: str
    """torch's name."""
    device_words: str
    """Its name for people, and cores."""
    memory_bytes_per_s: float
    """The faster of a copy (read and written) and a sum (read) of more than the caches hold."""
    stream_bytes: int
    """That the stream was long."""
    flops_per_s: Mapping[str, float]
    """By torch's name of a number format: a product of large square matrices."""


def best_of(before: Ceilings, after: Ceilings) -> Ceilings:
    """The faster of each: a neighbour on the device lowers what is found, nothing raises it."""
    return replace(
        before,
        memory_bytes_per_s=max(before.memory_bytes_per_s, after.memory_bytes_per_s),
        flops_per_s={
            name: max(pace, after.flops_per_s[name]) for name, pace in before.flops_per_s.items()
        },
    )


class Gauge:
    """Measures; a process of its own holds it, so that its memory goes with it."""

    def __init__(self, setting: Setting) -> None:
        """Find the device.

        Raises:
            ConfigError: it is not there.
        """
        import torch

        from clkd_core.runtime.devices import choose_device

        if setting.threads is not None:
            torch.set_num_threads(setting.threads)
        self._device = choose_device(setting.device)

    def find(self) -> tuple[str, str]:
        """torch's name of the device, and its name for people."""
        from clkd_core.report.provenance import describe_device

        return str(self._device), describe_device(str(self._device))

    def measure(self) -> Ceilings:
        """Some seconds of streaming and multiplying."""
        length = self._stream_bytes()
        device, words = self.find()
        return Ceilings(
            device=device,
            device_words=words,
            memory_bytes_per_s=self._memory_bytes_per_s(length),
            stream_bytes=length,
            flops_per_s={name: self._flops_per_s(name) for name in ("float32", "bfloat16")},
        )

    def _stream_bytes(self) -> int:
        if self._device.type == "cuda":
            return _GPU_BYTES
        from clkd_core.runtime.bench.contenders.room import free_bytes

        wanted = min(max(2 * _largest_cache_bytes(), _LEAST_BYTES), _MOST_BYTES)
        return min(wanted, free_bytes(self._device) // 4)

    def _memory_bytes_per_s(self, length: int) -> float:
        import torch

        source = torch.ones(length // 4, device=self._device)
        target = torch.empty_like(source)
        copied = 2 * length / self._fastest_s(lambda: target.copy_(source))
        return max(copied, length / self._fastest_s(source.sum))

    def _flops_per_s(self, dtype: str) -> float:
        import torch

        side = _GPU_SIDE if self._device.type == "cuda" else _CPU_SIDE
        left = torch.randn(side, side, device=self._device).to(getattr(torch, dtype))
        return 2 * side**3 / self._fastest_s(lambda: left @ left)

    def _fastest_s(self, call: Callable[[], object]) -> float:
        """Seconds of the fastest call after one that warms up."""
        import torch

        def timed_s() -> float:
            start_s = time.perf_counter()
            call()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            return time.perf_counter() - start_s

        timed_s()
        end_s, best_s = time.perf_counter() + _SECONDS, timed_s()
        while time.perf_counter() < end_s:
            best_s = min(best_s, timed_s())
        return best_s


def _largest_cache_bytes() -> int:
    """Of the first core; 0 where the system does not say."""
    sizes = [path.read_text().strip() for path in _CACHES.glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)
