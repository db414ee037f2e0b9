"""What must be beaten without learning anything: the majority answer."""

from collections import Counter
from collections.abc import Iterable

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
