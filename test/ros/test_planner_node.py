"""The fast node in process with a fake planner."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes import FakePlanner, one_hot, wait_until
from ros_graph import Graph, running_graph

from clkd_core.errors import CheckpointError
from clkd_core.types import CAMERAS, META_ACTIONS, Decision
from clkd_ros.convert import decision_to_msg
from clkd_ros.messages import Path, PlannedTrajectory
from clkd_ros.middleware import TransitionCallbackReturn
from clkd_ros.planner_node import PlannerNode

OUTPUT = "/planner/output/trajectory"


@pytest.fixture
def graph() -> Iterator[Graph]:
    with running_graph() as running:
        yield running


def start_planner(graph: Graph, planner: FakePlanner) -> list[Any]:
    graph.start(PlannerNode(build_planner=lambda config: planner))
    return graph.listen(PlannedTrajectory, OUTPUT)


def publish_decision(graph: Graph, stamp_ns: int) -> None:
    action = META_ACTIONS[3]
    decision = Decision(
        stamp_ns=stamp_ns, action=action, probabilities=one_hot(action), inference_ms=1.0
    )
    msg = decision_to_msg(decision, node_response_ms=2.0)
    graph.publish("/planner/input/meta_action", msg)


def test_planner_follows_the_newest_fresh_decision_and_says_which(graph: Graph) -> None:
    planner = FakePlanner()
    heard = start_planner(graph, planner)
    publish_decision(graph, graph.stamp_ns)
    msg = graph.show_until("planner", heard, lambda msg: msg.with_decision)
    assert planner.warm
    assert planner.asked[-1][1] is not None
    assert planner.asked[-1][1].action == META_ACTIONS[3]
    assert "decision" not in msg.reason


def test_planner_without_a_decision_plans_alone_and_says_so(graph: Graph) -> None:
    planner = FakePlanner()
    heard = start_planner(graph, planner)
    graph.show_until("planner", heard, lambda msg: True)
    assert not heard[-1].with_decision
    assert heard[-1].degraded
    assert "no decision yet" in heard[-1].reason


def test_planner_stops_following_a_decision_that_is_too_old(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.with_decision)
    msg = graph.show_until("planner", heard, lambda msg: not msg.with_decision)
    assert "1.1 s old, limit 1 s" in msg.reason


def test_planner_publishes_the_same_points_as_trajectory_and_path(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    paths = graph.listen(Path, "/planner/output/path")
    graph.publish_odometry("planner", graph.stamp_ns, 4.0)
    msg = graph.show_until("planner", heard, lambda msg: "no odometry" not in msg.reason)
    wait_until(lambda: len(paths) == len(heard), "a path for each trajectory")
    np.testing.assert_allclose(msg.x_m, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
    assert [pose.pose.position.x for pose in paths[-1].poses] == pytest.approx(list(msg.x_m))
    assert paths[-1].header.frame_id == "base_link"


def test_planner_goes_on_after_bad_decisions_images_and_odometry(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    graph.publish_odometry("planner", graph.stamp_ns, math.nan)
    bad = decision_to_msg(
        Decision(
            stamp_ns=graph.stamp_ns,
            action=META_ACTIONS[0],
            probabilities=one_hot(META_ACTIONS[0]),
            inference_ms=1.0,
        ),
        node_response_ms=1.0,
    )
    bad.speed = 200
    graph.publish("/planner/input/meta_action", bad)
    graph.publish_set("planner", graph.stamp_ns, bad=CAMERAS)
    msg = graph.show_until("planner", heard, lambda msg: "nan" in msg.reason)
    assert not msg.with_decision


def test_planner_is_not_configured_by_a_bad_checkpoint(graph: Graph) -> None:
    def refuse(config: object) -> FakePlanner:
        raise CheckpointError("no planner inside")

    node = PlannerNode(build_planner=refuse)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()
