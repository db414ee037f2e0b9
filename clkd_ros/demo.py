"""Run the whole path: draw a world, distil, plan, drive a bag through the nodes, report.

Every step is one of the public commands, started as a process of its own and printed before it
runs. A finished step leaves a marker holding a hash of all it depended on: the same command run
again goes on behind the last finished step, and an interrupted step starts again from nothing.
"""

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from clkd_core.config import load_config
from clkd_core.config_files import config_files
from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import sha256_of, shared_folder, write_text_atomic
from clkd_ros.signals import bind_to_parent, signals_held
from clkd_ros.sources import hash_sources

ENDING_S = ((signal.SIGINT, 1.2), (signal.SIGTERM, 0.6), (signal.SIGKILL, 0.5))
"""What an interrupted step is sent, and how long it is given [s]; under 3 s in all."""

_LIBC = ctypes.CDLL(None)
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One size of the demo: which configs its steps read, all under ``config/``."""

    world: Path = Path("world/demo.yaml")
    """The driving set: training and validation drives."""
    train: Path = Path("train/demo.yaml")
    """Teacher, halving and distillation."""
    planner: Path = Path("planner/demo.yaml")
    """The planner on the frozen student's features."""
    assert_quality: bool = True
    """Exit with 1 when too little was answered or the student does not beat its baselines."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One public command, what it reads besides earlier steps, and what it leaves."""

    name: str
    words: tuple[str, ...]
    """The command as a user would type it."""
    makes: Path
    """File or folder that exists when it has succeeded."""
    what: str
    """What that is, a few words."""
    module: str | None
    """Where its code begins; None when it starts more than it imports."""
    reads: tuple[Path, ...] = ()
    """Config files; changing one makes the step and all after it run again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd demo``."""
    sizes = sorted(file.stem for file in (shared_folder("config") / "demo").glob("*.yaml"))
    parser.add_argument("--size", choices=sizes, default="full", help="file in config/demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where all goes")


def run(args: argparse.Namespace) -> int:
    """Run every step that is not done, print the verdict; 1 when it is asserted and failed."""
    configs = _relative(shared_folder("config"))
    config = load_config(DemoConfig, configs / "demo" / f"{args.size}.yaml")
    start_s = time.monotonic()
    steps = demo_steps(config, configs, args.out)
    ran = run_steps(steps, args.out)
    if steps[-1].name not in ran:
        print_numbers(args.out)  # the last step prints them itself
    print(f"all steps done in {time.monotonic() - start_s:.0f} s")
    return print_verdict(args.out, asserted=config.assert_quality)


def demo_steps(config: DemoConfig, configs: Path, out: Path) -> list[Step]:
    """The commands in order; ``configs`` is the folder of all shipped configs."""
    world, student, bag = out / "world", out / "student", out / "bag"
    reads = {
        name: configs / path
        for name, path in (
            *(("world", config.world), ("train", config.train), ("planner", config.planner)),
            ("nodes", Path("nodes", "dual_system.yaml")),
        )
    }
    return [
        Step(
            name="world",
            module="clkd_core.data.world.command",
            words=(
                *("clkd", "world", "--config", str(reads["world"]), "--out", str(world)),
                "val_on_disk=true",  # the planner is judged on it
            ),
            makes=world,
            what="synthetic drives in the nuScenes schema",
            reads=(reads["world"],),
        ),
        Step(
            name="distill",
            module="clkd_core.distill.__main__",
            words=(
                *("python", "-m", "clkd_core.distill", str(reads["train"])),
                *(f"out={out}", f"data.root={world}"),
            ),
            makes=student,
            what="the half-size student, distilled from its teacher beside it",
            reads=(reads["train"],),
        ),
        Step(
            name="train-planner",
            module="clkd_core.planner_training.command",
            words=(
                *("clkd", "train-planner", str(reads["planner"])),
                *(f"student={student}", f"data.root={world}"),
            ),
            makes=student / "planner",
            what="a planner on the student's features",
            reads=(reads["planner"],),
        ),
        Step(
            name="bag",
            module="clkd_core.data.bags.command",
            words=("clkd", "bag", "from-world", str(reads["world"]), str(bag)),
            makes=bag,
            what="a ROS 2 bag of validation drives, never trained on",
            reads=(reads["world"],),
        ),
        Step(
            name="live",
            module=None,  # the nodes are started by name
            words=(
                *("clkd", "replay", str(bag), "--live"),
                *("--checkpoint", str(student), "--out", str(out)),
            ),
            makes=out / "report.html",
            what="the bag played in real time through the nodes, and scored",
            reads=(reads["nodes"],),
        ),
    ]


