"""What must be beaten without learning anything: the majority answer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.types import MetaAction


def majority_action(labels: Iterable[MetaAction]) -> MetaAction:
    """The most frequent label; the lower index where two are equally frequent.

    Raises:
        ValueError: there is no label.
    """
    counts = Counter(labels)
    if not counts:
        raise ValueError("no label to take the majority of")
    return max(counts, key=lambda action: (counts[action], -action.index))


def answer_by_majority(rows: Sequence[FrameRow], action: MetaAction) -> list[FrameRow]:
    """The same frames all answered with one action, in no time at all; nothing is planned."""
    return [
        replace(
            row.unanswered,
            answer=action,
            outcome=Outcome.ANSWERED,
            inference_ms=0.0,
            response_ms=0.0,
        )
        for row in rows
    ]
