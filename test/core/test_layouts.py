import math
from collections.abc import Callable

import pytest
import torch
from tiny_releases import (
    Part,
    build_clip,
    build_llama,
    build_senna,
    build_t5,
    clip_config,
)
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from clkd_core.models.base import build_mm_projector
from clkd_core.models.pretrained.tensors.layouts import (
    Layout,
    clip_vision,
    llama_language,
    llava,
    senna,
    t5_language,
)


def placed(layout: Layout, module: nn.Module, prefix: str = "") -> tuple[set[str], set[str]]:
    """Our keys for the keys of a module, and those of its keys that are not used."""
    ours, unused = set(), set()
    for key in module.state_dict():
        place = layout.place(prefix + key)
        assert place is not None, key
        if place.ours is None:
            assert place.why_not
            unused.add(key)
        else:
            assert place.ours.startswith(layout.fills)
            assert place.ours not in ours, f"two keys for {place.ours}"
            ours.add(place.ours)
    return ours, unused


def keys_below(**parts: nn.Module) -> set[str]:
    return set(Part(**parts).state_dict())


def test_llama_goes_below_language_key_by_key() -> None:
    for tie in (False, True):
        model = build_llama(tie=tie)
        assert placed(llama_language(), model) == (keys_below(language=model), set())


def test_t5_goes_below_language_key_by_key() -> None:
    for tie in (False, True):
        model = build_t5(tie=tie)
        assert placed(t5_language(), model) == (keys_below(language=model), set())


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_clip_tower_is_the_same_with_and_without_its_outer_name(prefix: str) -> None:
    ours, unused = placed(clip_vision(layers=2), build_clip(layers=3), prefix)
    used = build_clip(layers=2)
    used.post_layernorm = nn.Identity()
    assert ours == keys_below(vision_tower=Part(clip=used))
    assert {key.rsplit(".", 1)[0] for key in unused if "layers.2" not in key} == {"post_layernorm"}


def test_of_a_whole_clip_only_the_tower_is_used() -> None:
    text = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 1, "vocab_size": 9, "eos_token_id": 2, "bos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config=clip_config().to_dict(), projection_dim=4)
    ours, unused = placed(clip_vision(layers=2), CLIPModel(config))
    assert ours == placed(clip_vision(layers=2), build_clip())[0]
    assert {"logit_scale", "visual_projection.weight", "text_projection.weight"} < unused


def test_clip_file_may_have_one_layer_more_than_the_tower_and_not_two() -> None:
    layout = clip_vision(layers=22)
    key = "vision_model.encoder.layers.{}.mlp.fc1.weight"
    last, beyond = layout.place(key.format(22)), layout.place(key.format(23))
    assert last is not None and last.ours is None and "penultimate" in last.why_not
    # a place that the model does not have: load_mapped calls it extra
    assert (
        beyond is not None and beyond.ours == "vision_tower.clip.encoder.layers.23.mlp.fc1.weight"
    )


def whole_vlm(senna_model: nn.Module) -> set[str]:
    """Our keys of a model with the parts of ``senna_model``."""
    clip = build_clip(layers=2)
    clip.post_layernorm = nn.Identity()
    parts = {"mm_projector": senna_model.model.mm_projector}
    if hasattr(senna_model.model, "img_adapter"):
        parts["img_adapter"] = senna_model.model.img_adapter.adapter
    return keys_below(vision_tower=Part(clip=clip), language=build_llama(), **parts)


@pytest.mark.parametrize(("layout", "adapter"), [(senna, True), (llava, False)])
def test_whole_release_fills_the_whole_model(layout: Callable[..., Layout], adapter: bool) -> None:
    release = build_senna(adapter=adapter)
    ours, unused = placed(layout(clip_layers=2), release)
    assert ours == whole_vlm(release)
    assert len(unused) == 16 + 2  # one layer, one norm


