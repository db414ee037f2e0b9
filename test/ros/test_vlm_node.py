"""The slow node in process with a fake engine, and as a process over DDS."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeEngine, wait_until
from ros_graph import MS, NOW_NS, Graph, running_graph
from vlm_graph import OUTPUT, diagnostic_values, start_vlm, timed_vlm

from clkd_core.errors import CheckpointError
from clkd_core.types import CAMERAS, META_ACTIONS
from clkd_ros.messages import DiagnosticArray, MetaAction
from clkd_ros.middleware import Parameter, TransitionCallbackReturn
from clkd_ros.vlm_node import VlmNode, VlmNodeConfig


@pytest.fixture
def graph() -> Iterator[Graph]:
    with running_graph() as running:
        yield running


def test_vlm_answers_a_complete_set_and_flags_nothing(graph: Graph) -> None:
    engine = FakeEngine(META_ACTIONS[13])
    heard = start_vlm(graph, engine)
    graph.publish_route("vlm", "turn left")
    graph.publish_odometry("vlm", graph.stamp_ns, 5.0)
    msg = graph.show_until("vlm", heard, lambda msg: not msg.degraded)
    assert engine.warm
    assert (5 * msg.speed + msg.path, msg.degraded, msg.reason) == (13, False, "")
    assert msg.probability[13] == 1.0
    assert msg.node_response_ms >= msg.inference_ms >= 0.0


def test_vlm_keeps_only_the_newest_waiting_frame_and_counts_the_replaced(graph: Graph) -> None:
    engine = FakeEngine()
    heard = start_vlm(graph, engine)
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    engine.free.clear()
    graph.publish_set("vlm", NOW_NS)
    wait_until(lambda: len(engine.frames) == 1, "the engine is busy")
    for number in range(1, 5):
        graph.publish_set("vlm", NOW_NS + number * 100 * MS)
    key, wanted = "dropped: replaced by a newer frame", "3"
    wait_until(lambda: wanted in diagnostic_values(diagnostics, key), "three drops are told")
    engine.free.set()
    wait_until(lambda: len(heard) == 2, "two decisions")
    stamps = [frame.stamp_ns for frame in engine.frames]
    assert stamps == [NOW_NS, NOW_NS + 400 * MS]


def test_vlm_masks_a_view_that_is_no_jpeg_and_says_which(graph: Graph) -> None:
    heard = start_vlm(graph, FakeEngine())
    graph.publish_set("vlm", NOW_NS, bad=["CAM_BACK"])
    wait_until(lambda: len(heard) == 1, "one decision")
    assert heard[0].degraded
    assert "CAM_BACK" in heard[0].reason


def test_vlm_goes_on_after_a_set_without_a_usable_image(graph: Graph) -> None:
    heard = start_vlm(graph, FakeEngine())
    graph.publish_set("vlm", NOW_NS, bad=CAMERAS)
    graph.publish_set("vlm", NOW_NS + 100 * MS)
    wait_until(lambda: len(heard) == 1, "the decision on the second set")
    assert heard[0].header.stamp.nanosec == 100 * MS


def test_vlm_goes_on_after_nan_odometry_and_flags_it(graph: Graph) -> None:
    heard = start_vlm(graph, FakeEngine())
    graph.publish_odometry("vlm", graph.stamp_ns, math.nan)
    graph.show_until("vlm", heard, lambda msg: "nan" in msg.reason)
    graph.publish_odometry("vlm", graph.stamp_ns, 3.0)
    graph.show_until("vlm", heard, lambda msg: "odometry" not in msg.reason)


def test_vlm_does_not_wait_for_a_camera_that_is_silent(graph: Graph) -> None:
    heard = start_vlm(graph, FakeEngine())
    graph.show_until("vlm", heard, lambda msg: len(heard) >= 3, without=("CAM_BACK_LEFT",))
    assert all("CAM_BACK_LEFT" in msg.reason for msg in heard)
    graph.show_until("vlm", heard, lambda msg: "CAM_BACK_LEFT" not in msg.reason)


def test_vlm_is_silent_until_active_and_after_deactivation(graph: Graph) -> None:
    engine = FakeEngine()
    node = timed_vlm(engine, deadline_ms=0.0)
    graph.start(node)
    heard = graph.listen(MetaAction, OUTPUT)
    graph.publish_set("vlm", NOW_NS)
    wait_until(lambda: len(heard) == 1, "one decision")
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    graph.publish_set("vlm", NOW_NS + 100 * MS)
    wait_until(lambda: len(heard) == 2, "a decision after activating again")
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_vlm_is_not_configured_by_a_bad_checkpoint_or_parameter(graph: Graph) -> None:
    def refuse(config: VlmNodeConfig) -> FakeEngine:
        raise CheckpointError(f"{config.checkpoint}: no such folder")

    node = VlmNode(build_engine=refuse)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()
    for name, value in (
        ("threads", -1),
        ("transport", "theora"),
        ("sync.tolerance_ms", -5.0),
        ("deadline_ms", -1.0),
        ("hang_s", 601.0),
    ):
        node = VlmNode(
            lambda config: FakeEngine(), parameter_overrides=[Parameter(name, value=value)]
        )
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE, name
        node.destroy_node()


def test_vlm_as_a_process_answers_over_dds_and_ends_cleanly_on_sigint(
    graph: Graph, root: Path
) -> None:
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = os.pathsep.join([str(root), str(root / "test"), *known])
    process = subprocess.Popen(
        [sys.executable, "-m", "fake_vlm_node", "--autostart"],
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        graph.wait_for_publisher(OUTPUT, timeout_s=30.0)
        heard = graph.listen(MetaAction, OUTPUT)
        graph.show_until(
            "vlm",
            heard,
            lambda msg: "nan" in msg.reason,
            before_each=lambda stamp_ns: graph.publish_odometry("vlm", stamp_ns, math.nan),
        )
        graph.publish_set("vlm", graph.stamp_ns + 100 * MS, bad=CAMERAS)
        graph.stamp_ns += 100 * MS
        graph.show_until("vlm", heard, lambda msg: 5 * msg.speed + msg.path == 6)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=3.0) == 0
    finally:
        process.kill()
        process.wait()
