"""Where a teacher starts from: released weights by part of the model, from files or hub ids."""

from collections.abc import Iterable
from pathlib import Path

from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase
from clkd_core.models.pretrained.tensors.layouts import (
    Layout,
    Rule,
    clip_vision,
    llama_language,
    llava,
    senna,
    t5_language,
)
from clkd_core.models.pretrained.tensors.load import load_mapped
from clkd_core.models.pretrained.tensors.weights import WeightFiles, open_weights
from clkd_core.models.vision.clip_tower import ClipTower
from clkd_core.models.vision.timm_tower import TimmTower

OUR_OWN = ("scene_norm.", "slot_embedding", "missing_view")
"""Parts that Senna and LLaVA do not have."""

_CLASSIFIERS = Rule(r"(?:classifier|head|fc)\..+", None, "the classifier, which is not taken")


def load_start(
    model: VlmBase,
    *,
    vlm: str | None = None,
    language: str | None = None,
    vision: str | None = None,
) -> None:
    """Fill parts of a dense model with released weights; later arguments overwrite earlier ones.

    Args:
        model: changed in place, each part as a whole or not at all.
        vlm: all of it, in Senna's or LLaVA-1.5's layout.
        language: the language model, in Hugging Face's layout or as GGUF.
        vision: the tower: CLIP, or a network of timm by file or hub id.

    Raises:
        CheckpointError: a source cannot be read, or does not fit; all misfits are listed.
        ConfigError: the model has no part that such a source could fill.
    """
    if vlm is not None:
        weights = open_weights(vlm)
        layout = _whole_layout(model, weights)
        missing = () if _has_tower(weights) or vision is None else ("vision_tower.",)
        _fill(model, weights, layout, vlm, may_miss=(*OUR_OWN, *missing))
    if language is not None:
        layouts = {"llama": llama_language, "t5": t5_language}
        family = str(vars(model.config)["family"])
        if family not in layouts:
            raise ConfigError(
                f"init.language is {language!r}, but nothing is known of family {family!r}"
            )
        _fill(model, open_weights(language), layouts[family](pad_vocab_rows=True), language)
    if vision is not None:
        _load_tower(model, vision)


def _fill(
    model: VlmBase,
    weights: WeightFiles,
    layout: Layout,
    source: str,
    *,
    may_miss: tuple[str, ...] = (),
) -> None:
    load_mapped(model, weights, layout, source=source, may_miss=may_miss)


def _whole_layout(model: VlmBase, weights: Iterable[str]) -> Layout:
    tower = model.vision_tower
    if not isinstance(tower, ClipTower):
        raise ConfigError(f"init.vlm needs a CLIP tower, model.vision is a {type(tower).__name__}")
    build = senna if any("img_adapter." in key for key in weights) else llava
    return build(clip_layers=tower.config.layers, pad_vocab_rows=True)


def _has_tower(weights: Iterable[str]) -> bool:
    return any("vision_tower." in key for key in weights)


def _load_tower(model: VlmBase, source: str) -> None:
    tower = model.vision_tower
    if isinstance(tower, ClipTower):
        layout = clip_vision(layers=tower.config.layers)
    elif isinstance(tower, TimmTower):
        layout = Layout(
            name=f"timm {tower.config.model}",
            rules=(_CLASSIFIERS, Rule(r"(.+)", r"vision_tower.net.\1")),
            fills=("vision_tower.",),
        )
    else:
        raise ConfigError(
            f"init.vision is {source!r}, but a {type(tower).__name__} has no released weights"
        )
    place = source if Path(source).exists() else _hub_id(tower, source)
    _fill(model, open_weights(place), layout, source)


def _hub_id(tower: ClipTower | TimmTower, source: str) -> str:
    """timm's names are folders of ``timm/`` on the hub."""
    if isinstance(tower, TimmTower) and "/" not in source:
        return f"timm/{source}"
    return source
