"""LLaMA weights in GGUF: dequantised, named and ordered as Hugging Face's LlamaForCausalLM.

GGUF's names and its interleaved order of queries and keys are those of llama.cpp's converter;
it is the only architecture read here.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from clkd_core.errors import CheckpointError
from clkd_core.models.pretrained.tensors.tensor_files import TensorInfo, first_line

_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")

_IN_A_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class GgufFile:
    """A :class:`~clkd_core.models.pretrained.tensors.tensor_files.TensorFile`, dequantised."""

    def __init__(self, path: Path) -> None:
        """Open it, mapped into memory.

        Raises:
            CheckpointError: unreadable, cut off, of another architecture than LLaMA, or the
                package ``gguf`` is missing.
        """
        self.path = path
        reader = _open_reader(path)
        self._heads = _read_heads(reader, path)
        self._raw = {_hugging_face_name(raw.name): raw for raw in reader.tensors}
        self.infos = {
            key: TensorInfo(tuple(int(size) for size in reversed(raw.shape)), "float32")
            for key, raw in self._raw.items()
        }
        for key, raw in self._raw.items():
            heads, rows = self._heads_of(raw), self.infos[key].shape[0]
            if heads is not None and (heads < 1 or rows % (2 * heads)):
                raise CheckpointError(f"{path}: {key!r} has {rows} rows for {heads} heads")

    def read(self, key: str) -> Tensor:
        """One tensor, dequantised."""
        gguf = _import_gguf(self.path)
        raw = self._raw[key]
        try:
            values = torch.from_numpy(gguf.dequantize(raw.data, raw.tensor_type).copy())
        except NotImplementedError as err:
            kind = raw.tensor_type.name
            raise CheckpointError(f"{self.path}: {key} is {kind}, not known to gguf") from err
        heads = self._heads_of(raw)
        return values if heads is None else rotate_half_order(values, heads)

    def _heads_of(self, raw: Any) -> int | None:
        """Heads of a query or key projection; None for any other tensor."""
        block = _BLOCK.fullmatch(raw.name)
        return self._heads.get(block[2]) if block else None


def rotate_half_order(rows: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from llama.cpp's order into Hugging Face's.

    llama.cpp rotates neighbours (2i, 2i+1) of a head together, Hugging Face (i, i + D/2).

    Args:
        rows: (heads x D, ...), D the even width of a head.
        heads: heads of these rows; for keys those of grouped-query attention.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def read_gguf_config(path: Path) -> dict[str, Any]:
    """The architecture a GGUF file describes, in the words of Hugging Face's ``config.json``.

    Raises:
        CheckpointError: as for :class:`GgufFile`.
    """
    _import_gguf(path)
    try:
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as err:  # odd metadata fails wherever transformers comes to use it
        raise CheckpointError(f"{path} describes no model: {first_line(err)}") from err
    _check_architecture(config.model_type, path)
    facts: dict[str, Any] = config.to_dict()
    return facts


def _open_reader(path: Path) -> Any:
    gguf = _import_gguf(path)
    try:
        reader = gguf.GGUFReader(path)
    except Exception as err:  # the reader trusts every offset, so damage fails anywhere
        raise CheckpointError(f"{path} is no whole GGUF file: {first_line(err)}") from err
    _check_architecture(_read_field(reader, "general.architecture"), path)
    return reader


def _import_gguf(path: Path) -> ModuleType:
    try:
        return importlib.import_module("gguf")
    except ImportError as err:
        raise CheckpointError(
            f"{path} needs the package gguf: pip install 'clkd-drive[gguf]'"
        ) from err


def _check_architecture(name: Any, path: Path) -> None:
    if name != "llama":
        raise CheckpointError(f"{path} is of architecture {name!r}, expected 'llama'")


def _read_heads(reader: Any, path: Path) -> dict[str, int]:
    """Heads by the projection whose rows they are; keys have as many as queries unless it says."""
    queries = _read_field(reader, "llama.attention.head_count")
    keys = _read_field(reader, "llama.attention.head_count_kv")
    heads = {"attn_q": queries, "attn_k": queries if keys is None else keys}
    if not all(isinstance(count, int) for count in heads.values()):
        raise CheckpointError(f"{path} has {queries!r} heads, {keys!r} of keys, expected integers")
    return heads


def _read_field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _hugging_face_name(name: str) -> str:
    """Names that are not known stay as they are, for a layout to refuse."""
    block = _BLOCK.fullmatch(name)
    if block is None or block[2] not in _IN_A_BLOCK:
        return _OUTSIDE.get(name, name)
    return f"model.layers.{block[1]}.{_IN_A_BLOCK[block[2]]}.{block[3]}"
