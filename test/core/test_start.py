"""A teacher starts from files in the layouts that others release."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_vlm import tiny_model, tiny_tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.pretrained.start import load_start
from clkd_core.models.vision.clip_tower import ClipConfig
from clkd_core.models.vision.timm_tower import TimmConfig, build_timm

VOCABULARY = 600
CLIP = ClipConfig(image_px=28, patch_px=14, width=16, layers=2, heads=2, ffn_size=24)


def senna_like() -> LlamaVlm:
    """Senna's architecture at a size of nothing."""
    language = LanguageConfig(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocab_size=VOCABULARY, rms_eps=1e-5,
        tie_embeddings=False,
    )  # fmt: skip
    config = LlamaVlmConfig(
        vision=CLIP, tokens_per_view=3, scene_norm=False, slot_embedding=False, language=language
    )
    torch.manual_seed(5)
    return LlamaVlm(config, tiny_tokenizer()).eval()


def write_senna(folder: Path) -> dict[str, torch.Tensor]:
    """A released model: LLaVA's keys, Senna's adapter, CLIP with one layer more than is used."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=False))  # fmt: skip
    clip = CLIPVisionModel(CLIPVisionConfig(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=24))  # fmt: skip
    state = dict(llama.state_dict())
    tower = "model.vision_tower.vision_tower.vision_model."
    state |= {tower + key: value for key, value in clip.state_dict().items()}
    for name, sizes in (("mm_projector", ((16, 16), (16, 16))),
                        ("img_adapter.adapter", ((3, 4), (3, 3), (3, 3)))):  # fmt: skip
        for number, size in enumerate(sizes):
            state[f"model.{name}.{2 * number}.weight"] = torch.randn(size)
            state[f"model.{name}.{2 * number}.bias"] = torch.randn(size[0])
    folder.mkdir()
    keys = sorted(state)
    save_file({k: state[k].contiguous() for k in keys}, folder / "model.safetensors")
    return state


def test_released_senna_fills_every_part_but_our_own(tmp_path: Path) -> None:
    state, model = write_senna(tmp_path / "senna"), senna_like()
    load_start(model, vlm=str(tmp_path / "senna"))
    ours = model.state_dict()
    for key, theirs in {
        "language.model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.up_proj.weight",
        "language.lm_head.weight": "lm_head.weight",
        "mm_projector.2.bias": "model.mm_projector.2.bias",
        "img_adapter.4.weight": "model.img_adapter.adapter.4.weight",
        "vision_tower.clip.encoder.layers.1.mlp.fc1.bias":
            "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias",
    }.items():  # fmt: skip
        assert torch.equal(ours[key], state[theirs]), key
    assert not ours["missing_view"].any()


def test_tower_that_a_llava_file_lacks_comes_from_the_vision_source(tmp_path: Path) -> None:
    state = write_senna(tmp_path / "senna")
    kept = {k: v.contiguous() for k, v in state.items()
            if "vision_tower" not in k and "img_adapter" not in k}  # fmt: skip
    (tmp_path / "llava").mkdir()
    save_file(kept, tmp_path / "llava" / "model.safetensors")
    clip = CLIPVisionModel(CLIPVisionConfig(
        image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=24))  # fmt: skip
    clip.save_pretrained(tmp_path / "clip")
    config = senna_like().config
    without = LlamaVlmConfig(**{**vars(config), "tokens_per_view": None})
    model = LlamaVlm(without, tiny_tokenizer())
    with pytest.raises(CheckpointError, match=r"vision_tower\.clip\S* is missing"):
        load_start(model, vlm=str(tmp_path / "llava"))
    load_start(model, vlm=str(tmp_path / "llava"), vision=str(tmp_path / "clip"))
    key = "encoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(model.state_dict()[f"vision_tower.clip.{key}"], clip.state_dict()[key])


@pytest.mark.parametrize("pad", [0, 8])
def test_language_model_alone_is_filled_and_padding_rows_stay(tmp_path: Path, pad: int) -> None:
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY - pad, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=False))  # fmt: skip
    llama.save_pretrained(tmp_path / "llama")
    model = senna_like()
    before = model.language.model.embed_tokens.weight[VOCABULARY - pad :].clone()
    load_start(model, language=str(tmp_path / "llama"))
    table = model.language.model.embed_tokens.weight
    assert torch.equal(table[: VOCABULARY - pad], llama.model.embed_tokens.weight)
    assert torch.equal(table[VOCABULARY - pad :], before)


def test_tower_of_timm_is_filled_from_a_file_with_timms_keys(tmp_path: Path) -> None:
    vision = TimmConfig(model="tf_efficientnet_lite0", height_px=64, width_px=96)
    torch.manual_seed(1)
    theirs = build_timm(vision).state_dict()
    head = {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}
    save_file(theirs | head, tmp_path / "model.safetensors")
    config = LlamaVlmConfig(vision=vision, language=senna_like().config.language)
    model = LlamaVlm(config, tiny_tokenizer())
    load_start(model, vision=str(tmp_path / "model.safetensors"))
    ours = model.vision_tower.net.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_sources_that_a_model_has_no_place_for_are_refused(tmp_path: Path) -> None:
    write_senna(tmp_path / "senna")
    with pytest.raises(ConfigError, match=r"init\.vlm needs a CLIP tower.*TwoScaleTower"):
        load_start(tiny_model(), vlm=str(tmp_path / "senna"))
    with pytest.raises(ConfigError, match="a TwoScaleTower has no released weights"):
        load_start(tiny_model(), vision=str(tmp_path / "senna"))
    with pytest.raises(CheckpointError, match="expected"):
        load_start(tiny_model(), language=str(tmp_path / "senna"))
