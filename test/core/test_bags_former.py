"""Bags that were recorded before a message of ours got its present definition."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clkd_core.data.bags import topics
from clkd_core.data.bags.frames import load_labels
from clkd_core.data.bags.messages import Label, label_to_msg
from clkd_core.data.bags.ros_types import find_msg_folder, load_typestore
from clkd_core.errors import DataError
from clkd_core.types import META_ACTIONS

STAMP_NS = 1_000_000_000_000
FORMER_PLANNED_TRAJECTORY = """
std_msgs/Header header
float32 step_s
float32[] x_m
float32[] y_m
float32 inference_ms
bool with_decision
builtin_interfaces/Time decision_stamp
bool degraded
string reason
"""


def typestore_with(planned_trajectory: str) -> Typestore:
    """Of the time when this was the definition; decisions could not be late then."""
    store = get_typestore(Stores.ROS2_JAZZY)
    meta_action = (find_msg_folder() / "MetaAction.msg").read_text("utf-8")
    before = "".join(line for line in meta_action.splitlines(True) if "bool late" not in line)
    store.register(get_types_from_msg(before, topics.META_ACTION))
    store.register(get_types_from_msg(planned_trajectory, topics.PLANNED_TRAJECTORY))
    return store


def true_trajectory(store: Typestore, **flag: Any) -> Any:
    time = store.types["builtin_interfaces/msg/Time"]
    stamp = time(sec=STAMP_NS // 10**9, nanosec=0)
    return store.types[topics.PLANNED_TRAJECTORY](
        header=store.types["std_msgs/msg/Header"](stamp=stamp, frame_id="base_link"),
        step_s=0.5,
        x_m=np.arange(1, 7, dtype=np.float32),
        y_m=np.zeros(6, np.float32),
        inference_ms=math.nan,
        decision_stamp=time(sec=0, nanosec=0),
        degraded=False,
        reason="",
        **flag,
    )


def former_label(store: Typestore, label: Label) -> Any:
    kind = store.types[topics.META_ACTION]
    present = label_to_msg(label)
    return kind(**{field.name: getattr(present, field.name) for field in fields(kind)})


def write_bag_with(store: Typestore, path: Path, plugin: StoragePlugin, **flag: Any) -> None:
    label = Label(stamp_ns=STAMP_NS, scene="s", case_name="fog", action=META_ACTIONS[7])
    sent = [
        (topics.TRUE_META_ACTION, topics.META_ACTION, former_label(store, label)),
        (topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, true_trajectory(store, **flag)),
    ]
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        for topic, msgtype, msg in sent:
            connection = writer.add_connection(topic, msgtype, typestore=store)
            writer.write(connection, STAMP_NS, store.serialize_cdr(msg, msgtype))


@pytest.mark.parametrize(
    "plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3], ids=lambda plugin: plugin.name.lower()
)
def test_labels_recorded_before_plans_had_a_mode_are_read(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    store = typestore_with(FORMER_PLANNED_TRAJECTORY)
    write_bag_with(store, tmp_path / "bag", plugin, with_decision=False)
    (label,) = load_labels(tmp_path / "bag")
    assert label.action == META_ACTIONS[7] and label.future is not None
    np.testing.assert_array_equal(label.future.xy_m[:, 0], np.arange(1, 7))


def test_former_definition_is_the_present_one_byte_for_byte() -> None:
    store = typestore_with(FORMER_PLANNED_TRAJECTORY)
    msg = true_trajectory(store, with_decision=True)
    data = store.serialize_cdr(msg, topics.PLANNED_TRAJECTORY)
    present = load_typestore().deserialize_cdr(data, topics.PLANNED_TRAJECTORY)
    assert (present.mode, present.reason, present.x_m.tolist()) == (1, "", [1, 2, 3, 4, 5, 6])
    assert bytes(load_typestore().serialize_cdr(present, topics.PLANNED_TRAJECTORY)) == bytes(data)


@pytest.mark.parametrize("frame_id", ["", "a", "base_link", "base_link_2"])
def test_former_decision_is_the_present_one_byte_for_byte(frame_id: str) -> None:
    store = typestore_with(FORMER_PLANNED_TRAJECTORY)
    label = Label(stamp_ns=STAMP_NS, scene="drive", case_name="fog", action=META_ACTIONS[7])
    msg = former_label(store, label)
    msg.header.frame_id, msg.degraded, msg.stale, msg.reason = frame_id, True, True, "why"
    data = store.serialize_cdr(msg, topics.META_ACTION)
    present = load_typestore().deserialize_cdr(data, topics.META_ACTION)
    assert (present.late, present.degraded, present.stale) == (False, True, True)
    assert (present.reason, present.scene, present.case_name) == ("why", "drive", "fog")
    assert bytes(load_typestore().serialize_cdr(present, topics.META_ACTION)) == bytes(data)


def test_labels_of_a_definition_that_never_was_are_refused(tmp_path: Path) -> None:
    store = typestore_with(FORMER_PLANNED_TRAJECTORY.replace("with_decision", "with_doubt"))
    write_bag_with(store, tmp_path / "bag", StoragePlugin.MCAP, with_doubt=False)
    with pytest.raises(DataError, match="has another definition"):
        load_labels(tmp_path / "bag")
