"""The VLM node as a process of its own, with an engine that loads nothing."""

from fakes import FakeEngine

from clkd_core.process import leave
from clkd_core.types import META_ACTIONS
from clkd_ros.node_process import run_nodes
from clkd_ros.vlm_node import VlmNode

ANSWER = META_ACTIONS[6]

if __name__ == "__main__":
    leave(run_nodes([lambda: VlmNode(build_engine=lambda config: FakeEngine(ANSWER))]))
