"""Tokenizers of released language models as ours: which piece pads, which ends an answer.

What cannot be helped: a SentencePiece model reads some texts in another form. T5's takes tabs,
line ends and runs of spaces for one space, writes Unicode's compatibility forms plainly, and has
no piece for ``< { } ~ ^``, backslash and backtick, which come back as ``<unk>``: the object tags
of DriveLM lose their first character. LLaMA's and SmolLM2's give every text back. All of them
give our prompts back, which is checked on loading.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from clkd_core.data.prompts import PREAMBLE, answer_text
from clkd_core.errors import CheckpointError
from clkd_core.models.hub import download
from clkd_core.models.pretrained.tokens.text_edges import without_edges
from clkd_core.models.pretrained.tokens.tokenizer_files import (
    ADDED_TOKENS,
    READERS,
    naming_damage,
    read_object,
)
from clkd_core.models.tokenizer import END_TOKEN, TextTokenizer
from clkd_core.types import META_ACTIONS

log = logging.getLogger(__name__)

FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")
"""What a folder may hold its tokenizer in; without any of them its one GGUF file is read."""

_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
_ROLES = {"pad_token": "pad", "eos_token": "end", "unk_token": "unk"}

_USUAL_ENDS = ("</s>", END_TOKEN)
_SPARE_PADS = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<empty_output>",
)
"""Pieces that models trained without padding keep free or use in no text of ours."""


def load_tokenizer(
    source: str | Path, *, pad_token: str | None = None, end_token: str | None = None
) -> TextTokenizer:
    """Read the tokenizer of a released model, or of one of our checkpoints.

    Args:
        source: a folder, a ``tokenizer.json``, ``.model`` or ``.gguf`` file, or, if a string that
            names nothing here, the id of a model on the Hugging Face hub.
        pad_token: None takes what the files say. Where they say nothing, or pad with the end,
            the piece for the unknown; where that is the end as well, one that is kept free.
        end_token: None takes what the files say, else ``</s>`` where there is one.

    Raises:
        CheckpointError: there is no tokenizer, it is damaged or of a kind that is not read here,
            lacks a piece to pad or end with, or does not give our prompts back.
    """
    path = _find_file(source)
    if path.suffix == ".json" and "tokenizer" in read_object(path):
        return TextTokenizer.from_json(path.read_text(encoding="utf-8"), source=path)
    released = READERS[path.suffix](path)
    names = {**released.names, **_declared_names(path.parent)}
    end = end_token or names.get("end") or _first_of(_USUAL_ENDS, released.tokenizer)
    spare = (names.get("pad"), names.get("unk"), *_SPARE_PADS)
    pad = pad_token or _first_of((name for name in spare if name != end), released.tokenizer)
    with naming_damage(path):
        tokenizer = _name_pieces(released.tokenizer, pad, end, path)
        _check_prompts(tokenizer, path)
    log.info("%s: %d pieces, pads with %s, ends with %s", path, tokenizer.vocab_size, pad, end)
    return tokenizer


def _find_file(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        path = download(source, [*FILES, ADDED_TOKENS, *_CONFIGS])
    if path.is_file():
        if path.suffix not in READERS:
            raise CheckpointError(f"{path} is no {', '.join(READERS)} file")
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    gguf = sorted(path.glob("*.gguf"))
    if len(gguf) != 1:
        raise CheckpointError(
            f"{path} holds no {', '.join(FILES)}, and {len(gguf)} .gguf files instead of one"
        )
    return gguf[0]


def _declared_names(folder: Path) -> dict[str, str]:
    """Special pieces as the files beside a tokenizer name them; the first to name one counts."""
    names: dict[str, str] = {}
    for config in _CONFIGS:
        content = read_object(folder / config) if (folder / config).is_file() else {}
        for key, role in _ROLES.items():
            value = content.get(key)
            name = value.get("content") if isinstance(value, dict) else value
            if isinstance(name, str):
                names.setdefault(role, name)
    return names


def _first_of(names: Iterable[str | None], tokenizer: Tokenizer) -> str | None:
    known = (name for name in names if name and tokenizer.token_to_id(name) is not None)
    return next(known, None)


def _name_pieces(
    tokenizer: Tokenizer, pad: str | None, end: str | None, path: Path
) -> TextTokenizer:
    for role, name in (("pad", pad), ("end", end)):
        if name is None:
            raise CheckpointError(f"{path} does not say what to {role} with: give {role}_token")
        if tokenizer.token_to_id(name) is None:
            raise CheckpointError(f"{path} has no piece {name} to {role} with")
        tokenizer.add_special_tokens([AddedToken(name, normalized=False)])
    return TextTokenizer(without_edges(tokenizer), pad_token=str(pad), end_token=str(end))


def _check_prompts(tokenizer: TextTokenizer, path: Path) -> None:
    """One that writes our prompts differently would spoil every conversation, and silently."""
    for text in (PREAMBLE, *(answer_text(action) for action in META_ACTIONS)):
        came = tokenizer.decode(tokenizer.encode(text))
        if came != text:
            raise CheckpointError(f"{path} gives {text[:40]!r} back as {came[:40]!r}")
