"""Text to token ids and back: a byte-level BPE of our own, saved as ``tokenizer.json``.

Bytes are the alphabet, so that every text can be read, whatever a user asks. The names of the
actions are single pieces: a decision is then three tokens, and one look decides each half.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from clkd_core.errors import CheckpointError
from clkd_core.types import PathAction, SpeedAction

PAD_TOKEN = "<pad>"
END_TOKEN = "<end>"
ACTION_WORDS: tuple[str, ...] = tuple(
    space + action.name
    for space in (" ", "")
    for actions in (SpeedAction, PathAction)
    for action in actions
)
"""Single pieces, with the space before them and without."""


class TextTokenizer:
    """Wraps a ``tokenizers.Tokenizer`` that knows ``<pad>`` and ``<end>``.

    Raises:
        CheckpointError: one of the two is missing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.pad_id = self._special_id(PAD_TOKEN)
        self.end_id = self._special_id(END_TOKEN)
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def vocab_size(self) -> int:
        """V: number of pieces, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text``, nothing added; short texts that come again are remembered."""
        ids = self._known.get(text)
        if ids is None:
            ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
            if len(self._known) < 4096:
                self._known[text] = ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; ``<pad>`` and ``<end>`` are left out."""
        kept = [token for token in ids if token not in (self.pad_id, self.end_id)]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def to_json(self) -> str:
        """The content of ``tokenizer.json``."""
        return str(self._tokenizer.to_str())

    @classmethod
    def from_json(cls, text: str, *, source: str | Path) -> "TextTokenizer":
        """Inverse of :meth:`to_json`.

        Raises:
            CheckpointError: not a tokenizer, or without the two special tokens.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as err:  # the library raises a bare Exception
            raise CheckpointError(f"{source} is no tokenizer: {str(err)[:80]}") from err
        return cls(tokenizer)

    def _special_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(
                f"the tokenizer has no {token}, expected {PAD_TOKEN}, {END_TOKEN}"
            )
        return int(token_id)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
    """Learn pieces from ``texts``; small corpora end with fewer than ``vocab_size`` pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ACTION_WORDS),
        min_frequency=2,
        special_tokens=[PAD_TOKEN, END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(
        [AddedToken(word, single_word=True, normalized=False) for word in ACTION_WORDS]
    )
    return TextTokenizer(tokenizer)
