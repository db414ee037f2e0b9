"""What Senna's public evaluation script computes from generated text, and why ours differs.

Source: ``eval_tools/senna_plan_cmd_eval_multi_img.py`` of the public Senna repository, its
counting loop reproduced with all that is odd about it:

- An action counts as said where its name occurs anywhere in the text, so one text can say
  several.
- A frame is a hit where the label's speed and path both occur in the text.
- An action's true positives are the texts that say it and *the label's* action of the same half;
  what else they say does not matter.
- RIGHT_CHANGE and LEFT_CHANGE have no F1; an action that nobody says or has gets 0; there is no
  macro-F1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.types import META_ACTIONS, MetaAction, PathAction, SpeedAction

F1_PATHS = (PathAction.RIGHT_TURN, PathAction.LEFT_TURN, PathAction.STRAIGHT)
"""The path actions that the public script has an F1 for."""

_BY_TEXT: Mapping[str, MetaAction] = MappingProxyType({a.text: a for a in META_ACTIONS})
_NAMES = (*(speed.name for speed in SpeedAction), *(path.name for path in PathAction))


@dataclass(frozen=True, kw_only=True)
class SennaScores:
    """The public script's numbers over N texts, and what our strict reading finds in them."""

    frames: int
    """N."""
    hits: int
    """Texts in which both names of the label occur."""
    f1: Mapping[str, float]
    """By the name of the action; the seven that the script prints, 0..1, never NaN."""
    by_label: Mapping[MetaAction, tuple[int, int]]
    """Frames and hits of each label that occurs, in the order of the 20."""
    readable: int
    """Texts that :func:`read_generated` reads as an action."""
    readable_hits: int
    """Of those, how many are the label."""
    several: int
    """Texts that name more than one speed action or more than one path action."""

    @property
    def accuracy(self) -> float:
        """Share of hits, 0..1; the script prints it in per cent as "Planning Accuracy"."""
        return self.hits / self.frames


def read_generated(text: str) -> MetaAction | None:
    """Our own strict reading: the whole text is one of the 20 answers, or it is no answer.

    White space around the text is ignored, nothing else is.
    """
    return _BY_TEXT.get(text.strip())


def score_generated(labels: Sequence[MetaAction], texts: Sequence[str]) -> SennaScores:
    """Score generated texts exactly as Senna's public script does.

    Time is linear in the length of the texts.

    Args:
        labels: (N,) the right actions, N >= 1.
        texts: (N,) what the model generated for each, as decoded.

    Raises:
        ValueError: no frame, or lengths that disagree.
    """
    if not labels or len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts to {len(labels)} labels, expected equally many")
    said = [frozenset(name for name in _NAMES if name in text) for text in texts]
    hits = [
        label.speed.name in names and label.path.name in names
        for label, names in zip(labels, said, strict=True)
    ]
    read = [read_generated(text) for text in texts]
    speeds, paths = [label.speed.name for label in labels], [label.path.name for label in labels]
    return SennaScores(
        frames=len(labels),
        hits=sum(hits),
        f1={speed.name: _f1(speed.name, speeds, said) for speed in SpeedAction}
        | {path.name: _f1(path.name, paths, said) for path in F1_PATHS},
        by_label=_by_label(labels, hits),
        readable=sum(action is not None for action in read),
        readable_hits=sum(a == label for a, label in zip(read, labels, strict=True)),
        several=sum(_names_several(names) for names in said),
    )


def _f1(name: str, labels: Sequence[str], said: Sequence[frozenset[str]]) -> float:
    """F1 of one action; the script's true positives ask for the label's name, not for this one."""
    claims = [label in names for label, names in zip(labels, said, strict=True) if name in names]
    true = sum(claims)
    missed = sum(
        label == name and name not in names for label, names in zip(labels, said, strict=True)
    )
    precision = true / len(claims) if claims else 0.0
    recall = true / (true + missed) if true + missed else 0.0
    return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


