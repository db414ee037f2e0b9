"""Where released weights go in our models: one table per layout, from a foreign key to ours.

A key of a table either has a place or is knowingly not used, with the reason; any other key is a
stranger. Senna's spelling follows from its code (`llava/senna/senna_llava_arch.py`): its
``img_adapter`` is a module around the three linear layers, hence ``img_adapter.adapter.0``.
LLaVA-1.5 was released without its vision tower, which is the unchanged CLIP.
"""

import re
from dataclasses import dataclass

CLIP_L_LAYERS = 23
"""Of CLIP-L's 24: LLaVA and Senna take the penultimate layer's output."""


@dataclass(frozen=True)
class Rule:
    """One line of a table."""

    pattern: str
    """Regular expression of a whole foreign key."""
    ours: str | None
    """Our key, with groups of the pattern as ``\\1``; None: knowingly not used."""
    why_not: str = ""
    """The reason, where it is not used."""


@dataclass(frozen=True)
class Place:
    """What a layout says of a foreign key that it knows."""

    ours: str | None
    """Our key; None: knowingly not used."""
    why_not: str = ""
    """The reason, where it is not used."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the keys of a released model are spelt."""

    name: str
    rules: tuple[Rule, ...]
    """The first one that fits a key decides."""
    fills: tuple[str, ...]
    """Beginnings of those keys of ours that such a file has; others are none of its business."""
    vocab_tables: tuple[str, ...] = ()
    """Our keys with one row per token of the vocabulary."""
    pad_vocab_rows: bool = False
    """True: our tables may have more rows than the file's; the last ones stay as they are."""

    def place(self, key: str) -> Place | None:
        """Where a foreign key goes; None: this layout has no such key."""
        for rule in self.rules:
            match = re.fullmatch(rule.pattern, key)
            if match:
                return Place(rule.ours and match.expand(rule.ours), rule.why_not)
        return None


_LLAMA_TABLES = ("language.model.embed_tokens.weight", "language.lm_head.weight")
_T5_TABLES = ("language.shared.weight", "language.lm_head.weight")

_NO_INV_FREQ = Rule(
    r"(?:language_model\.)?model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    None,
    "wavelengths of the rotary positions, which follow from rope_theta",
)
_LLAMA_RULES = (
    _NO_INV_FREQ,
    Rule(r"((?:model\.(?:embed_tokens|layers|norm)|lm_head)\..+)", r"language.\1"),
)
_LLAVA_HF_RULES = (
    Rule(
        r"(?:model\.)?language_model\.(?:model\.)?((?:embed_tokens|layers|norm)\..+)",
        r"language.model.\1",
    ),
    Rule(r"language_model\.(lm_head\..+)", r"language.\1"),
    Rule(r"(?:model\.)?multi_modal_projector\.linear_1\.(weight|bias)", r"mm_projector.0.\1"),
    Rule(r"(?:model\.)?multi_modal_projector\.linear_2\.(weight|bias)", r"mm_projector.2.\1"),
)
_PROJECTOR_RULE = Rule(r"model\.(mm_projector\.\d+\.(?:weight|bias))", r"\1")
_ADAPTER_RULE = Rule(
    r"model\.img_adapter\.(?:adapter\.)?(\d+\.(?:weight|bias))", r"img_adapter.\1"
)
_NO_TEXT_RULES = (
    Rule(r"text_model\..+", None, "CLIP's text tower"),
    Rule(
        r"(?:text|visual)_projection\.weight",
        None,
        "CLIP's map into the space of pictures and text",
    ),
    Rule(r"logit_scale", None, "CLIP's temperature of pictures against text"),
)


def llama_language(*, pad_vocab_rows: bool = False) -> Layout:
    """Hugging Face's LlamaForCausalLM: LLaMA, Vicuna, SmolLM2, and GGUF as it is read here."""
    return Layout(
        name="llama_language",
        rules=_LLAMA_RULES,
        fills=("language.",),
        vocab_tables=_LLAMA_TABLES,
        pad_vocab_rows=pad_vocab_rows,
    )


def t5_language(*, pad_vocab_rows: bool = False) -> Layout:
    """Hugging Face's T5ForConditionalGeneration: T5, T5 1.1, Flan-T5."""
    return Layout(
        name="t5_language",
        rules=(
            Rule(
                r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
                None,
                "positions in cross-attention, which T5 does not have",
            ),
            Rule(r"((?:shared|encoder|decoder|lm_head)\..+)", r"language.\1"),
        ),
        fills=("language.",),
        vocab_tables=_T5_TABLES,
        pad_vocab_rows=pad_vocab_rows,
    )


def clip_vision(*, layers: int = CLIP_L_LAYERS) -> Layout:
    """Hugging Face's CLIPModel or CLIPVisionModel into our CLIP tower.

    Args:
        layers: of our tower. A file may have exactly one more, as our features are the
            penultimate layer's output; more than that are strangers.
    """
    return Layout(
        name="clip_vision",
        rules=(*_NO_TEXT_RULES, *_clip_rules(r"(?:vision_model\.)?", layers)),
        fills=("vision_tower.",),
    )


def llava(*, clip_layers: int = CLIP_L_LAYERS, pad_vocab_rows: bool = False) -> Layout:
    """LLaVA-1.5, as its authors released it and as Hugging Face converted it.

    The authors' file has no vision tower: let ``vision_tower.`` be missing, and read the tower
    from the CLIP model that the file's config names in ``mm_vision_tower``.

    Args:
        clip_layers: see :func:`clip_vision`.
        pad_vocab_rows: see :class:`Layout`.
    """
    return Layout(
        name="llava",
        rules=(*_LLAMA_RULES, *_LLAVA_HF_RULES, _PROJECTOR_RULE, *_tower_rules(clip_layers)),
        fills=("language.", "mm_projector.", "vision_tower."),
        vocab_tables=_LLAMA_TABLES,
        pad_vocab_rows=pad_vocab_rows,
    )


def senna(*, clip_layers: int = CLIP_L_LAYERS, pad_vocab_rows: bool = False) -> Layout:
    """Senna-VLM as released: LLaVA-1.5's keys and ``model.img_adapter.adapter.{0,2,4}``.

    Args:
        clip_layers: see :func:`clip_vision`.
        pad_vocab_rows: see :class:`Layout`.
    """
    return Layout(
        name="senna",
        rules=(*_LLAMA_RULES, _PROJECTOR_RULE, _ADAPTER_RULE, *_tower_rules(clip_layers)),
        fills=("language.", "mm_projector.", "img_adapter.", "vision_tower."),
        vocab_tables=_LLAMA_TABLES,
        pad_vocab_rows=pad_vocab_rows,
    )


def _tower_rules(layers: int) -> tuple[Rule, ...]:
    """The CLIP tower inside a whole model, at any of the depths that releases nest it in."""
    return _clip_rules(r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?", layers)


def _clip_rules(prefix: str, layers: int) -> tuple[Rule, ...]:
    return (
        Rule(prefix + r"embeddings\.position_ids", None, "0, 1, 2, ..., which is not learnt"),
        Rule(prefix + r"post_layernorm\..+", None, "of CLIP's pooled output, which is not taken"),
        Rule(
            prefix + rf"encoder\.layers\.{layers}\..+",
            None,
            "CLIP's last layer: the penultimate layer's output is taken",
        ),
        Rule(prefix + r"((?:embeddings|pre_layrnorm|encoder)\..+)", r"vision_tower.clip.\1"),
    )
