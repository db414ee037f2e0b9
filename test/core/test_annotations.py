"""clkd_core.data.language.files.annotations: strict JSON, usable texts, a count of the rest."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.language.files.annotations import (
    MAX_TEXT_CHARS,
    Skips,
    build_pair,
    read_json,
    shown,
)
from clkd_core.errors import DataError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"a": [1, 2', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "key .a. comes twice in one object"),
        (b'{"box": [NaN]}', "holds NaN, expected finite numbers"),
        (b'{"box": [-Infinity]}', "holds -Infinity"),
        (b"[" * 200_000, "cannot be read as JSON"),
        (b'{"a":' * 200_000, "cannot be read as JSON"),
    ],
)
def test_json_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json: .*{words}"):
        read_json(tmp_path / "a.json")


def test_missing_file_and_folder_in_its_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DataError, match=r"a\.json: cannot be read"):
        read_json(tmp_path / "a.json")


def test_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_json_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        read_json(path)
    except DataError as err:
        assert "any.json" in str(err)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (None, "Yes.", "question is missing"),
        ("Is it?", None, "answer is missing"),
        ("Is it?", " \n", "answer is missing"),
        ("Is it?", ["Yes."], "answer is no text"),
        ("Is it?", 3, "answer is no text"),
        ("Is it?", "x" * (MAX_TEXT_CHARS + 1), f"answer has over {MAX_TEXT_CHARS} characters"),
        ("Is\0it?", "Yes.", "question has control characters or half of one"),
        ("Is it?", "Yes \ud800.", "answer has control characters or half of one"),
    ],
)
def test_pair_that_cannot_be_used_is_counted_with_its_reason(
    question: object, answer: object, reason: str
) -> None:
    skips = Skips()
    assert build_pair("planning", question, answer, skips, "file: place") is None
    assert skips.counts == {reason: 1} and skips.first == {reason: "file: place"}


def test_usable_pair_loses_the_space_around_it_and_nothing_else() -> None:
    skips = Skips()
    pair = build_pair("planning", "  Was\nist? ", "Ja: “gut”. ", skips, "")
    assert pair is not None and (pair.question, pair.answer) == ("Was\nist?", "Ja: “gut”.")
    assert not skips.counts


def test_skips_name_the_first_place_of_each_reason() -> None:
    skips = Skips()
    for reason, where in (("a", "1"), ("keyframe b", "2"), ("keyframe b", "3")):
        skips.add(reason, where)
    assert skips.lines() == ["left out 2: keyframe b; first 2", "left out 1: a; first 1"]
    assert skips.lines("keyframe") == ["left out 2: keyframe b; first 2"]


def test_shown_values_are_short_and_printable() -> None:
    assert shown("\ud800\n") == r"'\ud800\n'"
    assert len(shown("x" * 1000)) == 60
