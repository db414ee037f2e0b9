"""The slow node and its deadline: stale, late, failed, lost."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_vlm_node import POISON_FILE
from fakes import FakeEngine, wait_until
from ros_graph import MS, NOW_NS, Graph, running_graph
from vlm_graph import OUTPUT, diagnostic_values, start_vlm, timed_vlm

from clkd_core.types import META_ACTIONS
from clkd_ros.convert import stamp_ns_from_msg
from clkd_ros.launcher import ExitCode
from clkd_ros.messages import DiagnosticArray, MetaAction
from clkd_ros.middleware import TransitionCallbackReturn
from clkd_ros.vlm_node import VlmNode

DEADLINE_MS = 300.0
"""In which even a busy machine gets the fake engine to answer."""


@pytest.fixture
def graph() -> Iterator[Graph]:
    with running_graph() as running:
        yield running


def told(heard: list[Any], number: int) -> list[tuple[str, bool, bool]]:
    """What was said of a frame, in order: reason, stale, late."""
    stamp_ns = NOW_NS + number * 100 * MS
    mine = [msg for msg in heard if stamp_ns_from_msg(msg.header.stamp) == stamp_ns]
    return [(msg.reason, msg.stale, msg.late) for msg in mine]


def show(graph: Graph, number: int) -> None:
    graph.publish_set("vlm", NOW_NS + number * 100 * MS)


def answered(graph: Graph, heard: list[Any], number: int) -> None:
    """Show a frame and wait until something is said of it."""
    show(graph, number)
    wait_until(lambda: bool(told(heard, number)), f"an answer to frame {number}")


MISSING = "no odometry; no route command"
OWN, LATE = (MISSING, False, False), (MISSING, False, True)
STALE = ("no answer within 300 ms", True, False)


def test_device_that_fails_while_the_node_is_configured_ends_the_process_by_name(
    graph: Graph,
) -> None:
    def fail(config: object) -> FakeEngine:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    node = VlmNode(build_engine=fail)
    assert node.trigger_configure() == TransitionCallbackReturn.ERROR
    assert node.exit_code is ExitCode.ENGINE_LOST
    node.destroy_node()


def test_slow_engine_is_answered_for_in_time_and_its_own_answer_follows_once_flagged_late(
    graph: Graph,
) -> None:
    engine = FakeEngine(META_ACTIONS[13])
    heard = start_vlm(graph, engine, DEADLINE_MS)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    answered(graph, heard, 0)
    engine.free.clear()
    answered(graph, heard, 1)
    stale = heard[-1]
    assert told(heard, 1) == [STALE]
    assert DEADLINE_MS <= stale.node_response_ms < DEADLINE_MS + 100.0
    assert 5 * stale.speed + stale.path == 13 and math.isnan(stale.inference_ms)
    engine.free.set()
    wait_until(lambda: len(told(heard, 1)) == 2, "the late answer")
    answered(graph, heard, 2)
    assert [told(heard, number) for number in range(3)] == [[OWN], [STALE, LATE], [OWN]]
    late = heard[-2]
    assert late.node_response_ms >= max(DEADLINE_MS, late.inference_ms)
    counted = partial(diagnostic_values, diagnostics)
    wait_until(lambda: "1" in counted("flagged: late"), "one late answer is told")
    assert "1" in counted("flagged: no answer within 300 ms")
    assert counted("answered")[-1] == "3"  # a repeat is none


def test_first_frame_of_a_slow_engine_is_a_drop_with_its_reason_and_then_a_late_answer(
    graph: Graph,
) -> None:
    engine = FakeEngine()
    engine.free.clear()
    heard = start_vlm(graph, engine, DEADLINE_MS)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    show(graph, 0)
    key = "dropped: no answer within 300 ms"
    wait_until(lambda: "1" in diagnostic_values(diagnostics, key), "the drop is told")
    assert heard == []
    engine.free.set()
    wait_until(lambda: len(heard) == 1, "the late answer")
    assert told(heard, 0) == [LATE]


def test_late_answer_of_before_a_deactivation_is_never_published(graph: Graph) -> None:
    engine = FakeEngine()
    node = graph.start(timed_vlm(engine, deadline_ms=DEADLINE_MS))
    heard = graph.listen(MetaAction, OUTPUT)
    answered(graph, heard, 0)
    engine.free.clear()
    answered(graph, heard, 1)
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    engine.free.set()
    answered(graph, heard, 2)
    assert [told(heard, number) for number in range(3)] == [[OWN], [STALE], [OWN]]


def test_engine_that_fails_is_answered_for_and_the_node_goes_on(graph: Graph) -> None:
    engine = FakeEngine()
    heard = start_vlm(graph, engine)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    failures = [MemoryError(), ZeroDivisionError()]
    engine.errors.append(failures[0])
    show(graph, 0)  # nothing to repeat
    key = "dropped: engine failed: out of memory"
    wait_until(lambda: "1" in diagnostic_values(diagnostics, key), "the drop is told")
    answered(graph, heard, 1)
    for number, failure in enumerate(failures, 2):
        engine.errors.append(failure)
        answered(graph, heard, number)
    answered(graph, heard, 4)
    assert [told(heard, number) for number in range(5)] == [
        [],
        [OWN],
        [("engine failed: out of memory", True, False)],
        [("engine failed: ZeroDivisionError", True, False)],
        [OWN],
    ]
    key = "flagged: engine failed: ZeroDivisionError"
    wait_until(lambda: "1" in diagnostic_values(diagnostics, key), "the failure is told")


def test_engine_that_hangs_ends_the_node_with_the_named_code(graph: Graph) -> None:
    engine = FakeEngine()
    node = graph.start(timed_vlm(engine, deadline_ms=0.0, hang_s=0.5))
    heard = graph.listen(MetaAction, OUTPUT)
    answered(graph, heard, 0)
    assert node.exit_code is None
    engine.free.clear()
    answered(graph, heard, 1)
    assert node.exit_code is ExitCode.ENGINE_LOST
    assert told(heard, 1) == [("engine lost: hangs: no result within 0.5 s", True, False)]
    engine.free.set()


@pytest.fixture
def poisoned_process(
    root: Path, tmp_path: Path
) -> Iterator[tuple["subprocess.Popen[str]", Callable[[], None]]]:
    """The node as a process, and what poisons it."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join([str(root), str(root / "test"), *known])
    process = subprocess.Popen(
        [sys.executable, "-m", "fake_vlm_node", "--autostart"],
        env={**os.environ, "PYTHONPATH": paths, POISON_FILE: str(tmp_path / "poison")},
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, (tmp_path / "poison").touch
    process.kill()
    process.wait()


def test_process_whose_cuda_fails_says_so_and_ends_with_the_named_code(
    graph: Graph, poisoned_process: tuple["subprocess.Popen[str]", Callable[[], None]]
) -> None:
    process, poison = poisoned_process
    graph.wait_for_publisher(OUTPUT, timeout_s=30.0)
    heard = graph.listen(MetaAction, OUTPUT)
    graph.show_until("vlm", heard, lambda msg: not msg.stale)
    poison()
    graph.show_until("vlm", heard, lambda msg: msg.stale and "device-side" in msg.reason)
    assert process.wait(timeout=5.0) == ExitCode.ENGINE_LOST == 75
    assert process.stderr is not None
    said = process.stderr.read().splitlines()
    (line,) = [line for line in said if "exit code 75" in line]
    assert "engine lost" in line and "CUDA error: device-side assert triggered" in line
