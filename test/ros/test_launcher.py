"""Starting, bringing up and ending nodes as processes."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fakes import children, wait_until

from clkd_core.errors import ClkdError
from clkd_ros.launcher import ExitCode, LaunchedSystem, engine_loss_noted
from clkd_ros.system import CompositionSpec, NodeSpec, SystemSpec

ROOT = Path(__file__).resolve().parents[2]
_DOMAINS = itertools.count(61 + os.getpid() % 30)

WORKER = """
    import os, sys, time
    from functools import partial
    from clkd_ros.launcher import ExitCode
    from clkd_ros.middleware import *
    from clkd_ros.node_process import run_nodes

    OK, NO = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

    class Worker(LifecycleNode):
        def __init__(self, name):
            super().__init__(name)
            self.mode = self.declare_parameter("mode", "good").value
            self.declare_parameter("limit", 1.0)

        def on_configure(self, state):
            if self.mode == "bad":
                self.get_logger().error("cannot be configured: no model at /nowhere")
                return NO
            if self.mode == "dies":
                os._exit(3)
            if self.mode == "stuck":
                time.sleep(60)
            if self.mode == "lost":
                self.get_logger().error("the engine is lost: CUDA error: far away")
                self.exit_code = ExitCode.ENGINE_LOST
            return OK

        def on_activate(self, state):
            self.get_logger().info("at work")
            return OK

        def destroy_node(self):
            if self.mode in ("deaf", "lost"):
                time.sleep(60)
            super().destroy_node()

    if __name__ == "__main__":
        names = [word[:3] for word in sys.argv if ":mode:=" in word] or ["worker"]
        sys.exit(run_nodes([partial(Worker, name) for name in names]))
