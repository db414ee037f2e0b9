"""One arrangement of the nodes under test: every process real, none left behind.

Player, nodes, evaluator and a small listener are started as processes, the bag is played, and
processor time is read when the listener sees the first and the last answer of the steady part.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from clkd_core.errors import ClkdError
from clkd_core.metrics.frames import read_frames
from clkd_core.progress import progress
from clkd_core.report.build import FRAMES_FILE
from clkd_core.runtime.health import DROPPED, FLAGGED
from clkd_ros.bench_pipeline.job import Job, describe_system
from clkd_ros.bench_pipeline.stages import (
    Figures,
    PlayedSets,
    Sample,
    Sighting,
    compute_figures,
)
from clkd_ros.cli import ACTIVE_TIMEOUT_S
from clkd_ros.launcher import LaunchedSystem, child_environment
from clkd_ros.live_replay import SUBSCRIBERS_TIMEOUT_S
from clkd_ros.signals import bind_to_parent, signals_held
from clkd_ros.system import SystemSpec

FIRST_ANSWER_S = 30.0
"""After the player's start, discovery included."""
WRITING_S = 60.0
"""It may take so long to write it."""
_UNUSED = (DROPPED, FLAGGED, "image ")
"""What a node's diagnostics call inputs that came to nothing, and answers with a flaw."""
_POLL_S = 0.02


def run_arrangement(job: Job, *, composed: bool, folder: Path) -> Figures:
    """Start everything, play, measure, end everything.

    Args:
        job: what is measured.
        composed: see :func:`describe_system`.
        folder: the evaluator's run goes into a folder of the arrangement's name below it.

    Raises:
        ClkdError: a process died or said nothing; names it and its last words.
    """
    name = job.name(composed=composed)
    folder = folder / name
    system = describe_system(job, composed=composed, folder=folder)
    children: list[subprocess.Popen[str]] = []
    with ExitStack() as ending:
        ending.callback(_kill, children)
        launched = ending.enter_context(LaunchedSystem(system))
        launched.wait_active(ACTIVE_TIMEOUT_S)
        watch = _Watch(system, job.sets, children)
        watch.wait_ready(launched)
        player = _start_player(job, children)
        run = _Run(job, launched, player, watch)
        shown = progress(run.follow(), total=len(job.window), desc=f"bench {name}", unit="sets")
        for _ in shown:
            pass
        said = _end_player(player)
        limit_s = job.idle_s + WRITING_S
        if launched.wait_for_end("evaluator", limit_s) is None:
            raise ClkdError(f"the evaluator did not end {limit_s:.0f} s after the bag")
        codes = launched.stop()
    if failed := [f"{node} (exit code {code})" for node, code in codes.items() if code]:
        raise ClkdError(f"nodes ended badly: {', '.join(failed)}")
    return _figures(job, name, system, run, said, folder)


def _figures(
    job: Job, name: str, system: SystemSpec, run: "_Run", said: str, folder: Path
) -> Figures:
    table = folder / FRAMES_FILE
    if not table.exists():
        raise ClkdError(f"the evaluator saw not one answer to {job.bag}")
    figures = compute_figures(
        name=name,
        sets=job.sets,
        window=job.window,
        rows=read_frames(table),
        sightings=run.watch.sightings,
        samples=run.samples(),
        model_processes=[one.name for one in system.processes if one.name != "evaluator"],
        dropped=run.dropped(),
        player=said,
        cores=psutil.cpu_count() or 1,
    )
    if not figures.decided:
        raise ClkdError(
            f"{job.bag}: not one of {figures.frames} camera sets was decided, see the nodes' log"
        )
    return figures


class _Watch:
    """The listener's process, and what it has said so far."""

    def __init__(
        self, system: SystemSpec, sets: PlayedSets, children: "list[subprocess.Popen[str]]"
    ) -> None:
        topics = [
            topic
            for node in system.nodes
            for name, topic in node.remappings.items()
            if name in ("~/output/meta_action", "~/output/trajectory")
        ]
        self.sightings: list[Sighting] = []
        self.newest = -1
        """Number of the newest camera set that was answered."""
        self._sets, self._ready = sets, threading.Event()
        self._health: dict[str, Mapping[str, str]] = {}
        words = [sys.executable, "-m", "clkd_ros.bench_pipeline.watch", *topics]
        self.process = _start(words, children)
        with signals_held():  # for ever in the thread: a signal it took would not be held back
            threading.Thread(target=self._read, name="watch", daemon=True).start()

    def wait_ready(self, launched: LaunchedSystem) -> None:
        """Wait until it has found the nodes."""
        until_s = time.monotonic() + SUBSCRIBERS_TIMEOUT_S
        while not self._ready.wait(0.05):
            launched.check_running()
            self.check_running()
            if time.monotonic() > until_s:
                raise ClkdError(f"the listener found no node in {SUBSCRIBERS_TIMEOUT_S:g} s")

    def check_running(self) -> None:
        """See that it runs."""
        if (code := self.process.poll()) is not None:
            raise ClkdError(f"the listener ended with exit code {code}, its words are above")

    def dropped(self) -> dict[str, Counter[str]]:
        """What came to nothing so far, by node and reason, as the nodes said last."""
        return {
            name: Counter(
                {key: int(text) for key, text in values.items() if key.startswith(_UNUSED)}
            )
            for name, values in sorted(self._health.items())
        }

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "health" in said:
                self._health[said["health"]] = said["values"]
            elif "kind" in said:
                sighting = Sighting(**said)
                self.sightings.append(sighting)
                number = self._sets.number_of(sighting.stamp_ns)
                self.newest = max(self.newest, -1 if number is None else number)
            else:
                self._ready.set()


