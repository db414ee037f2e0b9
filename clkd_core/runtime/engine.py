"""Six encoded images in, one legal decision out: what the nodes and the offline replay both call.

A decision is one forward pass that scores all 20 meta-actions; its clock starts before the
images are decoded and stops when the scores are on the host. What computes is a
:mod:`clkd_core.runtime.backends.protocol`; on a CPU it is one without torch, which is then
imported for free text only.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.prompts import plan_question
from clkd_core.errors import ConfigError, ScoresError
from clkd_core.runtime.backends.artefact import is_artefact, load_artefact
from clkd_core.runtime.backends.protocol import Backend
from clkd_core.runtime.decode import decode_frame
from clkd_core.runtime.devices import (
    check_threads,
    resolve_device,
    set_torch_threads,
    where_it_runs,
)
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    Decision,
    EgoState,
    MetaAction,
    RouteCommand,
    SurroundFrame,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clkd_core.models.base import VlmBase
    from clkd_core.models.vlm import DrivingVlm

_log = logging.getLogger(__name__)

_WARM_UP_SIZE_HW = (900, 1600)

QUESTIONS_AT_ONCE = 16
"""Answered together: 32 are hardly faster on a CPU, and a large model keeps the state of each."""


@dataclass(frozen=True)
class EncodedFrame:
    """What the vision tower made of a frame's images; the planner takes the same.

    Nothing in it depends on ego state, route command or faults: it holds for every frame that
    has these images.
    """

    features: Any
    """(1, C, P, D), zero where a view is missing: an array, or a tensor on the engine's device."""
    present: NDArray[np.bool_]
    """(C,) bool."""
    failures: tuple[str, ...]
    """One line per image that came and could not be used; absent cameras are not failures."""

    def tensors(self) -> "tuple[Tensor, Tensor]":
        """Features and (1, C) presence as tensors on one device, for what torch computes."""
        import torch

        features = torch.as_tensor(self.features)
        return features, torch.from_numpy(self.present)[None].to(features.device)


