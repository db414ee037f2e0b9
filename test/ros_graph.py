"""A small ROS graph inside one test: nodes under test beside one that feeds and listens."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from fakes import jpeg_bytes, wait_until

from clkd_core.types import CAMERAS
from clkd_ros import middleware
from clkd_ros.convert import stamp_ns_from_msg, stamp_to_msg
from clkd_ros.inputs import LATCHED
from clkd_ros.messages import CompressedImage, Odometry, String
from clkd_ros.middleware import Node, QoSProfile, SingleThreadedExecutor

KEEP_ALL = QoSProfile(depth=1000)
MS = 1_000_000
NOW_NS = 1_500_000_000_000 * MS
"""Stamp of the first image; no clock of this machine."""


class Graph:
    """Publishes what a vehicle would, and keeps what comes back."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.tester = Node("tester")
        self.heard: dict[str, list[Any]] = defaultdict(list)
        """Messages by topic, in the order of arrival."""
        self.stamp_ns = NOW_NS
        """Of the newest frame shown, for tests that show many."""
        self._publishers: dict[str, Any] = {}
        executor.add_node(self.tester)

    def start(self, node: Any) -> Any:
        """Configure and activate a node and let it spin."""
        success = middleware.TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == success
        assert node.trigger_activate() == success
        self._executor.add_node(node)
        return node

    def listen(self, message_class: Any, topic: str) -> list[Any]:
        """Keep what comes on a topic from now on."""
        self.tester.create_subscription(message_class, topic, self.heard[topic].append, KEEP_ALL)
        self.wait_for_publisher(topic)
        return self.heard[topic]

    def wait_for_publisher(self, topic: str, timeout_s: float = 10.0) -> None:
        """Discovery takes a moment; nothing may be said before it is done."""
        count = self.tester.count_publishers
        wait_until(lambda: count(topic) > 0, f"a publisher of {topic}", timeout_s)

    def publish(self, topic: str, msg: Any, qos: Any = KEEP_ALL) -> None:
        """Say something once somebody listens."""
        if topic not in self._publishers:
            self._publishers[topic] = self.tester.create_publisher(type(msg), topic, qos)
        publisher = self._publishers[topic]
        wait_until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
        publisher.publish(msg)

    def publish_image(self, node: str, camera: str, stamp_ns: int, data: bytes) -> None:
        """One view for the node of that name."""
        msg = CompressedImage(format="jpeg")
        msg.header.stamp = stamp_to_msg(stamp_ns)
        msg.data = data
        self.publish(f"/{node}/input/{camera.lower()}", msg)

    def publish_set(
        self, node: str, stamp_ns: int, *, without: Sequence[str] = (), bad: Sequence[str] = ()
    ) -> None:
        """One image a camera, all of one stamp; the ``bad`` ones are no JPEG."""
        for camera in CAMERAS:
            if camera not in without:
                data = b"this is no JPEG" if camera in bad else jpeg_bytes()
                self.publish_image(node, camera, stamp_ns, data)

    def show_until(
        self,
        node: str,
        heard: list[Any],
        wanted: Callable[[Any], bool],
        *,
        without: Sequence[str] = (),
        before_each: Callable[[int], None] = lambda stamp_ns: None,
    ) -> Any:
        """Topics overtake each other: show frames until an answer is as wanted, and return it.

        A subscriber in another process may not know a publisher yet that already knows it; what
        must arrive is said ``before_each`` frame, with its stamp, as a vehicle would.
        """
        for _ in range(30):
            self.stamp_ns += 100 * MS
            before_each(self.stamp_ns)
            self.publish_set(node, self.stamp_ns, without=without)
            with suppress(AssertionError):
                wait_until(partial(_is_last, heard, self.stamp_ns), "an answer", 0.5)
            if heard and wanted(heard[-1]):
                return heard[-1]
        raise AssertionError(f"none of {len(heard)} answers is as wanted: {heard[-1:]}")

    def publish_odometry(self, node: str, stamp_ns: int, speed_mps: float) -> None:
        """One odometry sample."""
        msg = Odometry()
        msg.header.stamp = stamp_to_msg(stamp_ns)
        msg.twist.twist.linear.x = speed_mps
        self.publish(f"/{node}/input/odometry", msg)

    def publish_route(self, node: str, phrase: str) -> None:
        """The latched route command."""
        self.publish(f"/{node}/input/route_command", String(data=phrase), LATCHED)


def _is_last(heard: list[Any], stamp_ns: int) -> bool:
    return bool(heard) and stamp_ns_from_msg(heard[-1].header.stamp) == stamp_ns


@contextmanager
def running_graph() -> Iterator[Graph]:
    """Middleware up, a graph spinning in the background, all down at the end."""
    middleware.init(args=[])
    executor = SingleThreadedExecutor()
    graph = Graph(executor)
    thread = threading.Thread(target=partial(_spin, executor), name="spin", daemon=True)
    thread.start()
    try:
        yield graph
    finally:
        nodes = list(executor.get_nodes())
        executor.shutdown(timeout_sec=5.0)
        thread.join(5.0)
        for node in nodes:
            node.destroy_node()
        middleware.try_shutdown()
    assert not thread.is_alive(), "the executor did not stop"


def _spin(executor: Any) -> None:
    try:
        while True:
            with suppress(middleware.InvalidHandle):  # as in node_process
                executor.spin()
                return
    except middleware.ExternalShutdownException:
        pass
