"""The one place where message classes are imported.

With rclpy they are the generated ones; otherwise those of the embedded type store, which behave
like them: default constructors, attribute assignment, type checks.
"""

from typing import Any

from clkd_ros.middleware import which

if which() == "rclpy":
    from builtin_interfaces.msg import Time as TimeMsg
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from geometry_msgs.msg import Point, PoseStamped, TransformStamped
    from nav_msgs.msg import Odometry, Path
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from std_msgs.msg import ColorRGBA, Header, String
    from tf2_msgs.msg import TFMessage
    from visualization_msgs.msg import Marker, MarkerArray

    from clkd_ros.msg import FrameResult, MetaAction, PlannedTrajectory

    def message_class(type_name: str) -> Any:
        """The class of ``package/msg/Name``, from its sourced package."""
        from rosidl_runtime_py.utilities import get_message

        return get_message(type_name)

    any_message_class = message_class

    def autoware_trajectory_class() -> Any:
        """``autoware_planning_msgs/msg/Trajectory``; None where its package is not sourced."""
        try:
            from autoware_planning_msgs.msg import Trajectory
        except ModuleNotFoundError:
            return None
        return Trajectory
else:
    from clkd_ros.embedded.wire.message_types import message_class, opaque_class

    any_message_class = opaque_class  # publishes bytes of any type, known or not

    def autoware_trajectory_class() -> Any:
        """None: Autoware's messages come with its ROS packages."""
        return None

    CameraInfo: Any = message_class("sensor_msgs/msg/CameraInfo")
    Clock: Any = message_class("rosgraph_msgs/msg/Clock")
    ColorRGBA: Any = message_class("std_msgs/msg/ColorRGBA")
    CompressedImage: Any = message_class("sensor_msgs/msg/CompressedImage")
    DiagnosticArray: Any = message_class("diagnostic_msgs/msg/DiagnosticArray")
    DiagnosticStatus: Any = message_class("diagnostic_msgs/msg/DiagnosticStatus")
    FrameResult: Any = message_class("clkd_ros/msg/FrameResult")
    Header: Any = message_class("std_msgs/msg/Header")
    Image: Any = message_class("sensor_msgs/msg/Image")
    KeyValue: Any = message_class("diagnostic_msgs/msg/KeyValue")
    Marker: Any = message_class("visualization_msgs/msg/Marker")
    MarkerArray: Any = message_class("visualization_msgs/msg/MarkerArray")
    MetaAction: Any = message_class("clkd_ros/msg/MetaAction")
    Odometry: Any = message_class("nav_msgs/msg/Odometry")
    Path: Any = message_class("nav_msgs/msg/Path")
    PlannedTrajectory: Any = message_class("clkd_ros/msg/PlannedTrajectory")
    Point: Any = message_class("geometry_msgs/msg/Point")
    PoseStamped: Any = message_class("geometry_msgs/msg/PoseStamped")
    String: Any = message_class("std_msgs/msg/String")
    TFMessage: Any = message_class("tf2_msgs/msg/TFMessage")
    TimeMsg: Any = message_class("builtin_interfaces/msg/Time")
    TransformStamped: Any = message_class("geometry_msgs/msg/TransformStamped")
