"""From rows to scores: what counts, what does not, and what has no number."""

import math
from dataclasses import replace

import pytest
from report_rows import DIRECT, KEEP, LIVE, STOP, make_labelled_rows, make_row, with_plans

from clkd_core.metrics.baselines.majority import answer_by_majority
from clkd_core.metrics.frames import FrameRow
from clkd_core.models.trajectories import constant_velocity_trajectory
from clkd_core.report.scoring.scores import compute_latency_stats, score_run
from clkd_core.report.scoring.words import why_no_collisions, why_no_l2, why_no_rsdr
from clkd_core.types import EgoState


def test_every_labelled_keyframe_is_counted_once() -> None:
    counts = score_run(make_labelled_rows(), LIVE).counts
    assert (counts.labelled, counts.regular, counts.corner) == (10, 6, 4)
    assert (counts.in_time, counts.late, counts.dropped, counts.stale) == (7, 2, 1, 1)
    assert counts.answered == 8


def test_unlabelled_frames_do_not_enter_the_counts_where_some_are_labelled() -> None:
    rows = [*make_labelled_rows(), make_row(50, None), make_row(51, None, None)]
    assert score_run(rows, LIVE).counts == score_run(make_labelled_rows(), LIVE).counts


def test_a_stale_answer_and_a_dropped_frame_count_as_wrong() -> None:
    scores = score_run(make_labelled_rows(), LIVE)
    assert scores.actions is not None
    assert scores.actions["student"]["all"].accuracy.value == pytest.approx(0.7)
    assert scores.actions["student"]["regular"].accuracy.value == pytest.approx(5 / 6)
    assert scores.actions["student"]["corner"].accuracy.value == pytest.approx(2 / 4)
    assert scores.by_case_name == {"regular": (6, 5), "fog": (4, 2)}


def test_rsdr_counts_late_answers_as_misses_on_their_own_clock_only() -> None:
    scores = score_run(make_labelled_rows(), LIVE)
    inference, response = scores.rsdr["inference_ms"], scores.rsdr["response_ms"]
    assert inference is not None and response is not None
    assert inference["student"]["all"][80.0].value == pytest.approx(0.7)
    assert response["student"]["all"][80.0].value == pytest.approx(0.6)
    assert response["student"]["all"][100.0].value == pytest.approx(0.7)
    assert response["student"]["all"][20.0].value == 0.0


def test_the_majority_answer_is_the_same_for_all_cases_and_always_in_time() -> None:
    scores = score_run(make_labelled_rows(), LIVE)
    assert scores.majority == KEEP.text
    assert scores.actions is not None
    assert scores.actions["majority"]["all"].accuracy.value == pytest.approx(0.5)
    assert scores.actions["majority"]["corner"].accuracy.value == pytest.approx(0.25)
    response = scores.rsdr["response_ms"]
    assert response is not None
    assert response["majority"]["all"][20.0].value == pytest.approx(0.5)


def test_a_deadline_of_ones_own_is_on_the_curve() -> None:
    models = score_run(make_labelled_rows(), replace(LIVE, deadline_ms=33.0)).rsdr["response_ms"]
    assert models is not None
    assert list(models["student"]["all"]) == [20.0, 33.0, 50.0, 80.0, 100.0]


def test_without_labels_there_is_no_number_for_right_or_wrong() -> None:
    scores = score_run([make_row(number, None) for number in range(3)], LIVE)
    assert scores.actions is None
    assert scores.rsdr == {"inference_ms": None, "response_ms": None}
    assert why_no_rsdr(scores) == "not labelled"
    assert why_no_l2(scores, "planner") == "not labelled"
    assert scores.latencies["response_ms"] is not None
    assert (scores.counts.frames, scores.counts.answered) == (3, 3)


def test_direct_replay_has_no_response_time() -> None:
    rows = [replace(row, response_ms=math.nan) for row in make_labelled_rows()]
    scores = score_run(rows, DIRECT)
    assert scores.rsdr["response_ms"] is None
    assert why_no_rsdr(scores) == "not measured"
    assert scores.latencies["response_ms"] is None


def test_a_live_run_in_which_nothing_was_answered_has_an_rsdr_of_zero() -> None:
    scores = score_run([make_row(number, KEEP, None) for number in range(3)], LIVE)
    response = scores.rsdr["response_ms"]
    assert response is not None
    assert response["student"]["all"][80.0].value == 0.0


def test_planner_and_straight_line_are_scored_on_the_same_frames() -> None:
    rows = with_plans(make_labelled_rows())
    rows[0] = replace(rows[0], plan=None)
    scores = score_run(rows, LIVE)
    assert scores.plans.l2["planner"]["all"].frames == 9
    assert scores.plans.l2["constant_velocity"]["all"].frames == 9
    assert scores.plans.l2["planner"]["all"].horizon_m[3].value == pytest.approx(6.0)
    assert scores.plans.l2["planner"]["all"].average_m[3].value == pytest.approx(3.5)
    assert scores.plans.l2["constant_velocity"]["all"].horizon_m[3].value == pytest.approx(0.0)


