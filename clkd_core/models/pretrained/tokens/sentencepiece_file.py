"""SentencePiece models (T5's ``spiece.model``, LLaMA's ``tokenizer.model``) without its package.

The file is a protocol buffer, message ``ModelProto`` of ``sentencepiece_model.proto``
(github.com/google/sentencepiece); the few fields that decide how a text is split are read here
and become a tokenizer of the ``tokenizers`` library.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from clkd_core.errors import CheckpointError

SPACE = "\u2581"
"""How a space is written inside of a piece."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType


class PieceKind(IntEnum):
    """``ModelProto.SentencePiece.Type``; GGUF's ``token_type`` counts the same way."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class PieceTable:
    """What decides how a text is split; a piece's id is its place."""

    pieces: Sequence[str]
    scores: Sequence[float]
    """Log-probability of each piece (Unigram), or the larger, the earlier it merges (BPE)."""
    kinds: Sequence[int]
    """A :class:`PieceKind` each."""
    is_bpe: bool
    charsmap: bytes = b""
    """Compiled replacements of characters; empty: texts are taken as they are."""
    joins_spaces: bool = False
    """Runs of spaces count as one."""
    special: dict[str, str] = field(default_factory=dict)
    """``pad``, ``end`` and ``unk`` by the names of their pieces, those that exist."""


def load_piece_table(path: Path) -> PieceTable:
    """Read a ``.model`` file.

    Raises:
        CheckpointError: unreadable, no SentencePiece model, or of a kind that is not read here.
    """
    try:
        return _parse_model(path.read_bytes())
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from err
    except (ValueError, IndexError, struct.error) as err:
        raise CheckpointError(f"{path} is no SentencePiece model that is known: {err}") from err


def build_piece_tokenizer(table: PieceTable, *, source: str | Path) -> Tokenizer:
    """The tokenizer that splits like SentencePiece, but never puts a space before a text.

    SentencePiece does (``add_dummy_prefix``): its ids of ``text`` are ours of ``" " + text``.

    Raises:
        CheckpointError: the table has no unknown piece, unused or equal ones, or a score that is
            no number.
    """
    _check_table(table, source)
    tokenizer = Tokenizer(_build_bpe(table) if table.is_bpe else _build_unigram(table))
    steps: list[normalizers.Normalizer] = []
    if table.charsmap:
        steps.append(normalizers.Precompiled(table.charsmap))
    if table.joins_spaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    # No piece reaches over a space: words can be looked up one by one, with the same result.
    by_word = not any(SPACE in piece[1:] for piece in _pieces_of(table, PieceKind.NORMAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="never", split=by_word
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _add_special_pieces(tokenizer, table)
    return tokenizer


def _check_table(table: PieceTable, source: str | Path) -> None:
    if set(table.kinds) - set(PieceKind) or PieceKind.UNUSED in table.kinds:
        raise CheckpointError(f"{source} has unused pieces or pieces of a type that is not known")
    if table.kinds.count(PieceKind.UNKNOWN) != 1:
        raise CheckpointError(f"{source} has no piece for the unknown, expected exactly one")
    if len(set(table.pieces)) < len(table.pieces):
        raise CheckpointError(f"{source} has a piece twice")
    if not all(map(math.isfinite, table.scores)):
        raise CheckpointError(f"{source} has a score that is no finite number")


def _build_unigram(table: PieceTable) -> models.Unigram:
    return models.Unigram(
        list(zip(table.pieces, table.scores, strict=True)),
        unk_id=table.kinds.index(PieceKind.UNKNOWN),
        byte_fallback=PieceKind.BYTE in table.kinds,
    )


def _build_bpe(table: PieceTable) -> models.BPE:
    """Every way to cut a piece in two is a merge; those of a better piece come first."""
    ids = {piece: i for i, piece in enumerate(table.pieces)}
    normal = {ids[piece] for piece in _pieces_of(table, PieceKind.NORMAL)}
    merges: list[tuple[str, str]] = []
    for merged in sorted(normal, key=lambda i: (-table.scores[i], i)):
        piece = table.pieces[merged]
        cuts = [(piece[:end], piece[end:]) for end in range(1, len(piece))]
        merges += [cut for cut in cuts if normal.issuperset(ids.get(part, -1) for part in cut)]
    return models.BPE(
        vocab=ids,
        merges=merges,
        unk_token=table.pieces[table.kinds.index(PieceKind.UNKNOWN)],
        fuse_unk=True,
        byte_fallback=PieceKind.BYTE in table.kinds,
    )


def _pieces_of(table: PieceTable, kind: PieceKind) -> Iterator[str]:
    return (piece for piece, came in zip(table.pieces, table.kinds, strict=True) if came == kind)


def _add_special_pieces(tokenizer: Tokenizer, table: PieceTable) -> None:
    for kind in (PieceKind.UNKNOWN, PieceKind.CONTROL):
        tokenizer.add_special_tokens(
            [AddedToken(piece, normalized=False) for piece in _pieces_of(table, kind)]
        )
    user_defined = _pieces_of(table, PieceKind.USER_DEFINED)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in user_defined])


def _parse_model(data: bytes) -> PieceTable:
    parts: dict[int, list[bytes]] = {1: [], 2: [], 3: []}
    for number, value in _iter_fields(data):
        if number in parts and isinstance(value, bytes):
            parts[number].append(value)
    if not parts[1] or not parts[2] or not parts[3]:
        raise ValueError("it lacks pieces, trainer_spec or normalizer_spec")
    pieces = [_parse_piece(part) for part in parts[1]]
    trainer, normalizer = dict(_iter_fields(parts[2][0])), dict(_iter_fields(parts[3][0]))
    algorithm = trainer.get(3, _UNIGRAM)
    if algorithm not in (_UNIGRAM, _BPE) or trainer.get(24, 0):
        raise ValueError("it is neither Unigram nor BPE, or has its spaces behind words")
    names = [name for name, _, _ in pieces]
    return PieceTable(
        pieces=names,
        scores=[score for _, score, _ in pieces],
        kinds=[kind for _, _, kind in pieces],
        is_bpe=algorithm == _BPE,
        charsmap=_bytes_of(normalizer.get(2, b"")),
        joins_spaces=bool(normalizer.get(4, 1)),
        special={
            role: name
            for role, number, usual in _SPECIAL
            if (name := _bytes_of(trainer.get(number, usual)).decode()) in names
        },
    )


_SPECIAL = (("unk", 45, b"<unk>"), ("end", 47, b"</s>"), ("pad", 48, b"<pad>"))
"""Fields of TrainerSpec that name a piece, and what they default to."""


def _parse_piece(data: bytes) -> tuple[str, float, int]:
    piece = dict(_iter_fields(data))
    (score,) = struct.unpack("<f", _bytes_of(piece.get(2, bytes(4))))
    kind = piece.get(3, PieceKind.NORMAL)
    if not isinstance(kind, int):
        raise ValueError("a piece's type is no number")
    return _bytes_of(piece.get(1, b"")).decode(), score, kind


def _bytes_of(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text is expected")
    return value


def _iter_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message; fixed-width values stay bytes."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"byte {at} has the wire type {wire}")
        if at + size > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and where it ends."""
    value = 0
    for place in range(10):  # 64 bits never take more
        value |= (data[at + place] & 0x7F) << (7 * place)
        if data[at + place] < 0x80:
            return value, at + place + 1
    raise ValueError(f"the number at byte {at} does not end")
