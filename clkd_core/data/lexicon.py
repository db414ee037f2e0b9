"""Words of driving English, so that a tokenizer knows more than one data set's few questions.

``lexicon.txt`` holds them in groups; here they become texts as they stand in a conversation.
Byte-pair encoding merges what comes often first, so how often a text comes back here is how
early its words become pieces.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

LEXICON = Path(__file__).with_name("lexicon.txt")

_HEADING = re.compile(r"\[(\d+)\] (.+)")
_WHOLE_NUMBERS = 201
_WHOLE_WEIGHT = 8
_IMAGE_WIDTH, _IMAGE_HEIGHT = 1600, 900  # pixels of nuScenes, in which DriveLM's tags count
_TAGS = 3200


@dataclass(frozen=True)
class WordGroup:
    """Entries that come up about equally often."""

    heading: str
    weight: int
    """How often an entry counts, >= 1."""
    words: tuple[str, ...]
    phrases: tuple[str, ...]


def load_lexicon(path: Path = LEXICON) -> tuple[WordGroup, ...]:
    """The groups of a lexicon file, in its order; the file's first lines say how it is written.

    Raises:
        DataError: the file cannot be read, or its words come before the first heading.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: the lexicon cannot be read: {err}") from err
    headings: list[tuple[str, int]] = []
    bodies: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if heading := _HEADING.fullmatch(line):
            headings.append((heading[2], max(1, int(heading[1]))))
            bodies.append([])
        elif not bodies:
            raise DataError(f"{path}:{number}: {line[:40]!r} comes before the first [weight] line")
        else:
            bodies[-1].append(line)
    return tuple(
        WordGroup(name, weight, tuple(_words(body)), tuple(_phrases(body)))
        for (name, weight), body in zip(headings, bodies, strict=True)
    )


def lexicon_texts() -> list[str]:
    """Every entry as it stands in a sentence and at its beginning, then numbers and object tags.

    An entry comes 2 x weight times with a space before it and weight / 4 times, at least twice,
    with a capital as well: most words stand inside of a sentence, and a pair of pieces that comes
    only once merges nowhere.

    Raises:
        DataError: ``lexicon.txt`` is missing or damaged.
    """
    texts: list[str] = []
    for group in load_lexicon():
        entries = (*group.words, *group.phrases)
        inside = "".join(f" {entry}" for entry in entries)
        first = "".join(f" {entry[0].upper()}{entry[1:]}" for entry in entries)
        texts += [inside] * (2 * group.weight) + [first] * max(2, group.weight // 4)
    return [*texts, *_number_texts(), *_tag_texts()]


def _words(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if "," not in line:
            yield from line.split()


def _phrases(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if "," in line:
            yield from (phrase.strip() for phrase in line.split(","))


def _number_texts() -> list[str]:
    """Counts and speeds: ``7``, ``200``, ``3.5``, ``12.0 m/s``."""
    whole = "".join(f" {number}" for number in range(_WHOLE_NUMBERS))
    tenths = "".join(f" {number / 10}" for number in range(0, 10 * _WHOLE_NUMBERS, 7))
    speeds = "".join(f" {number / 2} m/s" for number in range(120))
    return [whole] * _WHOLE_WEIGHT + [tenths, speeds]


def _tag_texts() -> list[str]:
    """DriveLM's object tags over all of an image, so that coordinates split into digit groups."""
    texts = []
    for number in range(_TAGS):
        camera = CAMERAS[number % len(CAMERAS)]
        # 7919 and 3571 are primes: the points and their tenths spread evenly, none twice.
        x = number * 7919 % (10 * _IMAGE_WIDTH) / 10
        y = number * 3571 % (10 * _IMAGE_HEIGHT) / 10
        texts.append(f" <c{1 + number % 9},{camera},{x},{y}>")
    return texts
