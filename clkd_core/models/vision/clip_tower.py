"""CLIP's vision transformer as Senna and LLaVA-1.5 use it: penultimate layer, no CLS token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from clkd_core.models.stacks import Stack
from clkd_core.models.vision.pixels import CLIP_MEAN, CLIP_STD, Normalise


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of the transformer; the defaults are ViT-L/14 at 336 pixels.

    Raises:
        ValueError: a size is not positive, or does not divide another that it must divide.
    """

    kind: Literal["clip"] = "clip"
    image_px: int = 336
    """Height and width of a view."""
    patch_px: int = 14
    width: int = 1024
    """D: channels of a patch."""
    layers: int = 23
    """Layers that are computed. CLIP-L has 24; the last one is left out because the features
    are the penultimate layer's output."""
    heads: int = 16
    ffn_size: int = 4096
    """Inner width of the feed-forward layers."""

    def __post_init__(self) -> None:
        sizes = (self.image_px, self.patch_px, self.width, self.layers, self.heads, self.ffn_size)
        if min(sizes) < 1:
            raise ValueError("the sizes of a CLIP tower must be >= 1")
        if self.image_px % self.patch_px or self.width % self.heads:
            raise ValueError(
                f"patches of {self.patch_px} must divide {self.image_px} pixels, and "
                f"{self.heads} heads the width {self.width}"
            )

    @property
    def height_px(self) -> int:
        """H."""
        return self.image_px

    @property
    def width_px(self) -> int:
        """W."""
        return self.image_px

    @property
    def patches(self) -> int:
        """P: patches of a view; 576 by default."""
        return (self.image_px // self.patch_px) ** 2

    @property
    def feature_width(self) -> int:
        """D: channels of a patch."""
        return self.width

    def stacks(self) -> tuple[Stack, ...]:
        """The transformer's layers."""
        return (Stack("vision.layers", ("vision_tower.clip.encoder.layers.",), self.layers),)

    def with_blocks(self, blocks: Mapping[str, int]) -> "ClipConfig":
        """The same transformer with another depth."""
        return replace(self, layers=blocks["vision.layers"])


class ClipTower(nn.Module):
    """One transformer, the same for all views."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(CLIP_MEAN, CLIP_STD)
        self.clip = CLIPVisionModel(
            CLIPVisionConfig(
                image_size=config.image_px,
                patch_size=config.patch_px,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.ffn_size,
            )
        )
        # Of the pooled output, which nobody takes.
        self.clip.post_layernorm = nn.Identity()  # type: ignore[assignment]

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, 3, H, W) pixels 0..255, any dtype, to (B, C, P, D)."""
        pixels = self.normalise(views.flatten(0, 1))
        hidden: Tensor = self.clip(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:].reshape(*views.shape[:2], -1, hidden.shape[-1])
