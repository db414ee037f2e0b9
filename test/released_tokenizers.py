"""Small tokenizers of every kind, written as their authors write the large ones."""

import json
import string
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from clkd_core.data.lexicon import lexicon_texts
from clkd_core.data.prompts import PREAMBLE

SPACE = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [*lexicon_texts()[::40], PREAMBLE, PREAMBLE, "KEEP STRAIGHT " * 4]

LETTERS = "_:/?.,0123456789" + string.ascii_letters
"""What the small Unigram model has a piece for, whatever it learnt."""

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
UNIGRAM, BPE = 1, 2

Pieces = list[tuple[str, float, int]]


def bpe_pieces(size: int = 900) -> Pieces:
    """LLaMA's order: special pieces, bytes, merged pieces from the best score down, letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merged = [piece for piece, _ in vocab if len(piece) > 1]
    letters = [piece for piece, _ in vocab if len(piece) == 1]
    special = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    learnt = [(piece, -float(i), NORMAL) for i, piece in enumerate([*merged, *letters])]
    return [*special, *((byte, 0.0, BYTE) for byte in BYTES), *learnt]


def unigram_pieces(size: int = 700) -> Pieces:
    """T5's order: padding, end, unknown, then pieces with the logarithm of how likely they are."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)
    trainer = trainers.UnigramTrainer(
        vocab_size=size, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    special = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    known = {piece for piece, _ in vocab}
    lacking = [(letter, -12.5, NORMAL) for letter in LETTERS if letter not in known]
    learnt = [(piece, score, NORMAL) for piece, score in vocab if piece != "<unk>"]
    return [*special, *learnt, *lacking]


def sentencepiece_bytes(
    pieces: Pieces, *, algorithm: int, joins_spaces: bool, charsmap: bytes = b""
) -> bytes:
    """A ``ModelProto`` with the fields that are read."""
    content = b"".join(
        _field(1, _field(1, p.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for p, score, kind in pieces
    )
    normalizer = _field(1, b"identity") + _field(2, charsmap) + _field(4, int(joins_spaces))
    return content + _field(2, _field(3, algorithm)) + _field(3, normalizer)


def write_sentencepiece(path: Path, pieces: Pieces, *, algorithm: int) -> Path:
    """A ``.model`` file; T5's kind (Unigram) joins spaces, LLaMA's (BPE) does not."""
    content = sentencepiece_bytes(pieces, algorithm=algorithm, joins_spaces=algorithm == UNIGRAM)
    path.write_bytes(content)
    return path


def write_llama_json(folder: Path, pieces: Pieces, *, old: bool) -> None:
    """``tokenizer.json`` in transformers' older or newer way, with all it does at the edges."""
    vocab = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    ranked = sorted(((-s, vocab[p], p) for p, s, kind in pieces if kind == NORMAL))
    normal = {piece for _, _, piece in ranked}
    merges = [
        [piece[:cut], piece[cut:]]
        for _, _, piece in ranked
        for cut in range(1, len(piece))
        if {piece[:cut], piece[cut:]} <= normal
    ]
    spec = {
        "version": "1.0",
        "added_tokens": _added(vocab, ["<unk>", "<s>", "</s>"]),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _template("<s>", vocab["<s>"], first=True),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
    if old:
        spec["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        }
    else:
        spec["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "first",
            "split": False,
        }
    write_json(folder / "tokenizer.json", spec)
    write_json(
        folder / "tokenizer_config.json",
        {"eos_token": {"content": "</s>"}, "pad_token": None, "unk_token": "<unk>"},
    )


def write_t5_json(folder: Path, pieces: Pieces) -> None:
    """``tokenizer.json`` of T5 with two sentinel pieces; it cuts, fills and closes every text."""
    sentinels = ["<extra_id_1>", "<extra_id_0>"]
    names = [*(piece for piece, _, _ in pieces), *sentinels]
    ids = {piece: i for i, piece in enumerate(names)}
    spec = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 5,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
        "added_tokens": _added(ids, ["<pad>", "</s>", "<unk>", *sentinels]),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"},
            ],
        },
        "post_processor": _template("</s>", ids["</s>"], first=False),
        "decoder": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"},
        "model": {
            "type": "Unigram",
            "unk_id": ids["<unk>"],
            "vocab": [*([p, s] for p, s, _ in pieces), *([s, 0.0] for s in sentinels)],
        },
    }
    write_json(folder / "tokenizer.json", spec)
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", config)


def byte_bpe(size: int = 900) -> tuple[list[str], list[str]]:
    """(pieces, merges) of a byte-level BPE with SmolLM2's first three pieces in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "two  1  2  " * 99], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return list(model["vocab"]), [" ".join(merge) for merge in model["merges"]]


def write_byte_bpe_json(folder: Path) -> None:
    """``tokenizer.json`` of SmolLM2."""
    pieces, merges = byte_bpe()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", config)


def write_gguf(path: Path, fields: dict[str, Any]) -> Path:
    """A GGUF file with a tokenizer and no tensors; ``fields`` by the writer's method names."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for method, value in fields.items():
        getattr(writer, f"add_{method}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def smollm2_fields() -> dict[str, Any]:
    """A byte-level BPE in GGUF; it pads with its end, as SmolLM2-Instruct's file does."""
    pieces, merges = byte_bpe()
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": pieces,
        "token_types": [CONTROL] * 3 + [NORMAL] * (len(pieces) - 3),
        "token_merges": merges,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "unk_token_id": 0,
    }


def llama_fields(pieces: Pieces) -> dict[str, Any]:
    """SentencePiece's BPE in GGUF."""
    names, scores, kinds = (list(column) for column in zip(*pieces, strict=True))
    return {
        "tokenizer_model": "llama",
        "token_list": names,
        "token_scores": scores,
        "token_types": kinds,
        "eos_token_id": 2,
        "unk_token_id": 0,
    }


def write_json(path: Path, value: object) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def _added(ids: dict[str, int], names: Sequence[str]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": ids[name], "content": name, "special": True, **flags} for name in names]


def _template(name: str, token_id: int, *, first: bool) -> dict[str, Any]:
    special = {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text] if first else [text, special],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]}},
    }


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value
