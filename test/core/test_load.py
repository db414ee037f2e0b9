from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_releases import (
    HIDDEN,
    TOKENS_PER_VIEW,
    Part,
    State,
    build_clip,
    build_llama,
    build_senna,
    build_t5,
    save_safetensors,
    save_torch,
    senna_visual_tokens,
    unique_state,
)
from tiny_vlm import tiny_tokenizer
from torch import Tensor, nn

from clkd_core.errors import CheckpointError
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.pretrained.tensors.layouts import (
    Layout,
    Rule,
    clip_vision,
    llama_language,
    llava,
    senna,
    t5_language,
)
from clkd_core.models.pretrained.tensors.load import LoadSummary, load_mapped
from clkd_core.models.pretrained.tensors.weights import open_weights
from clkd_core.models.vision.clip_tower import ClipConfig, ClipTower
from clkd_core.models.vision.pixels import CLIP_MEAN, CLIP_STD

SAVES: list[Callable[..., Path]] = [save_safetensors, save_torch]

CLIP = ClipConfig(image_px=28, patch_px=14, width=HIDDEN, layers=2, heads=2, ffn_size=32)


def load(
    module: nn.Module, folder: Path, layout: Layout, may_miss: tuple[str, ...] = ()
) -> LoadSummary:
    return load_mapped(module, open_weights(folder), layout, source=str(folder), may_miss=may_miss)


def build_vlm(**changes: object) -> LlamaVlm:
    """Of the sizes that :mod:`tiny_releases` uses, with fresh weights."""
    torch.manual_seed(9)
    tokenizer = tiny_tokenizer()
    language = LanguageConfig(
        hidden_size=HIDDEN,
        layers=2,
        heads=4,
        kv_heads=2,
        ffn_size=32,
        vocab_size=tokenizer.vocab_size,
        tie_embeddings=False,
        rms_eps=1e-6,
        attention="sdpa",  # as transformers does by default; eager rounds differently
    )
    values: dict[str, object] = {
        "vision": CLIP,
        "tokens_per_view": TOKENS_PER_VIEW,
        "language": language,
        "scene_norm": False,
        "slot_embedding": False,
    }
    config = LlamaVlmConfig(**{**values, **changes})  # type: ignore[arg-type]
    return LlamaVlm(config, tokenizer).eval()


