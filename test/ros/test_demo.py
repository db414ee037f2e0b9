"""clkd_ros.demo: steps are kept, redone and ended as promised."""

import argparse
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from clkd_core import cli
from clkd_core.config import load_config
from clkd_core.errors import ClkdError
from clkd_ros.demo import DemoConfig, Step, demo_steps, print_verdict, run_steps


def step(tmp_path: Path, name: str, code: str = "", reads: tuple[Path, ...] = ()) -> Step:
    """A step that appends its name to `log`, runs the code and writes its output."""
    made = tmp_path / name
    program = f"""
import pathlib, sys
with open({str(tmp_path / "log")!r}, "a") as log:
    log.write({name!r} + " ")
{code}
pathlib.Path({str(made)!r}).write_text("made")
"""
    words = ("python", "-c", program)
    return Step(name=name, module="none", words=words, makes=made, what="a file", reads=reads)


def ran(tmp_path: Path) -> list[str]:
    """Names of the steps that ran since the last call."""
    log = tmp_path / "log"
    names = log.read_text().split() if log.exists() else []
    log.write_text("")
    return names


def test_steps_run_in_order_once_and_are_kept_afterwards(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [step(tmp_path, name) for name in "abc"]
    assert run_steps(steps, tmp_path) == ["a", "b", "c"]
    assert ran(tmp_path) == ["a", "b", "c"]
    assert f"[2/3] made {tmp_path / 'b'}: a file, 0.0 MB" in capfd.readouterr().out
    assert run_steps(steps, tmp_path) == []
    assert ran(tmp_path) == []
    assert f"[2/3] b: kept {tmp_path / 'b'} (a file)" in capfd.readouterr().out


def test_a_changed_config_redoes_its_step_and_all_after_it(tmp_path: Path) -> None:
    config = tmp_path / "b.yaml"
    config.write_text("x: 1")
    steps = [step(tmp_path, "a"), step(tmp_path, "b", reads=(config,)), step(tmp_path, "c")]
    run_steps(steps, tmp_path)
    ran(tmp_path)
    config.write_text("x: 2")
    run_steps(steps, tmp_path)
    assert ran(tmp_path) == ["b", "c"]


@pytest.mark.parametrize("damage", ["output gone", "marker gone", "marker cut short"])
def test_a_step_whose_output_or_marker_is_gone_is_redone(tmp_path: Path, damage: str) -> None:
    steps = [step(tmp_path, name) for name in "ab"]
    run_steps(steps, tmp_path)
    ran(tmp_path)
    marker = tmp_path / ".done" / "b.json"
    if damage == "output gone":
        (tmp_path / "b").unlink()
    elif damage == "marker gone":
        marker.unlink()
    else:
        marker.write_text(marker.read_text()[:5])
    run_steps(steps, tmp_path)
    assert ran(tmp_path) == ["b"]


def test_a_failed_step_is_named_and_the_next_run_goes_on_there(tmp_path: Path) -> None:
    door = tmp_path / "door"
    code = f"if not pathlib.Path({str(door)!r}).exists(): sys.exit(7)"
    steps = [step(tmp_path, "a"), step(tmp_path, "b", code), step(tmp_path, "c")]
    with pytest.raises(ClkdError, match="step 'b' failed with exit code 7"):
        run_steps(steps, tmp_path)
    door.touch()
    ran(tmp_path)
    run_steps(steps, tmp_path)
    assert ran(tmp_path) == ["b", "c"]


def test_what_an_interrupted_step_left_is_gone_when_it_starts_again(tmp_path: Path) -> None:
    code = f"assert not pathlib.Path({str(tmp_path / 'a')!r}).exists()"
    (tmp_path / "a").write_text("half")
    run_steps([step(tmp_path, "a", code)], tmp_path)
    assert (tmp_path / "a").read_text() == "made"


def test_a_step_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    words = ("python", "-c", "")
    idle = Step(name="idle", module="none", words=words, makes=tmp_path / "x", what="nothing")
    with pytest.raises(ClkdError, match="'idle' ended well but left no"):
        run_steps([idle], tmp_path)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
ignore = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)];"
ignore += "print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, '-c', ignore], start_new_session=True,
                         stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", child.pid, flush=True)
