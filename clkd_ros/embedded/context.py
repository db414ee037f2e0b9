"""Start and end of a process on the embedded middleware: arguments, the wire, signals."""

import signal
import sys
import threading
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

from clkd_ros.embedded.arguments import RosArguments, parse_arguments
from clkd_ros.embedded.logger import configure
from clkd_ros.embedded.wire.dds import Wire
from clkd_ros.embedded.wire.graph import Graph


class InvalidHandle(Exception):  # noqa: N818, the name is rclpy's
    """Something was destroyed while it was waited for; rclpy raises it, nothing here does."""


class ExternalShutdownException(Exception):  # noqa: N818 - rclpy's name
    """Spinning ended because a signal or another thread shut the context down."""


class Context:
    """What ``init`` makes and ``shutdown`` ends; nodes and executors belong to one."""

    def __init__(self) -> None:
        self.arguments = RosArguments()
        self._wire: Wire | None = None
        self._graph: Graph | None = None
        self._valid = False
        self._nodes: weakref.WeakSet[Any] = weakref.WeakSet()
        self._executors: weakref.WeakSet[Any] = weakref.WeakSet()
        self._handlers: dict[int, Any] = {}

    def init(self, args: Sequence[str] | None = None) -> None:
        """Read the arguments and become valid; the domain is joined by the first node.

        Raises:
            RuntimeError: this context was initialised before.
            ConfigError: an argument is wrong.
        """
        if self._valid:
            raise RuntimeError("the context is initialised already, expected one init()")
        self.arguments, _ = parse_arguments(sys.argv[1:] if args is None else args)
        console = self.arguments.log_flags.get("stdout-logs", True)
        configure(self.arguments.log_levels, console=console)
        self._valid = True

    @property
    def wire(self) -> Wire:
        """The process's DDS participant, made on first use.

        Raises:
            RuntimeError: the context is not initialised.
        """
        if not self._valid and self._wire is None:
            raise RuntimeError("the context is not initialised, expected init() before")
        if self._wire is None:
            self._wire = Wire()
        return self._wire

    def ok(self) -> bool:
        """True between ``init`` and ``shutdown`` or the first SIGINT/SIGTERM."""
        return self._valid

    @property
    def graph(self) -> Graph:
        """Who else is on the network."""
        if self._graph is None:
            self._graph = Graph(self.wire)
        return self._graph

    def add_node(self, node: Any) -> None:
        """Remember a node, to take it off the network at the end."""
        self._nodes.add(node)

    def remove_node(self, node: Any) -> None:
        """Forget a node and withdraw its name."""
        if node in self._nodes:
            self._nodes.discard(node)
            self.announce_nodes()

    def announce_nodes(self) -> None:
        """Tell the network which nodes and endpoints this process has now."""
        if self._wire is not None:
            self.graph.announce(list(self._nodes))

    def add_executor(self, executor: Any) -> None:
        """Remember an executor, to wake it at the end."""
        self._executors.add(executor)

    def interrupt(self) -> None:
        """End spinning but keep nodes and wire, so that nodes can still say goodbye."""
        self._valid = False
        for executor in list(self._executors):
            executor.wake()

    def shutdown(self) -> None:
        """End spinning, take every node off the network, leave the domain. Twice is harmless."""
        self.interrupt()
        for node in list(self._nodes):
            node.close_endpoints()
        for executor in list(self._executors):
            executor.shutdown(timeout_sec=0.0)
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._restore_signals()

    def install_signals(self) -> None:
        """SIGINT and SIGTERM end spinning; further ones change nothing (main thread only)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        spinning = any(executor.spinning for executor in list(self._executors))
        first = self._valid
        self.interrupt()
        if first and not spinning:  # nobody would look at the flag: end the main thread's work
            raise KeyboardInterrupt(signal.Signals(number).name)

    def _restore_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


_DEFAULT = Context()


def get_default_context() -> Context:
    """The context used where none is given."""
    return _DEFAULT


def init(*, args: Sequence[str] | None = None, context: Context | None = None) -> None:
    """Initialise; in the main thread SIGINT and SIGTERM then end spinning."""
    chosen = context or _DEFAULT
    chosen.init(args)
    if chosen is _DEFAULT:
        chosen.install_signals()


def shutdown(*, context: Context | None = None) -> None:
    """End the context.

    Raises:
        RuntimeError: it was never initialised, or has been shut down.
    """
    chosen = context or _DEFAULT
    if not chosen.ok() and chosen._wire is None:
        raise RuntimeError("shutdown() without init()")
    chosen.shutdown()


def try_shutdown(*, context: Context | None = None) -> None:
    """End the context if it is not ended yet."""
    (context or _DEFAULT).shutdown()


def ok(*, context: Context | None = None) -> bool:
    """True while the context is valid."""
    return (context or _DEFAULT).ok()
