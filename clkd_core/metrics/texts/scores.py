"""BLEU-4 and ROUGE-L of generated answers as ``pycocoevalcap`` computes them, without Java.

BLEU is Papineni et al. 2002 over the whole set: n-gram precisions clipped by the references, their
geometric mean, and a penalty where the answers are shorter than the references closest to them
in length. ROUGE-L is Lin 2004: the longest common subsequence, precision and recall weighed by
beta. Both on the tokens of :mod:`clkd_core.metrics.texts.tokens`.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.metrics.intervals import (
    RESAMPLES,
    Interval,
    interval_from_replicates,
    replicate_sums,
)
from clkd_core.metrics.texts.tokens import tokenize

References = Sequence[str] | Sequence[Sequence[str]]
"""(N,) the right answer of each sample, or several that are all right."""

ORDER = 4
"""BLEU-4: n-grams of one to four tokens."""
ROUGE_BETA = 1.2
"""Weight of recall over precision in the published captioning scores."""

# pycocoevalcap's constants against dividing by nothing; they make a set without any matching
# n-gram score nearly, not exactly, zero.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Of N answers; every number 0..1, higher is better."""

    count: int
    """N."""
    bleu4: Interval
    """Of the whole set, not a mean over answers."""
    rouge_l: Interval
    """Mean over the answers."""
    exact: Interval
    """Share of answers equal to a reference; only white space may differ."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextMeasures:
    """What each answer adds to the scores; two systems on the same samples are compared by it."""

    bleu_counts: NDArray[np.float64]
    """(N, 10) matching n-grams for n = 1..4, the answer's n-grams for n = 1..4, the answer's
    length, the length of the reference closest to it; see :func:`bleu4_from_counts`."""
    rouge_l: NDArray[np.float64]
    """(N,) 0..1."""
    exact: NDArray[np.bool_]
    """(N,)."""


def score_texts(
    answers: Sequence[str],
    references: References,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> TextScores:
    """Score answers, with 95 % bootstrap intervals.

    Args:
        answers: (N,) N >= 1; an empty answer is one that says nothing.
        references: for each answer one text or several, at least one.
        clusters: (N,) the drive of each sample, for the intervals; None draws single samples.
        seed: of the bootstrap; all scores share one set of replicates.
        resamples: number of bootstrap replicates.

    Raises:
        ValueError: no answer, a sample without a reference, or lengths that disagree.
    """
    measures = measure_texts(answers, references)
    return score_measures(measures, clusters=clusters, seed=seed, resamples=resamples)


def score_measures(
    measures: TextMeasures,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> TextScores:
    """The scores of answers that have been measured; arguments as in :func:`score_texts`."""
    counts, count = measures.bleu_counts, len(measures.bleu_counts)
    values = np.column_stack([counts, measures.rouge_l, measures.exact, np.ones(count)])
    sums = replicate_sums(values, clusters, seed=seed, resamples=resamples)
    bleu = bleu4_from_counts(sums[:, : counts.shape[1]])
    rouge, exact = (sums[:, -3:-1] / sums[:, -1:]).T
    return TextScores(
        count=count,
        bleu4=interval_from_replicates(float(bleu4_from_counts(counts.sum(axis=0))), bleu),
        rouge_l=interval_from_replicates(float(measures.rouge_l.mean()), rouge),
        exact=interval_from_replicates(float(measures.exact.mean()), exact),
    )


def measure_texts(answers: Sequence[str], references: References) -> TextMeasures:
    """Measure each answer by itself; arguments and errors as in :func:`score_texts`."""
    if not answers or len(answers) != len(references):
        raise ValueError(
            f"{len(answers)} answers to {len(references)} references, expected equally many"
        )
    counts, rouge, exact = [], [], []
    for number, (answer, given) in enumerate(zip(answers, references, strict=True)):
        right = [given] if isinstance(given, str) else list(given)
        if not right:
            raise ValueError(f"sample {number} has no reference, expected at least one")
        tokens, right_tokens = tokenize(answer), [tokenize(text) for text in right]
        counts.append(_bleu_counts(tokens, right_tokens))
        rouge.append(_rouge_l(tokens, right_tokens))
        exact.append(any(answer.split() == text.split() for text in right))
    return TextMeasures(
        bleu_counts=np.array(counts, dtype=np.float64),
        rouge_l=np.array(rouge, dtype=np.float64),
        exact=np.array(exact, dtype=bool),
    )


def bleu4(answers: Sequence[str], references: References) -> float:
    """BLEU-4 of the whole set, 0..1; arguments and errors as in :func:`score_texts`.

    A set in which no answer has four tokens gets at most 0.03, however right it is.
    """
    return float(bleu4_from_counts(measure_texts(answers, references).bleu_counts.sum(axis=0)))


def rouge_l(answers: Sequence[str], references: References) -> float:
    """Mean ROUGE-L, 0..1; arguments and errors as in :func:`score_texts`."""
    return float(measure_texts(answers, references).rouge_l.mean())


def bleu4_from_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-4 of sets of answers from the sums of their counts.

    Args:
        counts: (..., 10) sums of :attr:`TextMeasures.bleu_counts` over the answers of a set.

    Returns:
        (...) 0..1.
    """
    matching, possible = counts[..., :ORDER], counts[..., ORDER : 2 * ORDER]
    length, closest = counts[..., -2], counts[..., -1]
    precision = np.prod((matching + _TINY) / (possible + _SMALL), axis=-1) ** (1 / ORDER)
    ratio = (length + _TINY) / (closest + _SMALL)
    # min(1, .): an answer longer than its reference is punished by its precision alone.
    return np.asarray(precision * np.exp(1 - 1 / np.minimum(ratio, 1)))


def _bleu_counts(tokens: Sequence[str], right_tokens: Sequence[Sequence[str]]) -> list[int]:
    answer, *references = (_words(text) for text in (tokens, *right_tokens))
    matching = []
    for order in range(1, ORDER + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= Counter(_ngrams(reference, order))
        # Only what can match is counted, so an endless answer needs no endless memory.
        found = Counter(gram for gram in _ngrams(answer, order) if gram in most)
        matching.append(sum(min(number, most[gram]) for gram, number in found.items()))
    possible = [max(0, len(answer) - order + 1) for order in range(1, ORDER + 1)]
    lengths = [len(reference) for reference in references]
    closest = min(lengths, key=lambda length: (abs(length - len(answer)), length))
    return [*matching, *possible, len(answer), closest]


def _words(tokens: Sequence[str]) -> list[str]:
    """Tokens of several words taken apart."""
    return [word for token in tokens for word in token.split()]


def _ngrams(tokens: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def _rouge_l(answer: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Best precision and best recall over the references, which need not be the same one's.

    A text without tokens counts as one empty token, as published: two of them agree.
    """
    tokens = answer or [""]
    common = [
        (_longest_common(tokens, right), len(right))
        for right in (reference or [""] for reference in references)
    ]
    precision = max(length for length, _ in common) / len(tokens)
    recall = max(length / size for length, size in common)
    if precision == 0:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    One bit per token of the shorter text (Hyyro 2004, "Bit-parallel LCS-length computation
    revisited"): a zero in ``row`` marks where the length grows by one.
    """
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    places: dict[str, int] = {}
    for place, token in enumerate(shorter):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(shorter)) - 1
    row = full
    for token in longer:
        if token in places:
            matches = row & places[token]
            row = ((row + matches) | (row - matches)) & full
    return len(shorter) - row.bit_count()
