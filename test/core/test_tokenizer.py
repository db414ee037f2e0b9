import pytest
from tiny_vlm import tiny_tokenizer

from clkd_core.data.prompts import PREAMBLE, answer_text, plan_question
from clkd_core.errors import CheckpointError
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.types import META_ACTIONS, EgoState, RouteCommand

TOKENIZER = tiny_tokenizer()


@pytest.mark.parametrize(
    "text", ["", PREAMBLE, " KEEP, STRAIGHT", "KEEPER_STRAIGHT", "Grüße, 車?\n", "a  b"]
)
def test_decode_gives_back_every_text_that_was_encoded(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_action_words_are_single_pieces_so_that_an_answer_is_three() -> None:
    for action in META_ACTIONS:
        assert len(TOKENIZER.encode(answer_text(action))) == 3


def test_prompt_with_preamble_stays_below_ninety_tokens() -> None:
    question = plan_question(EgoState(stamp_ns=0, speed_mps=12.0), RouteCommand.STRAIGHT_RIGHT)
    assert len(TOKENIZER.encode(PREAMBLE)) + len(TOKENIZER.encode(question)) < 90


def test_decode_leaves_out_padding_and_end() -> None:
    ids = (*TOKENIZER.encode(" Yes."), TOKENIZER.end_id, TOKENIZER.pad_id)
    assert TOKENIZER.decode(ids) == " Yes."


def test_json_gives_back_the_same_tokenizer() -> None:
    again = TextTokenizer.from_json(TOKENIZER.to_json(), source="test")
    assert again.vocab_size == TOKENIZER.vocab_size
    assert again.encode(PREAMBLE) == TOKENIZER.encode(PREAMBLE)


def test_from_json_names_the_file_that_is_no_tokenizer() -> None:
    with pytest.raises(CheckpointError, match=r"some/tokenizer\.json is no tokenizer"):
        TextTokenizer.from_json("{}", source="some/tokenizer.json")


def test_train_tokenizer_learns_at_most_the_pieces_asked_for() -> None:
    texts = [f"word{i} and other{i}" for i in range(400)] * 2
    assert train_tokenizer(texts, vocab_size=300).vocab_size <= 300
