"""Executors, timers, simulated time, life cycle and logging."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from embedded_graph import DOMAINS, EmbeddedGraph
from fakes import wait_until

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_ros.embedded.callback_groups import (
    MutuallyExclusiveCallbackGroup,
    ReentrantCallbackGroup,
)
from clkd_ros.embedded.clock import Time
from clkd_ros.embedded.executor import MultiThreadedExecutor, SingleThreadedExecutor
from clkd_ros.embedded.lifecycle import (
    InvalidTransitionError,
    LifecycleNode,
    TransitionCallbackReturn,
)
from clkd_ros.embedded.wire.message_types import message_class

String = message_class("std_msgs/msg/String")
ClockMessage = message_class("rosgraph_msgs/msg/Clock")


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedGraph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS) % 100))
    made = EmbeddedGraph()
    yield made
    made.end()


def text(words: str) -> Any:
    return String(data=words)


def test_timer_beats_at_its_period_and_never_bunches(graph: EmbeddedGraph) -> None:
    graph.start()
    node, beats = graph.node(), []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 2:
            time.sleep(0.12)  # misses two beats, the next one comes in 0.03 s

    timer = node.create_timer(0.05, beat)
    graph.serve(node)
    wait_until(lambda: len(beats) >= 5, "5 beats")
    timer.cancel()
    steps = [b - a for a, b in itertools.pairwise(beats)]
    assert min(steps) > 0.005
    assert sum(steps[1:3]) == pytest.approx(0.15, abs=0.03)
    count = len(beats)
    time.sleep(0.15)
    assert len(beats) == count


def test_simulated_time_drives_clock_and_timers(graph: EmbeddedGraph) -> None:
    graph.start("-p", "use_sim_time:=true")
    node, beats = graph.node(), []
    assert node.get_clock().now() == Time(nanoseconds=0)
    node.create_timer(1.0, lambda: beats.append(node.get_clock().now().nanoseconds))
    publisher = node.create_publisher(ClockMessage, "/clock", 1)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    for second in (0.5, 1.5, 2.0):
        publisher.publish(ClockMessage(clock=Time(seconds=second).to_msg()))
        wait_until(
            lambda s=second: node.get_clock().now() == Time(seconds=s),  # type: ignore[misc]
            "the clock to follow",
        )
    wait_until(lambda: beats == [1_500_000_000, 2_000_000_000], "two beats of simulated time")
    publisher.publish(ClockMessage(clock=Time(seconds=0.1).to_msg()))  # a bag that loops
    wait_until(lambda: node.get_clock().now() == Time(seconds=0.1), "the jump backwards")
    publisher.publish(ClockMessage(clock=Time(seconds=1.2).to_msg()))
    wait_until(lambda: beats[2:] == [1_200_000_000], "a beat after the jump")


class Managed(LifecycleNode):
    """Publishes its state's name; fails to configure when told so."""

    result: TransitionCallbackReturn | Exception = TransitionCallbackReturn.SUCCESS

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        if isinstance(self.result, Exception):
            raise self.result
        self.publisher = self.create_lifecycle_publisher(String, "~/out", 10)
        return self.result


def test_lifecycle_publisher_is_silent_until_its_node_is_active(graph: EmbeddedGraph) -> None:
    graph.start()
    node, got = Managed("managed", context=graph.context), []
    with pytest.raises(InvalidTransitionError, match="activate"):
        node.trigger_activate()
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.create_subscription(String, "~/out", lambda msg: got.append(msg.data), 10)
    graph.serve(node)
    wait_until(lambda: node.publisher.get_subscription_count() == 1, "a match")
    node.publisher.publish(text("inactive"))
    node.trigger_activate()
    node.publisher.publish(text("active"))
    node.trigger_deactivate()
    node.publisher.publish(text("inactive again"))
    wait_until(lambda: got == ["active"], "only what was said while active")
    assert node.current_state.label == "inactive"


def test_failed_and_raising_configure_leave_the_node_unconfigured(graph: EmbeddedGraph) -> None:
    graph.start()
    node = Managed("managed", context=graph.context)
    node.result = TransitionCallbackReturn.FAILURE
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.result = ValueError("no such model")
    assert node.trigger_configure() == TransitionCallbackReturn.ERROR
    assert node.current_state.label == "unconfigured"


def test_callbacks_of_one_group_never_overlap_and_those_of_two_groups_do(
    graph: EmbeddedGraph,
) -> None:
    graph.start()
    running, most = {"one": 0, "two": 0}, {"one": 0, "two": 0}
    together = threading.Event()

    def callback(group: str) -> Callable[[], None]:
        def run() -> None:
            running[group] += 1
            most[group] = max(most[group], running[group])
            if all(running.values()):
                together.set()
            time.sleep(0.03)
            running[group] -= 1

        return run

    node = graph.node()
    groups = {"one": MutuallyExclusiveCallbackGroup(), "two": MutuallyExclusiveCallbackGroup()}
    for name, group in groups.items():
        for _ in range(3):
            node.create_timer(0.005, callback(name), callback_group=group)
    graph.serve(node, executor=MultiThreadedExecutor(4, context=graph.context))
    wait_until(together.is_set, "two groups at once")
    time.sleep(0.2)
    assert most == {"one": 1, "two": 1}


def test_messages_that_wait_for_a_busy_group_cost_no_cpu(graph: EmbeddedGraph) -> None:
    graph.start()
    node, free, busy = graph.node(), threading.Event(), threading.Event()

    def block(_msg: Any) -> None:
        busy.set()
        free.wait(5.0)

    node.create_subscription(String, "/chat", block, 10)
    publisher = node.create_publisher(String, "/chat", 10)
    graph.serve(node, executor=MultiThreadedExecutor(2, context=graph.context))
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    for _ in range(5):
        publisher.publish(text("x"))
    wait_until(busy.is_set, "a busy callback")
    before_s = time.process_time()
    time.sleep(0.5)
    spent_s = time.process_time() - before_s
    free.set()
    assert spent_s < 0.15


def test_exception_in_a_callback_comes_out_of_spin(graph: EmbeddedGraph) -> None:
    graph.start()
    for executor in (
        SingleThreadedExecutor(context=graph.context),
        MultiThreadedExecutor(2, context=graph.context),
    ):
        node = graph.node("failing")
        node.create_timer(0.01, lambda: 1 / 0, callback_group=ReentrantCallbackGroup())
        executor.add_node(node)
        with pytest.raises(ZeroDivisionError):
            executor.spin_until_future_complete(_Never(), timeout_sec=5.0)
        node.destroy_node()


class _Never:
    def done(self) -> bool:
        return False


def test_task_runs_in_the_executor_and_its_result_comes_back(graph: EmbeddedGraph) -> None:
    graph.start()
    executor = SingleThreadedExecutor(context=graph.context)
    graph.serve(graph.node(), executor=executor)
    assert executor.create_task(lambda a, b: a + b, 2, 3).result(timeout=5.0) == 5
    with pytest.raises(ZeroDivisionError):
        executor.create_task(lambda: 1 / 0).result(timeout=5.0)


def test_throttled_log_line_is_written_once_a_period(
    graph: EmbeddedGraph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.start()
    logger = graph.node().get_logger()
    for _ in range(5):
        logger.warning("hot", throttle_duration_sec=60.0)
    logger.warning("cold")
    said = capfd.readouterr().err
    assert (said.count("hot"), said.count("cold")) == (1, 1)
