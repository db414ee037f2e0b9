import json

import pytest
from tiny_vlm import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models

from clkd_core.data.prompts import PREAMBLE, answer_text, plan_question
from clkd_core.errors import CheckpointError
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand

TOKENIZER = tiny_tokenizer()


def other_tokenizer() -> Tokenizer:
    """Pads with ``<unk>``, ends with ``</s>``, and has a hole in its ids."""
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "</s>": 2, "a": 3, "b": 9}, []))
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


@pytest.mark.parametrize(
    "text", ["", PREAMBLE, " KEEP, STRAIGHT", "KEEPER_STRAIGHT", "Grüße, 車?\n", "a  b"]
)
def test_decode_gives_back_every_text_that_was_encoded(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("text", ["<end>", "stop <pad> <end> go", "<end><end>"])
def test_special_pieces_spelt_out_in_a_text_are_text(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not {TOKENIZER.pad_id, TOKENIZER.end_id} & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_action_words_are_single_pieces_so_that_an_answer_is_three() -> None:
    for action in META_ACTIONS:
        assert len(TOKENIZER.encode(answer_text(action))) == 3


def test_camera_names_are_single_pieces() -> None:
    for camera in CAMERAS:
        assert len(TOKENIZER.encode(f",{camera},")) == 3


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
    assert again.to_json() == TOKENIZER.to_json()


def test_json_keeps_which_pieces_pad_and_end() -> None:
    tokenizer = TextTokenizer(other_tokenizer(), pad_token="<unk>", end_token="</s>")
    again = TextTokenizer.from_json(tokenizer.to_json(), source="test")
    assert (again.pad_token, again.pad_id) == ("<unk>", 0)
    assert (again.end_token, again.end_id) == ("</s>", 2)
    assert again.decode([3, 2, 0, 9]) == "a b"


def test_json_from_before_the_pieces_were_named_is_read() -> None:
    plain = json.dumps(json.loads(TOKENIZER.to_json())["tokenizer"])
    again = TextTokenizer.from_json(plain, source="test")
    assert (again.pad_token, again.end_token) == ("<pad>", "<end>")
    assert again.encode(PREAMBLE) == TOKENIZER.encode(PREAMBLE)


def test_vocab_size_is_the_largest_id_and_one() -> None:
    tokenizer = other_tokenizer()
    assert TextTokenizer(tokenizer, pad_token="<unk>", end_token="</s>").vocab_size == 10
    tokenizer.add_tokens([AddedToken("go")])
    added = tokenizer.token_to_id("go")
    size = TextTokenizer(tokenizer, pad_token="<unk>", end_token="</s>").vocab_size
    assert size == max(10, added + 1)


def test_one_piece_cannot_both_pad_and_end() -> None:
    with pytest.raises(CheckpointError, match="pads and ends with the same </s>"):
        TextTokenizer(other_tokenizer(), pad_token="</s>", end_token="</s>")


def test_a_missing_piece_is_named() -> None:
    with pytest.raises(CheckpointError, match="the tokenizer has no <pad>"):
        TextTokenizer(other_tokenizer(), end_token="</s>")


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "", "[]", "7", "null", '"tokenizer"', '{"tokenizer": {}}'),
        '{"tokenizer": {}, "pad_token": "a", "end_token": "b"}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_from_json_names_the_file_that_is_no_tokenizer(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"some/tokenizer\.json is no tokenizer"):
        TextTokenizer.from_json(text, source="some/tokenizer.json")


def test_train_tokenizer_learns_at_most_the_pieces_asked_for() -> None:
    texts = [f"word{i} and other{i}" for i in range(400)] * 2
    assert train_tokenizer(texts, vocab_size=300).vocab_size <= 300
