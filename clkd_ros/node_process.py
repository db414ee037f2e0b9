"""The main function of every node: start, serve the launcher, spin, end cleanly.

Nodes are spun by one MultiThreadedExecutor. Each keeps its callbacks in one mutually exclusive
group: those of one node never overlap, those of two in one process do, and a transition that loads
a model holds nobody else up. No model runs in the executor: every node has a worker for that.

The control channel stands where ROS 2 has lifecycle and parameter services. ``clkd launch``
starts a process with ``CLKD_CONTROL_FD`` naming an inherited socket and writes one JSON object a
line: ``{"node": NODE, "do": "configure"}`` (or activate, deactivate, cleanup, shutdown),
``{"node": NODE, "do": "get", "name": N}``, ``{"node": NODE, "do": "set", "name": N, "value": V}``.
The process first writes ``{"ready": [NODE, ...]}``, then one answer a request:
``{"node": NODE, "ok": true, ...}`` or ``{"node": NODE, "ok": false, "reason": ...}``. When the
channel closes, the launcher has died and the nodes end.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from clkd_core.errors import ClkdError, ConfigError
from clkd_ros import middleware
from clkd_ros.launcher import CONTROL_FD_VARIABLE, ExitCode
from clkd_ros.middleware import MultiThreadedExecutor, Parameter, TransitionCallbackReturn

_LAST_CALLBACK_S = 0.5
"""How long a running callback may go on after the end was asked for."""

_ORPHAN_S = 2.0
"""How long a node whose launcher has gone, or whose engine is lost, may take to end."""

_WRONG_INPUT = (
    ClkdError,
    middleware.InvalidParameterTypeException,
    middleware.InvalidParameterValueException,
)
"""What a user can repair: one line and exit code 2."""

TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")


def run_nodes(
    builders: Sequence[Callable[[], Any]],
    args: Sequence[str] | None = None,
    *,
    threads: int = 4,
    until: Callable[[Any], bool] | None = None,
) -> int:
    """Run the nodes of one process until SIGINT, SIGTERM or the launcher's end.

    ``--autostart`` among the arguments configures all of them and then activates all of them at
    once, for use without ``clkd launch``; ``--autostart=configure`` does that much.

    Args:
        builders: each makes a node; called once the middleware is up.
        args: the command line without the program's name; the process's own when None.
        threads: callbacks that may run at the same time, each in its own callback group.
        until: the process ends by itself when this becomes true of a node; asked every 0.1 s.

    Returns:
        The exit code: 0 after a clean end, 2 when a node could not be made, a node's ``exit_code``
        where it has one and sets it.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        return _run(builders, arguments, threads, until)
    except _WRONG_INPUT as err:
        print(f"clkd: error: {err}", file=sys.stderr, flush=True)
        return 2


def _run(
    builders: Sequence[Callable[[], Any]],
    arguments: list[str],
    threads: int,
    until: Callable[[Any], bool] | None,
) -> int:
    autostart = _take_autostart(arguments)
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] [%(name)s]: %(message)s")
    middleware.init(args=arguments)
    nodes: list[Any] = []
    ended, code = True, 0
    try:
        nodes.extend(build() for build in builders)
        executor = MultiThreadedExecutor(num_threads=threads)
        for node in nodes:
            executor.add_node(node)
        try:
            _serve_launcher(nodes, executor)
            if autostart:
                executor.create_task(_autostart, nodes, autostart)
            code = _spin(nodes, executor, until, _stop_on_signals())
        finally:
            _ignore_signals()  # a second SIGINT must not cut the goodbye short
            ended = executor.shutdown(timeout_sec=_LAST_CALLBACK_S)
    except (KeyboardInterrupt, middleware.ExternalShutdownException):
        pass
    finally:
        _ignore_signals()
        for node in nodes:
            node.destroy_node()
        middleware.try_shutdown()
    if not ended:
        os._exit(code)  # a model is still loading in a thread that Python would wait for
    return code


def _stop_on_signals() -> threading.Event:
    """Take SIGINT and SIGTERM over from the middleware: it would shut down under our feet.

    With rclpy's own handlers the context is gone before the node is: a last message, a log line
    or a timer then raises, and executor threads have been seen to crash.
    """
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    return stop


