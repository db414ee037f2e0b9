"""What released tokenizers do at the edges of a text, taken off them.

A conversation is put together from pieces, so a text must be encoded the same wherever it
stands: no space before its first word, none lost behind its last, no ``<s>`` or ``</s>`` around
it, and nothing in it that only looks like a special piece.
"""

import json
import re
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

_ADDS_OR_STRIPS = ("Prepend", "Strip")
_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}


def without_edges(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that encodes a text the same at the beginning, in the middle and at the end."""
    spec = json.loads(tokenizer.to_str())
    for step in ("post_processor", "truncation", "padding"):
        spec[step] = None
    normalizers = _parts(spec, "normalizer", "normalizers")
    splits = _parts(spec, "pre_tokenizer", "pretokenizers")
    joins = _parts(spec, "decoder", "decoders")
    normalizers = [part for part in normalizers if part["type"] not in _ADDS_OR_STRIPS]
    joins = [part for part in joins if (part["type"], part.get("content")) != ("Strip", " ")]
    if any(part["type"] == "WhitespaceSplit" for part in splits):
        # It gives every word a space; what it does beyond that is to read any white space as one.
        splits = [part for part in splits if part["type"] != "WhitespaceSplit"]
        normalizers.append(_ONE_SPACE)
    for part in (*splits, *joins):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        elif part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    spec["normalizer"] = _joined(normalizers, "normalizers")
    spec["pre_tokenizer"] = _joined(splits, "pretokenizers")
    spec["decoder"] = _joined(joins, "decoders")
    bare = Tokenizer.from_str(json.dumps(spec))
    _hide_special_pieces(bare)
    return bare


def _parts(spec: dict[str, Any], step: str, key: str) -> list[dict[str, Any]]:
    """The parts of a step, which may be missing, one part, or a sequence of them."""
    part = spec[step]
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _joined(parts: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return {"type": "Sequence", key: parts} if parts else None


def _hide_special_pieces(tokenizer: Tokenizer) -> None:
    """Keep a text from spelling out a special piece of a Unigram model.

    SentencePiece finds control pieces nowhere in a text; the library's Unigram finds every piece
    it has, ``</s>`` included. So a text is cut behind the first character of each.
    """
    if not isinstance(tokenizer.model, models.Unigram):
        return
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    added = tokenizer.get_added_tokens_decoder().values()
    special = sorted(t.content for t in added if t.special and t.content in pieces)
    cuts = [f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in special if len(t) > 1]
    cuts += ["<(?=0x[0-9A-F]{2}>)"] if "<0x00>" in pieces else []
    if cuts:
        cut = pre_tokenizers.Split(Regex("|".join(cuts)), "merged_with_previous")
        steps = [step for step in (tokenizer.pre_tokenizer, cut) if step is not None]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
