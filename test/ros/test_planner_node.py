"""The fast node in process with a fake planner."""

import gc
import math
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes import FakePlanner, one_hot, wait_until
from ros_graph import Graph, running_graph

from clkd_core.errors import CheckpointError
from clkd_core.types import CAMERAS, META_ACTIONS, Decision, PlanMode
from clkd_ros.convert import decision_to_msg, stamp_ns_from_msg, stamp_to_msg
from clkd_ros.messages import Clock, DiagnosticArray, MarkerArray, Path, PlannedTrajectory
from clkd_ros.middleware import Parameter, TransitionCallbackReturn
from clkd_ros.planner_node import PlannerNode

OUTPUT = "/planner/output/trajectory"
FOLLOWING = PlanMode.FOLLOWING


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
    msg = graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)
    assert planner.warm
    assert planner.asked[-1][1] is not None
    assert planner.asked[-1][1].action == META_ACTIONS[3]
    assert "decision" not in msg.reason


def test_planner_without_a_decision_plans_alone_and_says_so(graph: Graph) -> None:
    planner = FakePlanner()
    heard = start_planner(graph, planner)
    graph.show_until("planner", heard, lambda msg: True)
    assert heard[-1].mode == PlanMode.WITHOUT_DECISION
    assert heard[-1].degraded
    assert "no decision yet" in heard[-1].reason


def test_planner_stops_following_a_decision_that_is_too_old(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)
    msg = graph.show_until("planner", heard, lambda msg: msg.mode != FOLLOWING)
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
    assert msg.mode == PlanMode.WITHOUT_DECISION


def test_planner_is_not_configured_by_a_bad_checkpoint(graph: Graph) -> None:
    def refuse(config: object) -> FakePlanner:
        raise CheckpointError("no planner inside")

    node = PlannerNode(build_planner=refuse)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()


def test_planner_that_is_left_without_decisions_brakes_along_its_last_path(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    graph.publish_odometry("planner", graph.stamp_ns, 6.0)
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)
    graph.stamp_ns += 3_500_000_000
    graph.publish_odometry("planner", graph.stamp_ns, 6.0)
    msg = graph.show_until("planner", heard, lambda msg: msg.mode == PlanMode.STOPPING)
    steps_m = np.diff(np.asarray(msg.x_m))
    assert (np.diff(steps_m) < 0).all(), "each step is shorter than the one before"
    assert "no fresh decision for 3.6 s, limit 2 s" in msg.reason
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)


def test_planner_that_sees_no_frames_any_more_stops_by_itself_and_says_so(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    graph.publish_odometry("planner", graph.stamp_ns, 6.0)
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)
    wait_until(lambda: heard[-1].mode == PlanMode.STOPPING, "a stop without a frame", 2.0)
    assert "no usable frame for" in heard[-1].reason
    wait_until(lambda: len(heard) > 5, "more of them", 2.0)
    wait_until(lambda: "flagged: stopping" in told(diagnostics), "the diagnostics tell", 3.0)
    assert "memory_mib" in told(diagnostics)
    graph.show_until("planner", heard, lambda msg: msg.mode != PlanMode.STOPPING)


def test_planner_in_simulated_time_is_blind_by_that_time_only(graph: Graph) -> None:
    simulated = [Parameter("use_sim_time", value=True)]
    graph.start(PlannerNode(lambda config: FakePlanner(), parameter_overrides=simulated))
    heard = graph.listen(PlannedTrajectory, OUTPUT)

    def tell(stamp_ns: int) -> None:
        graph.publish("/clock", Clock(clock=stamp_to_msg(stamp_ns)))

    graph.show_until("planner", heard, lambda msg: True, before_each=tell)
    shown = len(heard)
    with pytest.raises(AssertionError):  # the clock stands: a paused bag is no blindness
        wait_until(lambda: len(heard) > shown, "nothing", 1.0)

    def blind() -> bool:
        graph.stamp_ns += 100_000_000
        tell(graph.stamp_ns)
        time.sleep(0.02)
        return heard[-1].mode == PlanMode.STOPPING

    wait_until(blind, "a stop when the simulated time goes on without frames", 10.0)
    graph.stamp_ns -= 60_000_000_000  # a bag that loops
    msg = graph.show_until(
        "planner", heard, lambda msg: msg.mode != PlanMode.STOPPING, before_each=tell
    )
    assert stamp_ns_from_msg(msg.header.stamp) == graph.stamp_ns


