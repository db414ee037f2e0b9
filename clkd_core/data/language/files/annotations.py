"""Annotation files that others wrote: strict JSON, usable texts, and a count of what is not."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from clkd_core.data.keyframes import QuestionAnswer
from clkd_core.errors import DataError

MAX_TEXT_CHARS = 10_000
"""Longer questions and answers are left out: the longest in CODA-LM has about 3,000 characters,
and a runaway one would fill the memory of a whole batch."""

TOKEN = re.compile(r"[\w-]{1,64}", re.ASCII)
"""What names a scene, a keyframe or an image; it may become the name of a folder."""

_DAMAGED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Skips:
    """What was left out: how many by reason, and where the first of each was."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one thing that was left out."""
        self.counts[reason] += 1
        self.first.setdefault(reason, where)

    def lines(self, prefix: str = "") -> list[str]:
        """One line per reason that begins so, the most frequent first, each with a place."""
        return [
            f"left out {count}: {reason}; first {self.first[reason]}"
            for reason, count in self.counts.most_common()
            if reason.startswith(prefix)
        ]


def read_json(path: Path) -> Any:
    """Content of a JSON file that says everything once and in finite numbers.

    Raises:
        DataError: the file is missing, empty, cut off, no JSON, too deeply nested, names a key of
            one object twice (the first would be lost silently), or holds NaN or Infinity.
    """
    try:
        return json.loads(
            path.read_text("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path}: cannot be read as JSON: {err}") from err


def build_pair(
    kind: str, question: object, answer: object, skips: Skips, where: str
) -> QuestionAnswer | None:
    """A question with its answer; None, and counted, where one of the two cannot be used."""
    for what, text in (("question", question), ("answer", answer)):
        fault = _fault(text)
        if fault:
            skips.add(f"{what} {fault}", where)
            return None
    return QuestionAnswer(kind=kind, question=str(question).strip(), answer=str(answer).strip())


def shown(value: object) -> str:
    """A value from a file as it stands in a message: short, on one line, any character legal."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fault(text: object) -> str | None:
    if text is None or text == "":
        return "is missing"
    if not isinstance(text, str):
        return "is no text"
    if not text.strip():
        return "is missing"
    if len(text) > MAX_TEXT_CHARS:
        return f"has over {MAX_TEXT_CHARS} characters"
    return "has control characters or half of one" if _DAMAGED.search(text) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {shown(twice)} comes twice in one object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, expected finite numbers")
