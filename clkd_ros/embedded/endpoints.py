"""Publishers, subscriptions and timers: what a node creates and an executor works on."""

import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from clkd_core.errors import DataError
from clkd_ros.embedded.callback_groups import CallbackGroup
from clkd_ros.embedded.clock import NS_PER_S, Clock, Duration
from clkd_ros.embedded.logger import Logger
from clkd_ros.embedded.wire.dds import RawReader, RawWriter
from clkd_ros.embedded.wire.message_types import Message, deserialize, serialize
from clkd_ros.embedded.wire.qos import QoSProfile

Work = Callable[[], Any]
"""A callback with its message, ready to run."""


class Publisher:
    """Sends messages of one type on one topic."""

    def __init__(
        self, writer: RawWriter, msg_type: type[Message], topic: str, qos: QoSProfile, log: Logger
    ) -> None:
        self._writer: RawWriter | None = writer
        self.msg_type = msg_type
        self.topic_name = topic
        self.topic = topic
        self.qos_profile = qos
        self._log = log

    def publish(self, msg: Message | bytes) -> None:
        """Send a message, or bytes that are CDR already; nothing after the publisher's end.

        Raises:
            TypeError: the message is of another type.
        """
        if isinstance(msg, bytes):
            raw = msg
        elif isinstance(msg, self.msg_type):
            raw = serialize(msg)
        else:
            raise TypeError(f"{self.topic} got {type(msg).__name__}, expected {self.msg_type}")
        writer = self._writer
        if writer is not None and not writer.write(raw):
            text = f"a reader of {self.topic} is too slow, a message to it was given up"
            self._log.warning(text, throttle_duration_sec=5.0)

    def get_subscription_count(self) -> int:
        """Readers connected now."""
        return self._writer.matched if self._writer else 0

    def wait_for_all_acked(self, timeout: Duration | None = None) -> bool:
        """True when every reliable reader has every message; waits at most ``timeout``."""
        limit = timeout or Duration(seconds=3600)
        return self._writer is None or self._writer.wait_for_acknowledged(limit.nanoseconds)

    @property
    def guid(self) -> bytes | None:
        """The endpoint's identity on the network."""
        return self._writer.guid if self._writer else None

    def report_mismatch(self) -> None:
        """Log a reader that asked for more than this publisher offers."""
        if self._writer and (policy := self._writer.new_mismatch()):
            self._log.warning(
                f"a subscriber of {self.topic} asks for another {policy} than is offered "
                f"({self.qos_profile}): nothing will reach it"
            )

    def close(self) -> None:
        """Withdraw from the network."""
        if self._writer:
            self._writer.close()
            self._writer = None


class Subscription:
    """Receives messages of one type on one topic."""

    def __init__(
        self,
        reader: RawReader,
        msg_type: type[Message],
        topic: str,
        callback: Callable[..., Any],
        qos: QoSProfile,
        group: CallbackGroup,
        log: Logger,
        raw: bool = False,
    ) -> None:
        self._reader: RawReader | None = reader
        self.msg_type = msg_type
        self.topic_name = topic
        self.topic = topic
        self.callback = callback
        self.qos_profile = qos
        self.callback_group = group
        self.raw = raw
        self._log = log
        self._wants_info = _wants_info(callback)

    @property
    def condition(self) -> Any:
        """What a wait set waits for; None after the end."""
        return self._reader.condition if self._reader else None

    def take(self) -> Work | None:
        """The next message with its callback, or None when nothing waits."""
        taken = self._reader.take() if self._reader else None
        if taken is None:
            return None
        info = {"source_timestamp": taken[1], "received_timestamp": time.time_ns()}
        return partial(self._deliver, taken[0], info)

    def _deliver(self, raw: bytes, info: dict[str, int]) -> Any:
        try:
            msg = raw if self.raw else deserialize(raw, self.msg_type)
        except DataError as err:
            self._log.error(f"{self.topic}: {err}", throttle_duration_sec=5.0)
            return None
        return self.callback(msg, info) if self._wants_info else self.callback(msg)

    def get_publisher_count(self) -> int:
        """Writers connected now."""
        return self._reader.matched if self._reader else 0

    @property
    def guid(self) -> bytes | None:
        """The endpoint's identity on the network."""
        return self._reader.guid if self._reader else None

    def report_mismatch(self) -> None:
        """Log a writer that offers less than this subscription asks for."""
        if self._reader and (policy := self._reader.new_mismatch()):
            self._log.warning(
                f"a publisher of {self.topic} offers another {policy} than is asked for "
                f"({self.qos_profile}): nothing will come from it"
            )

    def close(self) -> None:
        """Withdraw from the network."""
        if self._reader:
            self._reader.close()
            self._reader = None


def _wants_info(callback: Callable[..., Any]) -> bool:
    """rclpy's rule: a callback that can take the message alone gets the message alone."""
    signature = inspect.signature(callback)
    try:
        signature.bind(object())
        return False
    except TypeError:
        pass
    try:
        signature.bind(object(), object())
        return True
    except TypeError as err:
        raise RuntimeError(f"{callback} takes neither (msg) nor (msg, info)") from err


class Timer:
    """Calls back every ``period_ns`` of its clock; a late timer skips beats, never bunches."""

    def __init__(
        self, callback: Callable[[], Any], period_ns: int, clock: Clock, group: CallbackGroup
    ) -> None:
        self.callback = callback
        self.timer_period_ns = period_ns
        self.callback_group = group
        self.clock = clock
        self._canceled = False
        self._next_ns = self.clock.now_ns() + period_ns

    def cancel(self) -> None:
        """Stop calling until :meth:`reset`."""
        self._canceled = True

    def is_canceled(self) -> bool:
        """True after :meth:`cancel`."""
        return self._canceled

    def reset(self) -> None:
        """Start a full period from now."""
        self._canceled = False
        self._next_ns = self.clock.now_ns() + self.timer_period_ns

    def time_until_next_call(self) -> int | None:
        """Nanoseconds, negative when overdue; None while cancelled."""
        return None if self._canceled else self._next_ns - self.clock.now_ns()

    def is_ready(self) -> bool:
        """True when due."""
        left_ns = self.time_until_next_call()
        return left_ns is not None and left_ns <= 0

    def take(self) -> Work | None:
        """The callback when due, and the next beat is set."""
        now_ns = self.clock.now_ns()
        if self._next_ns - now_ns > self.timer_period_ns:  # the clock jumped backwards
            self._next_ns = now_ns + self.timer_period_ns
        if self._canceled or now_ns < self._next_ns:
            return None
        period_ns = max(1, self.timer_period_ns)
        self._next_ns += (1 + (now_ns - self._next_ns) // period_ns) * period_ns
        return self.callback

    def close(self) -> None:
        """Never call again."""
        self._canceled = True


def period_ns_from(seconds: float) -> int:
    """A timer period in whole nanoseconds.

    Raises:
        ValueError: it is negative.
    """
    if seconds < 0:
        raise ValueError(f"timer period is {seconds} s, expected >= 0")
    return round(seconds * NS_PER_S)
