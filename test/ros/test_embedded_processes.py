"""The rclpy subset between processes, over DDS on the loopback, and its end by signals."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import wait_until

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_ros import middleware
from clkd_ros.launcher import child_environment
from clkd_ros.messages import CompressedImage, MetaAction, String
from clkd_ros.middleware import (
    DurabilityPolicy,
    Node,
    QoSProfile,
    SingleThreadedExecutor,
    qos_profile_sensor_data,
)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_DOMAINS = itertools.count(1 + os.getpid() % 30)

PREAMBLE = """
import sys, time
from clkd_ros.messages import CompressedImage, MetaAction, String
from clkd_ros.middleware import *
from clkd_ros.node_process import run_nodes
"""


class Peer:
    """A node in a process of its own."""

    def __init__(self, folder: Path, script: str) -> None:
        file = folder / "peer.py"
        file.write_text(PREAMBLE + textwrap.dedent(script))
        self.process = subprocess.Popen(
            [sys.executable, str(file)],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, float, str]:
        """Send a signal; exit code, seconds it took, all that was said."""
        start_s = time.monotonic()
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=10.0)
        return self.process.returncode, time.monotonic() - start_s, said


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A served node on a domain of its own."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(_DOMAINS) % 100))
    middleware.init(args=[])
    made = Node("tester")
    executor = SingleThreadedExecutor()
    executor.add_node(made)

    def spin() -> None:
        with suppress(middleware.ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield made
    executor.shutdown()
    thread.join(timeout=5.0)
    made.destroy_node()
    middleware.try_shutdown()


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[Any]:
    """Start scripts as processes; none survives the test."""
    peers: list[Peer] = []

    def start(script: str) -> Peer:
        peers.append(Peer(tmp_path, script))
        return peers[-1]

    yield start
    for peer in peers:
        peer.process.kill()
        peer.process.communicate()


ECHO = """
class Echo(Node):
    def __init__(self):
        super().__init__("echo")
        self.out = self.create_publisher(MetaAction, "/action", 10)
        self.create_subscription(CompressedImage, "/image", self.on_image, qos_profile_sensor_data)

    def on_image(self, msg):
        answer = MetaAction()
        answer.header = msg.header
        answer.speed, answer.path = MetaAction.STOP, MetaAction.LEFT_TURN
        answer.probability = [0.0] * 18 + [1.0, 0.0]
        answer.inference_ms, answer.reason = float("nan"), f"{len(msg.data)} bytes {msg.format}"
        self.out.publish(answer)

