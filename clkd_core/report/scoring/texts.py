"""How good what was said in words is: text scores by kind, and decisions read from words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clkd_core.errors import DataError
from clkd_core.metrics.decisions.meta_action import ActionScores, score_actions
from clkd_core.metrics.decisions.senna_compat import (
    SennaScores,
    explain_difference,
    read_generated,
    score_generated,
)
from clkd_core.metrics.frames import FrameRow
from clkd_core.metrics.intervals import Interval, mean_interval, resample_weights
from clkd_core.metrics.texts.published import NotComputed, PublishedScores, published_scores
from clkd_core.metrics.texts.scores import TextScores, score_texts
from clkd_core.report.scoring.answers import DECISION, TextAnswer
from clkd_core.report.scoring.cases import CASES, rows_of_case
from clkd_core.report.scoring.published import Publish
from clkd_core.types import MetaAction

ALL_KINDS = "all"
EXAMPLES = 12
"""Questions shown with their answers."""

ONLY_TOTALS = NotComputed("only by kind over all cases, and by case over all kinds")
"""Half a minute of Java for each: what is left out says so."""


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """Of the answers of one kind in one kind of case."""

    ours: TextScores
    published: PublishedScores | NotComputed
    unanswered: int
    """Questions about keyframes without a usable image; they count as an empty answer."""


@dataclass(frozen=True, kw_only=True)
class WrittenOtherwise:
    """A keyframe whose text is not the decision that one pass makes."""

    stamp_ns: int
    scene: str
    text: str
    """What greedy generation wrote."""
    decision: MetaAction
    """The most probable of the 20 answers."""
    decision_probability: float | None
    """Of the decision, among the 20; None where no probabilities were kept."""
    text_probability: float | None
    """Of the text, likewise; None also where it is none of the 20."""


@dataclass(frozen=True, kw_only=True)
class GeneratedDecisions:
    """The meta-action written word by word, of the labelled keyframes."""

    ours: ActionScores
    """Of the texts that are one of the 20 answers; others count as no answer."""
    senna: SennaScores
    """Of the same texts by the public script's counting."""
    reasons: tuple[str, ...]
    """Why the two differ."""
    agreement: Interval
    """Share of the keyframes whose text is the decision that one pass makes."""
    agreement_where_legal: Interval | None
    """The same among the texts that are one of the 20 answers; None where none is. Less than 1
    is no fault: word by word is not always the way to the most probable whole answer, and what
    bfloat16 rounds together either of the two may take."""
    otherwise: tuple[WrittenOtherwise, ...]
    """The keyframes whose text is not the decision, legal texts first."""


@dataclass(frozen=True, kw_only=True)
class RunTexts:
    """What a run said in words."""

    by_kind: Mapping[str, Mapping[str, TextResult]]
    """By kind of question, ``all`` first, and by case; empty where nothing was asked."""
    decisions: GeneratedDecisions | None
    """None where no keyframe is labelled, or nothing was generated."""
    examples: tuple[TextAnswer, ...]
    """A few, of every kind."""


def score_answers(
    answers: Sequence[TextAnswer],
    labelled: Sequence[FrameRow],
    seed: int,
    publish: Publish = published_scores,
) -> RunTexts:
    """Score what was said.

    Args:
        answers: of a run; the decisions among them in the order of ``labelled``.
        labelled: the student's labelled rows.
        seed: of the bootstrap.
        publish: computes the published scores.

    Raises:
        DataError: the decisions are not those of the labelled rows.
    """
    asked = [answer for answer in answers if answer.kind != DECISION]
    written = [answer for answer in answers if answer.kind == DECISION]
    kinds = sorted({answer.kind for answer in asked})
    groups = [(ALL_KINDS, asked)]
    groups += [(kind, [answer for answer in asked if answer.kind == kind]) for kind in kinds]
    return RunTexts(
        by_kind={kind: _by_case(kind, group, seed, publish) for kind, group in groups if group},
        decisions=_score_decisions(written, labelled, seed) if written else None,
        examples=choose_examples(asked),
    )


