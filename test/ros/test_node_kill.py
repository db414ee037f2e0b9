"""Every process of a running system is killed once while a bag plays, and the others go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_vlm_node import POISON_FILE
from fakes import wait_until
from ros_graph import Graph, running_graph
from tiny_bags import write_scene

from clkd_core.types import PlanMode
from clkd_ros.launcher import child_environment
from clkd_ros.messages import MetaAction, PlannedTrajectory
from clkd_ros.middleware import which

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(which() == "rclpy", reason="`clkd launch` is for where rclpy is missing"),
]

SYSTEM = """
arguments:
  evaluate: {default: true}
nodes:
  - name: vlm
    module: fake_vlm_node
    executable: vlm_node
    remappings: {INPUTS, ~/output/meta_action: /vlm/meta_action}
    parameters: {checkpoint: none, deadline_ms: 500.0}
  - name: planner
    module: fake_planner_node
    executable: planner_node
    remappings: {INPUTS, ~/input/meta_action: /vlm/meta_action}
    parameters:
      checkpoint: none
      fail_safe: {decision_max_age_s: 0.4, stop_after_s: 0.6}
  - name: evaluator
    module: clkd_ros.evaluator_node
    executable: evaluator_node
    when: evaluate
    remappings: {INPUTS, ~/input/meta_action: /vlm/meta_action}
    parameters: {output_dir: OUT}
"""
"""The real processes and nodes; only the models are stand-ins that load at once."""

VIEWS = ("front", "front_left", "front_right", "back_left", "back_right", "back")


@pytest.fixture
def running(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Graph, "subprocess.Popen[bytes]"]]:
    """``clkd launch`` and a looping ``clkd bag play`` beside a graph that listens."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(61 + os.getpid() % 30))
    monkeypatch.setenv(POISON_FILE, str(tmp_path / "poison"))
    cameras = (f"~/input/cam_{view}: /cam_{view}/image_raw/compressed" for view in VIEWS)
    inputs = ", ".join([*cameras, "~/input/odometry: /odometry"])
    config = tmp_path / "system.yaml"
    config.write_text(SYSTEM.replace("INPUTS", inputs).replace("OUT", str(tmp_path / "out")))
    bag = write_scene(tmp_path / "bag", 3, keyframes=40)
    paths = os.pathsep.join([str(root / "test"), child_environment()["PYTHONPATH"]])
    verbs = (["launch", "--config", str(config)], ["bag", "play", str(bag), "--loop"])
    with running_graph() as graph:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "clkd_core.cli", *verb],
                env={**child_environment(), "PYTHONPATH": paths},
                stderr=(tmp_path / f"{verb[0]}.log").open("wb"),
            )
            for verb in verbs
        ]
        try:
            yield graph, started[0]
        finally:
            for process in started:
                process.send_signal(signal.SIGINT)
            for process in started:
                process.wait(timeout=10.0)


def kill(launch: "subprocess.Popen[bytes]", module: str) -> None:
    (victim,) = [
        child for child in psutil.Process(launch.pid).children() if module in child.cmdline()
    ]
    victim.send_signal(signal.SIGKILL)


def wait_for_more(heard: list[Any], what: str) -> None:
    before = len(heard)
    wait_until(lambda: len(heard) > before + 2, what, 30.0)


def test_system_survives_sigkill_of_each_node_while_a_bag_plays(
    running: tuple[Graph, "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    graph, launch = running
    decisions = graph.listen(MetaAction, "/vlm/meta_action")
    plans = graph.listen(PlannedTrajectory, "/planner/output/trajectory")

    def followed() -> bool:
        return bool(plans) and plans[-1].mode == PlanMode.FOLLOWING

    wait_until(followed, "a plan that follows a decision", 60.0)
    kill(launch, "fake_vlm_node")
    wait_until(lambda: plans[-1].mode == PlanMode.STOPPING, "a stop for want of decisions", 20.0)
    wait_for_more(decisions, "decisions of a new vlm")
    wait_until(followed, "a plan that follows the new vlm", 20.0)
    kill(launch, "fake_planner_node")
    plans.clear()
    wait_until(followed, "a plan of a new planner", 30.0)
    kill(launch, "clkd_ros.evaluator_node")
    wait_for_more(plans, "plans without the evaluator")
    wait_for_more(decisions, "decisions without the evaluator")
    assert launch.poll() is None


def test_engine_that_cuda_poisoned_is_replaced_and_the_planner_stops_in_between(
    running: tuple[Graph, "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    graph, launch = running
    decisions = graph.listen(MetaAction, "/vlm/meta_action")
    plans = graph.listen(PlannedTrajectory, "/planner/output/trajectory")

    def followed() -> bool:
        return bool(plans) and plans[-1].mode == PlanMode.FOLLOWING

    wait_until(followed, "a plan that follows a decision", 60.0)
    plans.clear()
    (tmp_path / "poison").touch()
    wait_until(lambda: any("device-side" in msg.reason for msg in decisions), "a repeat", 10.0)
    wait_until(lambda: bool(plans) and plans[-1].mode == PlanMode.STOPPING, "a stop", 20.0)
    assert PlanMode.WITHOUT_DECISION in {msg.mode for msg in plans}
    wait_for_more(decisions, "decisions of a new engine")
    wait_until(followed, "a plan that follows the new engine", 20.0)
    said = (tmp_path / "launch.log").read_text()
    assert "'vlm' ended with exit code 75 (ENGINE_LOST)" in said
    assert "CUDA error: device-side assert triggered; it is started again" in said
    assert launch.poll() is None