sys.exit(run_nodes([Echo]))
"""


def test_image_and_meta_action_cross_processes_unchanged(node: Any, start_peer: Any) -> None:
    got: list[Any] = []
    node.create_subscription(MetaAction, "/action", got.append, 10)
    publisher = node.create_publisher(CompressedImage, "/image", 10)
    start_peer(ECHO)
    wait_until(lambda: publisher.get_subscription_count() == 1, "the echo's subscription")
    wait_until(lambda: node.count_publishers("/action") == 1, "the echo's publisher")
    image = CompressedImage(format="jpeg", data=bytes(range(256)) * 700)
    image.header.stamp.sec, image.header.stamp.nanosec = 1_700_000_000, 123_456_789
    image.header.frame_id = "cam_front"
    publisher.publish(image)
    wait_until(lambda: len(got) == 1, "the answer")
    answer = got[0]
    assert answer.header == image.header
    assert (answer.speed, answer.path) == (MetaAction.STOP, MetaAction.LEFT_TURN)
    assert list(answer.probability) == [0.0] * 18 + [1.0, 0.0]
    assert answer.inference_ms != answer.inference_ms
    assert answer.reason == "179200 bytes jpeg"


def test_latched_message_reaches_a_process_that_starts_later(node: Any, start_peer: Any) -> None:
    got: list[str] = []
    node.create_subscription(String, "/heard", lambda msg: got.append(msg.data), LATCHED)
    node.create_publisher(String, "/route", LATCHED).publish(String(data="turn left"))
    start_peer("""
        class Late(Node):
            def __init__(self):
                super().__init__("late")
                latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
                self.out = self.create_publisher(String, "/heard", latched)
                self.create_subscription(String, "/route", self.out.publish, latched)

        sys.exit(run_nodes([Late]))
    """)
    wait_until(lambda: got == ["turn left"], "the latched message, there and back")


def test_six_cameras_of_150_kb_at_12_hz_lose_nothing(node: Any, start_peer: Any) -> None:
    """Three seconds of what six JPEG cameras send; reliable as our bags are played."""
    got: dict[str, list[int]] = {f"/cam{c}": [] for c in range(6)}
    delays_ms: list[float] = []

    def on_image(topic: str) -> Any:
        def keep(msg: Any, info: dict[str, int]) -> None:
            got[topic].append(msg.header.stamp.sec)
            delays_ms.append((time.time_ns() - info["source_timestamp"]) / 1e6)

        return keep

    for topic in got:
        node.create_subscription(CompressedImage, topic, on_image(topic), 10)
    start_peer("""
        class Cameras(Node):
            def __init__(self):
                super().__init__("cameras")
                self.pubs = [self.create_publisher(CompressedImage, f"/cam{c}", 10)
                             for c in range(6)]
                self.sent = 0
                self.image = CompressedImage(format="jpeg", data=bytes(150_000))
                self.create_timer(1 / 12, self.tick)

            def tick(self):
                if self.sent == 36 or any(p.get_subscription_count() == 0 for p in self.pubs):
                    return
                self.image.header.stamp.sec = self.sent
                self.sent += 1
                for publisher in self.pubs:
                    publisher.publish(self.image)

        sys.exit(run_nodes([Cameras]))
    """)
    wait_until(lambda: all(len(stamps) >= 36 for stamps in got.values()), "216 images", 15.0)
    assert all(stamps == list(range(36)) for stamps in got.values())
    assert sorted(delays_ms)[len(delays_ms) // 2] < 20.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_spinning_node_cleanly(
    node: Any, start_peer: Any, number: signal.Signals
) -> None:
    peer = start_peer("""
        class Sleeper(Node):
            def destroy_node(self):
                print("goodbye begins", flush=True)
                time.sleep(0.3)  # a second signal comes here
                super().destroy_node()
                print("goodbye ends", flush=True)

        def build():
            return Sleeper("sleeper")

        sys.exit(run_nodes([build]))
    """)
    wait_until(lambda: "sleeper" in node.get_node_names(), "the node to be seen")
    time.sleep(0.3)  # spinning begins just after the name is known
    peer.process.send_signal(number)
    time.sleep(0.3)
    code, seconds, said = peer.end(number)
    assert code == 0, said
    assert "goodbye ends" in said
    assert "Traceback" not in said
    assert seconds < 2.0


def test_process_that_is_killed_is_forgotten_and_its_successor_is_heard(
    node: Any, start_peer: Any
) -> None:
    got: list[Any] = []
    node.create_subscription(MetaAction, "/action", got.append, 10)
    publisher = node.create_publisher(CompressedImage, "/image", 10)
    first = start_peer(ECHO)
    wait_until(lambda: publisher.get_subscription_count() == 1, "the first echo")
    first.end(signal.SIGKILL)
    start_peer(ECHO)
    wait_until(lambda: node.count_publishers("/action") >= 2, "the second echo")

    def answered() -> bool:
        publisher.publish(CompressedImage(format="jpeg", data=b"x"))
        time.sleep(0.02)
        return bool(got)

    wait_until(answered, "an answer of the second echo")


def test_nodes_verb_names_the_middleware_and_what_it_sees(node: Any) -> None:
    node.create_publisher(String, "/chat", qos_profile_sensor_data)
    done = subprocess.run(
        [sys.executable, "-m", "clkd_core.cli", "nodes", "--wait", "0.5"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    assert f"middleware: {middleware.which()}" in done.stdout
    assert "tester" in done.stdout
    assert "/chat [std_msgs/msg/String] 1 -> 0" in done.stdout
