"""The same words and values mean the same to rclpy and to the embedded middleware.

These run on whichever is in use: `make test-ros` runs them under real rclpy.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import wait_until

from clkd_ros import middleware
from clkd_ros.messages import String
from clkd_ros.middleware import (
    MultiThreadedExecutor,
    Node,
    Parameter,
    ParameterDescriptor,
    ReentrantCallbackGroup,
)

_DOMAINS = itertools.count(1 + os.getpid() % 30)
FREE = ParameterDescriptor(dynamic_typing=True)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Initialise with words behind ``--ros-args``; ended after the test."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(_DOMAINS) % 100))
    yield lambda *words: middleware.init(args=["--ros-args", *map(str, words)])
    middleware.try_shutdown()


def test_each_of_two_nodes_in_one_process_has_its_own_names_and_topics(start: Any) -> None:
    start(
        *("-r", "vlm:__node:=eyes", "-r", "planner:__node:=driver", "-r", "planner:__ns:=/none"),
        *("-r", "driver:__ns:=/car", "-r", "eyes:~/out:=/seen", "-r", "driver:in:=/seen"),
        *("-r", "vlm:~/in:=/of_the_old_name", "-r", "~/both:=/shared", "-r", "~/both:=/later"),
    )
    eyes, driver = Node("vlm"), Node("planner")
    assert eyes.get_fully_qualified_name() == "/eyes"
    assert driver.get_fully_qualified_name() == "/car/driver"
    for node, name, full in (
        (eyes, "~/out", "/seen"),
        (driver, "~/out", "/car/driver/out"),
        (driver, "in", "/seen"),
        (eyes, "in", "/in"),
        (eyes, "~/in", "/eyes/in"),
        (eyes, "~/both", "/shared"),
        (driver, "~/both", "/shared"),
    ):
        assert node.resolve_topic_name(name) == full
    for node in (eyes, driver):
        node.destroy_node()


def test_each_of_two_nodes_in_one_process_has_its_own_parameters(start: Any) -> None:
    start("-p", "eyes:rate:=2.0", "-p", "driver:rate:=3.0", "-p", "depth:=4")
    found = {}
    for node in (Node("eyes"), Node("driver", namespace="/car"), Node("driver")):
        rate, depth = node.declare_parameter("rate", 1.0), node.declare_parameter("depth", 1)
        found[node.get_fully_qualified_name()] = (rate.value, depth.value)
        node.destroy_node()
    # A name without a namespace means a node without one; files can say more.
    assert found == {"/eyes": (2.0, 4), "/car/driver": (1.0, 4), "/driver": (3.0, 4)}


FILE = """
/**:
  ros__parameters: {a: everybody, b: everybody, c: everybody, d: everybody}
/car/*:
  ros__parameters: {b: one level}
/car:
  front:
    eyes:
      ros__parameters:
        c: nested
        sync: {tolerance_ms: 40, deep: {er: true}}
        sync.dotted: 1
/*/front/**:
  ros__parameters: {d: any level}
/*:
  ros__parameters: {a: another node's}
"""


def declared(node: Any, *names: str) -> list[Any]:
    return [node.declare_parameter(name, None, FREE).value for name in names]


def test_files_address_nodes_by_pattern_and_by_nested_names(start: Any, tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(FILE)
    start("--params-file", tmp_path / "nodes.yaml")
    eyes, flat = Node("eyes", namespace="/car/front"), Node("eyes", namespace="/car")
    assert declared(eyes, "a", "b", "c", "d") == ["everybody"] * 2 + ["nested", "any level"]
    names = ("sync.tolerance_ms", "sync.deep.er", "sync.dotted")
    assert declared(eyes, *names) == [40, True, 1]
    assert declared(flat, "a", "b", "c", "d") == ["everybody", "one level"] + ["everybody"] * 2
    for node in (eyes, flat):
        node.destroy_node()


def test_a_nodes_own_name_wins_over_everybodys_where_it_came_later_first(
    start: Any, tmp_path: Path
) -> None:
    """ROS 2 keeps a pattern at the place where it first appeared, later values included."""
    (tmp_path / "own.yaml").write_text(
        "/**: {ros__parameters: {a: all}}\ntester: {ros__parameters: {a: own, b: own}}\n"
    )
    start(
        *("-p", "tester:c:=own", "--params-file", tmp_path / "own.yaml"),
        *("-p", "a:=last", "-p", "b:=last", "-p", "c:=last"),
    )
    node = Node("tester")
    assert declared(node, "a", "b", "c") == ["last", "last", "last"]
    node.destroy_node()


def test_everybodys_value_does_not_win_over_an_earlier_patterns_later_one(
    start: Any, tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(
        "/**: {ros__parameters: {a: all}}\ntester: {ros__parameters: {a: own}}\n"
    )
    start("--params-file", tmp_path / "own.yaml", "-p", "a:=last")
    node = Node("tester")
    assert declared(node, "a") == ["own"]
    node.destroy_node()


VALUES: dict[str, Any] = {
    "1": 1,
    "+7": 7,
    "-3": -3,
    "0x1F": 31,
    "-0x10": -16,
    "010": 8,
    "08": 8.0,
    "9223372036854775807": 9223372036854775807,
    "9223372036854775808": 9223372036854775808.0,
    "1.0": 1.0,
    "1.": 1.0,
    ".5": 0.5,
    "1e5": 1e5,
    "1e-3": 1e-3,
    "-2.5E+2": -250.0,
    "1e999": "1e999",
    "1e-999": "1e-999",
    "0e-999": 0.0,
    "0x1p3": 8.0,
    "inf": float("inf"),
    "-.inf": float("-inf"),
    ".Inf": float("inf"),
    "Infinity": float("inf"),
    "true": True,
    "Yes": True,
    "y": True,
    "on": True,
    "OFF": False,
    "n": False,
    "tRue": "tRue",
    "yEs": "yEs",
    "null": "null",
    "~": "~",
    "2024-05-06": "2024-05-06",
    "1:30": "1:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "0o17": "0o17",
    "1.2.3": "1.2.3",
    "/camera/front": "/camera/front",
    "a b": "a b",
    "'1'": "1",
    '"true"': "true",
    "''": "",
    "!!str 5": "5",
    "[1, 2]": [1, 2],
    "[1.0, 2e0]": [1.0, 2.0],
    "[true, no]": [True, False],
    "[a, 'b c', '3']": ["a", "b c", "3"],
    "[]": None,
}


def test_values_are_read_alike(start: Any) -> None:
    words = [("-p", f"p{i}:={text}") for i, text in enumerate(VALUES)]
    start(*itertools.chain(*words))
    node = Node("tester")
    names = [f"p{i}" for i in range(len(VALUES))]
    found = [v.tolist() if hasattr(v, "tolist") else v for v in declared(node, *names)]
    wrong = {
        text: (got, wanted)
        for (text, wanted), got in zip(VALUES.items(), found, strict=True)
        if got != wanted or type(got) is not type(wanted)
    }
    assert wrong == {}
    node.destroy_node()


def test_a_list_is_set_only_where_a_list_of_its_type_was_declared(start: Any) -> None:
    start()
    node = Node("tester")
    for name, default in (("words", ["a"]), ("numbers", [1]), ("nothing", [])):
        node.declare_parameter(name, default)
    outcomes = {
        name: [
            node.set_parameters([Parameter(name, value=value)])[0].successful
            for value in (["b"], [2], [2.0], [])
        ]
        for name in ("words", "numbers", "nothing")
    }
    assert outcomes == {
        "words": [True, False, False, False],
        "numbers": [False, True, False, False],
        "nothing": [False, False, False, True],
    }
    node.destroy_node()


@pytest.mark.parametrize(
    "words",
    [
        ["-p", "rate"],
        ["-p", ":=1"],
        ["-p", ":rate:=1"],
        ["-p", "/car/eyes:rate:=1"],
        ["-r", "/car/eyes:a:=b"],
        ["-p", "rate:="],
        ["-p", "rate:={a: 1}"],
        ["-p", "rate:=[1, 2.0]"],
        ["-p", "rate:=[1, a]"],
        ["-p"],
        ["-r", "a"],
        ["-r", ":=b"],
        ["--nonsense", "x"],
        ["--log-level", "loud"],
        ["--params-file", "nowhere.yaml"],
    ],
)
def test_malformed_words_are_refused(start: Any, words: list[str]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each middleware has classes of its own
        start(*words)


def test_an_empty_file_says_nothing(start: Any, tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text("# nothing yet\n")
    start("--params-file", tmp_path / "nodes.yaml", "-p", "a:=1")
    node = Node("tester")
    assert declared(node, "a") == [1]
    node.destroy_node()


@pytest.mark.parametrize(
    "text",
    [
        "tester: 1",
        "tester: {rate: 1}",
        "ros__parameters: {rate: 1}",
        "tester: {ros__parameters: {rate: }}",
        "tester: {ros__parameters: {rate: [1, a]}}",
        "a: &x {ros__parameters: {rate: 1}}\nb: *x",
        "tester: {ros__parameters: {rate: 1",
        "- tester",
    ],
)
def test_malformed_files_are_refused(start: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "nodes.yaml").write_text(text)
    with pytest.raises(Exception):  # noqa: B017
        start("--params-file", tmp_path / "nodes.yaml")


def test_log_level_may_be_one_loggers_own(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    start("--log-level", "error", "--log-level", "eyes:=debug")
    eyes, driver = Node("eyes"), Node("driver")
    for node in (eyes, driver):
        node.get_logger().debug(f"{node.get_name()} whispers")
        node.get_logger().info(f"{node.get_name()} talks")
        node.get_logger().error(f"{node.get_name()} shouts")
    eyes.get_logger().get_child("left").debug("left whispers")
    said = "".join(capfd.readouterr())
    whats = ("eyes whispers", "eyes talks", "eyes shouts", "left whispers", "driver shouts")
    assert [text in said for text in whats] == [True] * 5
    assert "driver talks" not in said and "driver whispers" not in said
    for node in (eyes, driver):
        node.destroy_node()
    middleware.try_shutdown()
    middleware.init(args=["--ros-args", "--log-level", "info", "--log-level", "eyes:=info"])


class Spinning:
    """An executor served in a thread."""

    def __init__(self, *nodes: Any, threads: int = 4) -> None:
        self.executor = MultiThreadedExecutor(num_threads=threads)
        self.nodes = nodes
        for node in nodes:
            self.executor.add_node(node)
        self.thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        with suppress(middleware.ExternalShutdownException):
            self.executor.spin()

    def __enter__(self) -> "Spinning":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()
        self.thread.join(timeout=5.0)
        for node in self.nodes:
            node.destroy_node()


def test_two_nodes_on_one_executor_talk_to_each_other_and_run_at_the_same_time(
    start: Any,
) -> None:
    start()
    one, two = Node("one"), Node("two")
    met = threading.Barrier(2)  # broken, should one node's callbacks wait for the other's
    got: list[str] = []
    out = one.create_publisher(String, "/chat", 10)
    two.create_subscription(String, "/chat", lambda msg: got.append(msg.data), 10)

    def beat(node: Any) -> Callable[[], None]:
        def wait() -> None:
            timers[node].cancel()
            met.wait(timeout=5.0)

        return wait

    timers = {node: node.create_timer(0.01, beat(node)) for node in (one, two)}
    with Spinning(one, two):
        wait_until(lambda: all(timer.is_canceled() for timer in timers.values()), "both beats")
        wait_until(lambda: met.n_waiting == 0, "both callbacks at once")
        wait_until(lambda: out.get_subscription_count() == 1, "a match")
        for number in range(5):
            out.publish(String(data=str(number)))
        wait_until(lambda: len(got) == 5, "5 messages")
        assert got == list("01234")
    assert not met.broken


def test_a_node_may_leave_the_executor_while_the_other_goes_on(start: Any) -> None:
    start()
    stays, leaves = Node("stays"), Node("leaves")
    beats = {"stays": 0, "leaves": 0}

    def count(name: str) -> Callable[[], None]:
        def beat() -> None:
            beats[name] += 1

        return beat

    group = ReentrantCallbackGroup()
    stays.create_timer(0.01, count("stays"), callback_group=group)
    leaves.create_timer(0.01, count("leaves"))
    with Spinning(stays) as spinning:
        spinning.executor.add_node(leaves)
        wait_until(lambda: min(beats.values()) > 3, "both to beat")
        spinning.executor.remove_node(leaves)
        leaves.destroy_node()
        before = beats["stays"]
        wait_until(lambda: beats["stays"] > before + 3, "the other to go on")