def _by_label(
    labels: Sequence[MetaAction], hits: Sequence[bool]
) -> dict[MetaAction, tuple[int, int]]:
    counts = {action: [0, 0] for action in META_ACTIONS}
    for label, hit in zip(labels, hits, strict=True):
        counts[label][0] += 1
        counts[label][1] += hit
    return {action: (total, right) for action, (total, right) in counts.items() if total}


def _names_several(names: frozenset[str]) -> bool:
    speeds = sum(speed.name in names for speed in SpeedAction)
    return speeds > 1 or len(names) - speeds > 1


def explain_difference(ours: ActionScores, senna: SennaScores) -> list[str]:
    """Say in words, with this run's numbers, why our scores and the public script's differ.

    Args:
        ours: of the same frames; usually of the answers that :func:`read_generated` reads.
        senna: of the texts.

    Returns:
        Sentences, one reason each; the last one is about macro-F1, which only we compute.

    Raises:
        ValueError: the two are not about equally many frames.
    """
    if ours.frames != senna.frames:
        raise ValueError(f"ours has {ours.frames} frames, the texts are {senna.frames}")
    return [*_about_accuracy(ours, senna), *_about_f1(ours, senna), _about_macro(ours, senna)]


def _about_accuracy(ours: ActionScores, senna: SennaScores) -> list[str]:
    said = f"Accuracy is {ours.accuracy.value:.2%} by ours, {senna.accuracy:.2%} by Senna's script"
    reasons = []
    if lenient := senna.hits - senna.readable_hits:
        reasons.append(
            f"{said}: {lenient} of {senna.frames} texts contain both names of the label without "
            f"being that answer; {senna.frames - senna.readable} texts are none of the 20 answers "
            f"and count as wrong with us, {senna.several} name several actions of one kind."
        )
    read = senna.readable_hits / senna.frames
    if not math.isclose(ours.accuracy.value, read, abs_tol=1e-9):
        reasons.append(
            f"{said}, and {read:.2%} of the texts, read strictly, are the label: ours was scored "
            "from other answers than these texts."
        )
    return reasons or [f"{said}: they agree."]


def _about_f1(ours: ActionScores, senna: SennaScores) -> list[str]:
    own = {a.name: f1 for a, f1 in (*ours.speed_f1.items(), *ours.path_f1.items())}
    counted = [name for name in senna.f1 if math.isnan(own[name])]
    other = [
        f"{name} {own[name]:.3f} and {f1:.3f}"
        for name, f1 in senna.f1.items()
        if not math.isnan(own[name]) and not math.isclose(own[name], f1, abs_tol=5e-4)
    ]
    left_out = [
        f"{path.name} ({ours.path_confusion[path].sum()} labels, {ours.path_f1[path]:.3f} by ours)"
        for path in PathAction
        if path not in F1_PATHS and ours.path_confusion[path].any()
    ]
    reasons = []
    if other:
        reasons.append(
            f"F1 by ours and by Senna's script: {', '.join(other)}. The script counts a text that "
            "names an action as right for it whenever the label's action is named too, and texts "
            "that are no answer as far as names occur in them."
        )
    if counted:
        values = ", ".join(f"{name} {senna.f1[name]:.3f}" for name in counted)
        reasons.append(
            f"No label is one of these; the script gives them an F1 all the same, {values}."
        )
    if left_out:
        reasons.append(f"The script has no F1 for {' and '.join(left_out)}.")
    return reasons


def _about_macro(ours: ActionScores, senna: SennaScores) -> str:
    kinds = [
        sum(not math.isnan(f1) for f1 in scores.values())
        for scores in (ours.speed_f1, ours.path_f1)
    ]
    return (
        f"Macro-F1 {ours.macro_f1.value:.3f} is ours alone: the mean of the speed macro over the "
        f"{kinds[0]} and the path macro over the {kinds[1]} actions that occur in the labels. "
        f"The plain mean of the script's seven F1 is {np.mean(list(senna.f1.values())):.3f}."
    )
