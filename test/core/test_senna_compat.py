"""Senna's evaluation of generated text: against loops over the frames, and every quirk of it."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clkd_core.metrics.decisions.meta_action import ActionScores, score_actions
from clkd_core.metrics.decisions.senna_compat import (
    F1_PATHS,
    SennaScores,
    explain_difference,
    read_generated,
    score_generated,
)
from clkd_core.types import META_ACTIONS, MetaAction, PathAction, SpeedAction

KEEP = MetaAction.from_text("KEEP, STRAIGHT")
STOP = MetaAction.from_text("STOP, STRAIGHT")
LEFT = MetaAction.from_text("KEEP, LEFT_TURN")
CHANGE = MetaAction.from_text("KEEP, LEFT_CHANGE")

NAMES = [a.name for a in (*SpeedAction, *PathAction)]
babble = st.lists(
    st.sampled_from([*NAMES, ", ", " ", "\n", "RIGHT_", "TURN", "keep"]) | st.text(max_size=4),
    max_size=8,
).map("".join)
answers = st.sampled_from([a.text for a in META_ACTIONS]) | babble | st.text()
runs = st.lists(st.tuples(st.sampled_from(META_ACTIONS), answers), min_size=1, max_size=30)


def slow_f1(frames: list[tuple[MetaAction, str]], action: SpeedAction | PathAction) -> float:
    """Frame by frame, with three counters."""
    right = wrong = missed = 0
    for label, text in frames:
        of_label = label.speed.name if isinstance(action, SpeedAction) else label.path.name
        if action.name in text:
            if of_label in text:
                right += 1
            else:
                wrong += 1
        elif action.name == of_label:
            missed += 1
    if right == 0:
        return 0.0
    precision, recall = right / (right + wrong), right / (right + missed)
    return 2.0 * precision * recall / (precision + recall)


def scores_of(*frames: tuple[MetaAction, str]) -> tuple[ActionScores, SennaScores]:
    """Both scores of the same texts."""
    labels, texts = [label for label, _ in frames], [text for _, text in frames]
    ours = score_actions(labels, [read_generated(text) for text in texts], resamples=5)
    return ours, score_generated(labels, texts)


@settings(max_examples=150, deadline=None)
@given(frames=runs)
@example(frames=[(KEEP, "KEEP STOP STRAIGHT")])
@example(frames=[(CHANGE, "KEEP, LEFT_TURN")])
@example(frames=[(KEEP, "")])
def test_scores_agree_with_counting_frame_by_frame(frames: list[tuple[MetaAction, str]]) -> None:
    scores = score_generated([label for label, _ in frames], [text for _, text in frames])
    for action in (*SpeedAction, *F1_PATHS):
        assert scores.f1[action.name] == pytest.approx(slow_f1(frames, action), abs=1e-12)
    right = [label.speed.name in t and label.path.name in t for label, t in frames]
    assert (scores.hits, scores.frames) == (sum(right), len(frames))
    assert scores.accuracy == pytest.approx(sum(right) / len(right))
    assert sum(total for total, _ in scores.by_label.values()) == len(frames)
    assert sum(hit for _, hit in scores.by_label.values()) == scores.hits
    assert 0 <= scores.readable_hits <= min(scores.readable, scores.hits)


@settings(max_examples=60, deadline=None)
@given(frames=runs)
def test_explanation_of_any_run_is_text_and_ends_with_the_macro(
    frames: list[tuple[MetaAction, str]],
) -> None:
    said = explain_difference(*scores_of(*frames))
    assert all(sentence.endswith(".") for sentence in said)
    assert said[-1].startswith("Macro-F1")


def test_only_the_seven_actions_of_the_script_have_an_f1() -> None:
    _, scores = scores_of((KEEP, KEEP.text))
    assert list(scores.f1) == [
        "KEEP", "ACCELERATE", "DECELERATE", "STOP", "RIGHT_TURN", "LEFT_TURN", "STRAIGHT",
    ]  # fmt: skip
    assert scores.f1["KEEP"] == scores.f1["STRAIGHT"] == 1.0
    assert scores.f1["STOP"] == 0.0


def test_text_that_names_everything_is_always_a_hit_and_right_for_every_action() -> None:
    ours, scores = scores_of((KEEP, " ".join(NAMES)), (STOP, " ".join(NAMES)))
    assert scores.accuracy == 1.0
    assert set(scores.f1.values()) == {1.0}
    assert (scores.several, scores.readable) == (2, 0)
    assert ours.accuracy.value == 0.0


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("KEEP, STOP", 1),
        ("STRAIGHT then LEFT_CHANGE", 1),
        ("KEEP, STRAIGHT, KEEP", 0),
        ("STRAIGHT", 0),
        ("", 0),
    ],
)
def test_texts_that_name_several_actions_of_one_kind_are_counted(text: str, several: int) -> None:
    assert scores_of((KEEP, text))[1].several == several


def test_name_within_a_longer_word_counts() -> None:
    _, scores = scores_of((KEEP, "UPKEEPING_STRAIGHTER"))
    assert (scores.hits, scores.readable) == (1, 0)


def test_lane_change_that_is_missed_costs_no_action_an_f1_but_the_claimed_one() -> None:
    _, scores = scores_of((CHANGE, "KEEP, LEFT_TURN"), (LEFT, "KEEP, LEFT_TURN"))
    assert scores.f1["LEFT_TURN"] == pytest.approx(2 / 3)
    assert scores.by_label == {LEFT: (1, 1), CHANGE: (1, 0)}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("KEEP, STRAIGHT\n", KEEP),
        ("  STOP, STRAIGHT ", STOP),
        ("KEEP,STRAIGHT", None),
        ("keep, straight", None),
        ("KEEP, STRAIGHT.", None),
        ("I would KEEP, STRAIGHT", None),
        ("", None),
    ],
)
def test_strict_reading_wants_the_answer_and_nothing_else(
    text: str, action: MetaAction | None
) -> None:
    assert read_generated(text) == action


def test_text_of_ten_million_letters_takes_no_longer_than_its_length() -> None:
    texts = [
        "RIGHT_TUR" * 1_100_000,
        "S" * 10_000_000,
        "\U0001f697" * 2_000_000 + "KEEP, STRAIGHT",
    ]
    start_s = time.perf_counter()
    scores = score_generated([KEEP] * 3, texts)
    assert time.perf_counter() - start_s < 3.0
    assert (scores.hits, scores.readable) == (1, 0)


def test_no_frame_and_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="0 texts to 0 labels"):
        score_generated([], [])
    with pytest.raises(ValueError, match="1 texts to 2 labels"):
        score_generated([KEEP, STOP], ["KEEP"])
    ours, _ = scores_of((KEEP, "KEEP"))
    _, senna = scores_of((KEEP, ""), (KEEP, ""))
    with pytest.raises(ValueError, match="ours has 1 frames, the texts are 2"):
        explain_difference(ours, senna)


def test_explanation_of_clean_answers_says_that_accuracy_agrees() -> None:
    said = explain_difference(*scores_of((KEEP, KEEP.text), (STOP, KEEP.text)))
    assert said[0].startswith("Accuracy is 50.00% by ours, 50.00% by Senna's script: they agree")
    assert not any("F1 by ours and by Senna's" in sentence for sentence in said)


def test_explanation_counts_the_texts_that_only_substrings_make_right() -> None:
    said = explain_difference(
        *scores_of((KEEP, "KEEP or STOP, STRAIGHT"), (KEEP, KEEP.text), (STOP, "no idea"))
    )
    assert "1 of 3 texts contain both names" in said[0]
    assert "2 texts are none of the 20 answers" in said[0]
    assert "1 name several actions" in said[0]
    assert any("F1 by ours and by Senna's script: KEEP 0.667 and 1.000" in s for s in said)


def test_explanation_names_actions_without_labels_and_lane_changes() -> None:
    said = " ".join(explain_difference(*scores_of((CHANGE, CHANGE.text), (KEEP, STOP.text))))
    assert "No label is one of these" in said
    assert "STOP 0.000" in said
    assert "The script has no F1 for LEFT_CHANGE (1 labels, 1.000 by ours)" in said
    assert "over the 1 and the path macro over the 2 actions" in said


def test_explanation_says_when_ours_was_scored_from_other_answers() -> None:
    ours = score_actions([KEEP, KEEP], [KEEP, KEEP], resamples=5)
    said = explain_difference(ours, score_generated([KEEP, KEEP], ["KEEP, STRAIGHT", "STOP"]))
    assert "50.00% of the texts, read strictly, are the label" in said[0]
