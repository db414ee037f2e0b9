"""The dual system on ROS 2: wiring only, read from config/nodes/dual_system.yaml.

ros2 launch clkd_ros dual_system.launch.py checkpoint:=DIR device:=auto evaluate:=true

As with `clkd launch`, NODE.PARAMETER:=VALUE sets one parameter of one node.
"""

from launch.actions import OpaqueFunction

from clkd_ros.ros2_launch import declare_arguments, read_system, start_processes
from launch import LaunchContext, LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Arguments first, then the processes that they ask for."""
    return LaunchDescription([*declare_arguments(), OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list:
    """The processes of the system file."""
    return list(start_processes(read_system(context)).values())
