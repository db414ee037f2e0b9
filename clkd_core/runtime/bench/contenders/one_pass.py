"""Our engine as a contender; loads no torch where the engine does without it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.prompts import plan_question
from clkd_core.files import shipped_student
from clkd_core.runtime.bench.contenders.spec import Setting, Work
from clkd_core.runtime.decode import decode_frame
from clkd_core.runtime.engine import Engine
from clkd_core.types import CAMERAS, Decision, SurroundFrame

if TYPE_CHECKING:
    from clkd_core.models.base import VlmBase


class OnePass:
    """An engine: the 20 answers scored in one pass, images decoded at reduced size."""

    def __init__(
        self, engine: Engine, load_model: "Callable[[], VlmBase]", *, checkpoint: Path | None
    ) -> None:
        """Warm the engine up.

        Args:
            engine: what answers.
            load_model: its model in torch, on whatever device; asked for only to count in it.
            checkpoint: the weights' folder; None: they are random.
        """
        self._engine, self._load_model = engine, load_model
        self.checkpoint, self.backend = checkpoint, engine.backend
        self.threads = engine.threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(min(len(CAMERAS), self.threads))
        engine.warm_up()

    @cached_property
    def _model(self) -> "VlmBase":
        return self._load_model()

    @property
    def parameters(self) -> tuple[int, int]:
        """(total, active)."""
        from clkd_core.models.vlm import count_parameters

        return count_parameters(self._model)

    def answer(self, frame: SurroundFrame) -> Decision:
        """Decide."""
        return self._engine.decide(frame)

    def decode(self, frame: SurroundFrame) -> NDArray[np.uint8]:
        """(C, 3, H, W) uint8 RGB, as many views at a time as the engine decodes."""
        return decode_frame(frame, self._engine.image_size, pool=self._pool).views

    def count_work(self, frame: SurroundFrame) -> Work:
        """Of one answer, counted on the model in torch whatever computes it."""
        import torch

        from clkd_core.runtime.bench.contenders.work import count_work

        model = self._model
        device, dtype = model.missing_view.device, model.missing_view.dtype
        views = torch.from_numpy(self.decode(frame))[None].to(device, dtype)
        present = torch.ones(views.shape[:2], dtype=torch.bool, device=device)
        question = [plan_question(frame.ego, frame.command)]

        def answer() -> None:
            scene = model.scene_tokens(model.encode_views(views, present), present)
            model.answer_log_probs(scene, question)

        return count_work(model, answer, dtype=arithmetic_of(self.backend))


def arithmetic_of(backend: str) -> str:
    """torch's name of the number format in a backend's name; float32 where it says none."""
    formats = ("float32", "bfloat16", "float16", "int8")
    return next((word for word in backend.split() if word in formats), "float32")


def build_trained(setting: Setting) -> OnePass:
    """The checkpoint's student, or the shipped one.

    Raises:
        CheckpointError: the folder is no checkpoint.
        ConfigError: the device is not there.
    """
    folder = setting.checkpoint or shipped_student()
    engine = Engine.from_checkpoint(folder, device=setting.device, threads=setting.threads)
    load_model = partial(_load, folder, engine.device)
    return OnePass(engine, load_model, checkpoint=folder.resolve())


def prepare_trained(setting: Setting) -> None:
    """Let the engine put aside what it makes of a checkpoint once per user.

    Raises:
        CheckpointError: the folder is no checkpoint.
        ConfigError: the device is not there.
    """
    folder = setting.checkpoint or shipped_student()
    Engine.from_checkpoint(folder, device=setting.device, threads=setting.threads)


def _load(folder: Path, device: str) -> "VlmBase":
    from clkd_core.models.checkpoint import load_vlm

    return load_vlm(folder, device)
