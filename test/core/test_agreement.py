"""Live against direct: which keyframes differ, and which of them may."""

from dataclasses import replace

import pytest
from report_rows import KEEP, LEFT, STOP, make_labelled_rows, make_row

from clkd_core.errors import DataError
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.runtime.agreement import compare_runs, describe_agreement


def direct_rows(count: int = 6) -> list[FrameRow]:
    return [make_row(number, scene=f"drive-{number}") for number in range(count)]


def test_the_same_answers_agree_whenever_they_came() -> None:
    live = [replace(row, response_ms=500.0, outcome=Outcome.LATE) for row in direct_rows()]
    agreement = compare_runs(live, direct_rows())
    assert (agreement.frames, agreement.same, agreement.late) == (6, 6, 6)
    assert agreement.differences == ()
    assert describe_agreement(agreement) == (
        "live answers as direct in 6 of 6 keyframes; 0 unexplained"
    )


def test_each_differing_keyframe_is_listed_with_its_reason() -> None:
    live = direct_rows()
    live[0] = make_row(0, answer=None)
    live[1] = replace(live[1], answer=STOP, stale=True, outcome=Outcome.LATE, reason="repeats")
    live[2] = replace(live[2], answer=STOP, degraded=True, reason="no odometry")
    live[3] = replace(live[3], answer=LEFT)
    agreement = compare_runs(live, direct_rows())
    assert (agreement.same, len(agreement.differences)) == (2, 4)
    dropped, late, degraded, odd = agreement.differences
    assert (dropped.live, dropped.direct, dropped.outcome) == (None, KEEP, Outcome.DROPPED)
    assert (late.scene, late.explanation) == ("drive-1", "late; repeats")
    assert degraded.explanation == "live without odometry"
    assert (odd.explanation, odd.live, odd.stamp_ns) == ("", LEFT, live[3].stamp_ns)
    assert agreement.unexplained == (odd,)
    assert agreement.by_outcome == {"dropped": 1, "late": 1, "answered": 2}
    assert describe_agreement(agreement) == (
        "live answers as direct in 2 of 6 keyframes; 1 dropped; 1 late; "
        "1 with an input missing; 1 unexplained"
    )


@pytest.mark.parametrize(
    ("live", "direct", "explanation"),
    [
        ("no image from CAM_BACK", "", "live without CAM_BACK"),
        ("no image from CAM_FRONT CAM_BACK", "no image from CAM_BACK", "live without CAM_FRONT"),
        ("no image from CAM_FRONT_LEFT", "no image from CAM_FRONT", "live without CAM_FRONT_LEFT"),
        ("no image from CAM_BACK", "no image from CAM_FRONT CAM_BACK", ""),
        ("odometry is 0.7 s old", "no odometry", ""),
        ("odometry is 0.7 s old; no route command", "", "live without odometry, route command"),
        ("CAM_BACK: 3 bytes that are no JPEG", "CAM_BACK: 3 bytes that are no JPEG", ""),
        ("", "no odometry", ""),
    ],
)
def test_only_an_input_that_direct_had_explains_another_answer(
    live: str, direct: str, explanation: str
) -> None:
    one = replace(make_row(1, answer=STOP), degraded=bool(live), reason=live)
    other = replace(make_row(1), degraded=bool(direct), reason=direct)
    (difference,) = compare_runs([one], [other]).differences
    assert difference.explanation == explanation


def test_a_keyframe_that_nobody_answered_is_the_same() -> None:
    nobody = [make_row(number, answer=None) for number in range(3)]
    assert compare_runs(nobody, nobody).same == 3


def test_unlabelled_frames_are_passed_over() -> None:
    agreement = compare_runs([*direct_rows(), make_row(99, label=None)], direct_rows())
    assert agreement.frames == 6


def test_answers_to_other_keyframes_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 only live, 2 only direct, the first 2500000000"):
        compare_runs(direct_rows(6), [*direct_rows(5), make_row(7), make_row(8)])


def test_the_gap_is_that_of_answers_with_the_same_inputs() -> None:
    live = make_labelled_rows()
    other = tuple([0.60] + [0.02] * 18 + [0.04])
    live[0] = replace(live[0], probabilities=other)
    live[1] = replace(live[1], probabilities=tuple([1.0] + [0.0] * 19), reason="no odometry")
    agreement = compare_runs(live, make_labelled_rows())
    assert agreement.largest_gap == pytest.approx(0.02)
    assert compare_runs(make_labelled_rows(), make_labelled_rows()).largest_gap == 0.0
    assert compare_runs([], []).frames == 0