def token_ids(seed: int = 0) -> Tensor:
    return torch.randint(2, 40, (2, 7), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("tie", [False, True])
def test_llama_gives_the_logits_of_transformers_exactly(
    tmp_path: Path, tie: bool, save: Callable[..., Path], shards: int
) -> None:
    released = build_llama(tie=tie)
    save(tmp_path, unique_state(released), shards=shards)
    ours = Part(language=build_llama(tie=tie, seed=2))
    load(ours, tmp_path, llama_language())
    assert torch.equal(ours.language(token_ids()).logits, released(token_ids()).logits)


@torch.no_grad()
@pytest.mark.parametrize("tie", [False, True])
def test_t5_gives_the_logits_of_transformers_exactly(tmp_path: Path, tie: bool) -> None:
    released = build_t5(tie=tie)
    released.save_pretrained(tmp_path, max_shard_size="5KB")
    ours = Part(language=build_t5(tie=tie, seed=2))
    load(ours, tmp_path, t5_language())
    logits = [
        model(input_ids=token_ids(), decoder_input_ids=token_ids(1)).logits
        for model in (ours.language, released)
    ]
    assert torch.equal(*logits)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_clip_tower_gives_the_penultimate_layers_patches_exactly(
    tmp_path: Path, prefix: str
) -> None:
    released = build_clip(layers=3)
    save_torch(tmp_path, {prefix + key: v for key, v in released.state_dict().items()})
    ours = Part(vision_tower=ClipTower(CLIP)).eval()
    summary = load(ours, tmp_path, clip_vision(layers=2))
    pixels, normalised = views_and_pixels()
    hidden = released(pixel_values=normalised, output_hidden_states=True).hidden_states
    assert len(hidden) == 4  # before the first layer and behind each
    assert torch.equal(ours.vision_tower(pixels[None])[0], hidden[-2][:, 1:])
    assert sum(len(keys) for keys in summary.unused.values()) == 16 + 2


def views_and_pixels() -> tuple[Tensor, Tensor]:
    """Six views 0..255, and the same as CLIP wants them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 28, 28), generator=generator).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (CLIP_MEAN, CLIP_STD))
    return pixels, (pixels - mean) / std


@torch.no_grad()
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize(("layout", "adapter"), [(senna, True), (llava, False)])
def test_whole_release_computes_what_its_authors_code_computes(
    tmp_path: Path, layout: Callable[..., Layout], adapter: bool, save: Callable[..., Path]
) -> None:
    ours = build_vlm(tokens_per_view=TOKENS_PER_VIEW if adapter else None)
    released = build_senna(vocab_size=ours.tokenizer.vocab_size, adapter=adapter).eval()
    save(tmp_path, released.state_dict(), shards=3)
    summary = load(ours, tmp_path, layout(clip_layers=2))
    assert summary.kept == ("missing_view",)
    pixels, normalised = views_and_pixels()
    present = torch.ones(1, 6, dtype=torch.bool)
    tokens = ours.visual_tokens(ours.encode_views(pixels[None], present), present)[0]
    torch.testing.assert_close(tokens, senna_visual_tokens(released, normalised))
    embeds = released.model.embed_tokens(token_ids())
    logits = [model(inputs_embeds=embeds).logits for model in (ours.language, released)]
    assert torch.equal(*logits)


def test_release_without_its_tower_leaves_it_for_a_second_file(tmp_path: Path) -> None:
    ours = build_vlm()
    release = build_senna(vocab_size=ours.tokenizer.vocab_size).state_dict()
    clip = {key: v for key, v in release.items() if "vision_tower" in key}
    save_torch(tmp_path / "senna", {key: v for key, v in release.items() if key not in clip})
    save_torch(tmp_path / "clip", {key.removeprefix(PREFIX): v for key, v in clip.items()})
    with pytest.raises(CheckpointError, match=r"clip\.embeddings\.class_embedding is missing"):
        load(ours, tmp_path / "senna", senna(clip_layers=2))
    first = load(ours, tmp_path / "senna", senna(clip_layers=2), may_miss=("vision_tower.",))
    assert {key.split(".")[0] for key in first.kept} == {"vision_tower", "missing_view"}
    second = load(ours, tmp_path / "clip", clip_vision(layers=2))
    assert {*first.filled, *second.filled} == {*ours.state_dict()} - {"missing_view"}
    key = "encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(ours.vision_tower.clip.get_parameter(key), release[PREFIX + key])


PREFIX = "model.vision_tower.vision_tower.vision_model."


def test_group_that_may_be_missing_may_not_be_there_in_part(tmp_path: Path) -> None:
    ours = build_vlm()
    state = build_senna(vocab_size=ours.tokenizer.vocab_size).state_dict()
    del state[PREFIX + "pre_layrnorm.bias"]
    save_torch(tmp_path, state)
    with pytest.raises(CheckpointError, match=r": vision_tower\.clip\.pre_layrnorm\.bias is miss"):
        load(ours, tmp_path, senna(clip_layers=2), may_miss=("vision_tower.",))


def test_weights_take_the_models_dtype(tmp_path: Path) -> None:
    released = build_llama().to(torch.bfloat16)
    save_safetensors(tmp_path, released.state_dict())
    ours = Part(language=build_llama(seed=2))
    load(ours, tmp_path, llama_language())
    for key, value in ours.language.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, released.state_dict()[key].float())


def test_parameters_stay_the_objects_an_optimizer_knows(tmp_path: Path) -> None:
    save_torch(tmp_path, build_llama(tie=True).state_dict())
    ours = Part(language=build_llama(tie=True, seed=2))
    before = {key: id(value) for key, value in ours.named_parameters()}
    load(ours, tmp_path, llama_language())
    assert {key: id(value) for key, value in ours.named_parameters()} == before
    assert ours.language.lm_head.weight is ours.language.model.embed_tokens.weight
    assert all(value.requires_grad for value in ours.parameters())


def test_tied_weights_may_be_in_the_file_once_or_under_every_name(tmp_path: Path) -> None:
    released = build_t5()
    once, all_names = unique_state(released), released.state_dict()
    assert len(once) == len(all_names) - 3
    for name, state in (("once", once), ("all", all_names), ("head", renamed_head(once))):
        save_safetensors(tmp_path / name, state)
        ours = Part(language=build_t5(seed=2))
        summary = load(ours, tmp_path / name, t5_language())
        assert torch.equal(ours.language.lm_head.weight, released.shared.weight)
        assert len(summary.filled) == len(once)


def renamed_head(state: State) -> State:
    return {"lm_head.weight" if k == "shared.weight" else k: v for k, v in state.items()}


def test_untied_weights_do_not_slip_into_a_model_that_ties_them(tmp_path: Path) -> None:
    save_torch(tmp_path, build_llama(tie=False).state_dict())
    ours = Part(language=build_llama(tie=True, seed=2))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load(ours, tmp_path, llama_language())


def test_head_that_the_file_ties_is_missing_in_a_model_that_does_not(tmp_path: Path) -> None:
    save_torch(tmp_path, unique_state(build_llama(tie=True)))
    with pytest.raises(CheckpointError, match=r": language\.lm_head\.weight is missing$"):
        load(Part(language=build_llama(tie=False)), tmp_path, llama_language())


def test_one_error_lists_every_problem_and_nothing_is_changed(tmp_path: Path) -> None:
    state = build_llama().state_dict()
    for layer in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            del state[f"model.layers.{layer}.self_attn.{name}.weight"]
    state["model.norm.weight"] = torch.zeros(3)
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(32, HIDDEN, dtype=torch.int8)
    state["model.layers.2.mlp.up_proj.weight"] = torch.zeros(32, HIDDEN)
    state["quant.state"] = torch.zeros(1)
    save_torch(tmp_path, state)
    ours = Part(language=build_llama(seed=2))
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load(ours, tmp_path, llama_language())
    head, *problems = str(caught.value).replace("as llama_language: ", "\0").split("\0")
    assert head == f"{tmp_path} does not fit "
    extra = "model.layers.2.mlp.up_proj.weight"
    assert sorted(problems[0].split("; ")) == sorted(
        [
            *(
                f"language.model.layers.{layer}.self_attn.{name}.weight is missing"
                for layer in range(2)
                for name in ("q_proj", "k_proj", "v_proj", "o_proj")
            ),
            "model.norm.weight is (3,), expected (16,) as language.model.norm.weight",
            "model.layers.0.mlp.up_proj.weight is of int8, expected floats",
            f"{extra} is extra, the model has no language.{extra}",
            "quant.state is unknown",
        ]
    )
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_model_with_another_tower_lists_the_towers_keys(tmp_path: Path) -> None:
    save_torch(tmp_path, build_clip(layers=4).state_dict())
    with pytest.raises(CheckpointError) as caught:
        load(Part(vision_tower=ClipTower(CLIP)), tmp_path, clip_vision(layers=2))
    assert (
        str(caught.value).count("is extra, the model has no vision_tower.clip.encoder.lay") == 16
    )
    assert "missing" not in str(caught.value)


def test_vocabulary_may_be_padded_only_where_the_layout_says_so(tmp_path: Path) -> None:
    released = build_llama(vocab_size=40)
    save_torch(tmp_path, released.state_dict())
    ours = Part(language=build_llama(vocab_size=43, seed=2))
    fresh = ours.language.lm_head.weight[40:].clone()
    with pytest.raises(CheckpointError, match=r"is \(40, 16\), expected \(43, 16\) as language.l"):
        load(ours, tmp_path, llama_language())
    summary = load(ours, tmp_path, llama_language(pad_vocab_rows=True))
    assert torch.equal(ours.language.lm_head.weight[:40], released.lm_head.weight)
    assert torch.equal(ours.language.lm_head.weight[40:], fresh)
    tables = ("language.model.embed_tokens.weight", "language.lm_head.weight")
    assert summary.padded == dict.fromkeys(tables, 3)
    assert "3 rows of language.lm_head.weight left fresh" in str(summary)


@pytest.mark.parametrize("vocab_size", [39, 41])
def test_padding_is_for_rows_the_file_lacks_and_for_nothing_else(
    tmp_path: Path, vocab_size: int
) -> None:
    state = build_llama(vocab_size=40).state_dict()
    state["model.norm.weight"] = torch.zeros(HIDDEN - 1)
    save_torch(tmp_path, state)
    ours = Part(language=build_llama(vocab_size=vocab_size))
    with pytest.raises(CheckpointError) as caught:
        load(ours, tmp_path, llama_language(pad_vocab_rows=True))
    assert "model.norm.weight is (15,)" in str(caught.value)
    assert ("lm_head.weight is (40, 16), expected (39, 16)" in str(caught.value)) == (
        vocab_size == 39
    )


def test_tied_padded_vocabulary_is_filled_once(tmp_path: Path) -> None:
    released = build_t5()
    save_torch(tmp_path, released.state_dict())
    ours = Part(language=build_t5(seed=2))
    ours.language.resize_token_embeddings(44)
    summary = load(ours, tmp_path, t5_language(pad_vocab_rows=True))
    assert torch.equal(ours.language.lm_head.weight[:40], released.shared.weight)
    assert summary.padded == {"language.shared.weight": 4}


def test_model_without_storage_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    save_torch(tmp_path, build_llama().state_dict())
    with torch.device("meta"):
        ours = Part(language=build_llama())
    with pytest.raises(ValueError, match="is on the meta device, expected a model with storage"):
        load(ours, tmp_path, llama_language())


def test_summary_says_what_was_left_out(tmp_path: Path) -> None:
    ours = build_vlm()
    state = build_senna(vocab_size=ours.tokenizer.vocab_size).state_dict()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(2)
    save_torch(tmp_path, {k: v for k, v in state.items() if "vision_tower" not in k})
    summary = load(ours, tmp_path, senna(clip_layers=2), may_miss=("vision_tower.",))
    text = str(summary)
    assert text.startswith(f"{len(summary.filled)} tensors from {tmp_path} as senna; ")
    towers = len(ours.vision_tower.state_dict())
    assert f"left as they were: missing_view (1), vision_tower ({towers})" in text
    assert "not used: 1 (wavelengths of the rotary positions" in text


def test_counting_buffers_are_filled_too_and_only_by_integers(tmp_path: Path) -> None:
    layout = Layout(name="net", rules=(Rule(r"(.+)", r"net.\1"),), fills=("net.",))
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(4, 2))
    save_safetensors(tmp_path, norm.state_dict())
    ours = Part(net=nn.BatchNorm1d(2))
    load(ours, tmp_path, layout)
    assert ours.net.num_batches_tracked == 1
    assert torch.equal(ours.net.running_mean, norm.running_mean)
    save_safetensors(tmp_path, {**norm.state_dict(), "num_batches_tracked": torch.tensor(1.5)})
    with pytest.raises(CheckpointError, match=r"tracked is of float32, expected integers$"):
        load(ours, tmp_path, layout)
