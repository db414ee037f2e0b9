"""Newest frame wins; decisions that are too old do not count."""

import threading

import pytest
from fakes import one_hot, wait_until

from clkd_core.runtime.deadline import FreshDecision, NewestOnly
from clkd_core.types import META_ACTIONS, Decision

SECOND_NS = 1_000_000_000


def held_worker() -> tuple["NewestOnly[int]", threading.Event, list[int], list[int]]:
    """A worker whose first item keeps it busy until the event is set."""
    free, done, replaced = threading.Event(), list[int](), list[int]()

    def work(item: int) -> None:
        assert free.wait(10.0)
        done.append(item)

    return NewestOnly(work, on_replaced=replaced.append), free, done, replaced


def test_newest_waits_and_the_replaced_ones_are_counted() -> None:
    worker, free, done, replaced = held_worker()
    worker.submit(0)
    wait_until(lambda: not worker._waiting, "the first item is being worked on")
    for item in (1, 2, 3):
        worker.submit(item)
    free.set()
    assert worker.wait_idle(5.0)
    assert (done, replaced, worker.replaced_count) == ([0, 3], [1, 2], 2)
    assert worker.close()


def test_work_that_raises_is_counted_and_the_next_item_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 1:
            raise ZeroDivisionError("item one")
        done.append(item)

    worker = NewestOnly(work)
    for item in (1, 2):
        worker.submit(item)
        assert worker.wait_idle(5.0)
    assert worker.close()
    assert (done, worker.failed_count) == ([2], 1)
    assert "item one" in caplog.text


def test_close_forgets_what_waits_and_refuses_what_comes() -> None:
    worker, free, done, _ = held_worker()
    worker.submit(0)
    wait_until(lambda: not worker._waiting, "the first item is being worked on")
    worker.submit(1)
    assert not worker.close(timeout_s=0.01)  # the running work is not interrupted
    worker.submit(2)
    free.set()
    assert worker.close(5.0)
    assert done == [0]


def test_wait_idle_says_when_the_time_is_over() -> None:
    worker, free, _, _ = held_worker()
    worker.submit(0)
    assert not worker.wait_idle(0.01)
    free.set()
    assert worker.close(5.0)


def decision_at(stamp_s: float, *, stale: bool = False) -> Decision:
    action = META_ACTIONS[3]
    return Decision(
        stamp_ns=round(stamp_s * SECOND_NS),
        action=action,
        probabilities=one_hot(action),
        inference_ms=1.0,
        stale=stale,
    )


def test_fresh_decision_is_followed_up_to_its_age_and_no_longer() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    assert decisions.at(SECOND_NS) == (None, ("no decision yet",))
    given = decision_at(1.0)
    decisions.push(given)
    assert decisions.at(SECOND_NS * 3 // 2) == (given, ())
    assert decisions.at(SECOND_NS * 3 // 2 + 1)[0] is None
    assert decisions.at(SECOND_NS * 3)[1] == ("newest decision is 2.0 s old, limit 0.5 s",)


def test_fresh_decision_never_comes_from_a_later_frame() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    decisions.push(decision_at(2.0))
    assert decisions.at(SECOND_NS)[0] is None


def test_late_frame_still_has_the_decision_of_its_own_time() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    own = decision_at(1.0)
    for decision in (own, decision_at(2.0), decision_at(3.0)):
        decisions.push(decision)
    assert decisions.at(SECOND_NS * 12 // 10)[0] is own


def test_fresh_decision_starts_over_when_stamps_jump_back() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    decisions.push(decision_at(100.0))
    again = decision_at(1.0)
    decisions.push(again)
    assert decisions.at(SECOND_NS)[0] is again


def test_repeated_decision_makes_nothing_fresh() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    decisions.push(decision_at(1.0, stale=True))
    assert decisions.at(SECOND_NS) == (None, ("no decision yet",))
    given = decision_at(1.0)
    decisions.push(given)
    decisions.push(decision_at(1.4, stale=True))
    assert decisions.at(SECOND_NS * 3 // 2)[0] is given
    assert decisions.at(SECOND_NS * 2)[1] == ("newest decision is 1.0 s old, limit 0.5 s",)


def test_decisions_from_before_frames_began_again_do_not_count() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    for stamp_s in (1.0, 2.0, 3.0):
        decisions.push(decision_at(stamp_s))
    assert decisions.at(SECOND_NS * 3)[0] is not None
    assert decisions.at(SECOND_NS)[0] is None


def test_decision_that_is_here_before_frames_begin_again_counts() -> None:
    decisions = FreshDecision(max_age_s=0.5)
    assert decisions.at(SECOND_NS * 100)[0] is None
    first = decision_at(1.0)
    decisions.push(first)
    assert decisions.at(SECOND_NS)[0] is first
