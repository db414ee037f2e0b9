"""Engines that are lost: CUDA fails, or they hang."""

import math
import time

import pytest
import torch
from fakes import FakeEngine, wait_until
from timely_engines import DEADLINE_S, FAILURES, frame_at, patient, timely

from clkd_core.runtime.timely import (
    NoAnswerError,
    TimelyDecider,
    describe_failure,
    is_poison,
)
from clkd_core.types import Decision


def test_what_poisons_a_process_is_told_from_what_does_not() -> None:
    raised_by_torch = getattr(torch, "AcceleratorError", None)
    poison: list[Exception] = [
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        Exception("CUDA failure 700: an illegal memory access was encountered ; GPU=0"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("Triton Error [CUDA]: misaligned address"),
        Exception("CUDNN failure 5000: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0"),
    ]
    if raised_by_torch is not None:
        poison.append(raised_by_torch("unspecified launch failure"))
        poison.append(type("Derived", (raised_by_torch,), {})("HIP error: something"))
        assert not is_poison(raised_by_torch("CUDA error: out of memory"))
    assert [is_poison(error) for error in poison] == [True] * len(poison)
    assert {describe_failure(error) for error in poison} == {"engine failed: CUDA error"}
    assert not any(is_poison(error) for error, _ in FAILURES)


def test_cuda_error_loses_the_engine_and_the_answer_is_still_there_in_time() -> None:
    engine, lost = FakeEngine(), list[str]()
    with patient(engine, on_lost=lost.append) as decider:
        decider.decide(frame_at(1))
        engine.errors.append(RuntimeError("CUDA error: device-side assert triggered\nMore."))
        failed = decider.decide(frame_at(2))
        after = decider.decide(frame_at(3))
    assert lost == ["CUDA error: device-side assert triggered"]
    assert failed.stale and after.stale and "device-side assert" in after.degraded[0]
    assert [frame.stamp_ns for frame in engine.frames] == [1, 2]


@pytest.mark.parametrize("deadline_s", [DEADLINE_S, math.inf])
def test_engine_that_hangs_is_lost_once_and_never_takes_the_caller_along(
    deadline_s: float,
) -> None:
    engine, lost, late = FakeEngine(), list[str](), list[Decision]()
    with timely(engine, deadline_s=20.0, hang_s=0.2, on_lost=lost.append) as decider:
        decider.decide(frame_at(1))
        decider._deadline_s = deadline_s
        engine.free.clear()
        begun_s, stamp_ns = time.monotonic(), 2
        while not lost:
            assert time.monotonic() - begun_s < 5.0
            assert decider.decide(frame_at(stamp_ns), on_late=late.append).stale
            stamp_ns += 1
        assert time.monotonic() - begun_s >= 0.2
        assert decider.decide(frame_at(99)).stale
    assert lost == ["hangs: no result within 0.2 s"]


def test_engine_that_idles_for_longer_than_the_limit_does_not_hang() -> None:
    engine, lost = FakeEngine(), list[str]()
    with patient(engine, hang_s=0.1, on_lost=lost.append) as decider:
        decider.decide(frame_at(1))
        limit_s = time.monotonic() + 0.15
        wait_until(lambda: time.monotonic() > limit_s, "a pause")
        assert not decider.decide(frame_at(2)).stale
    assert lost == []


def test_closed_decider_lets_nobody_wait() -> None:
    decider = TimelyDecider(FakeEngine(), deadline_s=math.inf, hang_s=math.inf)
    decider.decide(frame_at(1))
    assert decider.close()
    with pytest.raises(NoAnswerError, match="engine closed"):
        decider.decide(frame_at(2))
    with pytest.raises(ValueError, match="nothing to warm up: engine closed"):
        decider.warm_up()
