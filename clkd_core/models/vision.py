"""The vision tower: one small convolutional network that sees all six views."""

from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics of RGB in 0..1, the usual normalisation of timm's towers."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A residual network of four stages (He et al. 2015) as timm builds it.

    Raises:
        ValueError: a stage is empty or a size is not positive.
    """

    height_px: int = 72
    """H: rows of a view."""
    width_px: int = 128
    """W: columns of a view."""
    stem_width: int = 16
    """Channels of the stem's first two convolutions; the third has twice as many."""
    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    """Channels of each stage; the last one is D."""
    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Residual blocks of each stage; halving keeps half of them."""
    output_stride: Literal[8, 16, 32] = 32
    """Pixels per feature cell; 32 gives 3 x 4 patches from 72 x 128."""

    def __post_init__(self) -> None:
        if min(*self.blocks, *self.channels, self.stem_width, self.height_px, self.width_px) < 1:
            raise ValueError("height_px, width_px, stem_width, channels and blocks must be >= 1")

    @property
    def patches(self) -> int:
        """P: feature cells of a view."""
        stride = self.output_stride
        return -(-self.height_px // stride) * -(-self.width_px // stride)


class VisionTower(nn.Module):
    """uint8 views to patch features; the same weights for every camera."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.net = ResNet(
            BasicBlock,
            config.blocks,
            num_classes=0,
            global_pool="",
            output_stride=config.output_stride,
            stem_type="deep",  # three 3 x 3: a distant light is two pixels wide
            stem_width=config.stem_width,
            channels=config.channels,
        ).to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(3, 1, 1) * 255, persistent=False)

    def forward(self, views: Tensor) -> Tensor:
        """(..., 3, H, W) pixels 0..255, any dtype, to (..., P, D) in the network's dtype."""
        lead = views.shape[:-3]
        pixels = (views.flatten(0, -4) - self.mean) / self.std
        maps = self.net.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        return torch.as_tensor(maps.flatten(2).transpose(1, 2).unflatten(0, lead))
