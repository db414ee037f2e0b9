"""Nothing but a patch embedding: the vision side of EM-VLM4AD (Gopalkrishnan et al. 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clkd_core.models.stacks import Stack
from clkd_core.models.vision.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """A linear layer per patch; the defaults are those of ViT-B/32.

    Raises:
        ValueError: a size is not positive, or patches do not divide the view.
    """

    kind: Literal["patch"] = "patch"
    height_px: int = 224
    """H."""
    width_px: int = 224
    """W."""
    patch_px: int = 32
    width: int = 768
    """D: channels of a patch."""

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px, self.patch_px, self.width) < 1:
            raise ValueError("height_px, width_px, patch_px and width must be >= 1")
        if self.height_px % self.patch_px or self.width_px % self.patch_px:
            raise ValueError(
                f"a view is {self.height_px} x {self.width_px}, "
                f"expected multiples of the patch's {self.patch_px}"
            )

    @property
    def patches(self) -> int:
        """P: patches of a view."""
        return (self.height_px // self.patch_px) * (self.width_px // self.patch_px)

    @property
    def feature_width(self) -> int:
        """D: channels of a patch."""
        return self.width

    def stacks(self) -> tuple[Stack, ...]:
        """None: there are no blocks."""
        return ()

    def with_blocks(self, blocks: Mapping[str, int]) -> "PatchConfig":
        """Itself."""
        return self


class PatchTower(nn.Module):
    """A convolution whose stride is its kernel."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.proj = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px)

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, 3, H, W) pixels 0..255, any dtype, to (B, C, P, D)."""
        pixels = self.normalise(views.flatten(0, 1))
        cells: Tensor = self.proj(pixels).flatten(2).transpose(1, 2)
        return cells.reshape(*views.shape[:2], *cells.shape[1:])