class Engine:
    """A driving VLM made ready to answer one frame at a time; not for several threads at once.

    :class:`clkd_core.runtime.shared.SharedEngine` is.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        threads: int | None = None,
        load_model: "Callable[[], DrivingVlm] | None" = None,
    ) -> None:
        """Take what computes; the class methods choose it.

        Args:
            backend: whose threads are its own affair.
            threads: that torch may spread one operation over, where it is used beside.
            load_model: gives the model that writes free text, when it is first wanted.
        """
        check_threads(threads)
        self._backend = backend
        self._load_model = load_model
        self._model: DrivingVlm | None = getattr(backend, "model", None)
        self.threads = threads
        workers = min(len(CAMERAS), len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(workers, "decode") if workers > 1 else None
        self._decode_frame: Callable[..., Any] = decode_frame
        if str(getattr(backend, "device", "")).startswith("cuda"):  # else torch is not imported
            from clkd_core.runtime.backends.gpu_decode import decoder_for

            self._decode_frame = decoder_for(backend)

    @classmethod
    def on_torch(
        cls,
        model: "DrivingVlm",
        *,
        device: "torch.device | str" = "cpu",
        threads: int | None = None,
        bf16: bool | None = None,
    ) -> "Engine":
        """Compute with torch, operation by operation, on a model in memory.

        Args:
            model: on ``device`` and in evaluation mode.
            device: where the model is.
            threads: see :meth:`from_checkpoint`.
            bf16: see :class:`clkd_core.runtime.backends.on_torch.TorchBackend`.
        """
        from clkd_core.runtime.backends.on_torch import TorchBackend

        check_threads(threads)
        set_torch_threads(threads)
        return cls(TorchBackend(model, device, bf16=bf16), threads=threads)

    @classmethod
    def from_model(
        cls, model: "VlmBase", *, device: str = "cpu", threads: int | None = None
    ) -> "Engine":
        """The device's fastest backend for a model in memory, as for a checkpoint.

        Args:
            model: in evaluation mode, on ``device``.
            device: ``cpu`` or ``cuda[:N]``.
            threads: see :meth:`from_checkpoint`.

        Raises:
            ConfigError: the exporter's packages are not installed.
        """
        check_threads(threads)
        if device != "cpu":
            return cls(_accelerated(model, device), threads=threads)
        from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
        from clkd_core.runtime.exporting.model import export_model

        with tempfile.TemporaryDirectory() as folder:
            export_model(model, Path(folder) / "engine")
            artefact = load_artefact(Path(folder) / "engine")
            backend = OpenVinoBackend(artefact, threads=threads)
        return cls(backend, threads=threads, load_model=lambda: model)

    @classmethod
    def from_checkpoint(
        cls, folder: Path, *, device: str = "auto", threads: int | None = None
    ) -> "Engine":
        """Load a student or teacher, or what `clkd export` made of one.

        On a CPU the checkpoint is exported first where that was not done before: some seconds,
        once per user (:mod:`clkd_core.runtime.exporting.cache`).

        Args:
            folder: a checkpoint as clkd_core.models.checkpoint writes it, or an artefact.
            device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda[:N]``.
            threads: that one operation may spread over; None takes all cores, as decoding a
                frame always does. Of torch it is set for the whole process. Two threads of
                ours that compute at the same time use this many each.

        Raises:
            CheckpointError: the folder is neither whole.
            ConfigError: the device is unknown or absent.
        """
        check_threads(threads)
        folder, chosen = Path(folder), resolve_device(device)
        if is_artefact(folder):
            engine = cls(_exported(folder, asked=device, threads=threads), threads=threads)
        elif chosen == "cpu":
            engine = cls._on_cpu(folder, threads)
        else:
            from clkd_core.models.checkpoint import load_vlm

            set_torch_threads(threads)
            engine = cls(_accelerated(load_vlm(folder, chosen), chosen), threads=threads)
        line = where_it_runs(
            folder, device=engine.device, backend=engine.backend, threads=threads, asked=device
        )
        _log.info("%s", line)
        return engine

    @classmethod
    def _on_cpu(cls, folder: Path, threads: int | None) -> "Engine":
        from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
        from clkd_core.runtime.exporting.cache import cached_artefact

        def load_model() -> "DrivingVlm":
            from clkd_core.models.checkpoint import load_vlm

            set_torch_threads(threads)
            return load_vlm(folder)

        artefact = cached_artefact(folder)
        if artefact is None:  # too large to be exported
            return cls.on_torch(load_model(), threads=threads)
        backend = OpenVinoBackend(artefact, threads=threads)
        return cls(backend, threads=threads, load_model=load_model)

    @property
    def backend(self) -> str:
        """What computes, for tables: ``OpenVINO bfloat16``."""
        return self._backend.name

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``, ``cuda:0``."""
        return self._backend.device

    @property
    def model(self) -> "DrivingVlm":
        """The model in torch, loaded now if it was not there: it writes free text.

        Raises:
            ConfigError: an exported decision has none.
        """
        if self._model is None:
            if self._load_model is None:
                raise ConfigError(
                    "an exported decision writes no text, expected the checkpoint it was made from"
                )
            self._model = self._load_model()
        return self._model

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that views are decoded to."""
        return self._backend.image_size

    def warm_up(self) -> None:
        """Answer made-up frames of real size, so that the first real one finds all prepared."""
        for frame in made_up_frames():
            self.decide(frame)

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        """Choose one of the 20 meta-actions.

        Args:
            frame: up to six views; what is missing is masked and named in ``degraded``.
            blank: look at black images instead, to learn what the images are worth.

        Raises:
            FrameError: no view is usable.
            ScoresError: the model's scores are NaN.
        """
        start_s = time.perf_counter()
        views, present, failures = self._decode(frame, blank=blank)
        question = plan_question(frame.ego, frame.command)
        log_probs = self._backend.decide(views, present, question)
        return _decision(frame, log_probs, failures, start_s)

    def decide_from_features(
        self, frame: SurroundFrame, encoded: EncodedFrame, *, start_s: float | None = None
    ) -> Decision:
        """Decide on what :meth:`encode` made of the frame's images already.

        Runs other parts of the model than :meth:`encode` and keeps nothing that it uses: the two
        may run in two threads at the same time, each of them in one thread only.

        Args:
            frame: what is known beside the images, and what is missing.
            encoded: of the same images.
            start_s: reading of ``time.perf_counter`` that ``inference_ms`` counts from; None
                counts only what happens here.

        Raises:
            ScoresError: the model's scores are NaN.
        """
        start_s = time.perf_counter() if start_s is None else start_s
        question = plan_question(frame.ego, frame.command)
        log_probs = self._backend.log_probs(encoded.features, encoded.present, question)
        return _decision(frame, log_probs, encoded.failures, start_s)

    def encode(self, frame: SurroundFrame, *, blank: bool = False) -> EncodedFrame:
        """Decode a frame and run the vision tower.

        Raises:
            FrameError: no view is usable.
        """
        views, present, failures = self._decode(frame, blank=blank)
        return EncodedFrame(self._backend.encode(views, present), present, failures)

    def generate(self, frame: SurroundFrame, question: str, *, max_new_tokens: int = 32) -> str:
        """Answer any question about a frame in free text, greedily.

        Raises:
            FrameError: no view is usable.
            ConfigError: an exported decision writes no text.
        """
        return self.say(frame, [question], max_new_tokens=max_new_tokens)[0]

    def say(
        self, frame: SurroundFrame, questions: Sequence[str], *, max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy answers to several questions about one frame, ``QUESTIONS_AT_ONCE`` together.

        See :meth:`generate`.
        """
        import torch

        features, present = self.encode(frame).tensors()
        autocast, said = getattr(self._backend, "autocast", nullcontext), list[str]()
        with torch.inference_mode(), autocast():
            scene = self.model.scene_tokens(features, present)
            for start in range(0, len(questions), QUESTIONS_AT_ONCE):
                some = list(questions[start : start + QUESTIONS_AT_ONCE])
                scenes = scene.expand(len(some), -1, -1)  # a family may read it only once
                said += self.model.generate(scenes, some, max_new_tokens)
        return said

    def _decode(
        self, frame: SurroundFrame, *, blank: bool
    ) -> tuple[Any, NDArray[np.bool_], tuple[str, ...]]:
        """Views (C, 3, H, W) uint8, an array or a tensor on the device; presence; failures."""
        decoded = self._decode_frame(frame, self.image_size, pool=self._pool)
        views = decoded.views * 0 if blank else decoded.views
        return views, decoded.present, decoded.failures


