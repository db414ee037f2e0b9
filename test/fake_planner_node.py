"""The planner node as a process of its own, with a planner that loads nothing."""

from fakes import FakePlanner

from clkd_core.process import leave
from clkd_ros.node_process import run_nodes
from clkd_ros.planner_node import PlannerNode

if __name__ == "__main__":
    leave(run_nodes([lambda: PlannerNode(build_planner=lambda config: FakePlanner())]))
