"""A node's health on ``/diagnostics``, once a second."""

from collections.abc import Callable, Mapping

from clkd_core.runtime.health import Health, measure_memory
from clkd_ros import messages
from clkd_ros.convert import health_to_msg
from clkd_ros.middleware import Node

PERIOD_S = 1.0
"""Seconds between two reports: what diagnostic aggregators expect."""


class HealthPublisher:
    """Publishes rate, drops by reason, latency percentiles and memory of one node."""

    def __init__(
        self,
        node: Node,
        health: Health,
        more: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Start the timer; ``more`` gives further lines, by name."""
        self._node = node
        self._health = health
        self._more = more
        self._publisher = node.create_publisher(messages.DiagnosticArray, "/diagnostics", 1)
        self._timer = node.create_timer(PERIOD_S, self._publish)

    def close(self) -> None:
        """Stop the timer."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _publish(self) -> None:
        stamp_ns = self._node.get_clock().now().nanoseconds
        name = self._node.get_fully_qualified_name()
        report, extra = self._health.report(), {**self._more(), **measure_memory()}
        self._publisher.publish(health_to_msg(name, report, stamp_ns=stamp_ns, extra=extra))
