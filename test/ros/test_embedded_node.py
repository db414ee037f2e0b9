"""The rclpy subset in one process: topics, parameters, time, life cycle, names."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import wait_until

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_core.errors import ConfigError
from clkd_ros.embedded import context as contexts
from clkd_ros.embedded.arguments import expand_name, parse_arguments
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
from clkd_ros.embedded.node import Node
from clkd_ros.embedded.parameters import (
    FloatingPointRange,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    Parameter,
    ParameterDescriptor,
    ParameterNotDeclaredException,
    SetParametersResult,
)
from clkd_ros.embedded.wire.dds import discovery_range_from, domain_id_from
from clkd_ros.embedded.wire.message_types import message_class
from clkd_ros.embedded.wire.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)

String = message_class("std_msgs/msg/String")
ClockMessage = message_class("rosgraph_msgs/msg/Clock")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_DOMAINS = itertools.count(60 + os.getpid() % 30)


class Graph:
    """A context on a domain of its own whose nodes are served until the test ends."""

    def __init__(self) -> None:
        self.context = contexts.Context()
        self.threads: list[threading.Thread] = []

    def start(self, *args: str) -> None:
        """Initialise with the given words behind ``--ros-args``."""
        self.context.init(["--ros-args", *args])

    def node(self, name: str = "tester", **options: Any) -> Node:
        return Node(name, context=self.context, **options)

    def serve(self, *nodes: Node, executor: SingleThreadedExecutor | None = None) -> None:
        """Spin in a thread."""
        chosen = executor or SingleThreadedExecutor(context=self.context)
        for node in nodes:
            chosen.add_node(node)

        def spin() -> None:
            try:
                chosen.spin()
            except contexts.ExternalShutdownException:
                pass

        self.threads.append(threading.Thread(target=spin, daemon=True))
        self.threads[-1].start()

    def end(self) -> None:
        self.context.interrupt()
        for thread in self.threads:
            thread.join(timeout=5.0)
        self.context.shutdown()


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(_DOMAINS) % 100))
    made = Graph()
    yield made
    made.end()


def text(words: str) -> Any:
    return String(data=words)


def test_subscription_gets_messages_in_order_with_their_source_stamp(graph: Graph) -> None:
    graph.start()
    got: list[tuple[str, dict[str, int]]] = []
    talker, listener = graph.node("talker"), graph.node("listener")
    listener.create_subscription(String, "/chat", lambda m, i: got.append((m.data, i)), 50)
    publisher = talker.create_publisher(String, "chat", 50)
    graph.serve(listener)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    before_ns = time.time_ns()
    for number in range(20):
        publisher.publish(text(str(number)))
    wait_until(lambda: len(got) == 20, "20 messages")
    assert [words for words, _ in got] == [str(number) for number in range(20)]
    info = got[0][1]
    assert before_ns <= info["source_timestamp"] <= info["received_timestamp"] <= time.time_ns()


def test_callback_that_takes_one_argument_gets_the_message_alone(graph: Graph) -> None:
    graph.start()
    node, got = graph.node(), []
    node.create_subscription(String, "/chat", lambda msg, extra=None: got.append(extra), 1)
    publisher = node.create_publisher(String, "/chat", 1)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(text("x"))
    wait_until(lambda: got == [None], "one message without info")


def test_depth_one_keeps_the_newest_message_of_a_busy_subscriber(graph: Graph) -> None:
    graph.start()
    node, got, free = graph.node(), [], threading.Event()

    def slow(msg: Any) -> None:
        got.append(msg.data)
        free.wait(5.0)

    node.create_subscription(String, "/chat", slow, QoSProfile(depth=1))
    publisher = node.create_publisher(String, "/chat", 10)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(text("first"))
    wait_until(lambda: got == ["first"], "the callback to be busy")
    for number in range(10):
        publisher.publish(text(str(number)))
    time.sleep(0.05)  # local delivery is synchronous; nothing else can come
    free.set()
    wait_until(lambda: got == ["first", "9"], "only the newest")


def test_latched_message_reaches_a_late_subscriber(graph: Graph) -> None:
    graph.start()
    node, got = graph.node(), []
    publisher = node.create_publisher(String, "/route", LATCHED)
    for words in ("turn left", "go straight"):
        publisher.publish(text(words))
    graph.serve(node)
    node.create_subscription(String, "/route", lambda msg: got.append(msg.data), LATCHED)
    wait_until(lambda: got == ["go straight"], "the last latched message")


def test_incompatible_quality_of_service_is_logged_on_both_sides(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.start()
    node = graph.node()
    node.create_publisher(String, "/chat", qos_profile_sensor_data)
    node.create_subscription(String, "/chat", lambda msg: None, QoSProfile(depth=1))
    graph.serve(node)
    said: list[str] = []

    def both() -> bool:
        said.append(capfd.readouterr().err)
        return all(word in "".join(said) for word in ("a subscriber of /chat", "a publisher of"))

    wait_until(both, "two warnings")
    assert "reliability" in "".join(said)


def test_two_types_on_one_topic_are_logged(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.start()
    node = graph.node()
    node.create_publisher(String, "/chat", 1)
    node.create_subscription(ClockMessage, "/chat", lambda msg: None, 1)
    graph.serve(node)
    said: list[str] = []

    def told() -> bool:
        said.append(capfd.readouterr().err)
        return "/chat carries" in "".join(said)

    wait_until(told, "a warning about two types")


def test_bytes_that_are_no_message_are_logged_and_the_next_message_arrives(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.start()
    node, got = graph.node(), []
    node.create_subscription(String, "/chat", lambda msg: got.append(msg.data), 10)
    publisher = node.create_publisher(String, "/chat", 10)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(b"\0\1\0\0\xff\xff\xff\x7f")
    publisher.publish(text("fine"))
    wait_until(lambda: got == ["fine"], "the message after the broken one")
    assert "std_msgs/msg/String" in capfd.readouterr().err


def test_publishing_another_type_is_refused(graph: Graph) -> None:
    graph.start()
    publisher = graph.node().create_publisher(String, "/chat", 1)
    with pytest.raises(TypeError, match="/chat"):
        publisher.publish(ClockMessage())


def test_private_names_are_remapped_and_resolved(graph: Graph) -> None:
    graph.start("-r", "~/out:=/loud", "-r", "tester:chat:=talk", "-r", "__ns:=/car")
    node = graph.node()
    assert node.get_fully_qualified_name() == "/car/tester"
    assert node.resolve_topic_name("~/out") == "/loud"
    assert node.resolve_topic_name("chat") == "/car/talk"
    assert node.resolve_topic_name("~/in") == "/car/tester/in"
    assert node.resolve_topic_name("/abs") == "/abs"


@pytest.mark.parametrize("name", ["", "/", "a//b", "/a/", "~", "/a b", "/ä", "/1a"])
def test_topic_name_that_ros_does_not_allow_is_refused(name: str) -> None:
    if name == "~":
        assert expand_name(name, "node", "/") == "/node"
        return
    with pytest.raises(ConfigError, match="topic name"):
        expand_name(name, "node", "/")


def test_timer_beats_at_its_period_and_never_bunches(graph: Graph) -> None:
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


def test_simulated_time_drives_clock_and_timers(graph: Graph) -> None:
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


def test_parameters_come_from_file_and_command_line_in_this_order(
    graph: Graph, tmp_path: Path
) -> None:
    file = tmp_path / "nodes.param.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {rate_hz: 5.0, name: all}\n"
        "tester:\n  ros__parameters:\n    name: mine\n    sync: {tolerance_ms: 40}\n"
        "other:\n  ros__parameters: {name: foreign}\n"
    )
    graph.start("--params-file", str(file), "-p", "rate_hz:=7.5")
    node = graph.node()
    assert node.declare_parameter("rate_hz", 1.0).value == 7.5
    assert node.declare_parameter("name", "default").value == "mine"
    assert node.declare_parameter("sync.tolerance_ms", 10).value == 40
    assert node.declare_parameter("untouched", [1, 2]).value == [1, 2]


def test_override_of_another_type_or_out_of_range_is_refused(graph: Graph) -> None:
    graph.start("-p", "rate_hz:=5", "-p", "share:=1.5")
    node = graph.node()
    with pytest.raises(InvalidParameterTypeException, match="'rate_hz' is 5"):
        node.declare_parameter("rate_hz", 1.0)
    bounds = [FloatingPointRange(from_value=0.0, to_value=1.0, step=0.0)]
    with pytest.raises(InvalidParameterValueException, match=r"expected 0\.0\.\.1\.0"):
        node.declare_parameter("share", 0.5, ParameterDescriptor(floating_point_range=bounds))


def test_setting_a_parameter_asks_type_range_and_callback(graph: Graph) -> None:
    graph.start()
    node = graph.node()
    bounds = [FloatingPointRange(from_value=0.0, to_value=1.0, step=0.0)]
    node.declare_parameter("share", 0.5, ParameterDescriptor(floating_point_range=bounds))
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))

    def judge(changed: list[Parameter]) -> Any:
        fine = all(p.value != 0.25 for p in changed)
        return SetParametersResult(successful=fine, reason="" if fine else "not a quarter")

    node.add_on_set_parameters_callback(judge)

    def outcome(name: str, value: Any) -> tuple[bool, str]:
        result = node.set_parameters([Parameter(name, value=value)])[0]
        return result.successful, result.reason

    assert outcome("share", 0.75) == (True, "")
    assert not outcome("share", 1.25)[0]
    assert not outcome("share", "half")[0]
    assert outcome("share", 0.25) == (False, "not a quarter")
    assert not outcome("fixed", 2)[0]
    assert node.get_parameter("share").value == 0.75
    with pytest.raises(ParameterNotDeclaredException, match="unknown"):
        outcome("unknown", 1)


def test_malformed_ros_arguments_are_refused(tmp_path: Path) -> None:
    for words in (["-p", "rate"], ["-r", "a"], ["--nonsense", "x"], ["-p"]):
        with pytest.raises(ConfigError):
            parse_arguments(["--ros-args", *words])
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        parse_arguments(["--ros-args", "--params-file", str(tmp_path / "none.yaml")])


class Managed(LifecycleNode):
    """Publishes its state's name; fails to configure when told so."""

    result: TransitionCallbackReturn | Exception = TransitionCallbackReturn.SUCCESS

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        if isinstance(self.result, Exception):
            raise self.result
        self.publisher = self.create_lifecycle_publisher(String, "~/out", 10)
        return self.result


