"""The dual system on ROS 2: wiring only, read from config/nodes/dual_system.yaml.

ros2 launch clkd_ros dual_system.launch.py checkpoint:=DIR device:=auto evaluate:=true

As with `clkd launch`, NODE.PARAMETER:=VALUE sets one parameter of one node.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, LifecycleTransition
from lifecycle_msgs.msg import Transition

from clkd_ros.launcher import default_system_file, load_system, parse_launch_arguments
from launch import LaunchContext, LaunchDescription

TRANSITION_IDS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments that the system file names, and two of our own."""
    arguments = load_system(default_system_file()).arguments
    declared = [
        DeclareLaunchArgument(
            name, default_value=str(argument.default), description=argument.description
        )
        for name, argument in arguments.items()
    ]
    declared += [
        DeclareLaunchArgument(
            "config", default_value=str(default_system_file()), description="system file"
        ),
        DeclareLaunchArgument(
            "evaluate", default_value="false", description="start the evaluator, too"
        ),
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_nodes)])


def start_nodes(context: LaunchContext) -> list:
    """One lifecycle node for each in the file, then its transitions."""
    path = Path(LaunchConfiguration("config").perform(context))
    named = load_system(path).arguments
    words = [
        f"{name}:={value}"
        for name, value in context.launch_configurations.items()
        if name in named or "." in name
    ]
    evaluate = LaunchConfiguration("evaluate").perform(context).lower() == "true"
    system = load_system(path, parse_launch_arguments(words), evaluate=evaluate)
    nodes = [
        LifecycleNode(
            package="clkd_ros",
            executable=node.executable,
            name=node.name,
            namespace="",
            remappings=list(node.remappings.items()),
            parameters=[dict(node.parameters)],
            output="screen",
        )
        for node in system.nodes
    ]
    transitions = LifecycleTransition(
        lifecycle_node_names=[f"/{node.name}" for node in system.nodes if node.lifecycle],
        transition_ids=[TRANSITION_IDS[name] for name in system.transitions],
    )
    return [*nodes, transitions]