def _exported(folder: Path, *, asked: str, threads: int | None) -> Backend:
    from clkd_core.runtime.backends.on_openvino import OpenVinoBackend

    if asked not in ("auto", "cpu"):
        raise ConfigError(
            f"device is {asked!r}, but {folder} is an exported decision: expected auto or cpu, "
            "or the checkpoint it was made from"
        )
    return OpenVinoBackend(load_artefact(folder), threads=threads)


def _accelerated(model: "VlmBase", device: str) -> Backend:
    """A CUDA graph on a CUDA device, plain torch on others."""
    if device.startswith("cuda"):
        from clkd_core.runtime.backends.cuda_graph import CudaGraphBackend

        return CudaGraphBackend(model, device)
    from clkd_core.runtime.backends.on_torch import TorchBackend

    return TorchBackend(model, device)


def _decision(
    frame: SurroundFrame,
    log_probs: NDArray[np.float32],
    failures: tuple[str, ...],
    start_s: float,
) -> Decision:
    probabilities = _probabilities(log_probs, frame.stamp_ns)
    return Decision(
        stamp_ns=frame.stamp_ns,
        action=MetaAction.from_index(int(probabilities.argmax())),
        probabilities=probabilities,
        inference_ms=(time.perf_counter() - start_s) * 1e3,
        degraded=(*frame.degraded_reasons, *failures),
    )


def _probabilities(log_probs: NDArray[np.float32], stamp_ns: int) -> NDArray[np.float32]:
    """(A,) that sum to 1; NaN would make argmax an answer that nobody gave."""
    probabilities = np.exp(log_probs.astype(np.float64))
    total = probabilities.sum()
    if probabilities.shape != (len(META_ACTIONS),) or not np.isfinite(total) or total <= 0:
        raise ScoresError(
            f"scores of frame {stamp_ns} are {probabilities.shape} and sum to {total}, "
            f"expected {len(META_ACTIONS)} finite probabilities"
        )
    return np.asarray(probabilities / total, np.float32)


def made_up_frames(count: int = 3) -> Iterator[SurroundFrame]:
    """Frames of real size with nothing on them, to warm a model up with."""
    for number in range(count):
        pixels = np.full((*_WARM_UP_SIZE_HW, 3), 40 * number % 256, np.uint8)
        image = CameraImage(stamp_ns=number + 1, pixels=pixels)
        yield SurroundFrame(
            stamp_ns=number + 1,
            images=dict.fromkeys(CAMERAS, image),
            ego=EgoState(stamp_ns=number + 1, speed_mps=5.0 * number),
            command=list(RouteCommand)[number % len(RouteCommand)],
        )
