"""The listener of ``clkd bench pipeline``: says on stdout which answer came when, one JSON a line.

It hears decisions, plans and diagnostics, a few hundred bytes each, and no image: what it costs
stands in the table beside the nodes.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from clkd_core.process import leave
from clkd_ros import convert, messages, middleware
from clkd_ros.middleware import Node, SingleThreadedExecutor

_KEPT = 50
"""Messages that wait in the middleware while this process is not scheduled."""


def main(words: Sequence[str]) -> int:
    """Listen until told to stop; ``words``: topic of the decisions, and of the plans if any."""
    middleware.init(args=[])
    node = Node("clkd_bench_watch")
    kinds = {"decision": messages.MetaAction, "plan": messages.PlannedTrajectory}
    topics = dict(zip(kinds, words, strict=False))
    for kind, topic in topics.items():
        node.create_subscription(kinds[kind], topic, _tell_of(kind), _KEPT)
    node.create_subscription(messages.DiagnosticArray, "/diagnostics", _tell_health, _KEPT)
    try:
        _wait_for_publishers(node, [*topics.values()])
        _say(ready=True)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, middleware.ExternalShutdownException):
        pass
    finally:
        middleware.try_shutdown()
    return 0


def _wait_for_publishers(node: Any, topics: Sequence[str]) -> None:
    while not all(node.count_publishers(topic) for topic in topics):
        if not middleware.ok():
            raise KeyboardInterrupt
        time.sleep(0.02)


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _tell_of(kind: str) -> Any:
    def tell(msg: Any) -> None:
        seen_ns = time.time_ns()
        blind = kind == "plan" and math.isnan(msg.inference_ms)  # a stop that is no frame's
        if not blind and not getattr(msg, "stale", False):
            stamp_ns = convert.stamp_ns_from_msg(msg.header.stamp)
            _say(kind=kind, stamp_ns=stamp_ns, seen_ns=seen_ns)

    return tell


def _tell_health(msg: messages.DiagnosticArray) -> None:
    for status in msg.status:
        _say(health=status.name, values={value.key: value.value for value in status.values})


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
