"""Start the nodes of a system as processes, bring them up in order, end them all in time.

``config/nodes/dual_system.yaml`` says which nodes there are; ``ros2 launch`` reads the same file
through :func:`load_system`. Lifecycle transitions go over the control channel that
:mod:`clkd_ros.node_process` describes: one socket pair a node.
"""

import difflib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from clkd_core.config import load_config
from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import shared_folder
from clkd_ros.signals import bind_to_parent, signals_held

CONTROL_FD_VARIABLE = "CLKD_CONTROL_FD"
"""Environment variable that names a node's end of its control socket."""

ENDING_S = ((signal.SIGINT, 1.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.5))
"""What a node is sent to end it, and how long it is given [s]; under 3 s in all."""

_LAST_LINES = 20


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node: what runs, how its topics and parameters are set."""

    name: str
    """Name in the graph."""
    module: str
    """Started as ``python -m module``."""
    executable: str
    """Started as ``ros2 run clkd_ros executable``."""
    lifecycle: bool = True
    """Whether transitions are asked of it."""
    when: Literal["always", "evaluate"] = "always"
    """evaluate: only when the run is scored."""
    remappings: Mapping[str, str] = field(default_factory=dict)
    """Private topic name -> absolute one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """ROS parameters; nested ones are named with dots."""

    def arguments(self) -> list[str]:
        """The command line after the program's name."""
        words = ["--ros-args", "-r", f"__node:={self.name}"]
        for source, target in self.remappings.items():
            words += ["-r", f"{source}:={target}"]
        for name, value in _flat(self.parameters).items():
            words += ["-p", f"{name}:={_yaml_text(value)}"]
        return words


@dataclass(frozen=True, kw_only=True)
class ArgumentSpec:
    """One ``name:=value`` that the launch takes."""

    default: Any
    """Value when none is given."""
    parameter: tuple[str, ...]
    """The ``node.parameter`` names that it sets."""
    description: str = ""
    """For ``--help``."""


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """All nodes, the arguments, and the order of transitions."""

    nodes: tuple[NodeSpec, ...]
    """In the order they are started."""
    transitions: tuple[str, ...] = ("configure", "activate")
    """Each is asked of all nodes in their order before the next begins."""
    arguments: Mapping[str, ArgumentSpec] = field(default_factory=dict)
    """By name."""


def default_system_file() -> Path:
    """The dual system as shipped."""
    return shared_folder("config") / "nodes" / "dual_system.yaml"


def load_system(
    path: Path, arguments: Mapping[str, Any] | None = None, *, evaluate: bool = False
) -> SystemSpec:
    """Read a system file and apply arguments.

    Args:
        path: a YAML file like ``config/nodes/dual_system.yaml``.
        arguments: by name; ``node.parameter`` sets one parameter of one node.
        evaluate: whether nodes with ``when: evaluate`` are part of it.

    Raises:
        ConfigError: the file or an argument does not fit.
    """
    system = load_config(SystemSpec, path)
    chosen = {node.name: dict(_flat(node.parameters)) for node in system.nodes}
    given = dict(arguments or {})
    for name, argument in system.arguments.items():
        value = given.pop(name, argument.default)
        given = {**dict.fromkeys(argument.parameter, value), **given}
    for dotted, value in given.items():
        node, dot, parameter = dotted.partition(".")
        if not dot or node not in chosen:
            raise ConfigError(f"{path}: {_unknown_argument(dotted, system)}")
        chosen[node][parameter] = value
    nodes = tuple(
        replace(node, parameters=chosen[node.name])
        for node in system.nodes
        if node.when == "always" or evaluate
    )
    return replace(system, nodes=nodes)


def parse_launch_arguments(words: Sequence[str]) -> dict[str, Any]:
    """``["device:=cpu"]`` as ``{"device": "cpu"}``; values are YAML.

    Raises:
        ConfigError: a word is not ``name:=value``.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator or not name:
            raise ConfigError(f"launch argument is {word!r}, expected name:=value")
        found[name] = yaml.safe_load(text)
    return found


def _unknown_argument(name: str, system: SystemSpec) -> str:
    near = difflib.get_close_matches(name, list(system.arguments), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {sorted(system.arguments)}"
    return f"unknown launch argument {name!r}, {hint} or node.parameter"


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _yaml_text(value: Any) -> str:
    """On one line, as ``-p`` takes it; floats keep their point."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("...").strip()