def test_without_a_planner_the_straight_line_is_still_scored() -> None:
    rows = [replace(row, plan=None) for row in with_plans(make_labelled_rows())]
    scores = score_run(rows, LIVE)
    assert "planner" not in scores.plans.l2
    assert why_no_l2(scores, "planner") == "no planner"
    assert scores.plans.l2["constant_velocity"]["all"].frames == 10


def test_other_models_are_scored_beside_the_student() -> None:
    blank = [replace(row, answer=STOP, stale=False) for row in make_labelled_rows()]
    scores = score_run(make_labelled_rows(), LIVE, others={"blank": blank, "ego_status": []})
    assert scores.actions is not None
    assert scores.actions["blank"]["all"].accuracy.value == pytest.approx(0.4)
    assert "ego_status" not in scores.actions


def test_a_run_of_regular_frames_only_has_no_corner_row() -> None:
    scores = score_run([make_row(number) for number in range(3)], LIVE)
    assert scores.actions is not None
    assert set(scores.actions["student"]) == {"regular", "all"}


def test_percentiles_leave_out_what_was_not_measured() -> None:
    stats = compute_latency_stats([math.nan, 1.0, 2.0, 3.0, math.inf])
    assert stats is not None
    assert (stats.frames, stats.p50, stats.largest) == (3, 2.0, 3.0)
    assert stats.p99 == pytest.approx(2.98)
    assert compute_latency_stats([math.nan]) is None


def test_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="no row"):
        score_run([], LIVE)


def test_constant_velocity_turns_with_the_yaw_rate_and_goes_straight_without_one() -> None:
    ego = EgoState(stamp_ns=0, speed_mps=4.0, yaw_rate_radps=0.3)
    arc = constant_velocity_trajectory(ego)
    turning = replace(make_row(0), speed_mps=4.0, yaw_rate_radps=0.3, truth=arc)
    unknown = replace(turning, yaw_rate_radps=math.nan)
    turned, straight_on = (
        score_run([row], LIVE).plans.l2["constant_velocity"]["all"].horizon_m[3].value
        for row in (turning, unknown)
    )
    assert turned == pytest.approx(0.0, abs=1e-5)
    assert straight_on > 1.0


def test_training_labels_majority_answers_where_it_is_known() -> None:
    rows = make_labelled_rows()
    own = score_run(rows, LIVE)
    assert (own.majority, own.majority_of) == (KEEP.text, "these labels")
    known = score_run(rows, LIVE, others={"majority": answer_by_majority(rows, STOP)})
    assert (known.majority, known.majority_of) == (STOP.text, "the training labels")
    assert known.actions is not None
    assert known.actions["majority"]["all"].accuracy.value == pytest.approx(0.4)


def test_run_that_nobody_timed_has_no_rsdr_and_no_late_answer() -> None:
    untimed = {"inference_ms": math.nan, "response_ms": math.nan}
    rows = [replace(row, **untimed) for row in make_labelled_rows()]
    scores = score_run(rows, replace(LIVE, mode="untimed"))
    assert scores.rsdr == {"inference_ms": None, "response_ms": None}
    assert why_no_rsdr(scores) == "not measured"
    assert set(scores.latencies.values()) == {None}


def collided(row: FrameRow, *, truth: bool) -> FrameRow:
    """The plan collides in its last second; so does the truth if ``truth``."""
    late = (False, False, False, False, True, True)
    return replace(
        row, plan_collisions=late, steady_collisions=(False,) * 6,
        true_collisions=late if truth else (False,) * 6,
    )  # fmt: skip


def test_collisions_count_where_agents_are_known_unless_the_truth_collides_too() -> None:
    planned = with_plans(make_labelled_rows())
    rows = [collided(row, truth=number < 2) for number, row in enumerate(planned[:8])]
    plans = score_run([*rows, *planned[8:]], LIVE).plans
    hits = plans.collisions["planner"]["all"]
    assert (hits.frames, hits.excused_steps) == (8, 4)
    assert hits.horizon_frac[3].value == pytest.approx(6 / 8)
    assert hits.average_frac[3].value == pytest.approx(6 / 8 * 2 / 6)
    assert hits.horizon_frac[2].value == 0.0
    assert plans.collisions["constant_velocity"]["all"].horizon_frac[3].value == 0.0
    assert score_run(planned, LIVE).plans.collisions == {}
    assert why_no_collisions(score_run(planned, LIVE), "planner") == "not measured"
    assert why_no_l2(score_run(planned, LIVE), "ego_status") == "not built"