def told(heard: list[Any]) -> set[str]:
    return {pair.key for msg in heard for status in msg.status for pair in status.values}


def test_planner_shows_its_plan_and_the_decision_it_follows_as_markers(graph: Graph) -> None:
    heard = start_planner(graph, FakePlanner())
    markers = graph.listen(MarkerArray, "/planner/output/markers")
    publish_decision(graph, graph.stamp_ns)
    graph.show_until("planner", heard, lambda msg: msg.mode == FOLLOWING)
    wanted = META_ACTIONS[3].text
    wait_until(
        lambda: any(wanted in one.text for msg in markers for one in msg.markers), "its text", 3.0
    )


def test_parameters_of_a_configured_planner_cannot_be_changed_until_it_is_cleaned_up() -> None:
    with running_graph():
        node = PlannerNode(lambda config: FakePlanner())
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        wanted = Parameter("fail_safe.stop_after_s", value=5.0)
        (refused,) = node.set_parameters([wanted])
        assert not refused.successful
        assert "clean it up first" in refused.reason
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.set_parameters([wanted])[0].successful
        (bad,) = node.set_parameters([Parameter("device", value="nonsense")])
        assert "expected auto, cpu, cuda or cuda:N" in bad.reason
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.config.fail_safe.stop_after_s == 5.0
        node.destroy_node()


def test_planner_that_is_cleaned_up_lets_its_model_go_and_shut_down_falls_silent() -> None:
    with running_graph() as graph:
        gone: list[Any] = []
        node = PlannerNode(lambda config: _remembered(FakePlanner(), gone))
        graph.start(node)
        heard = graph.listen(PlannedTrajectory, OUTPUT)
        graph.show_until("planner", heard, lambda msg: True)
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        gc.collect()
        assert gone[0]() is None
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        graph.show_until("planner", heard, lambda msg: True)
        node.trigger_shutdown()
        told = len(heard)
        with pytest.raises(AssertionError):  # not even the stop of a blind planner
            wait_until(lambda: len(heard) > told + 1, "nothing", 1.2)


def _remembered(planner: FakePlanner, gone: list[Any]) -> FakePlanner:
    gone.append(weakref.ref(planner))
    return planner


def test_activation_that_fails_half_way_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no health today")

    with running_graph():
        node = PlannerNode(lambda config: FakePlanner())
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        before = len(list(node.subscriptions)), len(list(node.timers))
        with monkeypatch.context() as broken:
            broken.setattr("clkd_ros.frame_node.HealthPublisher", refuse)
            assert node.trigger_activate() == TransitionCallbackReturn.ERROR
        assert (len(list(node.subscriptions)), len(list(node.timers))) == before
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        node.destroy_node()


def test_parameters_are_judged_also_after_a_configure_that_was_refused() -> None:
    with running_graph():
        bad = [Parameter("device", value="gpu")]
        node = PlannerNode(lambda config: FakePlanner(), parameter_overrides=bad)
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert node.set_parameters([Parameter("device", value="cpu")])[0].successful
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert not node.set_parameters([Parameter("device", value="nonsense")])[0].successful
        node.destroy_node()


def test_planner_whose_model_breaks_counts_it_and_goes_on(graph: Graph) -> None:
    planner = FakePlanner()
    monkey = planner.plan
    planner.plan = lambda frame, decision: 1 / 0  # type: ignore[method-assign]
    heard = start_planner(graph, planner)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    graph.publish_set("planner", graph.stamp_ns)
    wait_until(lambda: "dropped: failed" in told(diagnostics), "the diagnostics tell", 4.0)
    planner.plan = monkey  # type: ignore[method-assign]
    graph.show_until("planner", heard, lambda msg: True)
