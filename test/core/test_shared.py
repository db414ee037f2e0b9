"""clkd_core.runtime.shared: two callers, one encoding a set, the answers of two engines."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import wait_until
from shared_engines import (
    FAMILIES,
    CountingEngine,
    a_decision,
    a_frame,
    same_decision,
    same_plan,
    tiny_planner,
    tiny_student,
    write_student,
)
from tiny_vlm import tiny_model

from clkd_core.errors import CheckpointError
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.models.planner import Planner
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.planning import PlannerEngine
from clkd_core.runtime.shared import SharedEngine
from clkd_core.types import Decision, Plan

FRAMES = 50


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> VlmBase:
    """A student of each family; the routers of its experts keep what they decided last."""
    return tiny_student(request.param)


@pytest.fixture(scope="module")
def planner(model: VlmBase) -> Planner:
    return tiny_planner(model)


@pytest.fixture
def engine(model: VlmBase) -> CountingEngine:
    return CountingEngine(model)


def in_two_threads(one: Callable[[], Any], other: Callable[[], Any]) -> tuple[Any, Any]:
    """The results of both, which run at the same time."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(one), pool.submit(other)
        return first.result(60.0), second.result(60.0)


def test_two_threads_get_what_two_engines_say_and_each_set_is_encoded_once(
    engine: CountingEngine, model: VlmBase, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    decider, planning = shared.decider(), shared.planner()
    together = threading.Barrier(2)  # as when a set is complete: both workers get it at once

    def decide(n: int) -> Decision:
        together.wait(30.0)
        return decider.decide(a_frame(n))

    def plan(n: int) -> Plan:
        together.wait(30.0)
        return planning.plan(a_frame(n, ego=None), a_decision(n % 20))

    decisions, plans = in_two_threads(
        lambda: [decide(n) for n in range(FRAMES)], lambda: [plan(n) for n in range(FRAMES)]
    )
    assert engine.encoded == dict.fromkeys(range(FRAMES), 1)
    alone = Engine.on_torch(model, bf16=True)
    planner_alone = PlannerEngine(planner, alone)
    for n in range(FRAMES):
        assert same_decision(decisions[n], alone.decide(a_frame(n)))
        wanted = planner_alone.plan(a_frame(n, ego=None), a_decision(n % 20))
        assert same_plan(plans[n], wanted)
        assert decisions[n].degraded == () and plans[n].degraded == ("no odometry",)
    spread = np.ptp([decision.probabilities for decision in decisions], axis=0).max()
    assert spread > 1e-2  # else the sameness means little


def test_plans_keep_coming_while_a_language_pass_takes_its_time(
    engine: CountingEngine, model: VlmBase, planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedEngine(engine, planner)
    decider, planning = shared.decider(), shared.planner()
    reading, release = threading.Event(), threading.Event()
    score = model.answer_log_probs

    def score_slowly(*args: Any) -> torch.Tensor:
        reading.set()
        assert release.wait(30.0)
        return score(*args)

    monkeypatch.setattr(model, "answer_log_probs", score_slowly)
    with ThreadPoolExecutor(2) as pool:
        coming = pool.submit(decider.decide, a_frame(1))
        assert reading.wait(30.0)
        plans = [planning.plan(a_frame(n), None) for n in range(1, 20)]
        assert not coming.done()
        release.set()
        slow = coming.result(30.0)
    monkeypatch.undo()
    assert [plan.stamp_ns for plan in plans] == list(range(1, 20))
    assert engine.encoded == dict.fromkeys(range(1, 20), 1)
    assert same_decision(slow, Engine.on_torch(model, bf16=True).decide(a_frame(1)))
    assert slow.inference_ms >= sum(plan.inference_ms for plan in plans)


def test_interleaved_calls_of_many_kinds_give_what_they_give_one_after_the_other(
    engine: CountingEngine, model: VlmBase, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    deciders, planners = [shared.decider(), shared.decider()], [shared.planner(), shared.planner()]
    alone = Engine.on_torch(model, bf16=True)
    planner_alone = PlannerEngine(planner, alone)
    numbers = range(20)
    wanted = [
        (alone.decide(a_frame(n)), planner_alone.plan(a_frame(n), a_decision(n))) for n in numbers
    ]

    def work(worker: int) -> list[bool]:
        """50 calls, each worker in an order of its own; every tenth set is asked for by all."""
        right = []
        for call in range(50):
            n = int(numbers[(7 * call + 3 * worker) % 20]) if call % 10 else call // 10
            if (call + worker) % 2:
                right.append(same_decision(deciders[worker % 2].decide(a_frame(n)), wanted[n][0]))
            else:
                plan = planners[worker % 2].plan(a_frame(n), a_decision(n))
                right.append(same_plan(plan, wanted[n][1]))
        return right

    with ThreadPoolExecutor(4) as pool:
        results = [right for rows in pool.map(work, range(4)) for right in rows]
    assert len(results) == 200 and all(results)


def test_who_comes_second_waits_for_the_first_and_its_clock_runs(
    engine: CountingEngine, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    decider, planning = shared.decider(), shared.planner()
    frame = a_frame(1)
    engine.free.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(planning.plan, a_frame(1), None)
        wait_until(lambda: engine.running == 1, "the planner encodes")
        second = pool.submit(lambda: (time.perf_counter(), decider.decide(frame)))
        wait_until(second.running, "the decider asks")
        time.sleep(0.05)
        assert not first.done() and not second.done()
        freed_s = time.perf_counter()
        engine.free.set()
        plan, (called_s, decision) = first.result(30.0), second.result(30.0)
    assert engine.encoded == {1: 1}
    assert plan.inference_ms >= 50.0
    assert decision.inference_ms >= (freed_s - called_s) * 1e3 - 20.0


def test_decision_after_a_plan_is_the_engines_own(
    engine: CountingEngine, model: VlmBase, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    shared.planner().plan(a_frame(4), None)
    decision = shared.decider().decide(a_frame(4))
    assert engine.encoded == {4: 1}
    assert same_decision(decision, Engine.on_torch(model, bf16=True).decide(a_frame(4)))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "student"
    write_student(folder)
    return folder


def test_checkpoint_is_loaded_once_warmed_up_and_answers_as_two_engines(student: Path) -> None:
    shared = SharedEngine.from_checkpoint(student, device="cpu")
    decider, planning = shared.decider(), shared.planner()
    decider.warm_up()
    planning.warm_up()
    assert shared.device == "cpu"
    wanted = Engine.from_checkpoint(student, device="cpu").decide(a_frame(3))
    assert same_decision(decider.decide(a_frame(3)), wanted)
    alone = PlannerEngine.from_checkpoint(student, device="cpu")
    assert same_plan(planning.plan(a_frame(3), wanted), alone.plan(a_frame(3), wanted))


def test_a_student_without_planner_decides_and_says_why_it_does_not_plan(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "student", tiny_model())
    shared = SharedEngine.from_checkpoint(tmp_path / "student", device="cpu")
    assert shared.decider().decide(a_frame()).degraded == ()
    with pytest.raises(CheckpointError, match=r"student holds no planner, expected planner/"):
        shared.planner()


def test_a_damaged_planner_is_named_and_the_student_decides(tmp_path: Path) -> None:
    write_student(tmp_path / "student")
    (tmp_path / "student" / "planner" / "config.json").write_text("{")
    shared = SharedEngine.from_checkpoint(tmp_path / "student", device="cpu")
    assert shared.decider().decide(a_frame()).degraded == ()
    with pytest.raises(CheckpointError, match="planner"):
        shared.planner()


@pytest.mark.gpu
def test_on_a_gpu_a_plan_does_not_stand_in_line_behind_a_language_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_student("llama").to("cuda")
    shared = SharedEngine(Engine.on_torch(model, device="cuda"), tiny_planner(model).to("cuda"))
    decider, planning = shared.decider(), shared.planner()
    decider.warm_up()
    planning.warm_up()
    wanted = Engine.on_torch(model, device="cuda").decide(a_frame(1))
    score = model.answer_log_probs

    def score_slowly(*args: Any) -> torch.Tensor:
        torch.cuda._sleep(2_000_000_000)  # cycles, about a second, in the caller's stream
        return score(*args)

    monkeypatch.setattr(model, "answer_log_probs", score_slowly)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(decider.decide, a_frame(1))
        time.sleep(0.2)
        plan = planning.plan(a_frame(2), None)
        assert not coming.done() and plan.inference_ms < 200.0
        decision = coming.result(30.0)
    assert np.allclose(decision.probabilities, wanted.probabilities, atol=1e-2)
