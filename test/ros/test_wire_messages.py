"""Message bytes: there and back, those of other makers, and any bytes at all."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_core.errors import DataError
from clkd_ros.embedded.wire.message_types import (
    deserialize,
    message_class,
    serialize,
    type_store,
)

TYPES = (
    "std_msgs/msg/String",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/Image",
    "nav_msgs/msg/Odometry",
    "nav_msgs/msg/Path",
    "diagnostic_msgs/msg/DiagnosticArray",
    "visualization_msgs/msg/MarkerArray",
    "rcl_interfaces/msg/ParameterEvent",
    "clkd_ros/msg/MetaAction",
    "clkd_ros/msg/PlannedTrajectory",
    "clkd_ros/msg/FrameResult",
)


@pytest.mark.parametrize("name", sorted(type_store().types))
def test_every_type_has_defaults_that_come_back(name: str) -> None:
    message = message_class(name)()
    assert deserialize(serialize(message), message_class(name)) == message


def filled(name: str, value: float) -> Any:
    message = message_class(name)()
    for field, described in message.FIELDS.items():
        if described.type_name == "sequence<float>":
            setattr(message, field, [value, -value])
        elif described.type_name == "float":
            setattr(message, field, value)
    return message


@pytest.mark.parametrize("value", [0.25, float("inf"), 2.0**127])
def test_floats_come_back(value: float) -> None:
    message = filled("clkd_ros/msg/PlannedTrajectory", value)
    back = deserialize(serialize(message), type(message))
    assert back == message
    assert value in np.concatenate([np.atleast_1d(x) for x in floats_of(back)])


def floats_of(message: Any) -> list[Any]:
    kinds = ("sequence<float>", "float")
    return [getattr(message, f) for f, d in message.FIELDS.items() if d.type_name in kinds]


def test_received_array_may_be_changed_and_sent_on() -> None:
    kind = message_class("clkd_ros/msg/MetaAction")
    got: Any = deserialize(serialize(kind(probability=[0.05] * 20)), kind)
    got.probability[3] = 0.5
    again: Any = deserialize(serialize(got), kind)
    assert again.probability[3] == np.float32(0.5)


def test_received_sequence_is_read_only_and_takes_no_copy() -> None:
    kind = message_class("sensor_msgs/msg/CompressedImage")
    raw = serialize(kind(data=b"abc"))
    got: Any = deserialize(raw, kind)
    with pytest.raises(ValueError, match="read-only"):
        got.data[0] = 1
    assert np.shares_memory(got.data, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize("name", TYPES)
def test_truncated_message_is_refused_by_type(name: str) -> None:
    raw = serialize(message_class(name)())
    for length in range(0, len(raw) - 4, max(1, len(raw) // 20)):
        with pytest.raises(DataError, match=name):
            deserialize(raw[:length], message_class(name))


_RAW = st.binary(max_size=120) | st.builds(
    lambda endian, body: bytes((0, endian, 0, 0)) + body,
    st.integers(0, 1),
    st.binary(max_size=120),
)


@given(st.sampled_from(TYPES), _RAW)
def test_any_bytes_are_a_message_or_refused(name: str, raw: bytes) -> None:
    try:
        message = deserialize(raw, message_class(name))
    except DataError as err:
        assert name in str(err)
    else:
        assert deserialize(serialize(message), message_class(name)).FIELDS == message.FIELDS


@pytest.mark.parametrize("claimed", [2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("name", ["nav_msgs/msg/Path", "sensor_msgs/msg/CompressedImage"])
def test_length_that_is_not_there_costs_no_memory(name: str, claimed: int) -> None:
    raw = serialize(message_class(name)())
    forged = raw[:-4] + claimed.to_bytes(4, "little")
    with pytest.raises(DataError, match=name):
        deserialize(forged, message_class(name))


def test_big_endian_message_is_read() -> None:
    kind = message_class("std_msgs/msg/String")
    got: Any = deserialize(b"\0\0\0\0" + (3).to_bytes(4, "big") + b"hi\0", kind)
    assert got.data == "hi"
