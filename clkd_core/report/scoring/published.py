"""Published text scores, computed once: their Java programs take half a minute to start."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clkd_core.files import write_text_atomic
from clkd_core.metrics.texts.published import NotComputed, PublishedScores, published_scores

_log = logging.getLogger(__name__)

PUBLISHED_FILE = "published.json"

Publish = Callable[[Sequence[str], Sequence[str]], PublishedScores | NotComputed]
"""From answers and references to their scores, see :func:`published_scores`."""


class KeptScores:
    """A :data:`Publish` that keeps what it has computed in a file, by a hash of the texts."""

    def __init__(self, path: Path, publish: Publish = published_scores) -> None:
        """Use the file at ``path``; one that cannot be read is begun anew.

        Args:
            path: the file.
            publish: what computes.
        """
        self._path = path
        self._publish = publish
        self._kept = _read(path)

    def __call__(
        self, answers: Sequence[str], references: Sequence[str]
    ) -> PublishedScores | NotComputed:
        """Look the scores up, or compute and keep them.

        Raises:
            DataError: the file cannot be written.
        """
        texts = json.dumps([list(answers), list(references)])
        key = hashlib.sha256(texts.encode()).hexdigest()
        if key in self._kept:
            return self._kept[key]
        _log.info("published text scores of %d answers ...", len(answers))
        scores = self._publish(answers, references)
        if isinstance(scores, PublishedScores):
            self._kept[key] = scores
            values = {name: asdict(each) for name, each in self._kept.items()}
            write_text_atomic(self._path, json.dumps(values, indent=1) + "\n")
        return scores


def _read(path: Path) -> dict[str, PublishedScores]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): _scores(each) for key, each in values.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _scores(values: dict[str, Any]) -> PublishedScores:
    return PublishedScores(
        count=int(values["count"]),
        **{name: float(values[name]) for name in ("bleu4", "meteor", "rouge_l")},
    )
