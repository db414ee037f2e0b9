"""Fields of messages take and refuse the same values under rclpy and embedded.

`make test-ros` runs this under real rclpy, which looks at a value when it is set on Humble, and on
Jazzy with ROS_PYTHON_CHECK_FIELDS=1.
"""

import array
import inspect
from typing import Any

import numpy as np
import pytest

from clkd_ros import middleware
from clkd_ros.messages import CompressedImage, MetaAction, String
from clkd_ros.messages import Path as PathMessage
from clkd_ros.middleware import ParameterDescriptor


def checks_fields() -> bool:
    """Whether this rclpy looks at a value when it is set."""
    if middleware.which() == "embedded":
        return True
    source = inspect.getsource(type(MetaAction()))
    if "_check_fields" not in source:
        return __debug__  # Humble
    return bool(MetaAction()._check_fields)


NAN, INF = float("nan"), float("inf")
PROBABILITIES = [0.05] * 20
ACCEPTED: list[tuple[Any, str, Any]] = [
    (MetaAction, "probability", PROBABILITIES),
    (MetaAction, "probability", tuple(PROBABILITIES)),
    (MetaAction, "probability", np.full(20, 0.05, np.float32)),
    (MetaAction, "probability", array.array("f", PROBABILITIES)),
    (MetaAction, "probability", [NAN] * 10 + [INF] * 10),
    (MetaAction, "inference_ms", NAN),
    (MetaAction, "inference_ms", -INF),
    (MetaAction, "inference_ms", np.float64(1.5)),
    (MetaAction, "speed", 255),
    (MetaAction, "speed", True),
    (MetaAction, "stale", False),
    (MetaAction, "reason", "größer"),
    (CompressedImage, "data", b"\x00\xff"),
    (CompressedImage, "data", bytearray(b"\x00\xff")),
    (CompressedImage, "data", memoryview(b"\x00\xff")),
    (CompressedImage, "data", array.array("B", [0, 255])),
    (CompressedImage, "data", [0, 255]),
    (CompressedImage, "data", range(5)),
    (CompressedImage, "data", []),
    (PathMessage, "poses", []),
]
REFUSED: list[tuple[Any, str, Any]] = [
    (MetaAction, "probability", None),
    (MetaAction, "probability", 0.05),
    (MetaAction, "probability", [0.05] * 19),
    (MetaAction, "probability", [0.05] * 21),
    (MetaAction, "probability", [0] * 20),
    (MetaAction, "probability", ["0.05"] * 20),
    (MetaAction, "probability", [None] * 20),
    (MetaAction, "probability", [1e39] * 20),
    (MetaAction, "probability", "x" * 20),
    (MetaAction, "probability", bytes(20)),
    (MetaAction, "probability", np.full(20, 0.05)),
    (MetaAction, "probability", np.full(19, 0.05, np.float32)),
    (MetaAction, "inference_ms", 1),
    (MetaAction, "inference_ms", None),
    (MetaAction, "inference_ms", "1.0"),
    (MetaAction, "inference_ms", np.float32(1.5)),
    (MetaAction, "inference_ms", 1e39),
    (MetaAction, "speed", -1),
    (MetaAction, "speed", 256),
    (MetaAction, "speed", 1.0),
    (MetaAction, "speed", None),
    (MetaAction, "speed", np.uint8(1)),
    (MetaAction, "stale", 1),
    (MetaAction, "stale", None),
    (MetaAction, "stale", np.True_),
    (MetaAction, "reason", b"bytes"),
    (MetaAction, "reason", None),
    (MetaAction, "header", None),
    (MetaAction, "header", String()),
    (CompressedImage, "data", None),
    (CompressedImage, "data", "text"),
    (CompressedImage, "data", 5),
    (CompressedImage, "data", [256]),
    (CompressedImage, "data", [1.0]),
    (CompressedImage, "data", array.array("b", [1])),
    (CompressedImage, "data", array.array("f", [1.0])),
    (CompressedImage, "data", np.zeros(3, np.uint8)),
    (PathMessage, "poses", None),
    (PathMessage, "poses", [String()]),
    (PathMessage, "poses", String()),
    (ParameterDescriptor, "integer_range", "x"),
]


@pytest.mark.parametrize(("message", "field", "value"), ACCEPTED)
def test_value_that_rclpy_takes_is_taken(message: Any, field: str, value: Any) -> None:
    made = message()
    setattr(made, field, value)
    kept = getattr(made, field)
    if isinstance(value, float | bool | str):
        assert kept == value or kept != kept
    elif not isinstance(value, int):
        assert list(map(repr, np.float32(kept))) == list(map(repr, np.float32(list(value))))


@pytest.mark.skipif(
    not checks_fields(), reason="set ROS_PYTHON_CHECK_FIELDS=1: rclpy does not look"
)
@pytest.mark.parametrize(("message", "field", "value"), REFUSED)
def test_value_that_rclpy_refuses_is_refused(message: Any, field: str, value: Any) -> None:
    made = message()
    with pytest.raises(AssertionError):
        setattr(made, field, value)


def test_constructors_convert_where_rclpys_do() -> None:
    assert bytes(CompressedImage(data=np.arange(3, dtype=np.uint8)).data) == b"\x00\x01\x02"
    made = MetaAction(probability=np.full(20, 0.25))
    assert made.probability.dtype == np.float32 and made.probability.tolist() == [0.25] * 20
    for wrong in (None, np.zeros(19), np.zeros((4, 5)), "x" * 20):
        with pytest.raises((AssertionError, ValueError, TypeError)):
            MetaAction(probability=wrong)
    for wrong in (None, "text", np.full(3, 256), np.zeros(3), 5.0):
        with pytest.raises((AssertionError, ValueError, TypeError, OverflowError)):
            CompressedImage(data=wrong)


def test_unknown_field_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        MetaAction().certainty = 1.0


def test_what_one_message_gives_another_takes() -> None:
    first = CompressedImage(data=b"abc", format="jpeg")
    second = CompressedImage()
    second.data, second.header = first.data, first.header
    assert bytes(second.data) == b"abc"
    assert second.header is first.header


def test_fields_have_rclpys_type_names() -> None:
    names = MetaAction.get_fields_and_field_types()
    assert (names["header"], names["probability"]) == ("std_msgs/Header", "float[20]")
    assert (names["speed"], names["stale"], names["reason"]) == ("uint8", "boolean", "string")
    assert CompressedImage.get_fields_and_field_types()["data"] == "sequence<uint8>"
    poses = PathMessage.get_fields_and_field_types()["poses"]
    assert poses == "sequence<geometry_msgs/PoseStamped>"
    of_bounds = ParameterDescriptor.get_fields_and_field_types()["integer_range"]
    assert of_bounds == "sequence<rcl_interfaces/IntegerRange, 1>"
