"""The two processes of ``clkd bench transport``: one publishes, one listens."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from clkd_core.process import leave
from clkd_ros import middleware
from clkd_ros.bench_transport import CASES, LATE_S, RATE_HZ, SILENCE_S, WARM_UP_TICKS, Case, Load
from clkd_ros.messages import CompressedImage, Image
from clkd_ros.middleware import Node, QoSProfile, ReliabilityPolicy, SingleThreadedExecutor

_CONNECT_LIMIT_S = 20.0
_NS_PER_S = 1_000_000_000


def main(words: Sequence[str]) -> int:
    """Run one end: ``publish`` or ``subscribe`` and a :class:`Load` as JSON."""
    role, load = words[0], Load(**json.loads(words[1]))
    middleware.init(args=[])
    try:
        (_publish if role == "publish" else _subscribe)(load)
    except (KeyboardInterrupt, middleware.ExternalShutdownException):
        return 130
    finally:
        middleware.try_shutdown()
    return 0


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class _CpuShare:
    """Processor time of this process per wall time, from now on."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def frac(self) -> float:
        """Of one core."""
        wall_s = time.monotonic() - self._wall_s
        return (time.process_time() - self._cpu_s) / max(wall_s, 1e-9)


def _publish(load: Load) -> None:
    case, node = CASES[load.case], Node("clkd_bench_publisher")
    qos = QoSProfile(depth=case.depth, reliability=ReliabilityPolicy.RELIABLE)
    message = _message(case)
    publishers = [node.create_publisher(type(message), topic, qos) for topic in load.topics]
    until_s = time.monotonic() + _CONNECT_LIMIT_S
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        if time.monotonic() > until_s:
            _say(error=f"no subscriber within {_CONNECT_LIMIT_S:g} s")
            return
        time.sleep(0.02)
    _say(connected=True)
    _send(load, message, publishers)
    sys.stdin.read()  # stay, so that what was lost can be sent again
    node.destroy_node()


def _send(load: Load, message: Any, publishers: Sequence[Any]) -> None:
    """Every camera at each beat; the warm-up has numbers below zero."""
    start_s, call_ms, late = time.monotonic() + 0.5, [], 0
    share = _CpuShare()
    for number in range(-WARM_UP_TICKS, load.ticks):
        due_s = start_s + (number + WARM_UP_TICKS) / RATE_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))
        if number == 0:
            share = _CpuShare()
        late += number >= 0 and time.monotonic() - due_s > LATE_S
        for publisher in publishers:
            call_ms.append(_publish_stamped(publisher, message, number))
        if number >= 0:
            _say(tick=number)
    counted = call_ms[WARM_UP_TICKS * len(publishers) :]
    _say(sent=True, call_ms=counted, late_ticks=late, cpu_frac=share.frac())


def _publish_stamped(publisher: Any, message: Any, number: int) -> float:
    """Publish with the monotonic clock's reading in the header; how long the call took [ms]."""
    message.header.frame_id = str(number)
    before_ns = time.monotonic_ns()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(before_ns, _NS_PER_S)
    publisher.publish(message)
    return (time.monotonic_ns() - before_ns) / 1e6


def _message(case: Case) -> Any:
    """Noise, as JPEG data looks like to a transport."""
    payload = np.random.default_rng(0).bytes(case.payload_bytes)
    if case.message == "CompressedImage":
        return CompressedImage(format="jpeg", data=payload)
    return Image(height=900, width=1600, encoding="rgb8", step=3 * 1600, data=payload)


class _Listener:
    """Notes every counted message and when it came."""

    def __init__(self, load: Load) -> None:
        self.heard: list[tuple[int, int, float]] = []
        self.last_s = time.monotonic()
        self.share: _CpuShare | None = None
        self.cpu_frac = 0.0
        self.node = Node("clkd_bench_subscriber")
        case = CASES[load.case]
        reliable = load.reliability == "reliable"
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=case.depth, reliability=policy)
        kind = CompressedImage if case.message == "CompressedImage" else Image
        for camera, topic in enumerate(load.topics):
            self.node.create_subscription(kind, topic, self._note(camera), qos)

    def _note(self, camera: int) -> Any:
        def note(message: Any) -> None:
            now_ns = time.monotonic_ns()
            number = int(message.header.frame_id)
            if number < 0:
                return
            self.share = self.share or _CpuShare()
            stamp = message.header.stamp
            sent_ns = stamp.sec * _NS_PER_S + stamp.nanosec
            self.heard.append((camera, number, (now_ns - sent_ns) / 1e6))
            self.last_s, self.cpu_frac = now_ns / 1e9, self.share.frac()

        return note


def _subscribe(load: Load) -> None:
    listener, ended = _Listener(load), threading.Event()
    executor = SingleThreadedExecutor()
    executor.add_node(listener.node)

    def wait_for_end() -> None:
        with suppress(ValueError, OSError):
            sys.stdin.read()
        listener.last_s = time.monotonic()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    wanted = load.ticks * len(load.topics)
    while not ended.is_set() or (
        len(listener.heard) < wanted and time.monotonic() - listener.last_s < SILENCE_S
    ):
        executor.spin_once(timeout_sec=0.1)
    _say(heard=listener.heard, cpu_frac=listener.cpu_frac)
    executor.shutdown()
    listener.node.destroy_node()


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
