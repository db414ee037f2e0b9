"""Play a ROS 2 bag onto the network in real time, its bytes unchanged.

Topics that were recorded as latched stay latched. Somebody else's bag is played under our topic
names, and with our quality of service, through a mapping. Works with rclpy and embedded alike.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from clkd_core.data.bags.files import LATCHED_TOPICS, BagReader, open_bag
from clkd_core.data.bags.frames import check_topics
from clkd_core.data.bags.topics import BagTopics, rename_topics
from clkd_core.errors import ConfigError
from clkd_core.progress import progress
from clkd_ros import middleware
from clkd_ros.messages import Clock, any_message_class
from clkd_ros.middleware import (
    DurabilityPolicy,
    Duration,
    Node,
    QoSProfile,
    ReliabilityPolicy,
    SingleThreadedExecutor,
    Time,
)

LATE_S = 0.010
"""A message is late when it leaves this long after its time [s]: a tenth of a camera period."""

READ_AHEAD = 256
"""Messages read before their time, so that disk and decompression do not delay them."""

SETTLED_S = 0.5
"""Subscribers are all there when none has come for so long [s]."""

_NAP_S = 0.05
_DEPTH = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How a bag is played.

    Raises:
        ConfigError: a value is out of range.
    """

    rate: float = 1.0
    """Speed, > 0; 2 plays twice as fast."""
    loop: bool = False
    """Start again at the end, for ever; a bag of which nothing can be played ends all the same."""
    clock_hz: float = 0.0
    """Publish simulated time on ``/clock`` so often; 0: not at all."""
    start_delay_s: float = 0.0
    """Wait before the first message, publishers being there already."""
    wait_for_subscribers_s: float = 0.0
    """Wait at most so long until subscribers have come and settled; 0: do not wait."""
    subscribers: int = 1
    """So many must have come to one topic, where they are waited for."""

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"play rate is {self.rate}, expected > 0")
        for name in ("clock_hz", "start_delay_s", "wait_for_subscribers_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"play {name} is {value}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class PlayResult:
    """What was played."""

    published: int
    """Messages, ``/clock`` not counted."""
    late: int
    """Of these, published more than ``LATE_S`` after their time."""
    worst_late_ms: float
    """The most that any message was late."""
    seconds: float
    """From the first message to the last."""
    finished: bool
    """False when it was interrupted."""

    @property
    def line(self) -> str:
        """One line for people."""
        end = "" if self.finished else ", interrupted"
        return (
            f"played {self.published} messages in {self.seconds:.1f} s, {self.late} late "
            f"(> {LATE_S * 1e3:.0f} ms), worst {self.worst_late_ms:.1f} ms{end}"
        )


def play_bag(bag: Path, config: PlayConfig, names: BagTopics | None = None) -> PlayResult:
    """Play a bag until its end, or until the middleware is shut down.

    Args:
        bag: folder of a ROS 2 bag, or a single mcap or sqlite3 file.
        config: speed, clock, waiting.
        names: what the bag calls the things that our nodes read; None plays every topic under
            its own name.

    Raises:
        DataError: the bag is missing, damaged or cut off, or lacks a topic of the mapping.
    """
    with open_bag(bag) as reader:
        if names is not None:
            check_topics(reader, names)
        node = Node("bag_player")
        try:
            with _spinning(node):
                return _Player(node, reader, config, names).play()
        finally:
            node.destroy_node()


@contextmanager
def _spinning(node: Any) -> Iterator[None]:
    """Serve the node in a thread, so that incompatible subscribers are logged."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def serve() -> None:
        with suppress(middleware.ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=serve, name="spin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown(timeout_sec=1.0)
        thread.join(timeout=1.0)


class _Player:
    def __init__(
        self, node: Any, reader: BagReader, config: PlayConfig, names: BagTopics | None
    ) -> None:
        self._node = node
        self._reader = reader
        self._config = config
        self._publishers = {
            topic: publisher
            for topic, name, qos in _plan_topics(reader, names)
            if (publisher := _announce(node, name, reader.types[topic], qos))
        }
        self._clock_pub = node.create_publisher(Clock, "/clock", 1) if config.clock_hz else None
        self._next_tick_ns = 0
        self._published = self._late = 0
        self._worst_late_s = 0.0

    def play(self) -> PlayResult:
        start_s = time.monotonic()
        try:
            self._wait_for_subscribers()
            self._sleep_until(time.monotonic() + self._config.start_delay_s)
            start_s = time.monotonic()
            self._play_once()
            while self._config.loop and self._published:
                if self._reader.duration_s < _NAP_S:  # a bag of one moment: no flood
                    self._sleep_until(time.monotonic() + _NAP_S)
                self._play_once()
        except (_InterruptedError, KeyboardInterrupt):  # the latter where rclpy hands it on
            return self._result(start_s, finished=False)
        result = self._result(start_s, finished=True)
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=0.5))
        return result

    def _result(self, start_s: float, *, finished: bool) -> PlayResult:
        return PlayResult(
            published=self._published,
            late=self._late,
            worst_late_ms=self._worst_late_s * 1e3,
            seconds=time.monotonic() - start_s,
            finished=finished,
        )

    def _play_once(self) -> None:
        first_ns, start_s = None, 0.0
        total = sum(self._reader.counts.values())
        with _read_ahead(self._reader.raw_messages()) as messages:
            for topic, _, log_ns, data in progress(
                messages, total=total, desc="playing", unit="messages"
            ):
                if first_ns is None:
                    first_ns, start_s, self._next_tick_ns = log_ns, time.monotonic(), log_ns
                due_s = start_s + (log_ns - first_ns) * 1e-9 / self._config.rate
                self._tick_until(log_ns, due_s)
                self._sleep_until(due_s)
                self._publish(topic, bytes(data), due_s)

    def _publish(self, topic: str, data: bytes, due_s: float) -> None:
        if topic not in self._publishers:
            return
        late_s = time.monotonic() - due_s
        self._publishers[topic].publish(data)
        self._published += 1
        self._late += late_s > LATE_S
        self._worst_late_s = max(self._worst_late_s, late_s)

    def _tick_until(self, log_ns: int, due_s: float) -> None:
        """Publish every beat of ``/clock`` up to the time of the next message."""
        if self._clock_pub is None:
            return
        step_ns = round(1e9 * self._config.rate / self._config.clock_hz)
        while self._next_tick_ns <= log_ns:
            ahead_s = (log_ns - self._next_tick_ns) * 1e-9 / self._config.rate
            self._sleep_until(due_s - ahead_s)
            stamp = Time(nanoseconds=self._next_tick_ns).to_msg()
            self._clock_pub.publish(Clock(clock=stamp))
            self._next_tick_ns += step_ns

    def _wait_for_subscribers(self) -> None:
        end_s = time.monotonic() + self._config.wait_for_subscribers_s
        known, since_s = -1, time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            counts = [pub.get_subscription_count() for pub in self._publishers.values()]
            found = sum(counts)
            if found != known:
                known, since_s = found, now_s
            enough = max(counts, default=0) >= max(self._config.subscribers, 1)
            if enough and now_s - since_s >= SETTLED_S:
                _log.info("%d subscribers", found)
                return
            self._sleep_until(now_s + _NAP_S)
        if self._config.wait_for_subscribers_s:
            _log.warning(
                "%d subscribers came in %.1f s, expected %d of one topic",
                max(known, 0),
                self._config.wait_for_subscribers_s,
                self._config.subscribers,
            )

    def _sleep_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0:
            self._check_running()
            time.sleep(min(left_s, _NAP_S))
        self._check_running()

    @staticmethod
    def _check_running() -> None:
        if not middleware.ok():
            raise _InterruptedError


class _InterruptedError(Exception):
    """The middleware was shut down while playing."""


def _plan_topics(
    reader: BagReader, names: BagTopics | None
) -> Iterator[tuple[str, str, QoSProfile]]:
    """(recorded name, name to play under, quality of service)."""
    if names is None:
        yield from ((topic, topic, _profile(reader, topic)) for topic in reader.types)
        return
    played = rename_topics(reader.types, names)
    for topic in reader.types:
        if topic not in played:
            _log.warning("%s is not played: our nodes would take it for ours", topic)
            continue
        mapped = topic in names.by_role.values()
        qos = _our_profile(played[topic]) if mapped else _profile(reader, topic)
        yield topic, played[topic], qos


def _our_profile(topic: str) -> QoSProfile:
    """What our nodes' subscriptions are sure to hear, however the topic was recorded."""
    latched = topic in LATCHED_TOPICS
    return QoSProfile(
        depth=1 if latched else _DEPTH,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _announce(node: Any, topic: str, type_name: str, qos: QoSProfile) -> Any:
    """A publisher; None, with a warning, for a topic that this middleware cannot carry."""
    try:
        return node.create_publisher(any_message_class(type_name), topic, qos)
    except Exception as err:  # each middleware has its own classes for an unknown type
        _log.warning("%s [%s] is not played: %s", topic, type_name, err)
        return None


def _profile(reader: BagReader, topic: str) -> QoSProfile:
    """As recorded; reliable and volatile where the bag says nothing."""
    recorded = reader.qos_profiles(topic)
    latched = any(qos.durability.name == "TRANSIENT_LOCAL" for qos in recorded)
    best_effort = bool(recorded) and all(qos.reliability.name == "BEST_EFFORT" for qos in recorded)
    return QoSProfile(
        depth=max([_DEPTH, *(qos.depth for qos in recorded)])
        if not latched
        else _latched(recorded),
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _latched(recorded: Iterable[Any]) -> int:
    """A latched topic with several publishers keeps the messages of all of them."""
    return max(1, sum(qos.depth for qos in recorded))


@contextmanager
def _read_ahead(messages: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Read in a thread; an error of the reader comes out where the messages do."""
    ready: Queue[Any] = Queue(READ_AHEAD)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            with suppress(Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for message in messages:
                put(message)
                if stopped.is_set():
                    return
            put(None)
        except Exception as err:  # raised again below, in the thread that plays
            put(err)

    def hand_out() -> Iterator[Any]:
        while True:
            try:
                item = ready.get(timeout=0.1)
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield hand_out()
    finally:
        stopped.set()
        thread.join(timeout=2.0)
