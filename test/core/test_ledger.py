"""The evaluator's book: stamps in any order in, one row per labelled keyframe out."""

import math

import numpy as np
import pytest
from fakes import one_hot

from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import score_run
from clkd_core.runtime import ledger as book
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_core.runtime.sync import LABEL_TOLERANCE_NS
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    Decision,
    EgoState,
    Plan,
    PlanMode,
    RouteCommand,
    Trajectory,
)

MS = 1_000_000
KEYFRAME_NS = 10_000 * MS
SENT_NS = 777_000 * MS
"""Another clock than the capture stamps."""


def decision(stamp_ns: int = KEYFRAME_NS, **changes: object) -> Decision:
    action = META_ACTIONS[5]
    values = {"action": action, "probabilities": one_hot(action), "inference_ms": 20.0}
    return Decision(stamp_ns=stamp_ns, **(values | changes))


def ledger_with_label(action_index: int = 5) -> KeyframeLedger:
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    ledger.saw_label(
        KEYFRAME_NS, META_ACTIONS[action_index], scene="s", case_name="fog", seen_ns=SENT_NS
    )
    return ledger


def see_images(ledger: KeyframeLedger, stamp_ns: int = KEYFRAME_NS) -> None:
    """Six cameras 8 ms apart, the last one sent at SENT_NS, seen 1 ms later."""
    for position, camera in enumerate(reversed(CAMERAS)):
        sent_ns = SENT_NS - position * 8 * MS
        ledger.saw_image(
            camera, stamp_ns - position * 8 * MS, sent_ns=sent_ns, seen_ns=sent_ns + MS
        )


def test_response_runs_from_the_last_image_on_the_transport_to_the_decision_seen() -> None:
    ledger = ledger_with_label()
    see_images(ledger)
    ledger.saw_decision(decision(), seen_ns=SENT_NS + 42 * MS, node_response_ms=30.0)
    (row,) = ledger.rows()
    assert row.response_ms == pytest.approx(42.0)
    assert (row.node_response_ms, row.inference_ms) == (30.0, 20.0)
    assert row.outcome is Outcome.ANSWERED
    assert row.correct


def test_response_is_the_same_when_the_images_are_handled_after_the_decision() -> None:
    ledger = ledger_with_label()
    ledger.saw_decision(decision(), seen_ns=SENT_NS + 42 * MS)
    see_images(ledger)
    assert ledger.rows()[0].response_ms == pytest.approx(42.0)


def test_response_counts_from_first_sight_without_a_usable_source_stamp() -> None:
    for sent_ns in (None, 0, SENT_NS + 10**12):
        ledger = ledger_with_label()
        ledger.saw_image("CAM_FRONT", KEYFRAME_NS, sent_ns=sent_ns, seen_ns=SENT_NS)
        ledger.saw_decision(decision(), seen_ns=SENT_NS + 5 * MS)
        assert ledger.rows()[0].response_ms == pytest.approx(5.0)


def test_response_is_nan_when_no_image_of_the_set_was_seen() -> None:
    ledger = ledger_with_label()
    see_images(ledger, stamp_ns=KEYFRAME_NS - 100 * MS)
    ledger.saw_decision(decision(), seen_ns=SENT_NS + 5 * MS)
    assert math.isnan(ledger.rows()[0].response_ms)


def test_late_and_stale_answers_are_late_and_no_answer_is_dropped() -> None:
    late = ledger_with_label()
    see_images(late)
    late.saw_decision(decision(), seen_ns=SENT_NS + 81 * MS)
    stale = ledger_with_label()
    see_images(stale)
    stale.saw_decision(decision(stale=True), seen_ns=SENT_NS + MS)
    dropped = ledger_with_label()
    see_images(dropped)
    outcomes = [ledger.rows()[0].outcome for ledger in (late, stale, dropped)]
    assert outcomes == [Outcome.LATE, Outcome.LATE, Outcome.DROPPED]
    assert dropped.rows()[0].answer is None


def test_a_fresh_answer_replaces_a_stale_one_and_a_second_fresh_one_does_not() -> None:
    ledger = ledger_with_label()
    see_images(ledger)
    ledger.saw_decision(decision(stale=True), seen_ns=SENT_NS + 1 * MS)
    ledger.saw_decision(decision(), seen_ns=SENT_NS + 2 * MS)
    ledger.saw_decision(decision(), seen_ns=SENT_NS + 3 * MS)
    (row,) = ledger.rows()
    assert (row.stale, row.response_ms) == (False, pytest.approx(2.0))