def test_lifecycle_publisher_is_silent_until_its_node_is_active(graph: Graph) -> None:
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


def test_failed_and_raising_configure_leave_the_node_unconfigured(graph: Graph) -> None:
    graph.start()
    node = Managed("managed", context=graph.context)
    node.result = TransitionCallbackReturn.FAILURE
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.result = ValueError("no such model")
    assert node.trigger_configure() == TransitionCallbackReturn.ERROR
    assert node.current_state.label == "unconfigured"


def test_callbacks_of_one_group_never_overlap_and_those_of_two_groups_do(graph: Graph) -> None:
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


def test_messages_that_wait_for_a_busy_group_cost_no_cpu(graph: Graph) -> None:
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


def test_exception_in_a_callback_comes_out_of_spin(graph: Graph) -> None:
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


def test_task_runs_in_the_executor_and_its_result_comes_back(graph: Graph) -> None:
    graph.start()
    executor = SingleThreadedExecutor(context=graph.context)
    graph.serve(graph.node(), executor=executor)
    assert executor.create_task(lambda a, b: a + b, 2, 3).result(timeout=5.0) == 5
    with pytest.raises(ZeroDivisionError):
        executor.create_task(lambda: 1 / 0).result(timeout=5.0)


def test_graph_names_nodes_topics_and_counts_endpoints(graph: Graph) -> None:
    graph.start()
    one, two = graph.node("one"), graph.node("two", namespace="/car")
    one.create_publisher(String, "/chat", 1)
    two.create_subscription(String, "/chat", lambda msg: None, 1)
    wait_until(lambda: sorted(one.get_node_names()) == ["one", "two"], "both names")
    wait_until(
        lambda: ("/chat", ["std_msgs/msg/String"]) in one.get_topic_names_and_types(), "the topic"
    )
    assert (one.count_publishers("/chat"), one.count_subscribers("/chat")) == (1, 1)
    two.destroy_node()
    wait_until(lambda: one.count_subscribers("/chat") == 0, "the subscriber to go")
    wait_until(lambda: one.get_node_names() == ["one"], "the name to go")


