"""A decision by its deadline: in time, repeated, late, failed."""

import gc
import math
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FakeEngine, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from timely_engines import DEADLINE_S, FAILURES, TOLERANCE_S, frame_at, patient, timely
from tiny_vlm import tiny_model

from clkd_core.errors import FrameError
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.timely import NoAnswerError, TimelyDecider
from clkd_core.types import META_ACTIONS, Decision, SurroundFrame


def hold(engine: FakeEngine, decider: TimelyDecider, stamp_ns: int, late: list[Decision]) -> None:
    """Ask about a frame that the engine does not let go of."""
    engine.free.clear()
    with pytest.raises(NoAnswerError):
        decider.decide(frame_at(stamp_ns), on_late=late.append)


def test_decision_in_time_is_the_engines_own_and_is_not_handed_over_again() -> None:
    engine, late = FakeEngine(META_ACTIONS[13]), list[Decision]()
    with patient(engine) as decider:
        decision = decider.decide(frame_at(7), on_late=late.append)
    assert engine.warm
    assert (decision.stamp_ns, decision.action) == (7, META_ACTIONS[13])
    assert not (decision.stale or decision.late or late)
    assert decision.degraded == ("no odometry", "no route command")


def test_past_the_deadline_the_last_answer_is_repeated_stale_with_the_reason() -> None:
    engine = FakeEngine(META_ACTIONS[13])
    with timely(engine) as decider:
        decider._deadline_s = 20.0
        decider.decide(frame_at(1))
        decider._deadline_s = DEADLINE_S
        engine.free.clear()
        begun_s = time.monotonic()
        repeated = decider.decide(frame_at(2))
        took_s = time.monotonic() - begun_s
    assert DEADLINE_S <= took_s < DEADLINE_S + TOLERANCE_S
    assert (repeated.stamp_ns, repeated.action) == (2, META_ACTIONS[13])
    assert (repeated.stale, repeated.late) == (True, False)
    assert repeated.degraded == ("no answer within 50 ms",)
    assert math.isnan(repeated.inference_ms)


def test_time_that_was_spent_before_the_call_is_no_longer_there() -> None:
    engine = FakeEngine()
    with timely(engine, deadline_s=60.0) as decider:
        engine.free.clear()
        begun_s = time.monotonic()
        with pytest.raises(NoAnswerError):
            decider.decide(frame_at(1), spent_s=60.0 - DEADLINE_S)
        assert time.monotonic() - begun_s < DEADLINE_S + TOLERANCE_S


def test_frame_that_comes_after_its_deadline_is_never_worked_on() -> None:
    engine = FakeEngine()
    with patient(engine) as decider:
        for stamp_ns in range(50):  # the engine's thread may be faster than the caller
            with pytest.raises(NoAnswerError):
                decider.decide(frame_at(stamp_ns), spent_s=20.0)
    assert engine.frames == []


def test_with_nothing_to_repeat_the_error_is_a_frame_error_that_names_the_deadline() -> None:
    engine = FakeEngine()
    with timely(engine) as decider:
        engine.free.clear()
        with pytest.raises(FrameError, match="frame 3: no answer within 50 ms") as caught:
            decider.decide(frame_at(3))
    assert isinstance(caught.value, NoAnswerError)
    assert caught.value.reason == "no answer within 50 ms"


def test_late_result_is_handed_over_once_flagged_late_and_is_repeated_from_then_on() -> None:
    engine, late = FakeEngine(META_ACTIONS[4]), list[Decision]()
    with timely(engine) as decider:
        hold(engine, decider, 1, late)
        engine.free.set()
        wait_until(lambda: len(late) == 1, "the late result")
        engine.free.clear()
        repeated = decider.decide(frame_at(2), on_late=late.append)
        engine.free.set()
        wait_until(lambda: len(late) == 2, "that of the other frame")
    (first, second) = late  # and that of frame 2, once the engine was freed
    assert (first.stamp_ns, first.late, first.stale) == (1, True, False)
    assert first.inference_ms >= DEADLINE_S * 1e3
    assert (repeated.action, repeated.stale, repeated.late) == (META_ACTIONS[4], True, False)
    assert (second.stamp_ns, second.late) == (2, True)


def test_frame_behind_an_older_one_is_answered_fresh_if_the_engine_is_free_in_time() -> None:
    engine, late = FakeEngine(), list[Decision]()
    with timely(engine) as decider:
        hold(engine, decider, 1, late)
        decider._deadline_s = 20.0
        threading.Timer(0.02, engine.free.set).start()
        decision = decider.decide(frame_at(2), on_late=late.append)
    assert (decision.stamp_ns, decision.stale, decision.late) == (2, False, False)
    assert decision.inference_ms >= 15.0  # the wait is the caller's
    assert [one.stamp_ns for one in late] == [1]


def test_frames_whose_deadline_passes_while_the_engine_is_busy_are_not_worked_on() -> None:
    engine, late = FakeEngine(), list[Decision]()
    with timely(engine) as decider:
        hold(engine, decider, 1, late)
        for stamp_ns in (2, 3):
            with pytest.raises(NoAnswerError):
                decider.decide(frame_at(stamp_ns), on_late=late.append)
        engine.free.set()
        decider._deadline_s = 20.0
        assert decider.decide(frame_at(4)).stamp_ns == 4
    assert [frame.stamp_ns for frame in engine.frames] == [1, 4]
    assert [one.stamp_ns for one in late] == [1]


def test_forgotten_answers_are_neither_repeated_nor_handed_over() -> None:
    engine, late = FakeEngine(), list[Decision]()
    with timely(engine) as decider:
        hold(engine, decider, 1, late)
        decider.forget()
        engine.free.set()
        assert decider._worker.wait_idle(5.0)
        engine.free.clear()
        with pytest.raises(NoAnswerError):
            decider.decide(frame_at(2))
    assert late == []


