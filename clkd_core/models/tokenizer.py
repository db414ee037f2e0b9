"""Text to token ids and back, saved as one self-contained ``tokenizer.json``.

Ours is a byte-level BPE: bytes are the alphabet, so that every text can be read, whatever a user
asks. The names of the actions are single pieces: a decision is then three tokens, and one look
decides each half. Tokenizers of pretrained models come from
:mod:`clkd_core.models.pretrained.tokens.tokenizers`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from clkd_core.errors import CheckpointError
from clkd_core.types import CAMERAS, PathAction, SpeedAction

PAD_TOKEN = "<pad>"
END_TOKEN = "<end>"
ACTION_WORDS: tuple[str, ...] = tuple(
    space + action.name
    for space in (" ", "")
    for actions in (SpeedAction, PathAction)
    for action in actions
)
"""Single pieces, with the space before them and without."""

WHOLE_PIECES: tuple[str, ...] = (*ACTION_WORDS, *CAMERAS)
"""What never falls apart: decisions, and the cameras that DriveLM's object tags name."""

_REMEMBERED_TEXTS = 4096


class TextTokenizer:
    """Wraps a ``tokenizers.Tokenizer`` and knows which of its pieces pad and which end an answer.

    Args:
        tokenizer: adds nothing to a text by itself. From here on it reads a special piece that is
            spelt out in a text as the characters it consists of, so that no question ends a turn.
        pad_token: fills the end of a row; masked wherever it stands, hence never the end token.
        end_token: closes an answer.

    Raises:
        CheckpointError: one of the two is missing, or both are the same.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, pad_token: str = PAD_TOKEN, end_token: str = END_TOKEN
    ) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.pad_token, self.end_token = pad_token, end_token
        self.pad_id, self.end_id = self._special_id(pad_token), self._special_id(end_token)
        if self.pad_id == self.end_id:
            raise CheckpointError(
                f"the tokenizer pads and ends with the same {pad_token}, expected two tokens"
            )
        self._vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def vocab_size(self) -> int:
        """V: the largest id + 1, special pieces included; a model may have more rows."""
        return self._vocab_size

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text``, nothing added; short texts that come again are remembered.

        The ids of two texts, one after the other, are ids of the texts written one after the
        other: no space is added or lost between them. Where the second begins with a space or
        punctuation they are mostly the very ids of the whole, too.
        """
        ids = self._known.get(text)
        if ids is None:
            ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
            if len(self._known) < _REMEMBERED_TEXTS:
                self._known[text] = ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; padding and ends are left out."""
        kept = [token for token in ids if token not in (self.pad_id, self.end_id)]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def to_json(self) -> str:
        """The content of ``tokenizer.json``: the two names, and the library's own JSON."""
        content = {
            "pad_token": self.pad_token,
            "end_token": self.end_token,
            "tokenizer": json.loads(self._tokenizer.to_str()),
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str | Path) -> "TextTokenizer":
        """Inverse of :meth:`to_json`; reads the library's plain JSON with our two tokens as well.

        Raises:
            CheckpointError: not a tokenizer, or without the two special tokens.
        """
        try:
            content = json.loads(text)
            names = _names_of(content)
            inner = json.dumps(content["tokenizer"]) if names else text
            tokenizer = Tokenizer.from_str(inner)
        except Exception as err:  # the library raises a bare Exception
            raise CheckpointError(f"{source} is no tokenizer: {str(err)[:80]}") from err
        return cls(tokenizer, **names)

    def _special_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(
                f"the tokenizer has no {token}, expected {self.pad_token}, {self.end_token}"
            )
        return int(token_id)


def _names_of(content: Mapping[str, Any]) -> dict[str, str]:
    """The two names of a file that states them; none of one from before they were stated."""
    if "tokenizer" not in content:
        return {}
    return {key: str(content[key]) for key in ("pad_token", "end_token")}


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """Learn pieces from ``texts``; small corpora end with fewer than ``vocab_size`` pieces.

    The most frequent pair of pieces merges first; which of several equally frequent ones does
    follows from the texts alone, so that the same texts give the same pieces everywhere.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(WHOLE_PIECES),
        min_frequency=2,
        special_tokens=[PAD_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(word, single_word=True, normalized=False) for word in WHOLE_PIECES]
    )
    return TextTokenizer(tokenizer)
