"""The referee in process: fed by a test instead of nodes and a bag."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fakes import one_hot, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_graph import MS, NOW_NS, Graph, running_graph
from tiny_bags import scene_start_ns, write_scene

from clkd_core.errors import FrameError
from clkd_core.metrics.frames import FrameRow, Outcome, read_frames
from clkd_core.report.provenance import Provenance, read_provenance
from clkd_core.runtime import live_run
from clkd_core.runtime.health import Health
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_core.runtime.live_run import UNHEARD
from clkd_core.types import META_ACTIONS, Decision, Plan, PlanMode, Trajectory
from clkd_ros import sightings
from clkd_ros.convert import decision_to_msg, health_to_msg, plan_to_msg
from clkd_ros.evaluator_node import EvaluatorNode
from clkd_ros.messages import DiagnosticArray, DiagnosticStatus, FrameResult, KeyValue, MetaAction
from clkd_ros.middleware import Parameter, TransitionCallbackReturn

STRAIGHT = Trajectory(xy_m=np.stack([np.arange(1, 7), np.zeros(6)], 1).astype(np.float32))


@pytest.fixture
def graph() -> Iterator[Graph]:
    with running_graph() as running:
        yield running


def start_evaluator(graph: Graph, out: Path, **more: object) -> EvaluatorNode:
    overrides = [Parameter("output_dir", value=str(out))]
    overrides += [Parameter(name, value=value) for name, value in more.items()]
    return graph.start(EvaluatorNode(parameter_overrides=overrides))


def publish_label(graph: Graph, stamp_ns: int, index: int, case_name: str = "regular") -> None:
    action = META_ACTIONS[index]
    label = Decision(
        stamp_ns=stamp_ns, action=action, probabilities=one_hot(action), inference_ms=math.nan
    )
    msg = decision_to_msg(label, node_response_ms=math.nan)
    msg.scene, msg.case_name = "drive-1", case_name
    graph.publish("/evaluator/input/label", msg)
    plan = Plan(stamp_ns=stamp_ns, trajectory=STRAIGHT, inference_ms=math.nan)
    graph.publish("/evaluator/input/true_trajectory", plan_to_msg(plan))


def publish_decision(graph: Graph, stamp_ns: int, index: int, *, stale: bool = False) -> None:
    action = META_ACTIONS[index]
    decision = Decision(
        stamp_ns=stamp_ns,
        action=action,
        probabilities=one_hot(action),
        inference_ms=7.0,
        stale=stale,
    )
    graph.publish("/evaluator/input/meta_action", decision_to_msg(decision, node_response_ms=9.0))


def publish_plan(graph: Graph, stamp_ns: int, mode: PlanMode = PlanMode.FOLLOWING) -> None:
    shifted = Trajectory(xy_m=STRAIGHT.xy_m + np.float32(1.0))
    plan = Plan(
        stamp_ns=stamp_ns,
        trajectory=shifted,
        inference_ms=2.0,
        decision_stamp_ns=1 if mode is PlanMode.FOLLOWING else None,
        mode=mode,
    )
    graph.publish("/evaluator/input/trajectory", plan_to_msg(plan))


def rows_once_finished(node: EvaluatorNode, out: Path) -> list[FrameRow]:
    wait_until(lambda: node.finished, "the evaluator ends by itself")
    return read_frames(out / "frames.csv")


def test_evaluator_ends_by_count_with_a_row_for_each_keyframe(
    graph: Graph, tmp_path: Path
) -> None:
    node = start_evaluator(graph, tmp_path, expected_keyframes=2)
    for number, case_name in enumerate(("regular", "fog")):
        stamp_ns = NOW_NS + number * 500 * MS
        publish_label(graph, stamp_ns, index=6, case_name=case_name)
        graph.publish_set("evaluator", stamp_ns)
        publish_decision(graph, stamp_ns, index=6)
        publish_plan(graph, stamp_ns)
    first, second = rows_once_finished(node, tmp_path)
    assert (first.scene, first.case_name, second.case_name) == ("drive-1", "regular", "fog")
    assert (first.label, first.answer) == (META_ACTIONS[6], META_ACTIONS[6])
    assert (first.inference_ms, first.node_response_ms) == (7.0, 9.0)
    assert 0.0 < first.response_ms < 5000.0
    assert first.point_distances_m == pytest.approx(np.full(6, math.sqrt(2)))
    assert json.loads((tmp_path / "metrics.json").read_text())["frames"]["answered"] == 2
    assert "Macro-F1" in (tmp_path / "report.html").read_text()
    assert "## Decisions" in (tmp_path / "report.md").read_text()


def test_evaluator_measures_from_the_source_stamp_of_the_last_image(
    graph: Graph, tmp_path: Path
) -> None:
    node = start_evaluator(graph, tmp_path, expected_keyframes=1)
    publish_label(graph, NOW_NS, index=6)
    graph.publish_set("evaluator", NOW_NS)
    wait_until(lambda: len(node._run.ledger._images) == 6, "six cameras seen")
    limit_s = time.monotonic() + 0.1
    wait_until(lambda: time.monotonic() > limit_s, "100 ms of a slow model")
    publish_decision(graph, NOW_NS, index=6)
    publish_plan(graph, NOW_NS)
    (row,) = rows_once_finished(node, tmp_path)
    assert 100.0 <= row.response_ms < 1000.0
    assert row.outcome is Outcome.LATE


def test_image_is_noted_with_the_time_it_was_sent_and_not_that_it_was_seen() -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    cdr = b"\x00\x01\x00\x00" + bytes([7, 0, 0, 0]) + bytes(4)
    sightings.note_image("CAM_FRONT", 400, ledger, cdr, 900)
    assert list(ledger._images["CAM_FRONT"]) == [(7_000_000_000, 400)]


def test_evaluator_ends_by_silence_and_counts_what_was_dropped_or_stale(
    graph: Graph, tmp_path: Path
) -> None:
    node = start_evaluator(graph, tmp_path, idle_timeout_s=1.0)
    results = graph.listen(FrameResult, "/evaluator/output/frame_result")
    for number in range(3):
        publish_label(graph, NOW_NS + number * 500 * MS, index=0)
    publish_decision(graph, NOW_NS, index=0)
    publish_decision(graph, NOW_NS + 500 * MS, index=0, stale=True)
    rows = rows_once_finished(node, tmp_path)
    assert [row.outcome for row in rows] == [Outcome.ANSWERED, Outcome.LATE, Outcome.DROPPED]
    wait_until(lambda: len(results) == 3, "a verdict for each keyframe")
    assert [msg.answered for msg in results] == [True, True, False]


def test_nodes_that_go_on_talking_do_not_keep_a_run_alive(graph: Graph, tmp_path: Path) -> None:
    node = start_evaluator(graph, tmp_path, idle_timeout_s=1.0)
    publish_label(graph, NOW_NS, index=0)
    publish_decision(graph, NOW_NS, index=0)
    begun_s, number = time.monotonic(), 0
    while not node.finished:
        number += 1
        stop_ns = NOW_NS + 1000 * MS + number
        publish_plan(graph, stop_ns, PlanMode.STOPPING)
        publish_decision(graph, stop_ns, index=0)
        graph.publish_route("evaluator", "go straight")
        assert time.monotonic() - begun_s < 5.0, "the run never ends"
        time.sleep(0.02)
    assert len(read_frames(tmp_path / "frames.csv")) == 1 and number > 10


def test_what_nodes_say_of_themselves_stands_on_the_page(graph: Graph, tmp_path: Path) -> None:
    node = start_evaluator(graph, tmp_path)
    health = Health()
    for _ in range(3):
        health.count_drop("replaced by a newer frame")
        msg = health_to_msg("/vlm", health.report(), stamp_ns=NOW_NS, extra={"device": "a GPU"})
        graph.publish("/diagnostics", msg)
    bad = health_to_msg("/planner", Health().report(), stamp_ns=NOW_NS, extra={})
    bad.status[0].values = [
        *bad.status[0].values,
        KeyValue(key="dropped: late", value="many"),
        KeyValue(key="rate_hz", value="-1"),
        KeyValue(key="flagged: stopping", value="2"),
    ]
    other = DiagnosticStatus(name="fan", values=[KeyValue(key="rpm", value="900")])
    graph.publish("/diagnostics", DiagnosticArray(status=[other, *bad.status]))
    publish_label(graph, NOW_NS, index=0)
    said = node._run.ledger.nodes
    wait_until(lambda: "/planner" in said and node._run.ledger.counts().labels, "all is heard")
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    provenance = read_provenance(tmp_path)
    assert provenance.device == "a GPU"
    assert provenance.nodes["/vlm"]["dropped: replaced by a newer frame"] == "3"
    assert provenance.nodes["/planner"]["flagged: stopping"] == "2"
    assert provenance.nodes.keys() == {"/vlm", "/planner"}
    assert not provenance.nodes["/planner"].keys() & {"dropped: late", "rate_hz"}
    assert provenance.counters["diagnostics messages not usable"] == 1
    assert "drops: replaced by a newer frame 3" in (tmp_path / "report.html").read_text()


said_keys = st.sampled_from(
    ["rate_hz", "answered", "latency_p50_ms", "dropped: x", "image late", "device"]
) | st.text(max_size=400)
said_texts = st.floats().map(str) | st.text(max_size=400)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(said_keys, said_texts), max_size=40), st.text(max_size=400))
def test_any_diagnostics_are_taken_or_refused_and_what_is_taken_can_be_written(
    values: list[tuple[str, str]], name: str
) -> None:
    ledger = KeyframeLedger(tolerance_ns=0)
    ours = [("rate_hz", "1"), ("answered", "2"), ("latency_p50_ms", "nan")]
    said = [KeyValue(key=key, value=text) for key, text in [*ours, *values]]
    status = DiagnosticStatus(name=name, values=said)
    with suppress(FrameError):
        sightings.note_diagnostics(ledger, DiagnosticArray(status=[status]), 1)
    (taken,) = ledger.nodes.values()
    numbers = [taken[key] for key in ("rate_hz", "answered") if key in taken]
    assert all(float(text) >= 0 for text in numbers)
    assert all(len(key) + len(text) <= 600 for key, text in taken.items())
    assert Provenance(mode="live", checkpoint="", bag="", device="", nodes=ledger.nodes)


def test_table_on_disk_follows_a_run_that_may_be_killed(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_run, "SAVE_EVERY_S", 0.1)
    start_evaluator(graph, tmp_path)
    publish_label(graph, NOW_NS, index=0)
    wait_until(lambda: (tmp_path / "frames.csv").exists(), "the table so far")
    assert [row.label for row in read_frames(tmp_path / "frames.csv")] == [META_ACTIONS[0]]
    assert read_provenance(tmp_path).mode == "live"
    assert not (tmp_path / "metrics.json").exists()


def start_with_bag(graph: Graph, tmp_path: Path) -> EvaluatorNode:
    """A run that knows a bag of three keyframes and hears of the second one."""
    bag = write_scene(tmp_path / "bag", 1)
    node = start_evaluator(graph, tmp_path / "run", bag=str(bag), checkpoint="student")
    second_ns = scene_start_ns(1) + 500 * MS
    publish_label(graph, second_ns, index=0)
    publish_decision(graph, second_ns, index=0)
    wait_until(lambda: node._run.ledger.counts().answered == 1, "the answer is seen")
    return node


def test_keyframes_of_the_bag_that_were_never_heard_of_are_dropped(
    graph: Graph, tmp_path: Path
) -> None:
    node = start_with_bag(graph, tmp_path)
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    rows = read_frames(tmp_path / "run" / "frames.csv")
    outcomes = [Outcome.DROPPED, Outcome.ANSWERED, Outcome.DROPPED]
    assert [row.outcome for row in rows] == outcomes
    assert rows[0].reason == rows[2].reason == UNHEARD
    provenance: Provenance = read_provenance(tmp_path / "run")
    assert (provenance.bag, provenance.checkpoint) == (str(tmp_path / "bag"), "student")


def test_run_in_which_nothing_was_heard_leaves_an_older_one_alone(
    graph: Graph, tmp_path: Path
) -> None:
    first = start_with_bag(graph, tmp_path)
    assert first.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert first.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert first.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_evaluator_is_not_configured_for_a_bag_that_is_not_there(
    graph: Graph, tmp_path: Path
) -> None:
    overrides = [Parameter("output_dir", value=str(tmp_path))]
    overrides += [Parameter("bag", value=str(tmp_path / "none"))]
    node = EvaluatorNode(parameter_overrides=overrides)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()


def test_evaluator_loads_no_torch() -> None:
    code = "import sys, clkd_ros.evaluator_node; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_evaluator_goes_on_after_messages_it_cannot_use(graph: Graph, tmp_path: Path) -> None:
    node = start_evaluator(graph, tmp_path, expected_keyframes=1)
    bad = MetaAction()
    bad.speed = 99
    graph.publish("/evaluator/input/label", bad)
    graph.publish("/evaluator/input/meta_action", bad)
    graph.publish("/evaluator/input/meta_action", MetaAction(node_response_ms=-1.0))
    graph.publish_odometry("evaluator", NOW_NS, math.nan)
    graph.publish_route("evaluator", "fly")
    publish_label(graph, NOW_NS, index=0)
    publish_decision(graph, NOW_NS, index=0)
    publish_plan(graph, NOW_NS)
    assert len(rows_once_finished(node, tmp_path)) == 1
    counters = read_provenance(tmp_path).counters
    assert counters["label messages not usable"] == 1
    assert counters["meta_action messages not usable"] == 2


def test_evaluator_writes_what_it_has_when_it_is_stopped(graph: Graph, tmp_path: Path) -> None:
    node = start_evaluator(graph, tmp_path)
    publish_label(graph, NOW_NS, index=0)
    wait_until(lambda: node._run.ledger.counts().labels == 1, "the label is seen")
    assert not (tmp_path / "frames.csv").exists()
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert [row.answered for row in read_frames(tmp_path / "frames.csv")] == [False]
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def test_evaluator_is_not_configured_without_a_folder_to_write_to(
    graph: Graph, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    parameter = Parameter("output_dir", value=str(tmp_path / "file"))
    node = EvaluatorNode(parameter_overrides=[parameter])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    node.destroy_node()


def test_parameters_of_a_configured_evaluator_are_refused_until_it_is_cleaned_up(
    tmp_path: Path,
) -> None:
    with running_graph():
        folder = [Parameter("output_dir", value=str(tmp_path))]
        node = EvaluatorNode(parameter_overrides=folder)
        wanted = [Parameter("deadline_ms", value=50.0)]
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert not node.set_parameters(wanted)[0].successful
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.set_parameters(wanted)[0].successful
        node.destroy_node()
