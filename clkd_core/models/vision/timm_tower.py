"""Any network of timm as the tower of all six views: Swin-T in the paper's T5 track."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from clkd_core.models.stacks import Stack
from clkd_core.models.vision.pixels import Normalise


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """A network by its name in timm.

    Raises:
        ValueError: timm knows no such network, or it has no stacks of these lengths.
    """

    kind: Literal["timm"] = "timm"
    model: str = "swin_tiny_patch4_window7_224"
    """Name in timm's registry; an unknown one is an error with near names."""
    height_px: int = 224
    """H: rows of a view as it comes from the decoder."""
    width_px: int = 224
    """W: columns of a view."""
    blocks: tuple[int, ...] = ()
    """Blocks of each stage (Swin, ConvNeXt) or of the one stack (ViT); empty: the network's own,
    and no stack that halving could thin out."""

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px, *self.blocks) < 1:
            raise ValueError("height_px, width_px and blocks must be >= 1")
        if not timm.is_model(self.model):
            near = ", ".join(timm.list_models(f"*{self.model.split('_')[0]}*")[:5])
            raise ValueError(f"timm has no model {self.model!r}; near: {near or 'none'}")
        try:
            _describe(self.model, self.height_px, self.width_px, self.blocks)
        except (TypeError, AssertionError, RuntimeError, ValueError, KeyError, IndexError) as err:
            raise ValueError(
                f"timm cannot build {self.model} with blocks {list(self.blocks)} for "
                f"{self.height_px} x {self.width_px}: {str(err)[:120]}"
            ) from err

    @property
    def patches(self) -> int:
        """P: feature cells of a view."""
        return _describe(self.model, self.height_px, self.width_px, self.blocks)[0]

    @property
    def feature_width(self) -> int:
        """D: channels of a feature cell."""
        return _describe(self.model, self.height_px, self.width_px, self.blocks)[1]

    def stacks(self) -> tuple[Stack, ...]:
        """The stages, or ViT's one stack; none where ``blocks`` is empty."""
        paths = _describe(self.model, self.height_px, self.width_px, self.blocks)[2]
        return tuple(
            Stack(f"vision.stage{i}", (f"vision_tower.net.{path}.",), count)
            for i, (path, count) in enumerate(zip(paths, self.blocks, strict=True))
        )

    def with_blocks(self, blocks: Mapping[str, int]) -> "TimmConfig":
        """The same network with other depths."""
        return replace(self, blocks=tuple(blocks[stack.name] for stack in self.stacks()))


class TimmTower(nn.Module):
    """One network, the same for all views."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.net = build_timm(config)
        cfg: Mapping[str, Any] = self.net.pretrained_cfg
        self.normalise = Normalise(tuple(cfg["mean"]), tuple(cfg["std"]))

    def forward(self, views: Tensor) -> Tensor:
        """(B, C, 3, H, W) pixels 0..255, any dtype, to (B, C, P, D)."""
        pixels = self.normalise(views.flatten(0, 1))
        cells = _cells(self.net, self.net.forward_features(pixels))
        return cells.reshape(*views.shape[:2], *cells.shape[1:])


def build_timm(config: TimmConfig) -> Any:
    """The bare network with fresh weights, without its classifier."""
    return _create(config.model, config.height_px, config.width_px, config.blocks)


def _create(model: str, height_px: int, width_px: int, blocks: tuple[int, ...]) -> Any:
    words: dict[str, Any] = {}
    published = timm.get_pretrained_cfg(model)
    if published is not None and published.fixed_input_size:
        words["img_size"] = (height_px, width_px)
    if len(blocks) == 1:
        words["depth"] = blocks[0]
    elif blocks:
        words["depths"] = blocks
    net: Any = timm.create_model(model, pretrained=False, num_classes=0, **words)
    for module in net.modules():
        if getattr(module, "drop_prob", 0.0):
            # Swin's 0.1 of whole blocks: noise that would be distilled and ranked by hardness.
            module.drop_prob = 0.0
    return net


@lru_cache(maxsize=64)
def _describe(
    model: str, height_px: int, width_px: int, blocks: tuple[int, ...]
) -> tuple[int, int, tuple[str, ...]]:
    """P, D and where the stacks are, found by running the network on tensors without storage."""
    with torch.device("meta"):
        net = _create(model, height_px, width_px, blocks)
        cells = _cells(net, net.forward_features(torch.zeros(1, 3, height_px, width_px)))
    return int(cells.shape[1]), int(cells.shape[2]), _stack_paths(net, blocks)


def _stack_paths(net: nn.Module, blocks: tuple[int, ...]) -> tuple[str, ...]:
    """Where timm keeps stacks of these lengths; each of its families has names of its own."""
    if not blocks:
        return ()
    stages = range(len(blocks))
    for paths in (
        ["blocks"],
        [f"layers.{stage}.blocks" for stage in stages],
        [f"stages.{stage}.blocks" for stage in stages],
    ):
        try:
            lengths = [len(list(net.get_submodule(path).children())) for path in paths]
        except AttributeError:
            continue
        if lengths == list(blocks):
            return tuple(paths)
    raise ValueError("it has no stacks of blocks by these lengths")


def _cells(net: Any, features: Tensor) -> Tensor:
    """(N, P, D) from whatever order a network of timm keeps its features in."""
    if features.ndim == 3:  # a ViT: class tokens first
        return features[:, int(getattr(net, "num_prefix_tokens", 0)) :]
    if str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC"):  # Swin
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)
