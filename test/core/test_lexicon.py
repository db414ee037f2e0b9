import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from clkd_core.data.lexicon import WordGroup, lexicon_texts, load_lexicon
from clkd_core.data.prompts import PREAMBLE, VIEW_NAMES, answer_text, plan_question
from clkd_core.errors import DataError
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand

TRAINED_IN_A_FRESH_PROCESS = """
import hashlib, sys
from clkd_core.data.lexicon import lexicon_texts
from clkd_core.models.tokenizer import train_tokenizer
json = train_tokenizer(lexicon_texts(), vocab_size=4096).to_json()
sys.stdout.write(hashlib.sha256(json.encode()).hexdigest())
"""


def prompt_texts() -> list[str]:
    """All our prompts twice, as training has them when no data set asks anything."""
    texts = [PREAMBLE, *VIEW_NAMES.values(), *(answer_text(action) for action in META_ACTIONS)]
    for speed in range(61):
        ego = EgoState(stamp_ns=0, speed_mps=float(speed))
        texts += [plan_question(ego, command) for command in (None, *RouteCommand)]
    return texts * 2


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer([*lexicon_texts(), *prompt_texts()], vocab_size=4096)


def mean_characters(tokenizer: TextTokenizer, texts: list[str]) -> float:
    pieces = sum(len(tokenizer.encode(f" {text}")) for text in texts)
    return sum(len(text) for text in texts) / pieces


def test_lexicon_has_two_thousand_words_and_none_twice() -> None:
    words = Counter(word for group in load_lexicon() for word in group.words)
    assert 2000 <= len(words) <= 2500
    assert [word for word, times in words.items() if times > 1] == []


def test_every_entry_stands_in_the_texts_with_a_space_and_with_a_capital() -> None:
    counts = Counter(" " + word for text in lexicon_texts() for word in text.split(" ") if word)
    everything = "".join(lexicon_texts())
    for group in load_lexicon():
        for word in group.words:
            assert counts[f" {word}"] >= 2 * group.weight
            assert counts[f" {word[0].upper()}{word[1:]}"] >= 2
        for phrase in group.phrases:
            assert everything.count(f" {phrase}") >= 2 * group.weight


def test_words_of_a_heavy_group_come_more_often() -> None:
    counts = Counter(word for text in lexicon_texts() for word in text.split())
    assert counts["the"] > counts["pedestrian"] > counts["hydrant"]


def test_lexicon_knows_numbers_and_object_tags() -> None:
    everything = " ".join(lexicon_texts()) + " "
    for number in (*range(201), "3.5", "12.0 m/s"):
        assert f" {number} " in everything
    for camera in CAMERAS:
        assert f",{camera}," in everything


def test_tokenizer_of_lexicon_and_prompts_has_four_thousand_pieces_in_two_seconds() -> None:
    begin = time.process_time()
    trained = train_tokenizer([*lexicon_texts(), *prompt_texts()], vocab_size=4096)
    assert 4000 <= trained.vocab_size <= 4096
    assert time.process_time() - begin < 2.0


def test_fresh_processes_learn_the_same_pieces(root: Path) -> None:
    hashes = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        words = [sys.executable, "-c", TRAINED_IN_A_FRESH_PROCESS]
        hashes.add(
            subprocess.run(words, cwd=root, env=env, capture_output=True, check=True).stdout
        )
    here = train_tokenizer(lexicon_texts(), vocab_size=4096).to_json()
    assert hashes == {hashlib.sha256(here.encode()).hexdigest().encode()}


def test_heavy_words_are_single_pieces(tokenizer: TextTokenizer) -> None:
    heavy = [word for group in load_lexicon() if group.weight >= 16 for word in group.words]
    cut = [word for word in heavy if len(tokenizer.encode(f" {word}")) > 1]
    assert len(heavy) > 500
    assert [word for word in cut if word.isalpha()] == []


def test_sentences_are_mostly_words(tokenizer: TextTokenizer) -> None:
    text = " The ego vehicle slows down because a pedestrian crosses in front of the white truck."
    assert len(tokenizer.encode(text)) == len(text.split()) + 1


def test_object_tags_split_into_names_and_groups_of_digits(tokenizer: TextTokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("<c1,CAM_BACK_LEFT,1088.3,497.5>")]
    tag, numbers = pieces[:6], pieces[6:]
    assert tag == ["<", "c", "1", ",", "CAM_BACK_LEFT", ","]
    assert "".join(numbers) == "1088.3,497.5>"
    assert len(numbers) <= 10


def test_unseen_driving_questions_take_half_the_pieces(
    tokenizer: TextTokenizer, shared_data: Path
) -> None:
    scenes = json.loads((shared_data / "drivelm" / "train_sample.json").read_text())
    questions = {
        turn["Q"]
        for scene in scenes.values()
        for frame in scene["key_frames"].values()
        for turns in frame["QA"].values()
        for turn in turns
    }
    bare = train_tokenizer(prompt_texts(), vocab_size=4096)
    before = mean_characters(bare, sorted(questions))
    now = mean_characters(tokenizer, sorted(questions))
    assert bare.vocab_size < 700
    assert before < 1.7
    assert now > 3.0


def test_reader_takes_words_phrases_and_weights_apart(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# about\n\n[3] Signs\nstop yield\ngive way, no entry\n\n[1] Rest\nof it\n")
    assert load_lexicon(path) == (
        WordGroup("Signs", 3, ("stop", "yield"), ("give way", "no entry")),
        WordGroup("Rest", 1, ("of", "it"), ()),
    )


def test_words_without_a_group_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# about\nstop yield\n")
    with pytest.raises(DataError, match=r"words\.txt:2: 'stop yield' comes before the first"):
        load_lexicon(path)


def test_a_lexicon_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: the lexicon cannot be read"):
        load_lexicon(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="binary: the lexicon cannot be read"):
        load_lexicon(tmp_path / "binary")
