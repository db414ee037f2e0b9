"""Scores of meta-actions: against counting by hand, and at their edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.decisions.meta_action import compute_f1, compute_macro_f1, score_actions
from clkd_core.metrics.intervals import resample_weights
from clkd_core.types import META_ACTIONS, MetaAction, PathAction, SpeedAction

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)

pairs = st.lists(
    st.tuples(st.sampled_from(META_ACTIONS), st.none() | st.sampled_from(META_ACTIONS)),
    min_size=1,
    max_size=40,
)


def slow_f1(labels: list[int], answers: list[int | None], action: int) -> float:
    both = sum(a == b == action for a, b in zip(labels, answers, strict=True))
    precision = both / answers.count(action) if action in answers else 0.0
    recall = both / labels.count(action)
    return 2 * precision * recall / (precision + recall) if both else 0.0


def slow_macro(labels: list[int], answers: list[int | None]) -> float:
    return float(np.mean([slow_f1(labels, answers, action) for action in sorted(set(labels))]))


@settings(max_examples=60, deadline=None)
@given(pairs=pairs)
def test_scores_agree_with_counting(pairs: list[tuple[MetaAction, MetaAction | None]]) -> None:
    labels = [label for label, _ in pairs]
    answers = [answer for _, answer in pairs]
    scores = score_actions(labels, answers, resamples=20)
    assert scores.accuracy.value == pytest.approx(
        sum(a == b for a, b in zip(labels, answers, strict=True)) / len(pairs)
    )
    speed = slow_macro([a.speed for a in labels], [a.speed if a else None for a in answers])
    path = slow_macro([a.path for a in labels], [a.path if a else None for a in answers])
    assert scores.macro_f1.value == pytest.approx((speed + path) / 2)
    assert 0 <= scores.macro_f1.low <= scores.macro_f1.high <= 1
    for action, f1 in scores.path_f1.items():
        if action in {label.path for label in labels}:
            truth = [a.path for a in labels]
            given = [a.path if a else None for a in answers]
            assert f1 == pytest.approx(slow_f1(truth, given, action))
        else:
            assert math.isnan(f1)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.sampled_from(META_ACTIONS), min_size=1, max_size=30))
def test_right_answers_score_one_and_none_at_all_scores_zero(labels: list[MetaAction]) -> None:
    assert score_actions(labels, labels, resamples=5).macro_f1.value == 1.0
    assert score_actions(labels, [None] * len(labels), resamples=5).macro_f1.value == 0.0


@settings(max_examples=30, deadline=None)
@given(pairs=pairs, data=st.data())
def test_the_order_of_frames_does_not_matter(
    pairs: list[tuple[MetaAction, MetaAction | None]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(pairs))
    first, second = (
        score_actions([p[0] for p in some], [p[1] for p in some], resamples=5)
        for some in (pairs, shuffled)
    )
    assert first.macro_f1.value == pytest.approx(second.macro_f1.value)
    np.testing.assert_array_equal(first.speed_confusion, second.speed_confusion)


@settings(max_examples=40, deadline=None)
@given(
    pairs=pairs,
    speeds=st.permutations(list(SpeedAction)),
    paths=st.permutations(list(PathAction)),
)
def test_other_names_for_the_actions_change_no_score(
    pairs: list[tuple[MetaAction, MetaAction | None]],
    speeds: list[SpeedAction],
    paths: list[PathAction],
) -> None:
    def renamed(action: MetaAction | None) -> MetaAction | None:
        return action and MetaAction(speeds[action.speed], paths[action.path])

    labels, answers = [label for label, _ in pairs], [answer for _, answer in pairs]
    scores = score_actions(labels, answers, resamples=10)
    others = score_actions(
        [MetaAction(speeds[label.speed], paths[label.path]) for label in labels],
        [renamed(answer) for answer in answers],
        resamples=10,
    )
    assert others.accuracy == scores.accuracy
    assert others.macro_f1.value == pytest.approx(scores.macro_f1.value)
    assert others.macro_f1.high == pytest.approx(scores.macro_f1.high)
    for action in PathAction:
        assert others.path_f1[paths[action]] == pytest.approx(scores.path_f1[action], nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs=pairs, data=st.data())
def test_saying_nothing_never_makes_an_answer_right(
    pairs: list[tuple[MetaAction, MetaAction | None]], data: st.DataObject
) -> None:
    labels, answers = [label for label, _ in pairs], [answer for _, answer in pairs]
    number = data.draw(st.integers(0, len(pairs) - 1))
    silent = [*answers[:number], None, *answers[number + 1 :]]
    before, after = (score_actions(labels, some, resamples=5) for some in (answers, silent))
    assert after.accuracy.value <= before.accuracy.value
    # In place of a wrong answer silence does raise F1: it claims no action falsely.
    if answers[number] == labels[number]:
        assert after.macro_f1.value <= before.macro_f1.value
        assert after.accuracy.value < before.accuracy.value


@settings(max_examples=30, deadline=None)
@given(pairs=pairs, seed=st.integers(0, 5))
def test_the_same_seed_gives_the_same_scores_between_zero_and_one(
    pairs: list[tuple[MetaAction, MetaAction | None]], seed: int
) -> None:
    labels, answers = [label for label, _ in pairs], [answer for _, answer in pairs]
    first, again = (score_actions(labels, answers, seed=seed, resamples=20) for _ in range(2))
    assert (first.accuracy, first.macro_f1) == (again.accuracy, again.macro_f1)
    for interval in (first.accuracy, first.macro_f1):
        assert 0 <= interval.low <= interval.high <= 1
    assert all(math.isnan(f1) or 0 <= f1 <= 1 for f1 in first.speed_f1.values())


def test_intervals_are_those_of_scoring_each_replicate_by_itself() -> None:
    rng = np.random.default_rng(6)
    labels, answers = ([META_ACTIONS[i] for i in rng.integers(0, 20, 60)] for _ in range(2))
    answers = [a if i % 3 else b for i, (a, b) in enumerate(zip(answers, labels, strict=True))]
    clusters = [number // 6 for number in range(60)]
    scores = score_actions(labels, answers, clusters=clusters, seed=2, resamples=50)
    macros = []
    for row in resample_weights(clusters, seed=2, resamples=50).astype(int):
        drawn = np.repeat(np.arange(60), row)
        part = score_actions([labels[i] for i in drawn], [answers[i] for i in drawn], resamples=1)
        macros.append(part.macro_f1.value)
    assert scores.macro_f1.low == pytest.approx(np.quantile(macros, 0.025))
    assert scores.macro_f1.high == pytest.approx(np.quantile(macros, 0.975))


def test_the_majority_answer_has_high_accuracy_and_low_macro_f1() -> None:
    labels = [KEEP] * 8 + [STOP] * 1 + [LEFT] * 1
    scores = score_actions(labels, [KEEP] * 10)
    assert scores.accuracy.value == pytest.approx(0.8)
    speed = (2 * 9 / (2 * 9 + 1)) / 2  # KEEP 9 of 10, STOP never found
    assert scores.macro_f1.value == pytest.approx((speed + speed) / 2)


def test_an_action_that_no_label_has_does_not_enter_the_macro() -> None:
    scores = score_actions([KEEP, KEEP], [KEEP, LEFT])
    assert math.isnan(scores.path_f1[PathAction.LEFT_TURN])
    assert scores.macro_f1.value == pytest.approx((1.0 + 2 / 3) / 2)


def test_confusion_counts_by_label_row_and_answer_column_with_none_last() -> None:
    scores = score_actions([KEEP, KEEP, STOP, LEFT], [KEEP, STOP, None, LEFT])
    expected = np.zeros((4, 5), int)
    expected[0, 0], expected[0, 3], expected[3, 4] = 2, 1, 1
    np.testing.assert_array_equal(scores.speed_confusion, expected)
    assert scores.path_confusion.shape == (5, 6)
    assert scores.path_confusion.sum() == 4


def test_f1_is_computed_along_the_last_two_axes() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(float)
    stacked = compute_f1(counts)
    for number in range(3):
        np.testing.assert_allclose(stacked[number], compute_f1(counts[number]))


def test_macro_f1_without_any_label_is_nan() -> None:
    assert math.isnan(compute_macro_f1(np.zeros((4, 5))))


@pytest.mark.parametrize(
    ("labels", "answers", "clusters"),
    [([], [], None), ([KEEP], [], None), ([KEEP], [KEEP], ["a", "b"])],
)
def test_lengths_that_disagree_are_refused(
    labels: list[MetaAction], answers: list[MetaAction], clusters: list[str] | None
) -> None:
    with pytest.raises(ValueError, match="labels"):
        score_actions(labels, answers, clusters=clusters)


def test_macro_f1_agrees_with_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="comes with the nuscenes extra")
    rng = np.random.default_rng(4)
    labels = [META_ACTIONS[i] for i in rng.integers(0, 20, 200)]
    answers = [META_ACTIONS[i] for i in rng.integers(0, 20, 200)]
    macros = [
        metrics.f1_score(
            [getattr(a, part) for a in labels],
            [getattr(a, part) for a in answers],
            average="macro",
        )
        for part in ("speed", "path")
    ]
    scores = score_actions(labels, answers, resamples=5)
    assert scores.macro_f1.value == pytest.approx(np.mean(macros))
