"""Time as in rclpy: stamps, durations, and a clock that simulated time can drive."""

import time
from enum import IntEnum
from functools import total_ordering
from typing import Any

from clkd_ros.embedded.wire.message_types import Message, message_class

NS_PER_S = 1_000_000_000


class ClockType(IntEnum):
    """Which clock a stamp is from; only ROS_TIME follows simulated time."""

    ROS_TIME = 1
    SYSTEM_TIME = 2
    STEADY_TIME = 3


@total_ordering
class Duration:
    """A length of time in whole nanoseconds, may be negative."""

    def __init__(self, *, seconds: float = 0, nanoseconds: int = 0) -> None:
        self.nanoseconds = int(seconds * NS_PER_S) + int(nanoseconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.nanoseconds == other.nanoseconds

    def __lt__(self, other: "Duration") -> bool:
        return self.nanoseconds < other.nanoseconds

    def __hash__(self) -> int:
        return hash(self.nanoseconds)

    def __repr__(self) -> str:
        return f"Duration(nanoseconds={self.nanoseconds})"


@total_ordering
class Time:
    """An instant, nanoseconds since the clock's epoch, >= 0.

    Raises:
        ValueError: the instant is negative.
    """

    def __init__(
        self,
        *,
        seconds: float = 0,
        nanoseconds: int = 0,
        clock_type: ClockType = ClockType.ROS_TIME,
    ) -> None:
        self.nanoseconds = int(seconds * NS_PER_S) + int(nanoseconds)
        self.clock_type = clock_type
        if self.nanoseconds < 0:
            raise ValueError(f"time is {self.nanoseconds} ns, expected >= 0")

    def seconds_nanoseconds(self) -> tuple[int, int]:
        """Whole seconds and the rest in nanoseconds."""
        return divmod(self.nanoseconds, NS_PER_S)

    def to_msg(self) -> Any:
        """As builtin_interfaces/Time."""
        sec, nanosec = divmod(self.nanoseconds, NS_PER_S)
        return message_class("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)

    @classmethod
    def from_msg(cls, msg: Any, clock_type: ClockType = ClockType.ROS_TIME) -> "Time":
        """From builtin_interfaces/Time."""
        return cls(seconds=0, nanoseconds=msg.sec * NS_PER_S + msg.nanosec, clock_type=clock_type)

    def __add__(self, other: Duration) -> "Time":
        return Time(nanoseconds=self.nanoseconds + other.nanoseconds, clock_type=self.clock_type)

    def __sub__(self, other: Any) -> Any:
        left = self.nanoseconds - other.nanoseconds
        if isinstance(other, Time):
            return Duration(nanoseconds=left)
        return Time(nanoseconds=left, clock_type=self.clock_type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Time) and self.nanoseconds == other.nanoseconds

    def __lt__(self, other: "Time") -> bool:
        return self.nanoseconds < other.nanoseconds

    def __hash__(self) -> int:
        return hash(self.nanoseconds)

    def __repr__(self) -> str:
        return f"Time(nanoseconds={self.nanoseconds}, clock_type={self.clock_type.name})"


class Clock:
    """Tells the time; a ROS_TIME clock is driven by ``/clock`` while simulated time is on."""

    def __init__(self, *, clock_type: ClockType = ClockType.SYSTEM_TIME) -> None:
        self.clock_type = clock_type
        self._simulated_ns: int | None = None

    @property
    def ros_time_is_active(self) -> bool:
        """True while simulated time is on."""
        return self._simulated_ns is not None

    def now(self) -> Time:
        """The present instant; zero while simulated time is on and none has come yet."""
        return Time(nanoseconds=self.now_ns(), clock_type=self.clock_type)

    def now_ns(self) -> int:
        """The same in nanoseconds, without an object."""
        if self._simulated_ns is not None:
            return self._simulated_ns
        steady = self.clock_type == ClockType.STEADY_TIME
        return time.monotonic_ns() if steady else time.time_ns()

    def follow(self, simulated_ns: int | None) -> None:
        """Set simulated time; None returns to the system's clock."""
        self._simulated_ns = simulated_ns


def clock_message_ns(msg: Message | Any) -> int:
    """Nanoseconds of a rosgraph_msgs/Clock."""
    return int(msg.clock.sec * NS_PER_S + msg.clock.nanosec)
