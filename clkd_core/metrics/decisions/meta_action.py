"""How often the meta-action is right: accuracy, F1 per action, macro-F1, confusion.

A frame without an answer counts as wrong everywhere: it is missed by its label's action and
claimed by none.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from clkd_core.metrics.intervals import (
    RESAMPLES,
    Interval,
    interval_from_replicates,
    replicate_sums,
)
from clkd_core.types import MetaAction, PathAction, SpeedAction


@dataclass(frozen=True, kw_only=True)
class ActionScores:
    """Of N labelled frames."""

    frames: int
    """N."""
    accuracy: Interval
    """Share of frames whose speed and path are both right."""
    macro_f1: Interval
    """Mean of the speed macro and the path macro."""
    speed_f1: Mapping[SpeedAction, float]
    """F1 of each speed action; NaN where no label has it."""
    path_f1: Mapping[PathAction, float]
    """F1 of each path action; NaN where no label has it."""
    speed_confusion: NDArray[np.int64]
    """(4, 5) frames by label and answer; the last column counts frames without an answer."""
    path_confusion: NDArray[np.int64]
    """(5, 6) likewise."""


def score_actions(
    labels: Sequence[MetaAction],
    answers: Sequence[MetaAction | None],
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> ActionScores:
    """Compare answers with labels.

    Args:
        labels: (N,) the right actions, N >= 1.
        answers: (N,) None where there was no answer.
        clusters: (N,) the drive of each frame, for the intervals; None draws single frames.
        seed: of the bootstrap.
        resamples: number of bootstrap replicates.

    Raises:
        ValueError: no frame, or lengths that disagree.
    """
    if not labels or len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers to {len(labels)} labels, expected equally many")
    if clusters is not None and len(clusters) != len(labels):
        raise ValueError(f"{len(clusters)} clusters for {len(labels)} labels")
    speed = _one_hot(
        [a.speed for a in labels], [None if a is None else a.speed for a in answers], SpeedAction
    )
    path = _one_hot(
        [a.path for a in labels], [None if a is None else a.path for a in answers], PathAction
    )
    right = np.array([answer == label for label, answer in zip(labels, answers, strict=True)])
    accuracy, macro_f1 = _replicates(right, speed, path, clusters, seed, resamples)
    return ActionScores(
        frames=len(labels),
        accuracy=interval_from_replicates(float(right.mean()), accuracy),
        macro_f1=interval_from_replicates(
            float(_mean_macro(speed.sum(axis=0), path.sum(axis=0))), macro_f1
        ),
        speed_f1=dict(zip(SpeedAction, compute_f1(speed.sum(axis=0)).tolist(), strict=True)),
        path_f1=dict(zip(PathAction, compute_f1(path.sum(axis=0)).tolist(), strict=True)),
        speed_confusion=speed.sum(axis=0).astype(np.int64),
        path_confusion=path.sum(axis=0).astype(np.int64),
    )


def compute_f1(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each action, 2 TP / (2 TP + FP + FN).

    Args:
        confusion: (..., K, K + 1) counts by label and answer, last column without an answer.

    Returns:
        (..., K); NaN where no label has the action, however often it was answered.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)  # the shorter side: K, not K + 1
    labelled = confusion.sum(axis=-1)
    claimed = confusion.sum(axis=-2)[..., :-1]
    with np.errstate(invalid="ignore"):  # 0 / 0 where an action is neither labelled nor claimed
        f1 = 2 * hits / (labelled + claimed)
    return np.where(labelled > 0, f1, np.nan)


def compute_macro_f1(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean F1 over the actions that occur in the labels.

    Args:
        confusion: as in :func:`compute_f1`.

    Returns:
        (...); NaN where there is no label at all.
    """
    f1 = compute_f1(confusion)
    known = ~np.isnan(f1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, f1, 0.0).sum(axis=-1) / known.sum(axis=-1))


def _replicates(
    right: NDArray[np.bool_],
    speed: NDArray[np.float64],
    path: NDArray[np.float64],
    clusters: Sequence[Hashable] | None,
    seed: int,
    resamples: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R,) accuracy and (R,) macro-F1 of each bootstrap replicate."""
    frames = len(right)
    cells = [speed.reshape(frames, -1), path.reshape(frames, -1)]
    values = np.column_stack([right, np.ones(frames), *cells])
    sums = replicate_sums(values, clusters, seed=seed, resamples=resamples)
    speed_sums, path_sums = np.split(sums[:, 2:], [cells[0].shape[1]], axis=1)
    macro = _mean_macro(
        speed_sums.reshape(-1, *speed.shape[1:]), path_sums.reshape(-1, *path.shape[1:])
    )
    return sums[:, 0] / sums[:, 1], macro


def _mean_macro(speed: NDArray[np.float64], path: NDArray[np.float64]) -> NDArray[np.float64]:
    return (compute_macro_f1(speed) + compute_macro_f1(path)) / 2


def _one_hot(
    labels: Sequence[int], answers: Sequence[int | None], actions: type[IntEnum]
) -> NDArray[np.float64]:
    """(N, K, K + 1) with a single one per frame: its cell of the confusion matrix."""
    cells = np.zeros((len(labels), len(actions), len(actions) + 1), dtype=np.float64)
    for frame, (label, answer) in enumerate(zip(labels, answers, strict=True)):
        cells[frame, label, len(actions) if answer is None else answer] = 1
    return cells
