"""Play a bag through the dual system, score it, leave the report, end: wiring only.

ros2 launch clkd_ros evaluate_bag.launch.py bag:=PATH out:=DIR

Takes what dual_system.launch.py takes, too. The bag has our topics, as `clkd bag` writes them, or
is played under them through a mapping: bag_topics:=FILE.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction

from clkd_core.files import shipped_student
from clkd_ros.cli import ACTIVE_TIMEOUT_S
from clkd_ros.ros2_launch import (
    clkd,
    declare_arguments,
    read_system,
    score_bag,
    start_processes,
)
from launch import LaunchContext, LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Our own arguments, those of the dual system, then all processes."""
    own = [
        DeclareLaunchArgument("bag", description="folder of a ROS 2 bag"),
        DeclareLaunchArgument("out", default_value="runs/evaluate", description="for the report"),
        DeclareLaunchArgument("bag_topics", default_value="", description="mapping of the bag"),
    ]
    arguments = declare_arguments(evaluate="true")
    return LaunchDescription([*own, *arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list:
    """Nodes, player, and the report at the end."""
    words = context.launch_configurations
    bag, out = words["bag"], words["out"]
    checkpoint = words["checkpoint"] or str(shipped_student())
    mapping = ["--topics", words["bag_topics"]] if words["bag_topics"] else []
    system = read_system(
        context,
        {
            "evaluator.output_dir": out,
            "evaluator.bag": bag,
            "evaluator.bag_topics": words["bag_topics"],
        },
    )
    listeners = str(len(system.nodes))  # each listens to the cameras, once it is active
    waiting = ["--wait-for-subscribers", str(ACTIVE_TIMEOUT_S), "--subscribers", listeners]
    return score_bag(
        start_processes(system),
        clkd("bag", "play", bag, *waiting, *mapping),
        clkd("report", out, "--bag", bag, "--checkpoint", checkpoint, *mapping),
    )
