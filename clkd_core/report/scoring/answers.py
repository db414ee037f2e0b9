"""``answers.jsonl``: what was asked, what is right, what was said; one JSON object a line."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import REGULAR
from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic

ANSWERS_FILE = "answers.jsonl"

DECISION = "decision"
"""Kind of the question for the meta-action; all other kinds are the data set's own."""


@dataclass(frozen=True, kw_only=True)
class TextAnswer:
    """One question about one keyframe."""

    sample_token: str
    """Of the keyframe; in a bag the stamp of its label."""
    scene: str
    case_name: str
    kind: str
    question: str
    reference: str
    """The right answer."""
    answer: str | None
    """What the model said; None where the keyframe has no usable image."""

    @property
    def corner(self) -> bool | None:
        """True on a corner case, False on a regular frame, None where nobody said."""
        return None if not self.case_name else self.case_name != REGULAR


def write_answers(path: Path, answers: Iterable[TextAnswer]) -> None:
    """Write them in the order given; the file appears whole or not at all."""
    lines = [json.dumps(asdict(answer)) + "\n" for answer in answers]
    write_text_atomic(path, "".join(lines))


def read_answers(path: Path) -> list[TextAnswer]:
    """Read what :func:`write_answers` wrote.

    Raises:
        DataError: the file cannot be read, or a line is no answer; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"cannot read {path}: {err}") from err
    lines = text.split("\n")  # splitlines would part a text at its other separators, too
    if lines.pop():
        raise DataError(f"{path} ends within a line, the file is truncated")
    return [_answer_from_line(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def answers_from_json(values: Sequence[Any], where: str) -> list[TextAnswer]:
    """From what ``json`` made of a list of them.

    Raises:
        DataError: one is no answer.
    """
    return [_answer_from_json(each, where) for each in values]


def _answer_from_line(line: str, where: str) -> TextAnswer:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise DataError(f"{where}: not JSON: {err}") from err
    return _answer_from_json(values, where)


def _answer_from_json(values: Any, where: str) -> TextAnswer:
    names = [field.name for field in fields(TextAnswer)]
    if not isinstance(values, dict) or not set(names) <= set(values):
        raise DataError(f"{where}: is no answer, expected an object with {', '.join(names)}")
    texts = {name: values[name] for name in names}
    wrong = [
        name
        for name, text in texts.items()
        if not isinstance(text, str) and not (name == "answer" and text is None)
    ]
    if wrong:
        raise DataError(f"{where}: {wrong[0]} is {texts[wrong[0]]!r}, expected text")
    return TextAnswer(**texts)
