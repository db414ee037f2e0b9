"""Start the nodes, see who is on the network, play bags: the verbs that need the middleware."""

import argparse
import importlib.util
import logging
import time
from pathlib import Path

from clkd_core.errors import ClkdError, ConfigError
from clkd_ros.launcher import LaunchedSystem
from clkd_ros.system import (
    SystemSpec,
    default_system_file,
    load_system,
    parse_launch_arguments,
)

ACTIVE_TIMEOUT_S = 120.0
"""Loading a model from a slow disk and its first pass on a CPU fit in this."""

_LOOK_S = 1.5
"""Discovery on the loopback is complete after this."""

_log = logging.getLogger(__name__)


class Launch:
    """Start the nodes as processes, configure and activate them, end them on Ctrl-C."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the words of ``clkd launch``."""
        parser.add_argument("arguments", nargs="*", metavar="NAME:=VALUE", help="see the config")
        parser.add_argument("--config", type=Path, help="default: the shipped dual system")
        parser.add_argument("--show", action="store_true", help="list the arguments and end")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """0 when every node ended well, 1 when one ended badly."""
        _need_middleware()
        path = args.config or default_system_file()
        system = load_system(path, parse_launch_arguments(args.arguments))
        if args.show:
            print("\n".join(describe_arguments(system)))
            return 0
        if system.rviz:
            raise ConfigError("launch argument rviz is true, which only `ros2 launch` can")
        return run_system(system)


def describe_arguments(system: SystemSpec) -> list[str]:
    """One line for each ``NAME:=VALUE`` that a system takes."""
    return [
        f"{name}:={str(argument.default).lower()}  {argument.description}"
        for name, argument in system.arguments.items()
    ]


def run_system(system: SystemSpec) -> int:
    """Run a system until Ctrl-C; what dies is started again, and a node may end by itself."""
    launched = LaunchedSystem(system)
    try:
        launched.start()
        launched.wait_active(ACTIVE_TIMEOUT_S)
        names = (node.name for spec in system.processes for node in spec.nodes)
        print(f"active: {', '.join(names)}", flush=True)
        while not launched.is_over:
            for line in launched.respawn(ACTIVE_TIMEOUT_S):
                _log.warning("%s", line)
            time.sleep(0.1)
    except KeyboardInterrupt:
        _log.info("ending the nodes")
    finally:
        codes = launched.stop()
    print("ended: " + ", ".join(f"{name} {code}" for name, code in codes.items()), flush=True)
    return 0 if all(code == 0 for code in codes.values()) else 1


class Nodes:
    """Say which middleware is in use, and which nodes and topics are on the network."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the words of ``clkd nodes``."""
        parser.add_argument("--wait", type=float, default=_LOOK_S, help="seconds to look around")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Print; always 0."""
        _need_middleware()
        from clkd_ros import middleware

        print(f"middleware: {middleware.which()}")
        middleware.init(args=[])
        try:
            _print_graph(args.wait)
        finally:
            middleware.try_shutdown()
        return 0


def _print_graph(wait_s: float) -> None:
    from clkd_ros.middleware import Node

    node = Node("clkd_nodes")
    node.get_topic_names_and_types(), node.get_node_names()  # begin to look
    time.sleep(wait_s)
    own = node.get_name()
    topics = [(name, types) for name, types in node.get_topic_names_and_types()]
    names = [name for name in node.get_node_names() if name != own]
    print(f"nodes: {', '.join(sorted(names)) or 'none seen'}")
    for name, types in topics:
        senders, readers = node.count_publishers(name), node.count_subscribers(name)
        mixed = "  TWO TYPES: they cannot talk" if len(types) > 1 else ""
        print(f"  {name} [{', '.join(types)}] {senders} -> {readers}{mixed}")
    node.destroy_node()


class BagPlay:
    """Play a ROS 2 bag onto the network in real time."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the words of ``clkd bag play``."""
        add = parser.add_argument
        add("bag", type=Path, help="folder of a ROS 2 bag, or one mcap or sqlite3 file")
        add("--rate", type=float, default=1.0, help="speed, default 1")
        add("--loop", action="store_true", help="start again at the end")
        add("--clock", type=float, default=0.0, metavar="HZ", help="publish /clock so often")
        add("--start-delay", type=float, default=0.0, metavar="S", help="wait before playing")
        add(
            "--wait-for-subscribers",
            type=float,
            default=0.0,
            metavar="S",
            help="wait at most so long until subscribers have come",
        )
        add(
            "--subscribers",
            type=int,
            default=1,
            metavar="N",
            help="until so many have come to one topic (default %(default)d)",
        )
        add(
            "--topics",
            type=Path,
            metavar="FILE",
            help="what the bag calls our topics (config/topics/*.yaml): play it under our names",
        )

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """0 when played to the end; KeyboardInterrupt when interrupted."""
        _need_middleware()
        from clkd_core.data.bags.topics import load_topics
        from clkd_ros import middleware
        from clkd_ros.bag_play import PlayConfig, play_bag

        names = load_topics(args.topics) if args.topics else None
        config = PlayConfig(
            rate=args.rate,
            loop=args.loop,
            clock_hz=args.clock,
            start_delay_s=args.start_delay,
            wait_for_subscribers_s=args.wait_for_subscribers,
            subscribers=args.subscribers,
        )
        middleware.init(args=[])
        try:
            result = play_bag(args.bag, config, names)
        finally:
            middleware.try_shutdown()
        print(f"{args.bag}: {result.line}", flush=True)
        if not result.finished:
            raise KeyboardInterrupt
        return 0


def replay_live(args: argparse.Namespace) -> int:
    """``clkd replay --live``; registered under ``clkd.live``."""
    from clkd_ros import live_replay

    _need_middleware()
    return live_replay.replay_live(args)


def _need_middleware() -> None:
    """Say what to install when there is no middleware at all.

    Raises:
        ClkdError: neither rclpy nor cyclonedds can be imported.
    """
    if not any(importlib.util.find_spec(name) for name in ("rclpy", "cyclonedds")):
        raise ClkdError(
            "neither rclpy nor cyclonedds is installed, expected a sourced ROS 2 or "
            "`pip install 'clkd-drive[embedded]'`"
        )


_VERBS: dict[str, type[Launch | Nodes | BagPlay]] = {
    "launch": Launch,
    "nodes": Nodes,
    "bag.play": BagPlay,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of the verb in ``parser.get_default("verb")``."""
    _VERBS[parser.get_default("verb")].add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb in ``args.verb``."""
    return _VERBS[args.verb].run(args)
