"""Start a system's processes, bring its nodes up in order, end them all in time.

:mod:`clkd_ros.system` says which there are. Lifecycle transitions go over the control channel that
:mod:`clkd_ros.node_process` describes: one socket pair a process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any

from clkd_core.errors import ClkdError
from clkd_core.runtime.timely import is_poison
from clkd_ros.signals import bind_to_parent, signals_held
from clkd_ros.system import ProcessSpec, SystemSpec

CONTROL_FD_VARIABLE = "CLKD_CONTROL_FD"
"""Environment variable that names a process's end of its control socket."""


class ExitCode(IntEnum):
    """What a process of nodes says by the way it ends; others are those of any program."""

    ENGINE_LOST = 75
    """CUDA failed, or the engine hung: this process cannot go on, another one can. The number is
    EX_TEMPFAIL of ``sysexits.h``: try again."""

    @classmethod
    def after(cls, err: BaseException) -> "ExitCode | None":
        """What to end the process with after an error; None where it can go on."""
        return cls.ENGINE_LOST if is_poison(err) else None


@contextmanager
def engine_loss_noted(node: Any) -> Iterator[None]:
    """Set the node's ``exit_code`` when what runs in it leaves the process without its engine."""
    try:
        yield
    except Exception as err:
        node.exit_code = node.exit_code or ExitCode.after(err)
        raise


ENDING_S = ((signal.SIGINT, 1.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.5))
"""What a node is sent to end it, and how long it is given [s]; under 3 s in all."""

_LAST_LINES = 20


RESPAWN_WINDOW_S = 60.0
"""A process that dies more than ``RESPAWN_LIMIT`` times within this is given up."""

RESPAWN_LIMIT = 5


class RunningProcess:
    """One process of nodes: its log, its control channel."""

    def __init__(self, spec: ProcessSpec) -> None:
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
            ClkdError: the process has ended.
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
            ClkdError: the process has ended or is too slow.
        """
        while b"\n" not in self._received:
            self._channel.settimeout(max(0.001, until_s - time.monotonic()))
            try:
                piece = self._channel.recv(65536)
            except TimeoutError as err:
                raise ClkdError(f"{self.spec.name!r} did not {what} in time") from err
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
        """One line about a process that has ended: its exit code and its last words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        self._relay.join(timeout=0.5)
        code = self.process.poll()
        named = [f" ({one.name})" for one in ExitCode if one == code]
        return f"{self.spec.name!r} ended with exit code {code}{''.join(named)}: {self.trouble()}"

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
    """The processes of a system while they run; a context manager that leaves none behind.

    Start it from the main thread: a child is ended when the thread that started it ends.
    """

    def __init__(self, system: SystemSpec) -> None:
        self.system = system
        self.processes: dict[str, RunningProcess] = {}
        self._deaths_s: dict[str, deque[float]] = {}
        self._left: set[str] = set()

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
        """Start every process."""
        for spec in self.system.processes:
            self._start_one(spec)

    def _start_one(self, spec: ProcessSpec) -> None:
        with signals_held():
            self.processes[spec.name] = RunningProcess(spec)

    def wait_active(self, timeout_s: float) -> None:
        """Wait until all nodes are up and every transition has succeeded.

        Raises:
            ClkdError: a node failed, ended, or was too slow; says which and why.
        """
        self._bring_up(list(self.processes.values()), time.monotonic() + timeout_s)

    def _bring_up(self, processes: Sequence[RunningProcess], until_s: float) -> None:
        for process in processes:
            process.receive(until_s, "start")
        managed = [
            (process, node.name)
            for process in processes
            for node in process.spec.nodes
            if node.lifecycle
        ]
        for transition in self.system.transitions:
            for process, node in managed:
                process.send({"node": node, "do": transition})
            for process, _ in managed:
                answer = process.receive(until_s, transition)
                if not answer["ok"]:
                    time.sleep(0.2)  # its log comes over another pipe
                    raise ClkdError(
                        f"node {answer['node']!r} could not {transition}: {process.trouble()}"
                    )

    @property
    def is_over(self) -> bool:
        """Whether every process has ended and none will be started again."""
        return self._left == set(self.processes)

    def respawn(self, timeout_s: float) -> list[str]:
        """Start again what has died and may, and bring its nodes up; the lines to tell.

        A process that is not to be started again is told of once, and the others go on.

        Raises:
            ClkdError: a process died too often.
        """
        told = []
        for name, code in self.exit_codes().items():
            dead = self.processes[name]
            if code is None or name in self._left:
                continue
            if not dead.spec.respawn:
                self._left.add(name)
                told.append(f"{dead.ended()}; the others go on")
                continue
            if self._dies_too_often(name):
                raise ClkdError(dead.ended())
            told.append(f"{dead.ended()}; it is started again")
            dead.close()
            self._start_one(dead.spec)
            try:
                self._bring_up([self.processes[name]], time.monotonic() + timeout_s)
            except ClkdError as err:  # dead again: its turn comes again; else it waits for repair
                told.append(str(err))
        return told

    def _dies_too_often(self, name: str) -> bool:
        deaths_s = self._deaths_s.setdefault(name, deque(maxlen=RESPAWN_LIMIT))
        now_s = time.monotonic()
        full = len(deaths_s) == RESPAWN_LIMIT
        if full and now_s - deaths_s[0] < RESPAWN_WINDOW_S:
            return True
        deaths_s.append(now_s)
        return False

    def exit_codes(self) -> dict[str, int | None]:
        """By process; None while it runs."""
        return {name: running.process.poll() for name, running in self.processes.items()}

    def wait_for_end(self, name: str, timeout_s: float) -> int | None:
        """Wait for one process to end by itself; its exit code, None when it did not.

        Raises:
            ClkdError: another process ended meanwhile.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self.check_running(but_not=name)
            if (code := self.processes[name].process.poll()) is not None:
                return code
            time.sleep(0.05)
        return None

    def check_running(self, *, but_not: str = "") -> None:
        """See that every process runs, ``but_not`` one that may end by itself.

        Raises:
            ClkdError: a process ended; says which, its exit code and its last words.
        """
        for name, code in self.exit_codes().items():
            if code is not None and (name != but_not or code != 0):
                raise ClkdError(self.processes[name].ended())

    def stop(self) -> dict[str, int]:
        """End all within 3 s and return their exit codes (negative: killed by a signal)."""
        running = [one for one in self.processes.values() if one.process.poll() is None]
        for number, grace_s in ENDING_S:
            for one in running:
                one.signal(number)
            until_s = time.monotonic() + grace_s
            while running and time.monotonic() < until_s:
                time.sleep(0.02)
                running = [one for one in running if one.process.poll() is None]
            if not running:
                break
        for one in self.processes.values():
            one.close()
        return {
            name: running.process.wait(timeout=1.0) for name, running in self.processes.items()
        }