class _Run:
    """What happens between the player's start and its end."""

    def __init__(
        self,
        job: Job,
        launched: LaunchedSystem,
        player: "subprocess.Popen[str]",
        watch: _Watch,
    ) -> None:
        self.watch = watch
        self._job, self._launched, self._player = job, launched, player
        self._begin: Sample | None = None
        self._newest: Sample | None = None
        self._dropped_before: dict[str, Counter[str]] = {}
        self._dropped: dict[str, Counter[str]] = {}
        pids = {name: one.process.pid for name, one in launched.processes.items()}
        pids = {"player": player.pid, **pids, "watch": watch.process.pid, "bench": os.getpid()}
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}

    def follow(self) -> Iterator[int]:
        """The numbers of the window's sets as their answers come, until its end or the bag's.

        Raises:
            ClkdError: a process ended, or no answer came at all.
        """
        window, number = self._job.window, -1
        until_s = time.monotonic() + FIRST_ANSWER_S
        while number < window.stop - 1:
            self._check(number, until_s)
            if self.watch.newest == number:
                if self._player_is_done():
                    return
                time.sleep(_POLL_S)
                continue
            before, number = number, self.watch.newest
            if number >= window.start:
                self._take_sample(number)
                yield from range(max(before + 1, window.start), min(number + 1, window.stop))

    def samples(self) -> tuple[Sample, Sample]:
        """At the window's beginning and end.

        Raises:
            ClkdError: too little was answered to have two.
        """
        if not self._begin or not self._newest or self._newest.number <= self._begin.number:
            raise ClkdError(
                f"{self._job.bag}: the nodes answered none of the {len(self._job.window)} camera "
                "sets after the warm-up, expected some"
            )
        return self._begin, self._newest

    def dropped(self) -> dict[str, dict[str, int]]:
        """What came to nothing between the two samples, by node and reason."""
        return {
            name: dict(counts - self._dropped_before.get(name, Counter()))
            for name, counts in self._dropped.items()
        }

    def _check(self, number: int, until_s: float) -> None:
        self._launched.check_running()
        self.watch.check_running()
        if number < 0 and time.monotonic() > until_s:
            raise ClkdError(f"no answer came {FIRST_ANSWER_S:g} s after the player was started")

    def _player_is_done(self) -> bool:
        code = self._player.poll()
        if code:
            raise ClkdError(
                f"bag player ended with exit code {code} on {self._job.bag}, its words are above"
            )
        return code is not None

    def _take_sample(self, number: int) -> None:
        """Keep the newest; a player that has just gone leaves the one before."""
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            cpu_s, resident = {}, {}
            for name, process in self._processes.items():
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_s[name] = float(times.user + times.system)
                    resident[name] = int(process.memory_info().rss)
            self._newest = Sample(
                number=number,
                cpu_s=cpu_s,
                resident_bytes=resident,
                machine_s=_busy_s(),
                wall_s=time.monotonic(),
            )
            self._dropped = self.watch.dropped()
            if self._begin is None:
                self._begin, self._dropped_before = self._newest, self._dropped


def _busy_s() -> float:
    """Processor time of the whole machine; time as a guest's is part of user already."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")
    return math.fsum(value for name, value in times.items() if name not in idle)


def _start_player(job: Job, children: "list[subprocess.Popen[str]]") -> "subprocess.Popen[str]":
    listeners = 3 if job.planned else 2  # the nodes and the evaluator
    words = (
        *(sys.executable, "-m", "clkd_core.cli", "bag", "play", str(job.bag)),
        *("--rate", str(job.rate), "--subscribers", str(listeners)),
        *("--wait-for-subscribers", str(SUBSCRIBERS_TIMEOUT_S)),
        *(("--topics", str(job.topics)) if job.topics else ()),
    )
    return _start(words, children)


def _end_player(player: "subprocess.Popen[str]") -> str:
    """Its own words; empty where the window was over before the bag."""
    if player.poll() is None:
        player.send_signal(signal.SIGINT)
    assert player.stdout is not None
    said = player.stdout.read().strip()
    return said if player.wait() == 0 else ""


def _start(
    words: "list[str] | tuple[str, ...]", children: "list[subprocess.Popen[str]]"
) -> "subprocess.Popen[str]":
    with signals_held():
        child = subprocess.Popen(
            words,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=bind_to_parent,
        )
        children.append(child)
    return child


def _kill(children: "list[subprocess.Popen[str]]") -> None:
    """They have nothing to save."""
    for child in children:
        child.kill()
        child.wait()