def test_a_late_answer_takes_the_place_of_its_stale_one_and_is_late_whatever_the_times_say() -> (
    None
):
    ledger = ledger_with_label()
    see_images(ledger)
    repeat = decision(stale=True, degraded=("no answer within 5 ms",), inference_ms=math.nan)
    ledger.saw_decision(repeat, seen_ns=SENT_NS + 5 * MS)
    (row,) = ledger.rows()
    assert (row.stale, row.late, row.degraded) == (True, False, False)
    assert (row.outcome, row.reason) == (Outcome.LATE, "no answer within 5 ms")
    ledger.saw_decision(decision(late=True), seen_ns=SENT_NS + 20 * MS)
    ledger.saw_decision(repeat, seen_ns=SENT_NS + 21 * MS)  # overtaken on the way
    (row,) = ledger.rows()
    assert (row.stale, row.late, row.outcome) == (False, True, Outcome.LATE)
    assert row.response_ms == pytest.approx(20.0)
    assert ledger.counts().answered == 1


def test_stale_and_late_keyframes_are_counted_apart_and_neither_is_in_time() -> None:
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    flags: list[dict[str, object]] = [{}, {"stale": True}, {"late": True}]
    for number, flag in enumerate(flags):
        stamp_ns = KEYFRAME_NS + number * 500 * MS
        ledger.saw_label(stamp_ns, META_ACTIONS[5], scene="s", case_name="fog", seen_ns=SENT_NS)
        see_images(ledger, stamp_ns)
        ledger.saw_decision(decision(stamp_ns, **flag), seen_ns=SENT_NS + 9 * MS)
    provenance = Provenance(mode="live", checkpoint="", bag="", device="")
    counts = score_run(ledger.rows(), provenance).counts
    assert (counts.in_time, counts.late, counts.stale, counts.answered) == (1, 2, 1, 2)


def test_a_keyframe_that_lost_its_newest_image_is_matched_within_the_tolerance_only() -> None:
    near, far = ledger_with_label(), ledger_with_label()
    near.saw_decision(decision(KEYFRAME_NS - LABEL_TOLERANCE_NS), seen_ns=SENT_NS)
    far.saw_decision(decision(KEYFRAME_NS - LABEL_TOLERANCE_NS - 1), seen_ns=SENT_NS)
    assert near.rows()[0].answered
    assert not far.rows()[0].answered


def test_row_carries_ego_route_truth_and_plan_of_its_stamp() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    truth = Trajectory(xy_m=np.ones((6, 2), np.float32))
    plan = Plan(
        stamp_ns=KEYFRAME_NS,
        trajectory=Trajectory(xy_m=np.zeros((6, 2), np.float32)),
        inference_ms=3.0,
        decision_stamp_ns=1,
    )
    ledger.saw_command(RouteCommand.LEFT)
    ledger.saw_label(KEYFRAME_NS, META_ACTIONS[0], scene="s", case_name="regular", seen_ns=1)
    for age_ms in (40, 20, -20):  # the last one is taken after the keyframe
        ledger.saw_ego(EgoState(stamp_ns=KEYFRAME_NS - age_ms * MS, speed_mps=float(age_ms)))
    ledger.saw_truth(KEYFRAME_NS, truth)
    ledger.saw_plan(plan)
    (row,) = ledger.rows()
    assert (row.speed_mps, row.command) == (20.0, RouteCommand.LEFT)
    assert row.point_distances_m == pytest.approx(np.full(6, math.sqrt(2)))
    assert row.plan_with_decision
    assert row.corner is False


def motion_row(ledger: KeyframeLedger) -> FrameRow:
    ledger.saw_label(KEYFRAME_NS, META_ACTIONS[0], scene="s", case_name="fog", seen_ns=1)
    return ledger.rows()[0]


