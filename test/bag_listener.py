"""Somebody who listens while a bag is played, on a domain of its own."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from clkd_core.data.bags import topics
from clkd_ros import bag_play, middleware
from clkd_ros.bag_play import PlayConfig, PlayResult, play_bag
from clkd_ros.messages import Clock, String
from clkd_ros.middleware import (
    DurabilityPolicy,
    Node,
    QoSProfile,
    SingleThreadedExecutor,
)

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
START_NS = 1_500_000_000_000_000_000
"""Log time of the first message of a test's bag."""
_DOMAINS = itertools.count(31 + os.getpid() % 30)


class Listener:
    """Hears /chat, the route command and /clock."""

    def __init__(self) -> None:
        self.node = Node("listener")
        self.chat: list[tuple[str, float]] = []
        self.route: list[str] = []
        self.clock: list[int] = []
        self.node.create_subscription(String, "/chat", self._on_chat, 100)
        self.node.create_subscription(Clock, "/clock", self._on_clock, 100)

    def listen_to_route(self) -> None:
        self.node.create_subscription(
            String, topics.ROUTE_COMMAND, lambda msg: self.route.append(msg.data), LATCHED
        )

    def _on_chat(self, msg: Any) -> None:
        self.chat.append((msg.data, time.monotonic()))

    def _on_clock(self, msg: Any) -> None:
        self.clock.append(msg.clock.sec * 10**9 + msg.clock.nanosec - START_NS)

    @property
    def words(self) -> list[str]:
        return [words for words, _ in self.chat]


@contextmanager
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A listener that is served while the block runs."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(_DOMAINS) % 100))
    monkeypatch.setattr(bag_play, "SETTLED_S", 0.2)
    middleware.init(args=[])
    made = Listener()
    executor = SingleThreadedExecutor()
    executor.add_node(made.node)

    def spin() -> None:
        with suppress(middleware.ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        executor.shutdown()
        thread.join(timeout=5.0)
        made.node.destroy_node()
        middleware.try_shutdown()


def play(bag: Path, **words: Any) -> PlayResult:
    """Play once the listener is there."""
    return play_bag(bag, PlayConfig(wait_for_subscribers_s=5.0, **words))
