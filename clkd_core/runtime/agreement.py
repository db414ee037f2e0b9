"""Whether a live run decided as a direct one does, keyframe by keyframe, and why where it did not.

The student is the same, and so are its images: a live answer may differ where it came late or not
at all, or where an input did not reach the node in time and the node said so. Anything else is
unexplained, and a fault of ours.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clkd_core.errors import DataError
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.types import CAMERAS, MetaAction

_INPUTS = (*CAMERAS, "odometry", "route command")
"""What an answer's reasons name when it is missing."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A keyframe that was answered otherwise, or only once."""

    stamp_ns: int
    scene: str
    live: MetaAction | None
    """None: no answer."""
    direct: MetaAction | None
    """As above."""
    outcome: Outcome
    """Of the live answer."""
    explanation: str
    """Why the two differ; empty where nothing explains it."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Live against direct, over the labelled keyframes of a run."""

    frames: int
    same: int
    """Keyframes with the same action, or with none at all, whenever it came."""
    late: int
    """Of ``same``: those that came late."""
    differences: tuple[Difference, ...]
    """All others, by stamp."""
    largest_gap: float
    """Largest difference of one action's probability where both had the same inputs; 0.0 of none.
    Not 0.0: two threads, precisions or devices rounded differently."""

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """What should not be."""
        return tuple(one for one in self.differences if not one.explanation)

    @property
    def by_outcome(self) -> Mapping[str, int]:
        """Differing keyframes by what became of them live; outcomes without any are absent."""
        return Counter(one.outcome.value for one in self.differences)


def compare_runs(live: Sequence[FrameRow], direct: Sequence[FrameRow]) -> Agreement:
    """Compare the labelled keyframes of a live run with the direct answers to them.

    Args:
        live: rows of a live run; those without a label are passed over.
        direct: the same keyframes answered without a transport, in any order.

    Raises:
        DataError: the two are not of the same keyframes.
    """
    direct_of = {row.stamp_ns: row for row in direct if row.label is not None}
    labelled = sorted((row for row in live if row.label is not None), key=lambda r: r.stamp_ns)
    missing = [row.stamp_ns for row in labelled if row.stamp_ns not in direct_of]
    surplus = sorted(direct_of.keys() - {row.stamp_ns for row in labelled})
    if missing or surplus:
        raise DataError(
            f"live and direct answers are not of the same keyframes: {len(missing)} only live, "
            f"{len(surplus)} only direct, the first {(missing or surplus)[0]}"
        )
    pairs = [(row, direct_of[row.stamp_ns]) for row in labelled]
    same = [one for one, other in pairs if one.answer == other.answer]
    return Agreement(
        frames=len(pairs),
        same=len(same),
        late=sum(row.outcome is Outcome.LATE for row in same),
        differences=tuple(
            _difference(*pair) for pair in pairs if pair[0].answer != pair[1].answer
        ),
        largest_gap=max((_gap(*pair) for pair in pairs), default=0.0),
    )


def describe_agreement(agreement: Agreement) -> str:
    """One line: ``live answers as direct in 219 of 221 keyframes; 2 dropped; 0 unexplained``."""
    explained = Counter(
        one.outcome.value if one.outcome is not Outcome.ANSWERED else "with an input missing"
        for one in agreement.differences
        if one.explanation
    )
    parts = [f"live answers as direct in {agreement.same} of {agreement.frames} keyframes"]
    parts += [f"{count} {words}" for words, count in sorted(explained.items())]
    return "; ".join([*parts, f"{len(agreement.unexplained)} unexplained"])


def _difference(live: FrameRow, direct: FrameRow) -> Difference:
    return Difference(
        stamp_ns=live.stamp_ns,
        scene=live.scene,
        live=live.answer,
        direct=direct.answer,
        outcome=live.outcome,
        explanation=_explain(live, direct),
    )


def _explain(live: FrameRow, direct: FrameRow) -> str:
    if live.outcome is not Outcome.ANSWERED:
        return "; ".join(filter(None, (live.outcome.value, live.reason)))
    lost = [name for name in _missing(live) if name not in _missing(direct)]
    return f"live without {', '.join(lost)}" if lost else ""


def _missing(row: FrameRow) -> list[str]:
    """Inputs that an answer says it was made without, or with a damaged one."""
    return [name for name in _INPUTS if re.search(rf"\b{name}\b", row.reason)]


def _gap(live: FrameRow, direct: FrameRow) -> float:
    one, other = live.probabilities, direct.probabilities
    if one is None or other is None or live.reason != direct.reason:
        return 0.0
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