def test_hugging_faces_llava_fills_the_whole_model_as_saved_and_in_memory() -> None:
    config = LlavaConfig(
        vision_config=clip_config(), text_config=build_llama().config, projector_hidden_act="gelu"
    )
    model = LlavaForConditionalGeneration(config)
    wanted = whole_vlm(build_senna(adapter=False))
    assert placed(llava(clip_layers=2), model)[0] == wanted
    places = [llava(clip_layers=2).place(saved_name(key)) for key in model.state_dict()]
    assert {place.ours for place in places if place is not None} == {*wanted, None}


def saved_name(key: str) -> str:
    """As transformers 4 wrote it, and 5 still does."""
    key = key.replace("model.language_model.", "language_model.model.")
    key = key.replace("lm_head", "language_model.lm_head")
    key = key.replace("model.vision_tower.", "vision_tower.vision_model.")
    return key.replace("model.multi_modal_projector", "multi_modal_projector")


@pytest.mark.parametrize(
    ("layout", "key", "ours"),
    [
        (senna(), "model.img_adapter.adapter.4.bias", "img_adapter.4.bias"),
        (senna(), "model.img_adapter.0.weight", "img_adapter.0.weight"),
        (senna(), "model.mm_projector.2.weight", "mm_projector.2.weight"),
        (
            senna(),
            "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
            "vision_tower.clip.pre_layrnorm.bias",
        ),
        (
            llava(),
            "model.vision_tower.embeddings.class_embedding",
            "vision_tower.clip.embeddings.class_embedding",
        ),
        (
            llava(),
            "multi_modal_projector.linear_2.bias",
            "mm_projector.2.bias",
        ),
        (
            t5_language(),
            "decoder.block.0.layer.2.DenseReluDense.wi_0.weight",
            "language.decoder.block.0.layer.2.DenseReluDense.wi_0.weight",
        ),
    ],
)
def test_key_has_its_place(layout: Layout, key: str, ours: str) -> None:
    place = layout.place(key)
    assert place is not None and place.ours == ours


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        (llama_language(), "model.layers.3.self_attn.rotary_emb.inv_freq"),
        (llava(), "language_model.model.layers.3.self_attn.rotary_emb.inv_freq"),
        (clip_vision(), "vision_model.embeddings.position_ids"),
        (clip_vision(), "text_model.embeddings.position_ids"),
        (senna(), "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"),
        (
            t5_language(),
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
    ],
)
def test_leftovers_of_old_files_are_knowingly_not_used(layout: Layout, key: str) -> None:
    place = layout.place(key)
    assert place is not None and place.ours is None and place.why_not


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        (llama_language(), "model.mm_projector.0.weight"),
        (llama_language(), "transformer.h.0.attn.c_attn.weight"),
        (llava(), "model.img_adapter.adapter.0.weight"),
        (llava(), "model.mm_projector.weight"),
        (llava(), "model.image_newline"),
        (senna(), "model.img_adapter.adapter.0.weight.absmax"),
        (clip_vision(), "vision_model.head.weight"),
        (t5_language(), "model.encoder.block.0.layer.0.layer_norm.weight"),
        (senna(), ""),
    ],
)
def test_stranger_has_no_place(layout: Layout, key: str) -> None:
    assert layout.place(key) is None


def test_llava_layout_accounts_for_every_byte_of_the_released_7b() -> None:
    """``total_size`` of its index: Vicuna-7B and the projector in 16 bits, ``inv_freq`` in 32."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32000))  # Vicuna-7B's sizes are defaults
        model.model.mm_projector = build_mm_projector(1024, 4096)
    state = {key: (value.shape, 2) for key, value in model.state_dict().items()}
    for layer in range(32):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = (torch.Size([64]), 4)
    assert sum(math.prod(shape) * size for shape, size in state.values()) == 13_518_798_848
    places = [llava().place(key) for key in state]
    assert sum(place is not None and place.ours is not None for place in places) == 291 + 4
    assert sum(place is not None and place.ours is None for place in places) == 32
