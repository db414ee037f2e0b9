import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from released_tokenizers import (
    BPE,
    UNIGRAM,
    bpe_pieces,
    llama_fields,
    smollm2_fields,
    unigram_pieces,
    write_byte_bpe_json,
    write_gguf,
    write_json,
    write_llama_json,
    write_sentencepiece,
    write_t5_json,
)
from tokenizers import Tokenizer, models

from clkd_core.data.lexicon import lexicon_texts
from clkd_core.data.prompts import PREAMBLE, VIEW_NAMES, answer_text, plan_question, turn_text
from clkd_core.errors import CheckpointError
from clkd_core.models.answers import build_answer_trie
from clkd_core.models.pretrained.tokens.tokenizers import load_tokenizer
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.types import META_ACTIONS, EgoState, RouteCommand

BPE_PIECES, UNIGRAM_PIECES = bpe_pieces(), unigram_pieces()


def write_own(folder: Path) -> None:
    tokenizer = train_tokenizer(lexicon_texts(), vocab_size=1024)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())


def write_smollm2_gguf(folder: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed (pip install clkd-drive[gguf])")
    write_gguf(folder / "model.gguf", smollm2_fields())


def write_llama_gguf(folder: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed (pip install clkd-drive[gguf])")
    write_gguf(folder / "some-name.gguf", llama_fields(BPE_PIECES))


KINDS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "own": (write_own, "<pad>", "<end>"),
    "llama.model": (
        lambda folder: write_sentencepiece(folder / "tokenizer.model", BPE_PIECES, algorithm=BPE),
        "<unk>",
        "</s>",
    ),
    "llama.json": (lambda f: write_llama_json(f, BPE_PIECES, old=False), "<unk>", "</s>"),
    "old llama.json": (lambda f: write_llama_json(f, BPE_PIECES, old=True), "<unk>", "</s>"),
    "llama.gguf": (write_llama_gguf, "<unk>", "</s>"),
    "t5.model": (
        lambda folder: write_sentencepiece(
            folder / "spiece.model", UNIGRAM_PIECES, algorithm=UNIGRAM
        ),
        "<pad>",
        "</s>",
    ),
    "t5.json": (lambda f: write_t5_json(f, UNIGRAM_PIECES), "<pad>", "</s>"),
    "smollm2.json": (write_byte_bpe_json, "<|endoftext|>", "<|im_end|>"),
    "smollm2.gguf": (write_smollm2_gguf, "<|endoftext|>", "<|im_end|>"),
}
"""How each kind is written, and the pieces it pads and ends with."""


SMOLLM2 = pytest.param("real smollm2", marks=pytest.mark.slow)
"""The real file takes seconds to open."""


@pytest.fixture(scope="module", params=[*KINDS, "real t5", SMOLLM2])
def named(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, TextTokenizer]:
    """A tokenizer of every kind, with the name of its kind."""
    kind = request.param
    if kind == "real t5":
        folder = request.getfixturevalue("shared_data") / "tokenizers" / "t5"
    elif kind == "real smollm2":
        folder = real_smollm2()
    else:
        folder = tmp_path_factory.mktemp("released")
        KINDS[kind][0](folder)
    return kind, load_tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizer(named: tuple[str, TextTokenizer]) -> TextTokenizer:
    return named[1]


def real_smollm2() -> Path:
    folder = Path(os.environ.get("CLKD_SMOLLM2", "runs/pretrained/smollm2"))
    pytest.importorskip("gguf", reason="gguf is not installed (pip install clkd-drive[gguf])")
    if not (folder / "model.gguf").exists():
        pytest.skip(f"no model.gguf in {folder}: `clkd fetch smollm2`, or set CLKD_SMOLLM2")
    return folder


def prompts() -> list[str]:
    """Everything a conversation of ours is put together from."""
    commands = (None, *RouteCommand)
    egos = [None, *(EgoState(stamp_ns=0, speed_mps=float(speed)) for speed in range(61))]
    asked = [plan_question(ego, command) for ego in egos for command in commands]
    answers = [answer_text(action) for action in META_ACTIONS]
    return [PREAMBLE, *VIEW_NAMES.values(), *asked, *answers, turn_text("What is to the left?")]


def test_every_prompt_of_ours_comes_back_as_it_was(tokenizer: TextTokenizer) -> None:
    for text in prompts():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_pieces_of_a_conversation_join_without_a_space_gained_or_lost(
    tokenizer: TextTokenizer,
) -> None:
    parts = (PREAMBLE, *VIEW_NAMES.values(), *prompts()[7:60:9], " KEEP, STRAIGHT", " Yes.")
    ids = [token for part in parts for token in tokenizer.encode(part)]
    assert tokenizer.decode(ids) == "".join(parts)


@pytest.mark.parametrize("text", ["", "a", " a", "a ", "KEEP", " KEEP", "m/s", " m/s,"])
def test_spaces_at_the_edges_of_a_text_stay_what_they_were(
    tokenizer: TextTokenizer, text: str
) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_answer_behind_a_question_has_the_ids_of_the_whole(tokenizer: TextTokenizer) -> None:
    for question in prompts()[7:60:5]:
        for action in META_ACTIONS:
            answer = answer_text(action)
            parts = tokenizer.encode(question) + tokenizer.encode(answer)
            assert parts == tokenizer.encode(question + answer)


def test_no_answer_is_the_beginning_of_another(named: tuple[str, TextTokenizer]) -> None:
    kind, tokenizer = named
    answers = [tokenizer.encode(answer_text(action)) for action in META_ACTIONS]
    trie = build_answer_trie(answers)
    known = {"own": (8, 28), "real t5": (64, 84), "real smollm2": (68, 88)}
    if kind in known:
        assert (len(trie.node_token), len(trie.edge_token)) == known[kind]


def test_padding_and_end_are_two_pieces_and_the_ones_of_their_model(
    named: tuple[str, TextTokenizer],
) -> None:
    kind, tokenizer = named
    real = {"real t5": ("<pad>", "</s>"), "real smollm2": ("<|endoftext|>", "<|im_end|>")}
    assert (tokenizer.pad_token, tokenizer.end_token) == (real.get(kind) or KINDS[kind][1:])
    assert tokenizer.pad_id != tokenizer.end_id


def test_nothing_is_added_around_a_text(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("") == ()
    assert not {tokenizer.pad_id, tokenizer.end_id} & set(tokenizer.encode(PREAMBLE))


def test_a_text_cannot_end_a_turn_by_spelling_the_end(tokenizer: TextTokenizer) -> None:
    spelt = f"a {tokenizer.end_token} b {tokenizer.pad_token} c{tokenizer.end_token}"
    assert tokenizer.end_id not in tokenizer.encode(spelt)
    assert len(tokenizer.encode(spelt)) > 8


def test_json_alone_gives_back_the_same_tokenizer(tokenizer: TextTokenizer) -> None:
    again = TextTokenizer.from_json(tokenizer.to_json(), source="test")
    assert (again.pad_id, again.end_id) == (tokenizer.pad_id, tokenizer.end_id)
    assert again.vocab_size == tokenizer.vocab_size
    for text in [*prompts()[::7], f"a {tokenizer.end_token} <c1,CAM_BACK,1088.3,497.5>  ü"]:
        assert again.encode(text) == tokenizer.encode(text)


def test_vocabulary_holds_every_id(named: tuple[str, TextTokenizer]) -> None:
    kind, tokenizer = named
    pieces = len(BPE_PIECES) if "llama" in kind else len(UNIGRAM_PIECES)
    sizes = {"t5.json": pieces + 2, "real t5": 32000, "real smollm2": 49152}
    if "llama" in kind or "t5" in kind:
        assert tokenizer.vocab_size == sizes.get(kind, pieces)
    assert max(tokenizer.encode(PREAMBLE)) < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama.model", "llama.json"),
        ("llama.model", "old llama.json"),
        ("llama.model", "llama.gguf"),
        ("t5.model", "t5.json"),
        ("smollm2.json", "smollm2.gguf"),
    ],
)
def test_forms_of_one_tokenizer_give_the_same_ids(tmp_path: Path, one: str, other: str) -> None:
    loaded = []
    for kind in (one, other):
        (tmp_path / kind).mkdir()
        KINDS[kind][0](tmp_path / kind)
        loaded.append(load_tokenizer(tmp_path / kind))
    odd = ["1  12", "a  b c ", "Grüße, 車?", "</s> <unk> <|im_end|> x", " 1088.3,497.5>"]
    for text in [*prompts(), *odd]:
        assert loaded[0].encode(text) == loaded[1].encode(text), text


