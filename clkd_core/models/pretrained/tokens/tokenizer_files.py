"""Readers of the files that tokenizers are released in; what is in them is data, never run."""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from clkd_core.errors import CheckpointError, ClkdError
from clkd_core.models.pretrained.tokens.sentencepiece_file import (
    PieceKind,
    PieceTable,
    build_piece_tokenizer,
    load_piece_table,
)

ADDED_TOKENS = "added_tokens.json"
"""Beside a SentencePiece file: pieces that were added to it, with their ids."""

_GGUF_PREFIX = "tokenizer.ggml."
_GGUF_NAMES = {"padding_token_id": "pad", "eos_token_id": "end", "unknown_token_id": "unk"}
_GGUF_SPLITS: Mapping[str, tuple[pre_tokenizers.PreTokenizer, ...]] = {
    "gpt-2": (),
    "smollm": (pre_tokenizers.Digits(individual_digits=True),),
}
"""By ``tokenizer.ggml.pre``: what cuts a text before the regular expression of GPT-2 does."""


@dataclass(frozen=True)
class ReleasedTokenizer:
    """A tokenizer as it was released, and what its file says about special pieces."""

    tokenizer: Tokenizer
    names: Mapping[str, str] = field(default_factory=dict)
    """``pad``, ``end`` and ``unk`` by their pieces, as far as the file names them."""


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn whatever damaged tables raise into an error that names their file.

    Raises:
        CheckpointError: in place of anything but our own errors and the user's interruption.
    """
    try:
        yield
    except (ClkdError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as err:  # a panic of the library's is not even an Exception
        raise CheckpointError(f"{path} is no whole tokenizer: {str(err)[:80]}") from err


def read_json(path: Path) -> ReleasedTokenizer:
    """A ``tokenizer.json`` of the ``tokenizers`` library.

    Raises:
        CheckpointError: unreadable, no tokenizer, or neither BPE nor Unigram.
    """
    with naming_damage(path):
        tokenizer = Tokenizer.from_str(json.dumps(read_object(path)))
    if not isinstance(tokenizer.model, models.BPE | models.Unigram):
        kind = type(tokenizer.model).__name__
        raise CheckpointError(f"{path} is of kind {kind}, expected BPE or Unigram")
    return ReleasedTokenizer(tokenizer)


def read_sentencepiece(path: Path) -> ReleasedTokenizer:
    """A ``.model`` file, and ``added_tokens.json`` where one stands beside it.

    Raises:
        CheckpointError: unreadable, no such model, or an added token gets another id than it says.
    """
    table = load_piece_table(path)
    with naming_damage(path):
        tokenizer = build_piece_tokenizer(table, source=path)
    added = path.with_name(ADDED_TOKENS)
    ids = read_object(added) if added.is_file() else {}
    for token in sorted(ids, key=lambda token: str(ids[token]).zfill(12)):
        tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
        if (came := tokenizer.token_to_id(token)) != ids[token]:
            raise CheckpointError(f"{added} says {token} is {ids[token]!r}, but it is {came}")
    return ReleasedTokenizer(tokenizer, table.special)


def read_gguf(path: Path) -> ReleasedTokenizer:
    """The tokenizer in a GGUF file: SentencePiece's BPE, or a byte-level BPE.

    Raises:
        CheckpointError: no whole GGUF file, another kind of tokenizer, or the package ``gguf`` is
            missing.
    """
    facts = _gguf_facts(path)
    kind, split = facts.get("model"), facts.get("pre")
    if kind != "llama" and (kind != "gpt2" or split not in _GGUF_SPLITS):
        raise CheckpointError(
            f"{path} has a tokenizer of kind {kind!r}, split like {split!r}; expected 'llama', "
            f"or 'gpt2' split like one of {', '.join(_GGUF_SPLITS)}"
        )
    with naming_damage(path):
        pieces = facts["tokens"]
        names = {role: pieces[facts[key]] for key, role in _GGUF_NAMES.items() if key in facts}
        build = _build_piece_bpe if kind == "llama" else _build_byte_bpe
        return ReleasedTokenizer(build(facts, path), names)


READERS: Mapping[str, Callable[[Path], ReleasedTokenizer]] = {
    ".json": read_json,
    ".model": read_sentencepiece,
    ".gguf": read_gguf,
}
"""By the ending of a file's name."""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: unreadable, or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} is no readable JSON: {str(err)[:80]}") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def _gguf_facts(path: Path) -> dict[str, Any]:
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as err:
        raise CheckpointError(
            f"{path} needs the package gguf: pip install 'clkd-drive[gguf]'"
        ) from err
    try:
        fields = gguf.GGUFReader(path).fields
        wanted = (name for name in fields if name.startswith(_GGUF_PREFIX))
        return {name.removeprefix(_GGUF_PREFIX): fields[name].contents() for name in wanted}
    except Exception as err:  # the reader trusts every offset, so damage fails anywhere
        raise CheckpointError(f"{path} is no whole GGUF file: {str(err)[:80]}") from err


def _build_piece_bpe(facts: Mapping[str, Any], path: Path) -> Tokenizer:
    table = PieceTable(
        pieces=facts["tokens"], scores=facts["scores"], kinds=facts["token_type"], is_bpe=True
    )
    return build_piece_tokenizer(table, source=path)


def _build_byte_bpe(facts: Mapping[str, Any], path: Path) -> Tokenizer:
    pieces, merges = facts["tokens"], [merge.split(" ") for merge in facts["merges"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[(left, right) for left, right in merges])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*_GGUF_SPLITS[facts["pre"]], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(pieces, facts["token_type"], strict=True)
    control = [AddedToken(p, normalized=False) for p, kind in kinds if kind == PieceKind.CONTROL]
    tokenizer.add_special_tokens(control)
    return tokenizer
