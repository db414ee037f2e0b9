"""The slow node of a test's ROS graph, with a fake engine."""

from typing import Any

from fakes import FakeEngine
from ros_graph import Graph

from clkd_ros.messages import MetaAction
from clkd_ros.middleware import Parameter
from clkd_ros.vlm_node import VlmNode

OUTPUT = "/vlm/output/meta_action"


def timed_vlm(engine: FakeEngine, **parameters: float) -> VlmNode:
    """The node with these of its parameters."""
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    return VlmNode(build_engine=lambda config: engine, parameter_overrides=overrides)


def start_vlm(graph: Graph, engine: FakeEngine, deadline_ms: float = 0.0) -> list[Any]:
    """What it says; without a deadline, unless it is about that: this machine may be busy."""
    graph.start(timed_vlm(engine, deadline_ms=deadline_ms))
    return graph.listen(MetaAction, OUTPUT)


def diagnostic_values(heard: list[Any], key: str) -> list[str]:
    """All that was said under this key, in order."""
    return [
        pair.value
        for msg in heard
        for status in msg.status
        for pair in status.values
        if pair.key == key
    ]