@pytest.mark.parametrize(("error", "name"), FAILURES, ids=lambda value: str(value)[:20])
def test_failure_is_a_flagged_repeat_at_once_and_the_next_frame_is_answered(
    error: Exception, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, lost = FakeEngine(), list[str]()
    with patient(engine, on_lost=lost.append) as decider:
        decider.decide(frame_at(1))
        engine.errors.append(error)
        failed = decider.decide(frame_at(2))
        assert (failed.stamp_ns, failed.stale) == (2, True)
        assert failed.degraded == (f"engine failed: {name}",)
        assert not decider.decide(frame_at(3)).stale
    assert lost == []
    assert f"engine failed: {name}" in caplog.text


def test_failure_with_nothing_to_repeat_is_an_error_with_its_own_reason() -> None:
    engine = FakeEngine()
    with patient(engine) as decider:
        engine.errors.append(MemoryError())
        with pytest.raises(NoAnswerError) as caught:
            decider.decide(frame_at(1))
        assert caught.value.reason == "engine failed: out of memory"
        assert decider.decide(frame_at(2)).stamp_ns == 2


def test_failure_that_comes_late_is_not_handed_over_and_the_next_frame_is_answered() -> None:
    engine, late = FakeEngine(), list[Decision]()
    with timely(engine) as decider:
        engine.errors.append(MemoryError())
        hold(engine, decider, 1, late)
        engine.free.set()
        decider._deadline_s = 20.0
        assert decider.decide(frame_at(2)).stamp_ns == 2
    assert late == []


def test_real_engine_with_nan_weights_is_a_flagged_failure_and_not_a_refused_frame() -> None:
    model = tiny_model()
    healthy = {name: value.clone() for name, value in model.state_dict().items()}
    decider = TimelyDecider(Engine.on_torch(model), deadline_s=60.0)
    decider.warm_up()
    good = decider.decide(frame_at(1))
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(math.nan)
    failed = decider.decide(frame_at(2))
    assert failed.degraded == ("engine failed: its scores are no finite probabilities",)
    assert (failed.stale, failed.action) == (True, good.action)
    model.load_state_dict(healthy)
    again = decider.decide(frame_at(3))
    assert not again.stale
    np.testing.assert_allclose(again.probabilities, good.probabilities, atol=1e-6)
    assert decider.close(5.0)


def test_frame_that_cannot_be_used_is_refused_as_the_engine_says() -> None:
    engine = FakeEngine()
    with patient(engine) as decider:
        decider.decide(frame_at(1))
        with pytest.raises(FrameError, match="no usable image") as caught:
            decider.decide(frame_at(2, b"no JPEG"))
        assert not isinstance(caught.value, NoAnswerError)
        assert decider.decide(frame_at(3)).stamp_ns == 3


def test_what_ran_out_of_memory_is_let_go() -> None:
    class Tensors:
        pass

    held: list[weakref.ref[Tensors]] = []

    class Hungry(FakeEngine):
        def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            raise MemoryError(id(tensors))

    gc.disable()
    try:
        with patient(Hungry()) as decider, pytest.raises(NoAnswerError):
            decider.decide(frame_at(1))
        assert held[0]() is None
    finally:
        gc.enable()


def test_warm_up_runs_in_the_engines_thread_and_raises_what_it_raised() -> None:
    threads: list[str] = []

    class Cold(FakeEngine):
        def warm_up(self) -> None:
            threads.append(threading.current_thread().name)
            raise FrameError("no")

        def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
            threads.append(threading.current_thread().name)
            return super().decide(frame)

    decider = TimelyDecider(Cold())
    with pytest.raises(FrameError, match="no"):
        decider.warm_up()
    decider.decide(frame_at(1))
    assert decider.close()
    assert threads == ["engine", "engine"]


class Scripted(FakeEngine):
    """Takes as long over each frame as a script says, and fails where it says so."""

    def __init__(self, steps: list[tuple[float, bool]]) -> None:
        super().__init__()
        self._steps = steps

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        work_s, fails = self._steps[frame.stamp_ns]
        time.sleep(work_s)
        if fails:
            raise ZeroDivisionError
        action = META_ACTIONS[frame.stamp_ns % len(META_ACTIONS)]
        return replace(super().decide(frame), action=action)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.004, 0.012, 0.03]), st.sampled_from([False] * 4 + [True])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_the_engine_does_answers_are_in_time_in_order_and_told_once(
    steps: list[tuple[float, bool]],
) -> None:
    said: list[Decision] = []
    lock = threading.Lock()

    def say(decision: Decision) -> None:
        with lock:
            said.append(decision)

    decider = TimelyDecider(Scripted(steps), deadline_s=0.01)
    for stamp_ns in range(len(steps)):
        begun_s = time.monotonic()
        try:
            say(decider.decide(frame_at(stamp_ns), on_late=say))
        except NoAnswerError:
            pass
        assert time.monotonic() - begun_s < 0.01 + TOLERANCE_S
    assert decider._worker.wait_idle(5.0)
    assert decider.close(5.0)
    own = [one for one in said if not one.stale]
    assert [one.stamp_ns for one in own] == sorted({one.stamp_ns for one in own})
    for one in own:
        assert one.action.index == one.stamp_ns % len(META_ACTIONS) and not steps[one.stamp_ns][1]
    repeats = [one.stamp_ns for one in said if one.stale]
    assert repeats == sorted(set(repeats))
    for one in said:
        if one.late:
            assert one.inference_ms >= 10.0
