"""Timely deciders around fake engines, for tests."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from fakes import FakeEngine, jpeg_bytes

from clkd_core.runtime.timely import TimelyDecider
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame

DEADLINE_S = 0.05
TOLERANCE_S = 0.05
"""This machine may be busy; a decider that waited for its engine would take for ever."""
JPEG = jpeg_bytes()


def frame_at(stamp_ns: int, data: bytes = JPEG) -> SurroundFrame:
    image = CameraImage(stamp_ns=stamp_ns, encoded=data)
    return SurroundFrame(stamp_ns=stamp_ns, images=dict.fromkeys(CAMERAS, image))


@contextmanager
def timely(engine: FakeEngine, **options: object) -> Iterator[TimelyDecider]:
    made = TimelyDecider(engine, **({"deadline_s": DEADLINE_S} | options))  # type: ignore[arg-type]
    made.warm_up()
    try:
        yield made
    finally:
        engine.free.set()
        assert made.close(5.0)


def patient(engine: FakeEngine, **options: object) -> AbstractContextManager[TimelyDecider]:
    """With a deadline that no machine is too busy for."""
    return timely(engine, deadline_s=20.0, **options)


FAILURES = [
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "out of memory"),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000000 bytes. Error code 12"
        ),
        "out of memory",
    ),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), "out of memory"),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "out of memory",
    ),
    (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
]
"""What fails a frame and not the process, and what it is called."""