class NodeProcess:
    """One running node: its process, its log, its control channel."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        ours, theirs = socket.socketpair()
        self._channel, self._received = ours, b""
        command = [sys.executable, "-m", spec.module, *spec.arguments()]
        try:
            self.process = subprocess.Popen(
                command,
                env={**child_environment(), CONTROL_FD_VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=bind_to_parent,
            )
        finally:
            theirs.close()
        self._relay = threading.Thread(target=self._relay_log, daemon=True)
        self._relay.start()

    def send(self, request: Mapping[str, Any]) -> None:
        """Write a request.

        Raises:
            ClkdError: the node has ended.
        """
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
        except OSError as err:
            raise ClkdError(self.ended()) from err

    def receive(self, until_s: float, what: str) -> dict[str, Any]:
        """Read the next answer.

        Args:
            until_s: reading of the monotonic clock to wait for.
            what: what is waited for, for the error.

        Raises:
            ClkdError: the node has ended or is too slow.
        """
        while b"\n" not in self._received:
            self._channel.settimeout(max(0.001, until_s - time.monotonic()))
            try:
                piece = self._channel.recv(65536)
            except TimeoutError as err:
                raise ClkdError(f"node {self.spec.name!r} did not {what} in time") from err
            except OSError as err:
                raise ClkdError(self.ended()) from err
            if not piece:
                raise ClkdError(self.ended())
            self._received += piece
        line, self._received = self._received.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def trouble(self) -> str:
        """The newest line of the log that tells of an error, or the newest one at all."""
        lines = list(self.last_lines)
        errors = [line for line in lines if "rror" in line or "ERROR" in line]
        return (errors or lines or ["it logged nothing"])[-1]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; SIGKILL goes to all it started, too."""
        with suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            elif self.process.poll() is None:
                self.process.send_signal(number)

    def close(self) -> None:
        """Let go of channel and log of a process that has ended."""
        self._channel.close()
        self._relay.join(timeout=0.5)

    def ended(self) -> str:
        """One line about a node that has ended: its exit code and its last words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        self._relay.join(timeout=0.5)
        code = self.process.poll()
        return f"node {self.spec.name!r} ended with exit code {code}: {self.trouble()}"

    def _relay_log(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            if line.strip():
                self.last_lines.append(line)
            with suppress(OSError, ValueError):
                sys.stderr.write(f"[{self.spec.name}] {line}\n")  # one write: lines stay whole
                sys.stderr.flush()


def child_environment() -> dict[str, str]:
    """Ours, but a child finds our packages even where they are not installed."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
    }


class LaunchedSystem:
    """The nodes of a system while they run; a context manager that leaves none behind.

    Start it from the main thread: a child is ended when the thread that started it ends.
    """

    def __init__(self, system: SystemSpec) -> None:
        self.system = system
        self.nodes: dict[str, NodeProcess] = {}

    def __enter__(self) -> "LaunchedSystem":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node's process."""
        for spec in self.system.nodes:
            with signals_held():
                self.nodes[spec.name] = NodeProcess(spec)

    def wait_active(self, timeout_s: float) -> None:
        """Wait until all nodes are up and every transition has succeeded.

        Raises:
            ClkdError: a node failed, ended, or was too slow; says which and why.
        """
        until_s = time.monotonic() + timeout_s
        for node in self.nodes.values():
            node.receive(until_s, "start")
        managed = [node for node in self.nodes.values() if node.spec.lifecycle]
        for transition in self.system.transitions:
            for node in managed:
                node.send({"do": transition})
            for node in managed:
                answer = node.receive(until_s, transition)
                if not answer["ok"]:
                    time.sleep(0.2)  # its log comes over another pipe
                    raise ClkdError(
                        f"node {node.spec.name!r} could not {transition}: {node.trouble()}"
                    )

    def exit_codes(self) -> dict[str, int | None]:
        """By node; None while it runs."""
        return {name: node.process.poll() for name, node in self.nodes.items()}

    def wait_for_end(self, name: str, timeout_s: float) -> int | None:
        """Wait for one node to end by itself; its exit code, None when it did not.

        Raises:
            ClkdError: another node ended meanwhile.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self.check_running(but_not=name)
            if (code := self.nodes[name].process.poll()) is not None:
                return code
            time.sleep(0.05)
        return None

    def check_running(self, *, but_not: str = "") -> None:
        """See that every node runs, ``but_not`` one that may end by itself.

        Raises:
            ClkdError: a node ended; says which, its exit code and its last words.
        """
        for name, code in self.exit_codes().items():
            if code is not None and (name != but_not or code != 0):
                raise ClkdError(self.nodes[name].ended())

    def stop(self) -> dict[str, int]:
        """End all nodes within 3 s and return their exit codes (negative: killed by a signal)."""
        running = [node for node in self.nodes.values() if node.process.poll() is None]
        for number, grace_s in ENDING_S:
            for node in running:
                node.signal(number)
            until_s = time.monotonic() + grace_s
            while running and time.monotonic() < until_s:
                time.sleep(0.02)
                running = [node for node in running if node.process.poll() is None]
            if not running:
                break
        for node in self.nodes.values():
            node.close()
        return {name: node.process.wait(timeout=1.0) for name, node in self.nodes.items()}
