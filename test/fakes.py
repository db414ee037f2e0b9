"""Deterministic stand-ins that honour the real protocols; the only fakes of the test suite."""

import threading
import time
from collections import deque
from collections.abc import Callable

import cv2
import numpy as np
import psutil

from clkd_core.errors import FrameError
from clkd_core.types import (
    FUTURE_STEPS,
    META_ACTIONS,
    Decision,
    MetaAction,
    Plan,
    SurroundFrame,
    Trajectory,
)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Poll until the condition holds; AssertionError naming it when the time is over."""
    limit_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


def jpeg_bytes(height: int = 36, width: int = 64, value: int = 120) -> bytes:
    """A small grey JPEG file."""
    ok, encoded = cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))
    assert ok
    return bytes(encoded)


def one_hot(action: MetaAction) -> np.ndarray:
    """(A,) float32: all of the probability on one action."""
    probabilities = np.zeros(len(META_ACTIONS), np.float32)
    probabilities[action.index] = 1.0
    return probabilities


def check_images(frame: SurroundFrame) -> tuple[str, ...]:
    """What the real engine would say about the bytes: masked views, or FrameError for none."""
    bad = [
        f"{camera}: {len(image.encoded)} bytes that are no JPEG"
        for camera, image in frame.images.items()
        if image.encoded is not None and image.encoded[:2] != b"\xff\xd8"
    ]
    if len(bad) == len(frame.images):
        raise FrameError("no usable image in the set: " + "; ".join(bad))
    return tuple(bad)


class FakeEngine:
    """Answers ``KEEP, STRAIGHT`` to every frame, or what it is told; can be held busy.

    Honours ``clkd_core.runtime.engine.Engine`` as far as nodes use it: masks images that are no
    JPEG, raises FrameError when none is left.
    """

    def __init__(self, action: MetaAction = META_ACTIONS[0]) -> None:
        self.action = action
        self.frames: list[SurroundFrame] = []
        """Every frame that was asked about, in order."""
        self.warm = False
        self.free = threading.Event()
        """Cleared, it holds the next answers back until set."""
        self.free.set()
        self.errors: deque[Exception] = deque()
        """Raised in the place of the next answers, one each."""

    def warm_up(self) -> None:
        self.warm = True

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        start_s = time.perf_counter()
        self.frames.append(frame)
        assert self.free.wait(30.0), "the test forgot to free the engine"
        if self.errors:
            raise self.errors.popleft()
        bad = check_images(frame)
        return Decision(
            stamp_ns=frame.stamp_ns,
            action=self.action,
            probabilities=one_hot(self.action),
            inference_ms=(time.perf_counter() - start_s) * 1e3,
            degraded=frame.degraded_reasons + bad,
        )


class FakePlanner:
    """Drives straight ahead at the speed of the frame; honours ``PlannerEngine``."""

    def __init__(self) -> None:
        self.asked: list[tuple[SurroundFrame, Decision | None]] = []
        """Every frame with the decision that came along, in order."""
        self.warm = False

    def warm_up(self) -> None:
        self.warm = True

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        self.asked.append((frame, decision))
        bad = check_images(frame)
        speed_mps = frame.ego.speed_mps if frame.ego else 0.0
        x_m = speed_mps * 0.5 * np.arange(1, FUTURE_STEPS + 1, dtype=np.float32)
        return Plan(
            stamp_ns=frame.stamp_ns,
            trajectory=Trajectory(xy_m=np.stack([x_m, np.zeros_like(x_m)], axis=1)),
            inference_ms=1.0,
            decision_stamp_ns=decision.stamp_ns if decision else None,
            degraded=frame.degraded_reasons + bad,
        )


def children() -> list[psutil.Process]:
    """Processes below this one that still run; a zombie has ended and is only not collected."""
    return [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]