def test_row_has_the_odometry_that_the_nodes_could_use_and_no_other() -> None:
    late, old, bad = (KeyframeLedger(tolerance_ns=0, ego_max_age_ms=100.0) for _ in range(3))
    for age_ms in (60, -20, 30):  # the last one was overtaken
        late.saw_ego(EgoState(stamp_ns=KEYFRAME_NS - age_ms * MS, speed_mps=float(age_ms)))
    old.saw_ego(EgoState(stamp_ns=KEYFRAME_NS - 101 * MS, speed_mps=3.0))
    bad.saw_ego(EgoState(stamp_ns=KEYFRAME_NS - 60 * MS, speed_mps=3.0))
    bad.saw_ego_fault(KEYFRAME_NS - 10 * MS, "odometry is NaN")
    assert motion_row(late).speed_mps == 30.0
    assert math.isnan(motion_row(old).speed_mps)
    assert math.isnan(motion_row(bad).speed_mps)


def test_row_has_the_command_that_came_before_the_newest_image_of_its_keyframe() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    ledger.saw_command(RouteCommand.LEFT)
    see_images(ledger)
    ledger.saw_command(RouteCommand.RIGHT)
    assert motion_row(ledger).command is RouteCommand.LEFT
    see_images(ledger, KEYFRAME_NS + 500 * MS)
    ledger.saw_command_fault("route command is 'fly'")
    for number in (1, 2):
        stamp_ns = KEYFRAME_NS + number * 500 * MS
        see_images(ledger, stamp_ns)
        ledger.saw_label(stamp_ns, META_ACTIONS[0], scene="s", case_name="fog", seen_ns=1)
    assert [row.command for row in ledger.rows()] == [RouteCommand.LEFT, RouteCommand.RIGHT, None]


def test_every_label_gets_one_row_and_a_looping_bag_adds_none() -> None:
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    for later_ns in (0, 1000):
        for number in range(5):
            stamp_ns = KEYFRAME_NS + number * 500 * MS
            ledger.saw_label(
                stamp_ns, META_ACTIONS[0], scene="s", case_name="regular", seen_ns=later_ns
            )
            if number != 2:
                ledger.saw_decision(decision(stamp_ns), seen_ns=SENT_NS)
    assert [row.answered for row in ledger.rows()] == [True, True, False, True, True]
    assert ledger.counts().labels == 5
    assert len(ledger.take_finished(seen_before_ns=1)) == 5


def test_without_labels_there_is_a_row_per_answered_set_and_planned_ones_are_dropped() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    ledger.saw_decision(decision(1), seen_ns=SENT_NS)
    for stamp_ns in (1, 2):
        trajectory = Trajectory(xy_m=np.zeros((6, 2), np.float32))
        ledger.saw_plan(Plan(stamp_ns=stamp_ns, trajectory=trajectory, inference_ms=1.0))
    rows = ledger.rows()
    assert [(row.stamp_ns, row.answered, row.label) for row in rows] == [
        (1, True, None),
        (2, False, None),
    ]


def plan_at(stamp_ns: int, **changes: object) -> Plan:
    trajectory = Trajectory(xy_m=np.zeros((6, 2), np.float32))
    return Plan(stamp_ns=stamp_ns, trajectory=trajectory, **({"inference_ms": 1.0} | changes))


def test_row_says_in_which_mode_its_plan_was_made() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    changes = [{"decision_stamp_ns": 1}, {}, {"mode": PlanMode.STOPPING}]
    for number, change in enumerate(changes):
        stamp_ns = KEYFRAME_NS + number * 500 * MS
        ledger.saw_label(stamp_ns, META_ACTIONS[0], scene="s", case_name="fog", seen_ns=1)
        ledger.saw_plan(plan_at(stamp_ns, **change))
    assert [row.plan_mode for row in ledger.rows()] == list(PlanMode)
    assert [row.plan_with_decision for row in ledger.rows()] == [True, False, False]


def test_a_stop_without_a_frame_is_no_keyframes_plan_and_is_counted() -> None:
    ledger = ledger_with_label()
    blind = {"mode": PlanMode.STOPPING, "inference_ms": math.nan}
    ledger.saw_plan(plan_at(KEYFRAME_NS + 10 * MS, **blind))
    (row,) = ledger.rows()
    assert row.plan is None and row.plan_mode is None
    assert (ledger.blind_stops, ledger.counts().planned) == (1, 0)


