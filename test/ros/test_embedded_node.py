"""Topics, quality of service and the graph, in one process."""

import io
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from embedded_graph import DOMAINS, EmbeddedGraph
from fakes import wait_until

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

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


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedGraph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS) % 100))
    made = EmbeddedGraph()
    yield made
    made.end()


def text(words: str) -> Any:
    return String(data=words)


def test_subscription_gets_messages_in_order_with_their_source_stamp(graph: EmbeddedGraph) -> None:
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


def test_endpoints_carry_the_type_hash_by_which_ros_2_knows_std_msgs_string(
    graph: EmbeddedGraph,
) -> None:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
    from cyclonedds.qos import Policy

    graph.start()
    node = graph.node("talker")
    publisher = node.create_publisher(String, "/chat", 1)
    reader = BuiltinDataReader(graph.context.wire.participant, BuiltinTopicDcpsPublication)
    found = [each for each in reader.take(100) if each.topic_name == "rt/chat"]
    assert publisher.topic_name == "/chat"
    # As `ros2 topic info -v` prints it for a publisher of ROS 2 Jazzy's own.
    of_jazzy = "df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    assert [each.qos[Policy.Userdata].data for each in found] == [
        f"typehash=RIHS01_{of_jazzy};".encode()
    ]


def test_callback_that_takes_one_argument_gets_the_message_alone(graph: EmbeddedGraph) -> None:
    graph.start()
    node, got = graph.node(), []
    node.create_subscription(String, "/chat", lambda msg, extra=None: got.append(extra), 1)
    publisher = node.create_publisher(String, "/chat", 1)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(text("x"))
    wait_until(lambda: got == [None], "one message without info")


def test_depth_one_keeps_the_newest_message_of_a_busy_subscriber(graph: EmbeddedGraph) -> None:
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


def test_latched_message_reaches_a_late_subscriber(graph: EmbeddedGraph) -> None:
    graph.start()
    node, got = graph.node(), []
    publisher = node.create_publisher(String, "/route", LATCHED)
    for words in ("turn left", "go straight"):
        publisher.publish(text(words))
    graph.serve(node)
    node.create_subscription(String, "/route", lambda msg: got.append(msg.data), LATCHED)
    wait_until(lambda: got == ["go straight"], "the last latched message")


def listen_to_log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What nodes log. Polling capfd loses what another thread writes while it is emptied.

    Not a fixture: pytest sets sys.stderr anew between a test's set-up and its call.
    """
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stderr", buffer)
    return buffer


def test_incompatible_quality_of_service_is_logged_on_both_sides(
    graph: EmbeddedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = listen_to_log(monkeypatch)
    graph.start()
    node = graph.node()
    node.create_publisher(String, "/chat", qos_profile_sensor_data)
    node.create_subscription(String, "/chat", lambda msg: None, QoSProfile(depth=1))
    graph.serve(node)
    words = ("a subscriber of /chat", "a publisher of")
    wait_until(lambda: all(word in said.getvalue() for word in words), "two warnings")
    assert "reliability" in said.getvalue()


def test_two_types_on_one_topic_are_logged(
    graph: EmbeddedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = listen_to_log(monkeypatch)
    graph.start()
    node = graph.node()
    node.create_publisher(String, "/chat", 1)
    node.create_subscription(ClockMessage, "/chat", lambda msg: None, 1)
    graph.serve(node)
    wait_until(lambda: "/chat carries" in said.getvalue(), "a warning about two types")


def test_bytes_that_are_no_message_are_logged_and_the_next_message_arrives(
    graph: EmbeddedGraph, capfd: pytest.CaptureFixture[str]
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


def test_publishing_another_type_is_refused(graph: EmbeddedGraph) -> None:
    graph.start()
    publisher = graph.node().create_publisher(String, "/chat", 1)
    with pytest.raises(TypeError, match="/chat"):
        publisher.publish(ClockMessage())


def test_graph_names_nodes_topics_and_counts_endpoints(graph: EmbeddedGraph) -> None:
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


def test_best_effort_subscriber_hears_a_reliable_publisher(graph: EmbeddedGraph) -> None:
    graph.start()
    node, got = graph.node(), []
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(String, "/chat", lambda msg: got.append(msg.data), best_effort)
    publisher = node.create_publisher(String, "/chat", 5)
    graph.serve(node)
    wait_until(lambda: publisher.get_subscription_count() == 1, "a match")
    publisher.publish(text("x"))
    wait_until(lambda: got == ["x"], "the message")