"""


@pytest.fixture
def worker_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node's module that children can import, on a domain of its own."""
    (tmp_path / "clkd_test_worker.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(_DOMAINS) % 100))
    return "clkd_test_worker"


def system(module: str, **modes: str) -> SystemSpec:
    """One worker for each ``name=mode``."""
    return SystemSpec(
        nodes=tuple(
            NodeSpec(name=name, module=module, executable="worker", parameters={"mode": mode})
            for name, mode in modes.items()
        )
    )


def test_nodes_come_up_take_parameters_log_by_name_and_end_with_zero(
    worker_module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with LaunchedSystem(system(worker_module, one="good", two="good")) as launched:
        launched.wait_active(20.0)
        launched.check_running()
        node = launched.processes["one"]

        def ask(**request: Any) -> dict[str, Any]:
            node.send({"node": "one", **request})
            return node.receive(time.monotonic() + 5.0, "answer")

        assert ask(do="set", name="limit", value=2.5)["ok"]
        assert ask(do="get", name="limit") == {"node": "one", "ok": True, "value": 2.5}
        assert "DOUBLE" in ask(do="set", name="limit", value="much")["reason"]
        assert not ask(do="dance")["ok"]
        start_s = time.monotonic()
        assert launched.stop() == {"one": 0, "two": 0}
        assert time.monotonic() - start_s < 3.0
    said = capfd.readouterr().err
    assert all(f"[{name}] [INFO]" in said and "at work" in said for name in ("one", "two"))


def test_node_that_cannot_be_configured_is_named_with_its_reason(worker_module: str) -> None:
    with (
        pytest.raises(ClkdError, match=r"'two' could not configure.*no model at /nowhere"),
        LaunchedSystem(system(worker_module, one="good", two="bad")) as launched,
    ):
        launched.wait_active(20.0)
    assert not children()


def test_node_that_dies_or_does_not_answer_is_named(worker_module: str) -> None:
    with (
        pytest.raises(ClkdError, match="'dead' ended with exit code 3"),
        LaunchedSystem(system(worker_module, dead="dies")) as launched,
    ):
        launched.wait_active(20.0)
    with (
        pytest.raises(ClkdError, match=r"'slow' did not (start|configure) in time"),
        LaunchedSystem(system(worker_module, slow="stuck")) as launched,
    ):
        launched.wait_active(2.0)
    assert not children()


def test_deaf_node_is_killed_within_three_seconds(worker_module: str) -> None:
    launched = LaunchedSystem(system(worker_module, good="good", deaf="deaf"))
    launched.start()
    launched.wait_active(20.0)
    start_s = time.monotonic()
    codes = launched.stop()
    assert time.monotonic() - start_s < 3.0
    assert codes == {"good": 0, "deaf": -signal.SIGKILL}
    assert not children()


def test_node_that_ends_while_the_system_runs_is_reported(worker_module: str) -> None:
    with LaunchedSystem(system(worker_module, one="good", two="good")) as launched:
        launched.wait_active(20.0)
        launched.processes["two"].process.kill()
        launched.processes["two"].process.wait()
        with pytest.raises(ClkdError, match="'two' ended with exit code -9"):
            launched.check_running()
        with pytest.raises(ClkdError, match="'two'"):
            launched.wait_for_end("one", 5.0)


def test_nodes_of_one_process_are_told_apart_by_parameters_transitions_and_answers(
    worker_module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    both = CompositionSpec(
        name="both", module=worker_module, executable="both", nodes=("one", "two")
    )
    described = replace(system(worker_module, one="good", two="good"), composition=both)
    with LaunchedSystem(described) as launched:
        assert list(launched.processes) == ["both"]
        launched.wait_active(20.0)
        process = launched.processes["both"]

        def ask(**request: Any) -> dict[str, Any]:
            process.send(request)
            return process.receive(time.monotonic() + 5.0, "answer")

        assert ask(node="two", do="set", name="limit", value=2.5)["ok"]
        assert ask(node="one", do="get", name="limit")["value"] == 1.0
        assert ask(node="two", do="get", name="limit")["value"] == 2.5
        assert "no node 'three'" in ask(node="three", do="get", name="limit")["reason"]
    assert capfd.readouterr().err.count("at work") == 2
    bad = replace(system(worker_module, one="good", two="bad"), composition=both)
    with (
        pytest.raises(ClkdError, match="node 'two' could not configure"),
        LaunchedSystem(bad) as launched,
    ):
        launched.wait_active(20.0)


def test_process_that_dies_is_started_again_and_its_nodes_brought_up(
    worker_module: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with LaunchedSystem(system(worker_module, one="good", two="good")) as launched:
        launched.wait_active(20.0)
        assert launched.respawn(20.0) == []
        dead = launched.processes["two"].process
        dead.kill()
        dead.wait()
        (line,) = launched.respawn(20.0)
        assert "'two' ended with exit code -9" in line
        launched.check_running()
        assert launched.processes["two"].process.pid != dead.pid
    assert capfd.readouterr().err.count("at work") == 3


def test_process_that_ends_with_a_named_code_is_named_even_where_its_goodbye_hangs(
    worker_module: str,
) -> None:
    with LaunchedSystem(system(worker_module, one="lost")) as launched:
        with suppress(ClkdError):  # it ends while it is being brought up, or just after
            launched.wait_active(20.0)
        assert launched.processes["one"].process.wait(timeout=10.0) == 75
        said = launched.processes["one"].ended()
    assert said.startswith("'one' ended with exit code 75 (ENGINE_LOST): [ERROR]")
    assert said.endswith("the engine is lost: CUDA error: far away")


def test_process_that_dies_too_often_is_given_up_and_a_referee_is_not_started_again(
    worker_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clkd_ros.launcher.RESPAWN_LIMIT", 1)
    with LaunchedSystem(system(worker_module, one="good")) as launched:
        launched.wait_active(20.0)
        launched.processes["one"].process.kill()
        launched.processes["one"].process.wait()
        assert launched.respawn(20.0)
        launched.processes["one"].process.kill()
        launched.processes["one"].process.wait()
        with pytest.raises(ClkdError, match="'one' ended with exit code -9"):
            launched.respawn(20.0)
    referee = NodeSpec(name="one", module=worker_module, executable="worker", when="evaluate")
    with LaunchedSystem(SystemSpec(nodes=(referee,))) as launched:
        launched.wait_active(20.0)
        launched.processes["one"].process.kill()
        launched.processes["one"].process.wait()
        assert "'one' ended with exit code -9" in launched.respawn(20.0)[0]
        assert launched.respawn(20.0) == []


LAUNCH_YAML = """
arguments:
  evaluate: {default: false}
nodes:
  - {name: one, module: MODULE, executable: worker}
  - {name: two, module: MODULE, executable: worker, when: evaluate}
"""


@pytest.fixture
def launch_command(worker_module: str, tmp_path: Path) -> Iterator[Any]:
    """``clkd launch`` of two workers; killed if the test leaves it."""
    config = tmp_path / "system.yaml"
    config.write_text(LAUNCH_YAML.replace("MODULE", worker_module))
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "clkd_core.cli", "launch", "--config", str(config)]
        paths = f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"
        started.append(
            subprocess.Popen(
                [*command, *words],
                env={**os.environ, "PYTHONPATH": paths},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_line(process: "subprocess.Popen[str]", start: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"{start!r} was never said")


def test_launch_ends_on_ctrl_c_with_every_exit_code(launch_command: Any) -> None:
    process = launch_command("evaluate:=true")
    wait_for_line(process, "active: one, two")
    nodes = psutil.Process(process.pid).children()
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=5.0)
    assert time.monotonic() - start_s < 3.0
    assert process.returncode == 0
    assert "ended: one 0, two 0" in said
    assert not any(node.is_running() for node in nodes)


def test_launch_starts_its_only_process_again_when_that_is_killed(launch_command: Any) -> None:
    process = launch_command()
    wait_for_line(process, "active: one")
    for _ in range(2):
        (node,) = psutil.Process(process.pid).children()
        node.kill()
        wait_for_line(process, "[one] [INFO]")  # it is at work
    assert process.poll() is None


def test_no_node_survives_a_launcher_that_is_killed(launch_command: Any) -> None:
    process = launch_command()
    wait_for_line(process, "active: one")
    (node,) = psutil.Process(process.pid).children()
    process.kill()
    wait_until(lambda: not node.is_running() or node.status() == "zombie", "its end", 3.0)


def test_launch_names_what_is_wrong_with_its_words(launch_command: Any) -> None:
    process = launch_command("one.limit:=a lot")
    said, _ = process.communicate(timeout=20.0)
    assert process.returncode == 2
    assert "clkd: error: 'one'" in said and "limit" in said
    assert "Traceback" not in said


def test_a_lost_engine_stays_lost_whatever_fails_after_it() -> None:
    node = SimpleNamespace(exit_code=None)
    errors = [ValueError("a bug"), RuntimeError("CUDA error: unspecified launch failure")]
    for error in [*errors, ValueError("another")]:
        with pytest.raises(type(error), match=str(error)), engine_loss_noted(node):
            raise error
    with engine_loss_noted(node):
        pass
    assert node.exit_code is ExitCode.ENGINE_LOST