@pytest.mark.parametrize("value", ["-1", "233", "abc", "1.5"])
def test_domain_id_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="ROS_DOMAIN_ID"):
        domain_id_from({"ROS_DOMAIN_ID": value})


def test_discovery_range_follows_ros_variables() -> None:
    assert discovery_range_from({}) == "LOCALHOST"
    assert discovery_range_from({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}) == "SUBNET"
    both = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "1"}
    assert discovery_range_from(both) == "LOCALHOST"
    with pytest.raises(ConfigError, match="EVERYWHERE"):
        discovery_range_from({"ROS_AUTOMATIC_DISCOVERY_RANGE": "EVERYWHERE"})


def test_throttled_log_line_is_written_once_a_period(
    graph: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    graph.start()
    logger = graph.node().get_logger()
    for _ in range(5):
        logger.warning("hot", throttle_duration_sec=60.0)
    logger.warning("cold")
    said = capfd.readouterr().err
    assert (said.count("hot"), said.count("cold")) == (1, 1)


def test_best_effort_subscriber_hears_a_reliable_publisher(graph: Graph) -> None:
    graph.start()
    node, got = graph.node(), []
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(String, "/chat", lambda msg: got.append(msg.data), best_effort)
    publisher = node.create_publisher(String, "/chat", 5)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(text("x"))
    wait_until(lambda: got == ["x"], "the message")
