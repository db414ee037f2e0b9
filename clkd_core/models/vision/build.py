"""All vision towers by the kind their config names."""

from torch import nn

from clkd_core.models.vision.clip_tower import ClipConfig, ClipTower
from clkd_core.models.vision.patch_tower import PatchConfig, PatchTower
from clkd_core.models.vision.timm_tower import TimmConfig, TimmTower
from clkd_core.models.vision.two_scale import TwoScaleConfig, TwoScaleTower

VisionConfig = TwoScaleConfig | TimmConfig | ClipConfig | PatchConfig
"""Every one has ``height_px``, ``width_px``, ``patches`` (P), ``feature_width`` (D) and its
stacks; the tower built from it turns (B, C, 3, H, W) pixels 0..255 into (B, C, P, D)."""


def build_tower(config: VisionConfig) -> nn.Module:
    """The tower with fresh weights."""
    if isinstance(config, TwoScaleConfig):
        return TwoScaleTower(config)
    if isinstance(config, TimmConfig):
        return TimmTower(config)
    if isinstance(config, ClipConfig):
        return ClipTower(config)
    return PatchTower(config)
