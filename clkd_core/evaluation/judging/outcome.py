"""What a task came to, and its file: it appears whole or not at all, and says what it is of."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.frames import FrameRow, frames_from_text, text_from_frames
from clkd_core.report.scoring.answers import TextAnswer, answers_from_json

_FORMAT = 1
"""Raised when a change of the judging makes unfinished work of earlier versions unusable."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one task, all in the order of its frames."""

    rows: tuple[FrameRow, ...]
    """Of the student."""
    blank: tuple[FrameRow, ...] = ()
    """The labelled frames on black images."""
    shuffled: tuple[FrameRow, ...] = ()
    """The labelled frames on another keyframe's images."""
    answers: tuple[TextAnswer, ...] = ()
    """What was asked and said; of each frame the decision first."""


class TaskFiles:
    """The finished tasks of a run folder, by fingerprint."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, fingerprint: str) -> Outcome | None:
        """What the task came to; None where it is not finished, or its file is damaged."""
        path = self._path(fingerprint)
        try:
            return _outcome_from_json(json.loads(path.read_text(encoding="utf-8")), fingerprint)
        except (OSError, ValueError, RecursionError, KeyError, TypeError, DataError):
            return None

    def save(self, fingerprint: str, name: str, outcome: Outcome) -> None:
        """Keep a finished task.

        Raises:
            DataError: the folder cannot be written.
        """
        values = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "task": name,
            "rows": text_from_frames(outcome.rows),
            "blank": text_from_frames(outcome.blank),
            "shuffled": text_from_frames(outcome.shuffled),
            "answers": [asdict(answer) for answer in outcome.answers],
        }
        write_text_atomic(self._path(fingerprint), json.dumps(values) + "\n")

    def forget_others(self, fingerprints: Iterable[str]) -> None:
        """Remove what belongs to none of these tasks: earlier inputs, half-written files."""
        kept = {self._path(fingerprint).name for fingerprint in fingerprints}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in kept and path.suffix in (".json", ".part"):
                path.unlink(missing_ok=True)

    def _path(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint[:24]}.json"


def _outcome_from_json(values: dict[str, Any], fingerprint: str) -> Outcome:
    if (values["format"], values["fingerprint"]) != (_FORMAT, fingerprint):
        raise DataError("of another task or version")
    tables = {
        name: tuple(frames_from_text(values[name], name)) for name in ("rows", "blank", "shuffled")
    }
    return Outcome(answers=tuple(answers_from_json(values["answers"], "answers")), **tables)
