"""Tiny models with random weights, saved as their authors save the large ones."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

HIDDEN, PATCHES, TOKENS_PER_VIEW = 16, 4, 2

State = dict[str, Tensor]


def build_llama(*, vocab_size: int = 40, tie: bool = False, seed: int = 1) -> LlamaForCausalLM:
    """Two layers, grouped-query attention."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        initializer_range=0.2,
        tie_word_embeddings=tie,
    )
    return LlamaForCausalLM(config).eval()


def build_t5(*, tie: bool = True, seed: int = 1) -> T5ForConditionalGeneration:
    """Two layers on each side."""
    torch.manual_seed(seed)
    config = T5Config(
        d_model=HIDDEN,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        vocab_size=40,
        tie_word_embeddings=tie,
        feed_forward_proj="relu" if tie else "gated-gelu",
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def clip_config(layers: int = 3) -> CLIPVisionConfig:
    """Pictures of 28 x 28 pixels in four patches."""
    return CLIPVisionConfig(
        image_size=28,
        patch_size=14,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )


def build_clip(*, layers: int = 3, seed: int = 1) -> CLIPVisionModel:
    """A vision tower whose penultimate layer is number ``layers`` - 2."""
    torch.manual_seed(seed)
    return CLIPVisionModel(clip_config(layers)).eval()


class Part(nn.Module):
    """Gives modules the names under which an author's class holds them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def build_senna(*, vocab_size: int = 40, adapter: bool = True) -> LlamaForCausalLM:
    """Senna-VLM with the attributes of its classes, so that its state has Senna's keys.

    SennaLlavaLlamaForCausalLM.model is a LlamaModel with vision_tower (CLIPVisionTower, whose
    vision_tower was a CLIPVisionModel around a vision_model), mm_projector and img_adapter
    (whose adapter are the layers). Without the adapter it is LLaVA-1.5.
    """
    llama = build_llama(vocab_size=vocab_size)
    clip = build_clip()
    llama.model.vision_tower = Part(vision_tower=Part(vision_model=clip))
    llama.model.mm_projector = nn.Sequential(
        nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)
    )
    if adapter:
        layers = nn.Sequential(
            nn.Linear(PATCHES, TOKENS_PER_VIEW),
            nn.GELU(),
            nn.Linear(TOKENS_PER_VIEW, TOKENS_PER_VIEW),
            nn.GELU(),
            nn.Linear(TOKENS_PER_VIEW, TOKENS_PER_VIEW),
        )
        llama.model.img_adapter = Part(adapter=layers)
    return llama


@torch.no_grad()
def senna_visual_tokens(senna: LlamaForCausalLM, pixels: Tensor) -> Tensor:
    """(N, 3, 28, 28) normalised views to (N, tokens, HIDDEN), step by step as Senna does it."""
    clip = senna.model.vision_tower.vision_tower.vision_model
    hidden = clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    tokens = senna.model.mm_projector(hidden[:, 1:])
    if hasattr(senna.model, "img_adapter"):
        tokens = senna.model.img_adapter.adapter(tokens.transpose(1, 2)).transpose(1, 2)
    return tokens


def unique_state(module: nn.Module) -> State:
    """A state without the second names of tied weights, as ``save_pretrained`` leaves it."""
    first = {value.data_ptr(): key for key, value in reversed(module.state_dict().items())}
    return {key: value for key, value in module.state_dict().items() if key in first.values()}


def save_torch(folder: Path, state: State, *, shards: int = 1) -> Path:
    """``pytorch_model.bin``, or that many shards and their index."""
    return _save(folder, state, shards, "pytorch_model", ".bin")


def save_safetensors(folder: Path, state: State, *, shards: int = 1) -> Path:
    """``model.safetensors``, or that many shards and their index."""
    return _save(folder, state, shards, "model", ".safetensors")


def _save(folder: Path, state: State, shards: int, stem: str, suffix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}" if shards > 1 else stem + suffix
        part = {key: value.clone() for key, value in list(state.items())[number::shards]}
        weight_map.update(dict.fromkeys(part, name))
        if suffix == ".bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return folder
