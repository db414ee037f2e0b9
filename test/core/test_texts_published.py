"""The published text scores: the same as the package's own, or a word why there are none."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from driving_texts import random_sentences

from clkd_core.metrics.texts.published import (
    NotComputed,
    PublishedError,
    PublishedScores,
    published_scores,
    tokenize_published,
)

needs_package = pytest.mark.skipif(
    find_spec("pycocoevalcap") is None,
    reason="needs pycocoevalcap: pip install clkd-drive[text]",
)
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="needs Java: apt install default-jre-headless"
)

FakeJava = Callable[[str], None]


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    """Puts a shell script in the place of Java."""

    def place(script: str) -> None:
        program = tmp_path / "java"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return place


def reason_of(result: PublishedScores | NotComputed) -> str:
    assert isinstance(result, NotComputed)
    return result.reason


def test_without_java_and_the_package_both_are_named_with_the_lines_to_install_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("pycocoevalcap.")]:
        monkeypatch.delitem(sys.modules, name)  # what an earlier test imported
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = reason_of(published_scores(["a car"], ["a bus"]))
    assert "pip install clkd-drive[text]" in reason
    assert "apt install default-jre-headless" in reason


@needs_package
def test_without_java_only_java_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = reason_of(published_scores(["a car"], ["a bus"]))
    assert reason == "needs Java (apt install default-jre-headless)"
    with pytest.raises(PublishedError, match="default-jre-headless"):
        tokenize_published(["a"])


@needs_package
def test_a_program_that_hangs_is_stopped_and_gone_when_its_time_is_over(
    fake_java: FakeJava, tmp_path: Path
) -> None:
    fake_java(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    started = time.monotonic()
    reason = reason_of(published_scores(["a car"], ["a bus"], time_limit_s=2))
    assert "PTBTokenizer did not end within 2 s" in reason
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@needs_package
def test_a_program_that_fails_is_quoted(fake_java: FakeJava) -> None:
    fake_java("echo 'Error: no such jar' >&2; exit 3")
    reason = reason_of(published_scores(["a car"], ["a bus"]))
    assert "PTBTokenizer ended with 3: Error: no such jar" in reason


@needs_package
def test_lines_that_cannot_be_told_apart_are_no_scores(fake_java: FakeJava) -> None:
    fake_java("echo one line")
    assert "1 lines for 2 texts" in reason_of(published_scores(["a car"], ["a bus"]))


@needs_package
def test_a_meteor_that_says_no_number_is_no_score(fake_java: FakeJava) -> None:
    fake_java('case "$*" in *PTBTokenizer*) echo a; echo b;; *) echo none;; esac')
    assert "METEOR answered 'none" in reason_of(published_scores(["a"], ["b"]))


@needs_package
def test_java_that_cannot_be_started_is_no_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "java").write_bytes(b"\x7fELF no program")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Java cannot be started" in reason_of(published_scores(["a"], ["b"]))


@needs_package
def test_a_text_that_would_take_hours_is_refused_before_anything_starts(
    fake_java: FakeJava,
) -> None:
    fake_java("exit 3")
    reason = reason_of(published_scores(["a", "car " * 1_000_000], ["a", ["b", "c"]]))
    assert "sample 1 has a text of 4000000 characters" in reason


@pytest.mark.parametrize(
    ("answers", "references"), [([], []), (["a"], []), (["a"], [[]]), (["a"], ["b", "c"])]
)
def test_samples_that_do_not_fit_are_refused(answers: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        published_scores(answers, references)


@needs_package
@needs_java
def test_every_text_keeps_its_line_whatever_is_in_it() -> None:
    texts = ["a\nb", "", "c\u2028d\x85e\x0bf\x0cg\rh", "\ud800 i", "|||", "\x00", " ", "🚗", "j"]
    tokens = tokenize_published(texts)
    assert tokens == [
        ["a", "b"],
        [],
        ["c", "d", "e", "f", "g", "h"],
        ["i"],
        ["|", "|", "|"],
        [],
        [],
        [],
        ["j"],
    ]


@needs_package
@needs_java
@pytest.mark.slow
def test_scores_are_those_of_the_packages_own_way() -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    first, second = random_sentences(1, 40), random_sentences(2, 40)
    answers = [f"{one} {other}" for one, other in zip(first, second, strict=True)]
    references = [
        [one, other][: 1 + number % 2]
        for number, (one, other) in enumerate(zip(first, second, strict=True))
    ]
    result = published_scores(answers, references)
    assert isinstance(result, PublishedScores)

    tokenizer = PTBTokenizer()
    right = {i: [{"caption": text} for text in texts] for i, texts in enumerate(references)}
    right = tokenizer.tokenize(right)
    said = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(answers)})
    assert result.bleu4 == pytest.approx(Bleu(4).compute_score(right, said, verbose=0)[0][3])
    assert result.rouge_l == pytest.approx(Rouge().compute_score(right, said)[0])
    assert result.meteor == pytest.approx(Meteor().compute_score(right, said)[0])
    assert result.count == 40
