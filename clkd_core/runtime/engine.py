"""Six encoded images in, one legal decision out: what the nodes and the offline replay both call.

A decision is one forward pass that scores all 20 meta-actions; its clock starts before the
images are decoded and stops when the scores are on the host.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.data.prompts import plan_question
from clkd_core.errors import ConfigError, FrameError
from clkd_core.models.checkpoint import load_vlm
from clkd_core.models.vlm import DrivingVlm
from clkd_core.runtime.decode import decode_frame
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

_log = logging.getLogger(__name__)

_WARM_UP_SIZE_HW = (900, 1600)


@dataclass(frozen=True)
class EncodedFrame:
    """What the vision tower made of a frame's images; the planner takes the same.

    Nothing in it depends on ego state, route command or faults: it holds for every frame that
    has these images.
    """

    features: Tensor
    """(1, C, P, D) on the engine's device; zero where a view is missing."""
    present: Tensor
    """(1, C) bool."""
    failures: tuple[str, ...]
    """One line per image that came and could not be used; absent cameras are not failures."""


class Engine:
    """A driving VLM made ready to answer one frame at a time; not for several threads at once.

    :class:`clkd_core.runtime.shared.SharedEngine` is.
    """

    def __init__(
        self,
        model: DrivingVlm,
        *,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        bf16: bool | None = None,
    ) -> None:
        """Take a model that is on ``device`` and in evaluation mode.

        Args:
            model: what decides.
            device: where the model is.
            threads: that torch may spread one operation over, set for the whole process, and
                that decode one frame; None leaves torch's own. Two threads of ours that compute
                at the same time use this many each.
            bf16: compute under bfloat16 autocast; None does so where the device has instructions
                for it: one nano frame then takes two thirds of its float32 time.
        """
        if threads is not None and threads < 1:
            raise ConfigError(f"engine threads is {threads}, expected at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.model = model
        self._bf16 = _has_bf16(self.device) if bf16 is None else bf16
        workers = min(len(CAMERAS), threads or torch.get_num_threads())
        self._pool = ThreadPoolExecutor(workers, "decode") if workers > 1 else None

    @classmethod
    def from_checkpoint(
        cls, folder: Path, *, device: str = "auto", threads: int | None = None
    ) -> "Engine":
        """Load a student or teacher.

        Args:
            folder: a checkpoint as clkd_core.models.checkpoint writes it.
            device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda[:N]``.
            threads: see the constructor.

        Raises:
            CheckpointError: the folder is no whole checkpoint of ours.
            ConfigError: the device is unknown or absent.
        """
        chosen = choose_device(device)
        engine = cls(load_vlm(folder, chosen), device=chosen, threads=threads)
        _log.info("%s", _where_it_runs(folder, chosen, asked=device))
        return engine

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that views are decoded to."""
        return self.model.image_size

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
            FrameError: no view is usable, or the model's scores are NaN.
        """
        start_s = time.perf_counter()
        encoded = self.encode(frame, blank=blank)
        return self.decide_from_features(frame, encoded, start_s=start_s)

    @torch.inference_mode()
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
            FrameError: the model's scores are NaN.
        """
        start_s = time.perf_counter() if start_s is None else start_s
        question = plan_question(frame.ego, frame.command)
        with self._autocast():
            scene = self.model.scene_tokens(encoded.features, encoded.present)
            log_probs = self.model.answer_log_probs(scene, [question])
        probabilities = _probabilities(log_probs[0].float().cpu().numpy(), frame.stamp_ns)
        return Decision(
            stamp_ns=frame.stamp_ns,
            action=MetaAction.from_index(int(probabilities.argmax())),
            probabilities=probabilities,
            inference_ms=(time.perf_counter() - start_s) * 1e3,
            degraded=(*frame.degraded_reasons, *encoded.failures),
        )

    @torch.inference_mode()
    def encode(self, frame: SurroundFrame, *, blank: bool = False) -> EncodedFrame:
        """Decode a frame and run the vision tower.

        Raises:
            FrameError: no view is usable.
        """
        decoded = decode_frame(frame, self.image_size, pool=self._pool)
        views = torch.from_numpy(decoded.views)[None].to(self.device)
        present = torch.from_numpy(decoded.present)[None].to(self.device)
        if blank:
            views = torch.zeros_like(views)
        with self._autocast():
            features = self.model.encode_views(views, present)
        return EncodedFrame(features, present, decoded.failures)

    def generate(self, frame: SurroundFrame, question: str, *, max_new_tokens: int = 32) -> str:
        """Answer any question about a frame in free text, greedily.

        Raises:
            FrameError: no view is usable.
        """
        with torch.inference_mode(), self._autocast():
            encoded = self.encode(frame)
            scene = self.model.scene_tokens(encoded.features, encoded.present)
            return self.model.generate(scene, [question], max_new_tokens)[0]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


def choose_device(device: str) -> torch.device:
    """``auto`` becomes CUDA where there is one; others are checked to exist.

    Raises:
        ConfigError: the name is no device, or there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as err:
        raise ConfigError(f"device is {device!r}, expected auto, cpu or cuda[:N]") from err
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {device!r}, but {torch.cuda.device_count()} GPUs are here")
    return chosen


def _where_it_runs(folder: Path, device: torch.device, *, asked: str) -> str:
    """One line for the log; ``auto`` that ended on the CPU is said first."""
    if device.type == "cuda":
        return f"{folder} runs on {device}, {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{folder} runs on {device}"
    threads = torch.get_num_threads()
    place = f"{folder} runs on the CPU, {threads} thread{'' if threads == 1 else 's'}"
    reason = "torch without CUDA" if torch.version.cuda is None else "no CUDA device"
    return f"{reason}: {place}" if asked == "auto" else place


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by hardware: every CPU can, most only by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch >= 2.6
    return bool(ask and ask())


def _probabilities(log_probs: NDArray[np.float32], stamp_ns: int) -> NDArray[np.float32]:
    """(A,) that sum to 1; NaN would make argmax an answer that nobody gave."""
    probabilities = np.exp(log_probs.astype(np.float64))
    total = probabilities.sum()
    if probabilities.shape != (len(META_ACTIONS),) or not np.isfinite(total) or total <= 0:
        raise FrameError(
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
