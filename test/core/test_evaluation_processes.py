"""clkd evaluate with several workers: as serial, and whatever happens to one of them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import worker_calls
from evaluations import TABLES, evaluate, numbers
from fakes import wait_until
from tiny_vlm import tiny_model, write_squares

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.evaluation.workers.attempt import MAX_LOSSES
from clkd_core.evaluation.workers.cluster import run_on_ray
from clkd_core.models.checkpoint import save_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TOKENS = 60
"""Of every answer: a task then takes a second or more, and can be met under way."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A set, a student, and ``serial``: what one process makes of them; no Java in the way."""
    folder = tmp_path_factory.mktemp("place")
    write_squares(folder / "set", train=6, val=22)
    save_checkpoint(folder / "student", tiny_model())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder / "no-programs"))
        evaluate(folder / "serial", folder / "student", *words(folder))
        yield folder


def words(place: Path) -> list[object]:
    return ["--data", place / "set", "--max-new-tokens", TOKENS]


def start(place: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    """The command as a user starts it, with two workers, in a group of its own."""
    command = [sys.executable, "-m", "clkd_core.cli", "evaluate", "--checkpoint"]
    command += [str(place / "student"), "--out", str(out), "--limit-questions", "1"]
    command += ["--device", "cpu", "--workers", "2", *map(str, words(place)), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def finished(out: Path) -> int:
    return len(list((out / "tasks").glob("*.json")))


def assert_same(out: Path, serial: Path) -> None:
    for name in TABLES:
        assert (out / name).read_bytes() == (serial / name).read_bytes(), name
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (out, serial))
    assert numbers(ours) == numbers(theirs)


def test_two_workers_give_what_one_gives(place: Path, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", place / "student", *words(place), "--workers", 2)
    assert_same(tmp_path / "run", place / "serial")


def test_task_of_a_worker_that_is_killed_is_done_again(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(place, out)
    try:
        wait_until(lambda: finished(out) >= 1, "a finished task", 200.0)
        workers_of(process)[0].kill()
        _, log = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert "its process died, another one tries again" in log
    assert_same(out, place / "serial")


def test_interrupted_run_leaves_nobody_behind_and_goes_on(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(place, out)
    try:
        wait_until(lambda: finished(out) >= 1, "a finished task", 200.0)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in log, log
    wait_until(lambda: not any(child.is_running() for child in family), "no orphan")
    done = finished(out)
    assert 1 <= done < 6 and not (out / "metrics.json").exists()
    process = start(place, out)
    _, log = process.communicate(timeout=200)
    assert process.returncode == 0 and f"{done} of 6 tasks were finished before" in log
    assert_same(out, place / "serial")


def test_without_a_cluster_the_user_is_told_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, and not after the minutes that Ray waits for a cluster that is gone."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="ray start --head"):
        list(run_on_ray([1], worker_calls.square, ["a"], workers=1))


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster of our own, ended with every process that it started."""
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).parent / "ray"
    environment = {
        **os.environ,
        "PATH": f"{ray.parent}:/usr/bin:/bin",
        "PYTHONPATH": str(Path(worker_calls.__file__).parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(ray), "start", "--head", "--block", "--num-cpus", "2", "--port", str(port)]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    command += ["--node-ip-address", "127.0.0.1"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        assert process.poll() is None and family, "ray start ended at once"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            yield f"127.0.0.1:{port}"
    finally:
        family += psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(family, timeout=10)
        _forget_address(port)
        for child in family:
            if child.is_running():
                child.kill()
        process.kill()
        process.wait()


def _forget_address(port: int) -> None:
    """Else the next `ray.init(address="auto")` of anybody would look for our cluster."""
    from ray._common.utils import get_ray_address_file

    file = Path(get_ray_address_file(None))
    if file.is_file() and file.read_text().endswith(f":{port}"):
        file.unlink()


def test_ray_gives_what_one_process_gives(place: Path, ray_cluster: str, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", place / "student", *words(place), "--engine", "ray")
    assert_same(tmp_path / "run", place / "serial")


def test_task_of_a_lost_ray_worker_is_done_again_and_given_up_by_name(
    ray_cluster: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    assert list(run_on_ray([mark], worker_calls.die_at_first, ["a"], workers=1)) == [(0, "done")]
    with pytest.raises(ClkdError, match=f"task bad: its worker died {MAX_LOSSES} times"):
        list(run_on_ray([1], worker_calls.die, ["bad"], workers=None))
    with pytest.raises(ClkdError, match="item 2 is empty"):
        list(run_on_ray(range(4), worker_calls.refuse, ["task"] * 4, workers=2))
