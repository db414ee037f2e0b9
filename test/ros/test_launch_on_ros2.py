"""`ros2 launch` itself: processes of the installed package under a real ROS 2."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import one_hot, wait_until
from ros_graph import NOW_NS, Graph, running_graph

from clkd_core.metrics.frames import read_frames
from clkd_core.types import META_ACTIONS, Decision
from clkd_ros import messages
from clkd_ros.convert import decision_to_msg

pytestmark = pytest.mark.ros

REFEREE = """
transitions: [configure, activate]
nodes:
  - name: evaluator
    module: clkd_ros.evaluator_node
    executable: evaluator_node
    remappings: {~/input/label: /ground_truth/meta_action}
    parameters: {output_dir: nowhere}
"""
"""The one node that loads no model."""


@pytest.fixture
def installed() -> None:
    """colcon's package; without it ROS 2 cannot launch it."""
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_prefix("clkd_ros")
    except packages.PackageNotFoundError:
        if os.environ.get("CLKD_REQUIRE_ROS"):
            pytest.fail("clkd_ros is not installed: colcon build, then source install/setup.bash")
        pytest.skip("clkd_ros is not installed: colcon build, then source install/setup.bash")


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    # rclpy keeps a destroyed lifecycle node in the graph until it is collected: one of the same
    # name from an earlier test would be asked for the transitions.
    monkeypatch.setenv("ROS_DOMAIN_ID", str(61 + os.getpid() % 30))
    with running_graph() as running:
        yield running


def launch(log: Path, *words: str) -> "subprocess.Popen[bytes]":
    with log.open("wb") as out:
        return subprocess.Popen(
            ["ros2", "launch", "clkd_ros", "dual_system.launch.py", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def label(stamp_ns: int) -> Any:
    decision = Decision(
        stamp_ns=stamp_ns,
        action=META_ACTIONS[0],
        probabilities=one_hot(META_ACTIONS[0]),
        inference_ms=1.0,
    )
    return decision_to_msg(decision, node_response_ms=1.0)


def test_launch_brings_nodes_up_and_ctrl_c_ends_them_cleanly_with_their_table_written(
    installed: None, graph: Graph, tmp_path: Path
) -> None:
    system, log = tmp_path / "system.yaml", tmp_path / "log.txt"
    system.write_text(REFEREE)
    process = launch(log, f"config:={system}", f"evaluator.output_dir:={tmp_path / 'out'}")
    try:
        topic, count = "/ground_truth/meta_action", graph.tester.count_subscribers
        wait_until(lambda: count(topic) > 0, f"an active evaluator: {log}", 40.0)
        heard = graph.listen(messages.FrameResult, "/evaluator/output/frame_result")
        for _ in range(20):  # the first one may come before the other side knows us
            graph.publish(topic, label(NOW_NS))
            with suppress(AssertionError):
                wait_until(lambda: bool(heard), "a verdict", 1.0)
                break
        assert heard
    finally:
        start_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=10.0)
    assert code == 0, log.read_text()
    assert time.monotonic() - start_s < 3.0
    assert log.read_text().count("process has finished cleanly") == 1
    assert [row.stamp_ns for row in read_frames(tmp_path / "out" / "frames.csv")] == [NOW_NS]


def test_installed_package_lists_its_executables_and_messages(installed: None) -> None:
    def lines(*words: str) -> set[str]:
        done = subprocess.run(["ros2", *words], capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    nodes = {"vlm_node", "planner_node", "evaluator_node", "clkd"}
    assert nodes <= lines("pkg", "executables", "clkd_ros")
    for name in ("MetaAction", "PlannedTrajectory", "FrameResult"):
        assert f"clkd_ros/msg/{name}" in lines("interface", "list")
        assert hasattr(messages, name)