time.sleep(60)
"""
"""A step with a child in a session of its own that ignores Ctrl-C and termination."""


def start_demo(tmp_path: Path, root: Path, code: str) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process in run_steps, and the pids below it once the step has said `ready PID`."""
    program = f"""
        import sys
        from pathlib import Path
        from clkd_core import cli
        from clkd_ros import demo
        class Verb:
            def add_arguments(parser): pass
            def run(args):
                words = ("python", "-c", {code!r})
                out = Path({str(tmp_path)!r})
                step = demo.Step(name="s", module="none", words=words, makes=out / "x", what="it")
                demo.run_steps([step], out)
        cli.find_entries = lambda group: {{"demo": "verb"}}
        cli.load_entry = lambda target: Verb
        sys.exit(cli.main(["demo"]))
    """
    demo = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("ready"):
            break
    below = psutil.Process(demo.pid).children(recursive=True)
    return demo, [process.pid for process in below]


def alive(pids: list[int]) -> list[int]:
    """Which still run, zombies not counted."""
    running = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
        except psutil.NoSuchProcess:
            pass
    return running


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_process_within_three_seconds(
    tmp_path: Path, root: Path, how: signal.Signals
) -> None:
    demo, below = start_demo(tmp_path, root, STUBBORN)
    assert len(below) == 2
    start_s = time.monotonic()
    os.killpg(demo.pid, how)
    os.killpg(demo.pid, how)  # people press it twice
    _, err = demo.communicate(timeout=10)
    assert time.monotonic() - start_s < 3
    assert (demo.returncode, err.count("Traceback")) == (130, 0)
    assert alive(below) == []
    assert not (tmp_path / ".done").exists()


def test_a_killed_demo_takes_its_step_along(tmp_path: Path, root: Path) -> None:
    demo, below = start_demo(
        tmp_path, root, "import time; print('ready', flush=True); time.sleep(60)"
    )
    demo.kill()
    demo.communicate(timeout=10)
    deadline_s = time.monotonic() + 3
    while alive(below) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert (len(below), alive(below)) == (1, [])


def metrics_of(answered: int, student: float, blank: float) -> str:
    """The part of metrics.json that the verdict reads; the majority answer scores 0.2."""
    scores = {"student": student, "majority": 0.2, "blank": blank}
    actions = {name: {"all": {"macro_f1": {"value": f1}}} for name, f1 in scores.items()}
    return json.dumps({"frames": {"answered": answered, "labelled": 100}, "actions": actions})


@pytest.mark.parametrize(
    ("answered", "student", "blank", "asserted", "code", "said"),
    [
        (95, 0.5, 0.3, True, 0, "verdict: holds"),
        (94, 0.5, 0.3, True, 1, "verdict: FAILED: 94 of 100"),
        (95, 0.3, 0.3, True, 1, "verdict: FAILED: the student's macro-F1 is 0.300"),
        (95, 0.2, 0.1, True, 1, "that of the majority answer"),
        (94, 0.1, 0.3, False, 0, "verdict: not asserted at this size: 94 of 100"),
    ],
)
def test_the_verdict_is_said_plainly_and_decides_the_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answered: int,
    student: float,
    blank: float,
    asserted: bool,
    code: int,
    said: str,
) -> None:
    (tmp_path / "metrics.json").write_text(metrics_of(answered, student, blank))
    assert print_verdict(tmp_path, asserted=asserted) == code
    out = capsys.readouterr().out
    assert said in out
    for name in ("report.html", "metrics.json", "student"):
        assert str(tmp_path / name) in out


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_every_step_is_a_command_that_the_public_parsers_accept(root: Path, size: str) -> None:
    config = load_config(DemoConfig, root / "config" / "demo" / f"{size}.yaml")
    verbs = cli.find_entries("clkd.verbs")
    for one in demo_steps(config, root / "config", Path("out")):
        assert all(file.is_file() for file in one.reads), one.reads
        if one.words[0] == "clkd":
            name, rest = cli._split_verb(one.words[1:], verbs)
            assert name is not None
            parser = argparse.ArgumentParser()
            parser.set_defaults(verb=name)
            entry = cli.load_entry(verbs[name])
            entry.add_arguments(parser)
            parser.parse_args(rest)
