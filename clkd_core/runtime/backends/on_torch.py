"""A model in memory, computed by torch operation by operation: for what is being built or judged,
and for devices that have no backend of their own."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.models.vlm import DrivingVlm
from clkd_core.runtime.backends.protocol import Backend


class TorchBackend(Backend):
    """A :class:`clkd_core.runtime.backends.protocol.Backend` on any device of torch."""

    def __init__(
        self, model: DrivingVlm, device: torch.device | str, *, bf16: bool | None = None
    ) -> None:
        """Take a model that is on ``device`` and in evaluation mode.

        Args:
            model: what decides.
            device: where the model is.
            bf16: compute under bfloat16 autocast; None does so where the device has instructions
                for it.
        """
        self.model = model
        self.torch_device = torch.device(device)
        self.device = str(self.torch_device)
        self.bf16 = has_bf16(self.torch_device) if bf16 is None else bf16
        self.name = f"torch {'bfloat16' if self.bf16 else 'float32'}"

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self.model.image_size

    @torch.inference_mode()
    def encode(self, views: NDArray[np.uint8], present: NDArray[np.bool_]) -> Tensor:
        """See :meth:`Backend.encode`."""
        with self.autocast():
            return self.model.encode_views(*self._to_device(views, present))

    @torch.inference_mode()
    def log_probs(
        self, features: Tensor, present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """See :meth:`Backend.log_probs`."""
        there = torch.from_numpy(present)[None].to(self.torch_device)
        with self.autocast():
            scene = self.model.scene_tokens(features, there)
            scores = self.model.answer_log_probs(scene, [question])
        return np.asarray(scores[0].float().cpu().numpy())

    def autocast(self) -> torch.autocast:
        """The arithmetic that this backend computes in."""
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.bf16)

    def _to_device(
        self, views: NDArray[np.uint8], present: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(views)[None].to(self.torch_device),
            torch.from_numpy(present)[None].to(self.torch_device),
        )


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by hardware: every CPU can, most only by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch >= 2.6
    return bool(ask and ask())
