"""The one place that chooses between rclpy and the embedded subset.

rclpy is used whenever it can be imported; only then nothing of ``clkd_ros.embedded`` is loaded.
Nodes import every middleware name from here and run unchanged on both.
"""

from typing import TYPE_CHECKING

try:
    import rclpy as _rclpy
except ImportError:
    _rclpy = None

if _rclpy is None or TYPE_CHECKING:
    from clkd_ros.embedded.callback_groups import (
        MutuallyExclusiveCallbackGroup,
        ReentrantCallbackGroup,
    )
    from clkd_ros.embedded.clock import Clock, ClockType, Duration, Time
    from clkd_ros.embedded.context import (
        ExternalShutdownException,
        InvalidHandle,
        init,
        ok,
        shutdown,
        try_shutdown,
    )
    from clkd_ros.embedded.executor import (
        MultiThreadedExecutor,
        SingleThreadedExecutor,
        spin,
        spin_once,
    )
    from clkd_ros.embedded.lifecycle import (
        LifecycleNode,
        TransitionCallbackReturn,
    )
    from clkd_ros.embedded.lifecycle import LifecycleState as State
    from clkd_ros.embedded.logger import get_logger
    from clkd_ros.embedded.node import Node
    from clkd_ros.embedded.parameters import (
        FloatingPointRange,
        IntegerRange,
        InvalidParameterTypeException,
        InvalidParameterValueException,
        Parameter,
        ParameterDescriptor,
        ParameterNotDeclaredException,
        SetParametersResult,
    )
    from clkd_ros.embedded.wire.qos import (
        DurabilityPolicy,
        HistoryPolicy,
        QoSProfile,
        ReliabilityPolicy,
        qos_profile_sensor_data,
    )

    _GIVES_INFO = True
else:
    from rcl_interfaces.msg import (
        FloatingPointRange,
        IntegerRange,
        ParameterDescriptor,
        SetParametersResult,
    )
    from rclpy import init, ok, shutdown, spin, spin_once, try_shutdown
    from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
    from rclpy.clock import Clock, ClockType
    from rclpy.duration import Duration
    from rclpy.exceptions import (
        InvalidParameterTypeException,
        InvalidParameterValueException,
        ParameterNotDeclaredException,
    )
    from rclpy.executors import (
        ExternalShutdownException,
        MultiThreadedExecutor,
        SingleThreadedExecutor,
    )
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
    from rclpy.logging import get_logger
    from rclpy.node import Node
    from rclpy.parameter import Parameter
    from rclpy.qos import (
        DurabilityPolicy,
        HistoryPolicy,
        QoSProfile,
        ReliabilityPolicy,
        qos_profile_sensor_data,
    )
    from rclpy.subscription import Subscription
    from rclpy.time import Time

    InvalidHandle = rclpy_implementation.InvalidHandle
    _GIVES_INFO = hasattr(Subscription, "CallbackType")

GIVES_MESSAGE_INFO = _GIVES_INFO
"""True when a subscription callback with two arguments gets stamps; not so on Humble."""


def which() -> str:
    """``rclpy`` or ``embedded``."""
    return "embedded" if _rclpy is None else "rclpy"


__all__ = [
    "GIVES_MESSAGE_INFO",
    "Clock",
    "ClockType",
    "DurabilityPolicy",
    "Duration",
    "ExternalShutdownException",
    "FloatingPointRange",
    "HistoryPolicy",
    "IntegerRange",
    "InvalidHandle",
    "InvalidParameterTypeException",
    "InvalidParameterValueException",
    "LifecycleNode",
    "MultiThreadedExecutor",
    "MutuallyExclusiveCallbackGroup",
    "Node",
    "Parameter",
    "ParameterDescriptor",
    "ParameterNotDeclaredException",
    "QoSProfile",
    "ReentrantCallbackGroup",
    "ReliabilityPolicy",
    "SetParametersResult",
    "SingleThreadedExecutor",
    "State",
    "Time",
    "TransitionCallbackReturn",
    "get_logger",
    "init",
    "ok",
    "qos_profile_sensor_data",
    "shutdown",
    "spin",
    "spin_once",
    "try_shutdown",
    "which",
]