def drive_on(ledger: KeyframeLedger, frames: int, label_every: int | None) -> None:
    """Every 100 ms a decision, a plan and a future; of some frames the label, 50 ms later."""
    for number in range(frames):
        stamp_ns = KEYFRAME_NS + number * 100 * MS
        see_images(ledger, stamp_ns)
        ledger.saw_decision(decision(stamp_ns), seen_ns=SENT_NS + number)
        ledger.saw_plan(plan_at(stamp_ns))
        ledger.saw_truth(stamp_ns, Trajectory(xy_m=np.zeros((6, 2), np.float32)))
        if label_every and number % label_every == 0:
            ledger.saw_label(
                stamp_ns, META_ACTIONS[0], scene="s", case_name="fog", seen_ns=SENT_NS + number
            )
        ledger.take_finished(seen_before_ns=SENT_NS + number - 10)


def sizes(ledger: KeyframeLedger) -> list[int]:
    kept = (ledger._answers, ledger._plans, ledger._truths)
    return [len(part) for part in kept] + [len(ledger._unreported)]


def test_what_is_remembered_grows_with_the_labelled_keyframes_only() -> None:
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    drive_on(ledger, 11_000, label_every=1_000)
    assert max(sizes(ledger)) <= book._OTHERS_KEPT + 11
    rows = ledger.rows()
    assert len(rows) == 11
    assert all(row.answered and row.plan and row.truth for row in rows)
    assert not math.isnan(rows[0].response_ms)


def test_an_unlabelled_run_keeps_its_newest_answers_and_says_how_many_it_forgot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(book, "UNLABELLED_KEPT", 1000)
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    drive_on(ledger, 3_000, label_every=None)
    assert max(sizes(ledger)) <= 1000 and ledger.forgotten == 2000
    assert len(ledger.rows()) == 1000
    assert ledger.rows()[-1].stamp_ns == KEYFRAME_NS + 2_999 * 100 * MS


def test_a_label_that_comes_after_many_unlabelled_frames_is_handed_out_all_the_same() -> None:
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    drive_on(ledger, 50, label_every=None)
    stamp_ns = KEYFRAME_NS + 49 * 100 * MS
    ledger.saw_label(stamp_ns, META_ACTIONS[5], scene="s", case_name="fog", seen_ns=SENT_NS + 60)
    (row,) = ledger.take_finished(seen_before_ns=SENT_NS + 61)
    assert row.label == META_ACTIONS[5] and row.correct
    assert ledger.forgotten == 0


def test_sets_of_an_unlabelled_run_are_handed_out_once_too() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    for number in range(3):
        ledger.saw_decision(decision(number + 1), seen_ns=number)
    assert [row.stamp_ns for row in ledger.take_finished(seen_before_ns=2)] == [1, 2]
    assert [row.stamp_ns for row in ledger.take_finished(seen_before_ns=9)] == [3]


def test_finished_rows_come_once_and_only_after_their_time() -> None:
    ledger = ledger_with_label()
    assert ledger.take_finished(seen_before_ns=SENT_NS) == []
    assert len(ledger.take_finished(seen_before_ns=SENT_NS + 1)) == 1
    assert ledger.take_finished(seen_before_ns=SENT_NS + 1) == []


def test_run_is_over_by_count_or_by_silence_after_the_first_message() -> None:
    ledger = ledger_with_label()
    second = 1_000 * MS
    assert not ledger.is_over(9 * second, expected_keyframes=1, idle_timeout_s=1.0)
    ledger.heard(8 * second)
    assert not ledger.is_over(9 * second, expected_keyframes=1, idle_timeout_s=1.0)
    assert ledger.is_over(9 * second + 1, expected_keyframes=1, idle_timeout_s=1.0)
    assert not ledger.is_over(99 * second, expected_keyframes=1, idle_timeout_s=0.0)
    ledger.saw_decision(decision(), seen_ns=SENT_NS)
    assert not ledger.is_over(8 * second, expected_keyframes=1, idle_timeout_s=0.0)
    trajectory = Trajectory(xy_m=np.zeros((6, 2), np.float32))
    ledger.saw_plan(Plan(stamp_ns=KEYFRAME_NS, trajectory=trajectory, inference_ms=1.0))
    assert ledger.is_over(8 * second, expected_keyframes=1, idle_timeout_s=0.0)
    assert not ledger.is_over(8 * second, expected_keyframes=2, idle_timeout_s=0.0)
