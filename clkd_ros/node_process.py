"""The main function of every node: start, serve the launcher, spin, end cleanly.

The control channel stands where ROS 2 has lifecycle and parameter services. ``clkd launch``
starts a node with ``CLKD_CONTROL_FD`` naming an inherited socket and writes one JSON object a
line: ``{"do": "configure"}`` (or activate, deactivate, cleanup, shutdown), ``{"do": "get",
"name": N}``, ``{"do": "set", "name": N, "value": V}``. The node first writes
``{"ready": NAME}``, then one answer a request: ``{"ok": true, ...}`` or ``{"ok": false,
"reason": ...}``. When the channel closes, the launcher has died and the node ends.
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
from typing import Any, TextIO

from clkd_core.errors import ClkdError
from clkd_ros import middleware
from clkd_ros.launcher import CONTROL_FD_VARIABLE
from clkd_ros.middleware import MultiThreadedExecutor, Parameter, TransitionCallbackReturn

_LAST_CALLBACK_S = 0.8
"""How long a running callback may go on after the end was asked for."""

_ORPHAN_S = 2.0
"""How long a node whose launcher has gone may take to end."""

_WRONG_INPUT = (
    ClkdError,
    middleware.InvalidParameterTypeException,
    middleware.InvalidParameterValueException,
)
"""What a user can repair: one line and exit code 2."""

TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")


def run_node(
    build_node: Callable[[], Any],
    args: Sequence[str] | None = None,
    *,
    threads: int = 4,
    until: Callable[[Any], bool] | None = None,
) -> int:
    """Run one node until SIGINT, SIGTERM or the launcher's end.

    ``--autostart`` among the arguments configures and activates a lifecycle node at once, for
    use without a launcher.

    Args:
        build_node: makes the node; called once the middleware is up.
        args: the command line without the program's name; the process's own when None.
        threads: callbacks that may run at the same time, each in its own callback group.
        until: the node ends by itself when this becomes true of it; asked every 0.1 s.

    Returns:
        The exit code: 0 after a clean end, 2 when the node could not be made.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    autostart = "--autostart" in arguments
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] [%(name)s]: %(message)s")
    middleware.init(args=[word for word in arguments if word != "--autostart"])
    node, ended = None, True
    try:
        node = build_node()
        executor = MultiThreadedExecutor(num_threads=threads)
        executor.add_node(node)
        try:
            _serve_launcher(node, executor)
            if autostart:
                executor.create_task(_autostart, node)
            _spin(node, executor, until, _stop_on_signals())
        finally:
            _ignore_signals()  # a second SIGINT must not cut the goodbye short
            ended = executor.shutdown(timeout_sec=_LAST_CALLBACK_S)
    except (KeyboardInterrupt, middleware.ExternalShutdownException):
        pass
    except _WRONG_INPUT as err:
        print(f"clkd: error: {err}", file=sys.stderr, flush=True)
        return 2
    finally:
        _ignore_signals()
        if node is not None:
            node.destroy_node()
        middleware.try_shutdown()
    if not ended:
        os._exit(0)  # a model is still loading in a thread that Python would wait for
    return 0


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
    node: Any, executor: Any, until: Callable[[Any], bool] | None, stop: threading.Event
) -> None:
    while middleware.ok() and not stop.is_set() and not (until and until(node)):
        executor.spin_once(timeout_sec=0.1)


def _serve_launcher(node: Any, executor: Any) -> None:
    descriptor = os.environ.get(CONTROL_FD_VARIABLE)
    if descriptor:
        channel = ControlChannel(node, executor, int(descriptor))
        threading.Thread(target=channel.serve, name="control", daemon=True).start()


def _autostart(node: Any) -> None:
    for transition in ("configure", "activate"):
        if change_state(node, transition) != TransitionCallbackReturn.SUCCESS:
            node.get_logger().error(f"{transition} failed, the node stays as it is")
            return


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def change_state(node: Any, transition: str) -> Any:
    """Trigger a lifecycle transition by name; the same call on rclpy and embedded."""
    return getattr(node, f"trigger_{transition}")()


class ControlChannel:
    """The node's end of the control channel; requests run on the executor, one at a time."""

    def __init__(self, node: Any, executor: Any, descriptor: int) -> None:
        self._node = node
        self._executor = executor
        connection = socket.socket(fileno=descriptor)
        self._requests: TextIO = connection.makefile("r", encoding="utf-8")
        self._answers: TextIO = connection.makefile("w", encoding="utf-8")

    def serve(self) -> None:
        """Answer until the launcher closes; its end is ours, told to the main thread by signal.

        Should the main thread not hear it, the process is left without goodbye.
        """
        try:
            self._send({"ready": self._node.get_fully_qualified_name()})
            for line in self._requests:
                self._executor.create_task(self._answer, line)
        except (OSError, ValueError):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_S)
        os._exit(1)

    def _answer(self, line: str) -> None:
        try:
            answer = self._handle(json.loads(line))
        except Exception as err:
            answer = {"ok": False, "reason": f"{type(err).__name__}: {err}"}
        try:
            self._send(answer)
        except (OSError, ValueError):
            self._node.get_logger().warning("the launcher has gone, an answer was lost")

    def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        action = request.get("do")
        if action in TRANSITIONS:
            result = change_state(self._node, action)
            done = result == TransitionCallbackReturn.SUCCESS
            return {"ok": done, "reason": "" if done else f"{action} returned {result}"}
        if action == "get":
            return {"ok": True, "value": self._node.get_parameter(request["name"]).value}
        if action == "set":
            wanted = Parameter(request["name"], value=request["value"])
            result = self._node.set_parameters([wanted])[0]
            return {"ok": result.successful, "reason": result.reason}
        return {"ok": False, "reason": f"unknown request {action!r}, expected {TRANSITIONS}"}

    def _send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()
