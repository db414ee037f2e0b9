"""The nano tower: one small network for the road ahead, one at half size for all around.

Most of what decides is seen by CAM_FRONT, and a view of half the side costs a quarter. Each of
the two has its own normalisation statistics, which is why they do not share weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn
from torch.nn import functional

from clkd_core.models.stacks import Stack
from clkd_core.models.vision.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise
from clkd_core.types import CAMERAS

STAGES = 4
FRONT_STRIDE = 32
"""Pixels per feature cell of the front view: 3 x 4 patches from 72 x 128."""


@dataclass(frozen=True, kw_only=True)
class TwoScaleConfig:
    """Two residual networks of four stages (He et al. 2015) as timm builds them.

    Raises:
        ValueError: a stage is empty, a side is odd, or a stage's width is no multiple of 8 (timm
            rounds others).
    """

    kind: Literal["two_scale"] = "two_scale"
    height_px: int = 72
    """H: rows of a view as it comes from the decoder; even."""
    width_px: int = 128
    """W: columns of a view; even."""
    stem_width: int = 16
    """Channels after the first convolution."""
    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    """Channels of each stage for the front view; the last one is D."""
    side_channels: tuple[int, int, int] = (16, 32, 48)
    """Channels of the first three stages for the other views."""
    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Residual blocks of each stage, in both networks; halving keeps half of them."""

    def __post_init__(self) -> None:
        sizes = (*self.blocks, *self.channels, *self.side_channels, self.stem_width)
        if min(*sizes, self.height_px, self.width_px) < 1:
            raise ValueError("height_px, width_px, stem_width, channels and blocks must be >= 1")
        widths = (*self.channels, *self.side_channels)
        if any(width % 8 for width in widths):
            raise ValueError(f"stage widths are {widths}, expected multiples of 8")
        if self.height_px % 2 or self.width_px % 2:
            raise ValueError(f"a view is {self.height_px} x {self.width_px}, expected even sides")

    @property
    def patches(self) -> int:
        """P: feature cells of a view."""
        return -(-self.height_px // FRONT_STRIDE) * -(-self.width_px // FRONT_STRIDE)

    @property
    def feature_width(self) -> int:
        """D: channels of a feature cell."""
        return self.channels[-1]

    def stacks(self) -> tuple[Stack, ...]:
        """The stages, which both networks lose blocks of alike."""
        return tuple(
            Stack(
                f"vision.stage{i}",
                (f"vision_tower.front.stages.{i}.", f"vision_tower.side.stages.{i}."),
                count,
                entry_stays=True,
            )
            for i, count in enumerate(self.blocks)
        )

    def with_blocks(self, blocks: Mapping[str, int]) -> "TwoScaleConfig":
        """The same networks with other depths."""
        first, second, third, fourth = (blocks[stack.name] for stack in self.stacks())
        return replace(self, blocks=(first, second, third, fourth))


class TwoScaleTower(nn.Module):
    """All six views to patch features of one size."""

    def __init__(self, config: TwoScaleConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.front = _build_net(config, config.channels, last_stride=2)
        # Half the pixels along each side and one halving less: the same grid of cells.
        self.side = _build_net(config, (*config.side_channels, config.channels[-1]), last_stride=1)

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, 3, H, W) pixels 0..255, any dtype, to (B, C, P, D) in the networks' dtype."""
        batch, cameras = views.shape[:2]
        pixels = self.normalise(views)
        front = self.front.forward_features(_channels_last(pixels[:, 0]))
        around = functional.avg_pool2d(pixels[:, 1:].flatten(0, 1), 2)
        side = self.side.forward_features(_channels_last(around))
        side = side.reshape(batch, cameras - 1, *front.shape[1:])
        maps = torch.cat([front[:, None], side], dim=1)  # (B, C, D, h, w)
        return maps.flatten(3).transpose(2, 3)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)


def _build_net(config: TwoScaleConfig, channels: tuple[int, ...], *, last_stride: int) -> ByobNet:
    strides = (2,) * (STAGES - 1) + (last_stride,)
    blocks = tuple(
        ByoBlockCfg(type="basic", d=depth, c=width, s=stride, gs=0)
        for depth, width, stride in zip(config.blocks, channels, strides, strict=True)
    )
    net = ByobNet(
        ByoModelCfg(
            blocks=blocks,
            stem_type="3x3",  # a small kernel and no pooling: a distant light is two pixels wide
            stem_pool="",
            stem_chs=config.stem_width,
            act_layer="hard_swish",  # its bf16 backward on a CPU takes half the time of ReLU's
        ),
        num_classes=0,
        global_pool="",
    )
    return net.to(memory_format=torch.channels_last)


assert CAMERAS[0] == "CAM_FRONT"  # TwoScaleTower.forward relies on it