def choose_examples(asked: Sequence[TextAnswer], count: int = EXAMPLES) -> tuple[TextAnswer, ...]:
    """Some of every kind, spread evenly over the run, no exchange twice; rarer kinds first."""
    once = {(answer.kind, answer.question, answer.answer): answer for answer in reversed(asked)}
    kinds: dict[str, list[TextAnswer]] = {}
    for answer in reversed(once.values()):
        kinds.setdefault(answer.kind, []).append(answer)
    chosen: list[TextAnswer] = []
    left = count
    for number, group in enumerate(sorted(kinds.values(), key=len)):
        share = min(len(group), -(-left // (len(kinds) - number)))
        places = np.linspace(0, len(group) - 1, share).round().astype(int)
        chosen += [group[place] for place in places]
        left -= share
    return tuple(sorted(chosen, key=lambda answer: answer.kind))


def _by_case(
    kind: str, answers: Sequence[TextAnswer], seed: int, publish: Publish
) -> dict[str, TextResult]:
    results: dict[str, TextResult] = {}
    whole: TextResult | None = None
    for case in sorted(CASES, key="all".__ne__):  # the whole first: a part may be all of it
        part = rows_of_case(answers, case)
        if whole is not None and len(part) == len(answers):
            results[case] = whole
        elif part:
            is_total = ALL_KINDS in (kind, case)
            results[case] = _score(part, seed, publish if is_total else _leave_out)
        whole = results.get("all")
    return {case: results[case] for case in CASES if case in results}


def _leave_out(answers: Sequence[str], references: Sequence[str]) -> NotComputed:
    return ONLY_TOTALS


def _score(answers: Sequence[TextAnswer], seed: int, publish: Publish) -> TextResult:
    said = [answer.answer or "" for answer in answers]
    references = [answer.reference for answer in answers]
    return TextResult(
        ours=score_texts(said, references, clusters=[a.scene for a in answers], seed=seed),
        published=publish(said, references),
        unanswered=sum(answer.answer is None for answer in answers),
    )


def _score_decisions(
    written: Sequence[TextAnswer], labelled: Sequence[FrameRow], seed: int
) -> GeneratedDecisions:
    labels = [row.label for row in labelled if row.label is not None]
    if [answer.reference for answer in written] != [label.text for label in labels]:
        raise DataError(
            f"{len(written)} generated decisions do not belong to the {len(labels)} labelled rows"
        )
    texts = [answer.answer or "" for answer in written]
    read = [read_generated(text) for text in texts]
    clusters = [row.scene for row in labelled]
    ours = score_actions(labels, read, clusters=clusters, seed=seed)
    senna = score_generated(labels, texts)
    same = [a is not None and a == row.answer for a, row in zip(read, labelled, strict=True)]
    legal = [place for place, action in enumerate(read) if action is not None]
    return GeneratedDecisions(
        ours=ours,
        senna=senna,
        reasons=tuple(explain_difference(ours, senna)),
        agreement=_share(same, clusters, seed),
        agreement_where_legal=_share(
            [same[place] for place in legal], [clusters[place] for place in legal], seed
        )
        if legal
        else None,
        otherwise=_find_otherwise(texts, read, labelled),
    )


def _share(same: Sequence[bool], clusters: Sequence[str], seed: int) -> Interval:
    weights = resample_weights(clusters, seed=seed)
    return mean_interval(np.asarray(same, np.float64), weights)


def _find_otherwise(
    texts: Sequence[str], read: Sequence[MetaAction | None], labelled: Sequence[FrameRow]
) -> tuple[WrittenOtherwise, ...]:
    """Keyframes without a decision are no disagreement: nobody could see anything."""
    found = [
        WrittenOtherwise(
            stamp_ns=row.stamp_ns,
            scene=row.scene,
            text=text,
            decision=row.answer,
            decision_probability=_probability(row, row.answer),
            text_probability=_probability(row, action),
        )
        for text, action, row in zip(texts, read, labelled, strict=True)
        if row.answer is not None and action != row.answer
    ]
    return tuple(sorted(found, key=lambda one: read_generated(one.text) is None))


def _probability(row: FrameRow, action: MetaAction | None) -> float | None:
    if action is None or row.probabilities is None:
        return None
    return row.probabilities[action.index]