# ---- padding, end, and what files say about them -------------------------------------------


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder with LLaMA's ``tokenizer.model`` alone."""
    write_sentencepiece(tmp_path / "tokenizer.model", BPE_PIECES, algorithm=BPE)
    return tmp_path


def test_the_caller_may_name_both_pieces(llama: Path) -> None:
    tokenizer = load_tokenizer(llama, pad_token="<s>", end_token="<unk>")
    assert (tokenizer.pad_id, tokenizer.end_id) == (1, 0)


def test_files_beside_the_tokenizer_have_the_say_over_it(llama: Path) -> None:
    write_json(llama / "special_tokens_map.json", {"eos_token": "<s>", "pad_token": "</s>"})
    write_json(llama / "tokenizer_config.json", {"pad_token": {"content": "<unk>"}})
    tokenizer = load_tokenizer(llama)
    assert (tokenizer.pad_token, tokenizer.end_token) == ("<unk>", "<s>")


def test_added_tokens_keep_the_ids_they_had(llama: Path) -> None:
    size = len(BPE_PIECES)
    write_json(llama / "added_tokens.json", {"<image>": size + 1, "<pad>": size})
    write_json(llama / "tokenizer_config.json", {"pad_token": "<pad>", "eos_token": "</s>"})
    tokenizer = load_tokenizer(llama)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (size, size + 2)


