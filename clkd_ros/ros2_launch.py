"""The dual system as actions of ``ros2 launch``; the only module that imports its Python API."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch_ros.actions import Node

from clkd_core.files import shared_folder
from clkd_ros.system import (
    ProcessSpec,
    SystemSpec,
    default_system_file,
    load_system,
    parse_launch_arguments,
)
from launch import LaunchContext

_PATIENCE_S = 60.0
"""The evaluator is done this long after the bag, unless it heard nothing at all."""

_RESPAWN_DELAY_S = 1.0
_KILL_AFTER_S = "2"
"""SIGINT, SIGTERM and SIGKILL follow each other at this distance."""


def declare_arguments(**defaults: str) -> list[DeclareLaunchArgument]:
    """What the shipped system file takes, and which file it is; with other defaults by name."""
    declared = [
        DeclareLaunchArgument(
            name,
            default_value=defaults.get(name, _text(argument.default)),
            description=argument.description,
        )
        for name, argument in load_system(default_system_file()).arguments.items()
    ]
    file = DeclareLaunchArgument(
        "config", default_value=str(default_system_file()), description="system file"
    )
    return [*declared, file]


def read_system(context: LaunchContext, extra: Mapping[str, Any] | None = None) -> SystemSpec:
    """The system that the words of the command line describe.

    Args:
        context: after the arguments were declared.
        extra: further arguments, overridden by words.

    Raises:
        ConfigError: a word or a file does not fit.
    """
    words = context.launch_configurations
    path = Path(words["config"])
    named = load_system(path).arguments
    given = [f"{name}:={value}" for name, value in words.items() if name in named or "." in name]
    return load_system(path, {**(extra or {}), **parse_launch_arguments(given)})


def start_processes(system: SystemSpec) -> dict[str, Node]:
    """One action for each process, by name, and ``rviz`` where it is wanted.

    Nodes make their transitions themselves, also after a respawn.
    """
    actions = {spec.name: _start(spec, system.transitions) for spec in system.processes}
    if system.rviz:
        view = shared_folder("config") / "rviz" / "dual_system.rviz"
        actions["rviz"] = Node(package="rviz2", executable="rviz2", arguments=["-d", str(view)])
    return actions


def clkd(*words: str) -> ExecuteProcess:
    """A verb of ``clkd`` by the Python that the nodes run on: the first ``python3`` in PATH."""
    return ExecuteProcess(
        cmd=["python3", "-m", "clkd_core.cli", *words],
        output="screen",
        sigterm_timeout=_KILL_AFTER_S,
        sigkill_timeout=_KILL_AFTER_S,
    )


def score_bag(actions: Mapping[str, Node], play: ExecuteProcess, report: ExecuteProcess) -> list:
    """Start the nodes and the player; when the evaluator is done, report, then end all.

    Args:
        actions: of a system with an evaluator, by name.
        play: plays the bag; when it fails, all ends.
        report: makes the page from what the evaluator wrote.
    """

    waiting = {"evaluator"}

    def give_up(context: LaunchContext) -> list:
        return [Shutdown(reason="the evaluator heard nothing of the bag")] if waiting else []

    def played(event: ProcessExited, context: LaunchContext) -> list:
        if event.returncode != 0:
            return [Shutdown(reason="the bag could not be played")]
        return [TimerAction(period=_PATIENCE_S, actions=[OpaqueFunction(function=give_up)])]

    def judged(event: ProcessExited, context: LaunchContext) -> list:
        waiting.clear()
        failed = Shutdown(reason="the evaluator ended badly")
        return [report] if event.returncode == 0 else [failed]

    return [
        RegisterEventHandler(OnProcessExit(target_action=play, on_exit=played)),
        RegisterEventHandler(OnProcessExit(target_action=actions["evaluator"], on_exit=judged)),
        RegisterEventHandler(
            OnProcessExit(target_action=report, on_exit=[Shutdown(reason="the bag is scored")])
        ),
        *actions.values(),
        play,
    ]


def _start(spec: ProcessSpec, transitions: tuple[str, ...]) -> Node:
    return Node(
        package="clkd_ros",
        executable=spec.executable,
        arguments=[f"--autostart={','.join(transitions)}", *spec.arguments()],
        output="screen",
        respawn=spec.respawn,
        respawn_delay=_RESPAWN_DELAY_S,
        sigterm_timeout=_KILL_AFTER_S,
        sigkill_timeout=_KILL_AFTER_S,
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