def run_steps(steps: Sequence[Step], out: Path) -> list[str]:
    """Run the steps in order, skipping those whose marker still holds.

    Returns:
        Names of the steps that ran.

    Raises:
        ClkdError: a step failed; names its command and exit code.
    """
    ran = []
    key = ""
    for number, step in enumerate(steps, start=1):
        key = _chain(key, step)
        marker = out / ".done" / f"{step.name}.json"
        head = f"[{number}/{len(steps)}]"
        if step.makes.exists() and _marker_key(marker) == key:
            print(f"{head} {step.name}: kept {step.makes} ({step.what})", flush=True)
            continue
        marker.unlink(missing_ok=True)
        _remove(step.makes)
        print(f"{head} $ {' '.join(step.words)}", flush=True)
        start_s = time.monotonic()
        _run_step(step)
        seconds = time.monotonic() - start_s
        size = f"{_size_bytes(step.makes) / 1e6:.1f} MB"
        print(f"{head} made {step.makes}: {step.what}, {size}, {seconds:.1f} s", flush=True)
        write_text_atomic(marker, json.dumps({"key": key, "seconds": round(seconds, 1)}) + "\n")
        ran.append(step.name)
    return ran


def _run_step(step: Step) -> None:
    code = run_command(step.words)
    if code != 0:
        raise ClkdError(f"step {step.name!r} failed with exit code {code}: {' '.join(step.words)}")
    if not step.makes.exists():
        raise ClkdError(f"step {step.name!r} ended well but left no {step.makes}")


def run_command(words: Sequence[str]) -> int:
    """Run a public command in its own process group and return its exit code.

    Whatever ends this function early (Ctrl-C first of all) ends the whole group and all its
    descendants before the exception goes on.
    """
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become ours, so none is lost sight of
    programs = {"clkd": [sys.executable, "-m", "clkd_core.cli"], "python": [sys.executable]}
    if words[0] not in programs:
        raise ConfigError(f"command is {words[0]!r}, expected one of {sorted(programs)}")
    import_root = str(Path(__file__).resolve().parent.parent)
    paths = [import_root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    child: subprocess.Popen[bytes] | None = None
    try:
        with signals_held():
            child = subprocess.Popen(
                [*programs[words[0]], *words[1:]],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=bind_to_parent,
            )
        return child.wait()
    finally:
        if child is not None:
            _end_descendants(child.pid)


def _end_descendants(group: int) -> None:
    """End every process that came from us, first the group as a terminal would.

    We adopt orphans (see :func:`run_command`), so our descendants are all there are.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing
    try:
        for how, grace_s in ENDING_S:
            alive = psutil.Process().children(recursive=True)
            if not alive:
                return
            for pid in [-group] if how is signal.SIGINT else [process.pid for process in alive]:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            psutil.wait_procs(alive, timeout=grace_s)
    finally:
        signal.signal(signal.SIGINT, before)


def _chain(key: str, step: Step) -> str:
    """The key of a step: of all before it, its command, its code and the configs it reads."""
    code = hash_sources(Path(__file__).resolve().parent.parent, step.module)
    parts = [
        key,
        code,
        *step.words,
        *(sha256_of(file) for read in step.reads for file in config_files(read)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _marker_key(marker: Path) -> str | None:
    try:
        key = json.loads(marker.read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no marker, or a damaged one: the step is not done
    return str(key)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _relative(path: Path) -> Path:
    """As seen from here where that is shorter to type."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def print_numbers(out: Path) -> None:
    """The headline numbers of a run that was finished before."""
    from clkd_core.report.summary import summarize

    for line in summarize(json.loads((out / "metrics.json").read_text())):
        print(line)


def print_verdict(out: Path, *, asserted: bool) -> int:
    """Say plainly whether the demo holds what it promises, and where its results are.

    Returns the exit code: 1 when something asserted does not hold.
    """
    from clkd_core.report.build import demo_verdict  # loads what draws pages, late on purpose

    failures = demo_verdict(json.loads((out / "metrics.json").read_text()))
    word = "FAILED" if asserted else "not asserted at this size"
    for failure in failures:
        print(f"verdict: {word}: {failure}")
    if not failures:
        print("verdict: holds: answered at least 95 %, better than majority and blank images")
    for what, name in (
        ("report", "report.html"),
        ("numbers", "metrics.json"),
        ("student", "student"),
    ):
        print(f"{what}: {out / name}")
    return 1 if failures and asserted else 0
