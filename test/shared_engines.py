"""Students of both families with a planner, made to be shared, and frames to ask them about."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from fakes import one_hot
from tiny_vlm import tiny_model, tiny_t5_model

from clkd_core.files import replace_folder
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.models.moe import MoeConfig
from clkd_core.models.planner import Planner, PlannerConfig
from clkd_core.models.planner_checkpoint import student_identity, write_planner
from clkd_core.runtime.backends.on_torch import TorchBackend
from clkd_core.runtime.engine import EncodedFrame, Engine
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    Decision,
    EgoState,
    Plan,
    RouteCommand,
    SurroundFrame,
)

MOE = MoeConfig(adapter_experts=2, ffn_experts=4, lora_rank=2)
_BUILDERS: dict[str, Callable[..., VlmBase]] = {"llama": tiny_model, "t5": tiny_t5_model}

FAMILIES = sorted(_BUILDERS)


def tiny_student(family: str) -> VlmBase:
    """A tiny model of a family with experts, whose answers depend on images and on routing."""
    model = _BUILDERS[family](moe=MOE)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if ".up." in name:  # fresh low-rank experts add zero: mixed up ones would, too
            torch.nn.init.normal_(weight, std=0.5)
        if name.startswith("vision_tower") and weight.ndim == 4:  # else all views look alike
            torch.nn.init.normal_(weight, std=0.3)
    return model


def tiny_planner(model: VlmBase) -> Planner:
    """A planner with random weights that reads the model's features."""
    vision = model.config.vision
    torch.manual_seed(2)
    return Planner(
        PlannerConfig(width=16, heads=2),
        vocabulary_m=torch.randn(40, 6, 2) * 10,
        own_action=torch.arange(40) % 20,
        patches=vision.patches,
        feature_width=vision.feature_width,
    ).eval()


def write_student(folder: Path) -> None:
    """A checkpoint of a tiny student with a planner of its own."""
    model = tiny_model()
    save_checkpoint(folder, model)
    with replace_folder(folder / "planner") as part:
        write_planner(tiny_planner(model), part, student_sha256=student_identity(folder))


class CountingEngine(Engine):
    """A real engine that counts what it encodes; can be held up in it, and can fail."""

    def __init__(self, model: VlmBase) -> None:
        super().__init__(TorchBackend(model, "cpu", bf16=True))
        self.encoded: Counter[int] = Counter()
        """Calls of :meth:`encode` by the frame's stamp."""
        self.running = 0
        """Calls that have not ended."""
        self.free = threading.Event()
        """Cleared, it holds the next encodings back until set."""
        self.free.set()
        self.error: Exception | None = None
        """What encoding raises."""

    def encode(self, frame: SurroundFrame, *, blank: bool = False) -> EncodedFrame:
        """See :meth:`Engine.encode`."""
        self.encoded[frame.stamp_ns] += 1
        self.running += 1
        try:
            assert self.free.wait(30.0), "the test forgot to free the engine"
            assert self.running == 1, "two threads encode at the same time"
            if self.error is not None:
                raise self.error
            return super().encode(frame, blank=blank)
        finally:
            self.running -= 1


def a_frame(stamp_ns: int = 1, **changes: Any) -> SurroundFrame:
    """Six views of its own for every stamp, in new objects every time."""
    whole = {
        "stamp_ns": stamp_ns,
        "images": {camera: an_image(stamp_ns, i) for i, camera in enumerate(CAMERAS)},
        "ego": EgoState(stamp_ns=stamp_ns, speed_mps=float(stamp_ns % 12)),
        "command": list(RouteCommand)[stamp_ns % len(RouteCommand)],
    }
    return SurroundFrame(**{**whole, **changes})


def an_image(stamp_ns: int, number: int) -> CameraImage:
    """A view of its own for every stamp and number."""
    ok, encoded = cv2.imencode(".png", some_pixels(100 * stamp_ns + number))
    assert ok
    return CameraImage(stamp_ns=stamp_ns, encoded=encoded.tobytes())


def some_pixels(seed: int, height: int = 36, width: int = 64) -> np.ndarray:
    """(H, W, 3) uint8: patches of colour, others for every seed."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    pixels = cv2.resize(patches, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(pixels, np.uint8)


def a_decision(index: int = 3, stamp_ns: int = 1) -> Decision:
    """A decision to follow."""
    action = META_ACTIONS[index]
    return Decision(
        stamp_ns=stamp_ns, action=action, probabilities=one_hot(action), inference_ms=1.0
    )


def same_decision(one: Decision, other: Decision) -> bool:
    """In all but the time they took; probabilities within 1e-5."""
    return (one.stamp_ns, one.action, one.degraded) == (
        other.stamp_ns,
        other.action,
        other.degraded,
    ) and np.allclose(one.probabilities, other.probabilities, atol=1e-5)


def same_plan(one: Plan, other: Plan) -> bool:
    """In all but the time they took; points within 10 micrometres."""
    return (one.stamp_ns, one.decision_stamp_ns, one.degraded) == (
        other.stamp_ns,
        other.decision_stamp_ns,
        other.degraded,
    ) and np.allclose(one.trajectory.xy_m, other.trajectory.xy_m, atol=1e-5)