def _spin(
    nodes: Sequence[Any],
    executor: Any,
    until: Callable[[Any], bool] | None,
    stop: threading.Event,
) -> int:
    while middleware.ok() and not stop.is_set() and not (until and any(map(until, nodes))):
        with suppress(middleware.InvalidHandle):  # a transition ended what was waited for
            executor.spin_once(timeout_sec=0.1)
        if code := _wanted_code(nodes):
            threading.Thread(target=_end_soon, args=[code], daemon=True).start()
            return code
    return 0


def _wanted_code(nodes: Sequence[Any]) -> ExitCode | None:
    codes = (getattr(node, "exit_code", None) for node in nodes)
    return next((code for code in codes if code is not None), None)


def _end_soon(code: ExitCode) -> None:
    """What ends a process with a lost engine may hang on it: then it ends without goodbye."""
    time.sleep(_ORPHAN_S)
    os._exit(code)


def _serve_launcher(nodes: Sequence[Any], executor: Any) -> None:
    descriptor = os.environ.get(CONTROL_FD_VARIABLE)
    if descriptor:
        channel = ControlChannel(nodes, executor, int(descriptor))
        threading.Thread(target=channel.serve, name="control", daemon=True).start()


def _take_autostart(arguments: list[str]) -> list[str]:
    """The transitions asked for, and the word that asks for them taken away."""
    found: list[str] = []
    for word in [word for word in arguments if word.startswith("--autostart")]:
        arguments.remove(word)
        found = (word.partition("=")[2] or "configure,activate").split(",")
    if unknown := sorted(set(found) - set(TRANSITIONS)):
        raise ConfigError(f"--autostart names {unknown}, expected some of {TRANSITIONS}")
    return found


def _autostart(nodes: Sequence[Any], transitions: Sequence[str]) -> None:
    """Each transition for all nodes; one that fails stays as it is, and the others go on."""
    willing = list(nodes)
    for transition in transitions:
        for node in list(willing):
            if change_state(node, transition) != TransitionCallbackReturn.SUCCESS:
                node.get_logger().error(f"{transition} failed, the node stays as it is")
                willing.remove(node)
    for node in willing:
        node.get_logger().info(f"done: {', '.join(transitions)}")


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def change_state(node: Any, transition: str) -> Any:
    """Trigger a lifecycle transition by name; the same call on rclpy and embedded."""
    return getattr(node, f"trigger_{transition}")()


class ControlChannel:
    """The nodes' end of the control channel; requests run on the executor."""

    def __init__(self, nodes: Sequence[Any], executor: Any, descriptor: int) -> None:
        self._nodes = {node.get_name(): node for node in nodes}
        self._executor = executor
        connection = socket.socket(fileno=descriptor)
        self._requests: TextIO = connection.makefile("r", encoding="utf-8")
        self._answers: TextIO = connection.makefile("w", encoding="utf-8")
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Answer until the launcher closes; its end is ours, told to the main thread by signal.

        Should the main thread not hear it, the process is left without goodbye.
        """
        try:
            self._send({"ready": list(self._nodes)})
            for line in self._requests:
                self._executor.create_task(self._answer, line)
        except (OSError, ValueError):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_S)
        os._exit(1)

    def _answer(self, line: str) -> None:
        request: dict[str, Any] = {}
        try:
            request = json.loads(line)
            answer = self._handle(request)
        except Exception as err:
            answer = {"ok": False, "reason": f"{type(err).__name__}: {err}"}
        answer["node"] = request.get("node")
        try:
            self._send(answer)
        except (OSError, ValueError):
            logging.getLogger(__name__).warning("the launcher has gone, an answer was lost")

    def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        node, action = self._nodes.get(request.get("node", "")), request.get("do")
        if node is None:
            asked = request.get("node")
            return {"ok": False, "reason": f"no node {asked!r}, expected {list(self._nodes)}"}
        if action in TRANSITIONS:
            result = change_state(node, action)
            done = result == TransitionCallbackReturn.SUCCESS
            return {"ok": done, "reason": "" if done else f"{action} returned {result}"}
        if action == "get":
            return {"ok": True, "value": node.get_parameter(request["name"]).value}
        if action == "set":
            wanted = Parameter(request["name"], value=request["value"])
            result = node.set_parameters([wanted])[0]
            return {"ok": result.successful, "reason": result.reason}
        return {"ok": False, "reason": f"unknown request {action!r}, expected {TRANSITIONS}"}

    def _send(self, answer: dict[str, Any]) -> None:
        with self._writing:
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()
