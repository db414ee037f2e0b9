"""Pixels as a network was taught to see them."""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of RGB in 0..1 over ImageNet, the usual normalisation of timm's networks."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Statistics CLIP was trained with (Radford et al. 2021, released preprocessing)."""


class Normalise(nn.Module):
    """Removes a mean and divides by a standard deviation, both of RGB in 0..1 per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            scaled = torch.tensor(values).view(3, 1, 1) * 255
            self.register_buffer(name, scaled, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W) values 0..255 of any dtype to float32."""
        return (pixels - self.mean) / self.std