@pytest.mark.parametrize(("ids", "came"), [({"<pad>": 7}, "7"), ({"<pad>": [], "b": {}}, r"\[\]")])
def test_added_tokens_with_other_ids_are_refused(
    llama: Path, ids: dict[str, object], came: str
) -> None:
    write_json(llama / "added_tokens.json", ids)
    with pytest.raises(CheckpointError, match=rf"says <pad> is {came}, but it is \d+"):
        load_tokenizer(llama)


def test_a_model_without_padding_pads_with_a_piece_kept_free(tmp_path: Path) -> None:
    write_byte_bpe_json(tmp_path)
    only = "<|endoftext|>"  # as SmolLM2's base model says
    write_json(
        tmp_path / "tokenizer_config.json",
        {"eos_token": only, "unk_token": only, "bos_token": only, "pad_token": None},
    )
    with pytest.raises(CheckpointError, match="does not say what to pad with: give pad_token"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, pad_token="<|im_start|>").pad_id == 1
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["added_tokens"].append(
        {**spec["added_tokens"][0], "id": 900, "content": "<empty_output>"}
    )
    write_json(tmp_path / "tokenizer.json", spec)
    assert load_tokenizer(tmp_path).pad_token == "<empty_output>"


def test_an_end_that_nobody_names_is_asked_for(tmp_path: Path) -> None:
    write_byte_bpe_json(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="does not say what to end with: give end_token"):
        load_tokenizer(tmp_path, pad_token="<|endoftext|>")


def test_padding_with_the_end_is_refused(llama: Path) -> None:
    with pytest.raises(CheckpointError, match="pads and ends with the same </s>"):
        load_tokenizer(llama, pad_token="</s>")


def test_a_piece_that_is_not_there_is_named(llama: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model has no piece <stop> to end with"):
        load_tokenizer(llama, end_token="<stop>")


# ---- where it comes from -------------------------------------------------------------------


def test_a_file_may_be_named_itself(llama: Path) -> None:
    renamed = (llama / "tokenizer.model").rename(llama / "vicuna.model")
    assert load_tokenizer(str(renamed)).end_token == "</s>"


def test_old_checkpoints_of_ours_are_read_too(tmp_path: Path) -> None:
    write_own(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    write_json(tmp_path / "tokenizer.json", content["tokenizer"])
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_token, tokenizer.end_token) == ("<pad>", "<end>")


def test_a_hub_id_is_read_from_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, commit = tmp_path / "models--somebody--vicuna", "1" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    write_sentencepiece(snapshot / "tokenizer.model", BPE_PIECES, algorithm=BPE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_tokenizer("somebody/vicuna").vocab_size == len(BPE_PIECES)
    with pytest.raises(CheckpointError, match="somebody/else is no file and no folder here, and"):
        load_tokenizer("somebody/else")


def test_no_code_beside_a_tokenizer_runs(llama: Path) -> None:
    code = f"open({str(llama / 'ran')!r}, 'w')\n"
    (llama / "tokenization_evil.py").write_text(code)
    names = {"auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}}
    write_json(llama / "tokenizer_config.json", {**names, "tokenizer_class": "Evil"})
    load_tokenizer(llama)
    assert not (llama / "ran").exists()


# ---- what is refused -----------------------------------------------------------------------


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent is no file and no folder"):
        load_tokenizer(tmp_path / "absent")


def test_a_folder_without_a_tokenizer_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json, spiece\.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 3}', "\0", pytest.param("[" * 100_000, id="deep")]
)
def test_json_that_is_no_tokenizer_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_word_pieces_are_refused(tmp_path: Path) -> None:
    Tokenizer(models.WordPiece({"[UNK]": 0})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="of kind WordPiece, expected BPE or Unigram"):
        load_tokenizer(tmp_path)


def test_one_that_changes_our_prompts_is_refused(tmp_path: Path) -> None:
    write_llama_json(tmp_path, BPE_PIECES, old=False)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "Lowercase"}
    write_json(tmp_path / "tokenizer.json", spec)
    with pytest.raises(CheckpointError, match=r"gives 'You drive a car.*back as 'you drive a car"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokenizer_pre": "llama-bpe"}, "split like 'llama-bpe'; expected 'llama'"),
        ({"tokenizer_model": "bert"}, "of kind 'bert'"),
        ({"eos_token_id": 10**6}, "is no whole tokenizer"),
        ({"token_types": [1]}, "is no whole tokenizer"),
        ({"token_merges": ["a"]}, "is no whole tokenizer"),
    ],
)
def test_gguf_with_another_tokenizer_is_refused(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed (pip install clkd-drive[gguf])")
    write_gguf(tmp_path / "model.gguf", {**smollm2_fields(), **change})
    with pytest.raises(CheckpointError, match=problem):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 24, 500, 9000])
def test_gguf_that_is_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    write_smollm2_gguf(tmp_path)
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match=r"model\.gguf is no whole GGUF file"):
        load_tokenizer(tmp_path)
