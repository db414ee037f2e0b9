"""The plain way: decode at full size, resize, let transformers generate."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.data.prompts import PREAMBLE, plan_question
from clkd_core.models.base import VlmBase
from clkd_core.models.llama_vlm import LlamaVlm
from clkd_core.models.vlm import count_parameters
from clkd_core.runtime.bench.contenders.spec import Work
from clkd_core.runtime.bench.contenders.work import count_work
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame


def decode_plainly(frame: SurroundFrame, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(C, 3, H, W) uint8 RGB: full-size decode and resize, one view after the other."""
    return np.stack([_decode(frame.images[camera], size_hw) for camera in CAMERAS])


def _decode(image: CameraImage, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    assert image.encoded is not None  # the benchmark's frames are JPEGs
    bgr = cv2.imdecode(np.frombuffer(image.encoded, np.uint8), cv2.IMREAD_COLOR)
    rgb = cv2.cvtColor(cv2.resize(bgr, (size_hw[1], size_hw[0])), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.uint8)


def generate_exactly(language: Any, embedded: Tensor, tokens: int) -> Tensor:
    """Greedy ids of so many tokens: the end is out of reach until then.

    Args:
        language: a model of transformers that can generate.
        embedded: (1, L, E), all that stands before the answer.
        tokens: of the answer.
    """
    ids: Tensor = language.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64, device=embedded.device),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
    )
    return ids[0, -tokens:]


class PlainVlm:
    """A VLM of ours used the plain way, in one number format and without autocast."""

    checkpoint: Path | None = None
    """Its weights are random."""

    def __init__(self, model: VlmBase, *, tokens: int) -> None:
        """Take a model in evaluation mode; ``tokens`` is the length of its answers."""
        self._model, self._tokens = model, tokens
        self._dtype = str(model.missing_view.dtype).removeprefix("torch.")
        self.backend = f"transformers generate, torch {self._dtype}"
        self.parameters = count_parameters(model)
        self.threads = torch.get_num_threads()

    def answer(self, frame: SurroundFrame) -> str:
        """Decode, generate, and read what came."""
        with torch.inference_mode():
            ids = self._generate(frame, self.decode(frame))
        return self._model.tokenizer.decode(ids.tolist())

    def decode(self, frame: SurroundFrame) -> NDArray[np.uint8]:
        """(C, 3, H, W) uint8 RGB."""
        return decode_plainly(frame, self._model.image_size)

    def count_work(self, frame: SurroundFrame) -> Work:
        """Of one answer."""
        views = self.decode(frame)
        return count_work(self._model, lambda: self._generate(frame, views), dtype=self._dtype)

    def _generate(self, frame: SurroundFrame, views: NDArray[np.uint8]) -> Tensor:
        model, device = self._model, self._model.missing_view.device
        pixels = torch.from_numpy(views)[None].to(device, model.missing_view.dtype)
        present = torch.ones(pixels.shape[:2], dtype=torch.bool, device=device)
        scene = model.scene_tokens(model.encode_views(pixels, present), present)
        question = self._embed(plan_question(frame.ego, frame.command))
        parts = [scene, question]
        if isinstance(model, LlamaVlm):  # it keeps the preamble apart; transformers does not
            parts.insert(0, self._embed(PREAMBLE))
        embedded = torch.cat([part.to(scene.dtype) for part in parts], dim=1)
        return generate_exactly(model.language, embedded, self._tokens)

    def _embed(self, text: str) -> Tensor:
        ids = torch.tensor([self._model.tokenizer.encode(text)])
        embedded: Tensor = self._model.text_embedding()(ids.to(self._model.missing_view.device))
        return embedded
