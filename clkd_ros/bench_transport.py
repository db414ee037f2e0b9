"""Time the transport alone: one process publishes six cameras, another one listens.

`clkd bench transport` sends 6 x 150 kB CompressedImage at 12 Hz for a minute, then 6 raw
1600 x 900 images, over the middleware in use, and says what was lost, how long an image took from
publish to callback, and what it cost. Exit code 1 when a message was lost.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import write_text_atomic
from clkd_core.progress import progress
from clkd_core.report.provenance import collect_provenance
from clkd_ros.embedded.wire.domain import tuning_config
from clkd_ros.embedded.wire.receive_buffer import RECEIVE_BYTES, receive_limit_bytes
from clkd_ros.launcher import child_environment
from clkd_ros.signals import bind_to_parent, signals_held

FORMAT_VERSION = 1
CAMERAS = 6
RATE_HZ = 12.0
"""nuScenes' cameras."""
WARM_UP_TICKS = 12
"""Sent first and not counted: a reader drops what comes before its writer's first heartbeat."""
COMPRESSED_GOAL_MS = 20.0
LATE_S = 0.010
"""A tick is late when it begins this long after its time."""

_START_LIMIT_S = 30.0
SILENCE_S = 2.0
"""After the publisher's end the subscriber waits so long for what is still on its way."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is sent."""

    name: str
    message: Literal["CompressedImage", "Image"]
    payload_bytes: int
    depth: int
    """Of both ends' histories; ours for cameras is 5."""
    p99_goal_ms: float | None = None


CASES = {
    case.name: case
    for case in (
        Case(
            name="compressed",
            message="CompressedImage",
            payload_bytes=150_000,
            depth=5,
            p99_goal_ms=COMPRESSED_GOAL_MS,
        ),
        Case(name="raw", message="Image", payload_bytes=1600 * 900 * 3, depth=5),
    )
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """One measurement: what, how long, how."""

    case: str
    seconds: float
    reliability: str
    prefix: str
    """Of the topics' names, so that two runs do not hear each other."""

    @property
    def ticks(self) -> int:
        """How often all cameras send, the warm-up not counted."""
        return max(1, round(self.seconds * RATE_HZ))

    @property
    def topics(self) -> list[str]:
        """One per camera."""
        return [f"/{self.prefix}/camera_{number}" for number in range(CAMERAS)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One case's row."""

    case: str
    payload_bytes: int
    sent: int
    lost: int
    disordered: int
    """Came after a later one of the same camera, or twice."""
    p50_ms: float
    """Publish called -> callback entered, one clock; likewise below."""
    p95_ms: float
    p99_ms: float
    max_ms: float
    publish_p50_ms: float
    """One call of ``publish``."""
    publish_max_ms: float
    late_ticks: int
    """Began more than ``LATE_S`` after their time: the publisher could not keep up."""
    publisher_cpu_frac: float
    """Of one core, while it sent."""
    subscriber_cpu_frac: float
    p99_goal_ms: float | None
    goals_met: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench transport``."""
    add = parser.add_argument
    add("--out", type=Path, help="JSON file")
    add("--seconds", type=float, default=60.0, help="of each case, default %(default)g")
    add("--only", choices=sorted(CASES), help="one case instead of both")
    add(
        "--reliability",
        choices=("best_effort", "reliable"),
        default="best_effort",
        help="of the listening side, default %(default)s as our nodes; the sender is reliable",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the file; 1 when a message was lost."""
    middleware = _import_middleware()
    if not (math.isfinite(args.seconds) and 0 < args.seconds <= 86_400):
        raise ConfigError(f"seconds is {args.seconds}, expected > 0 and at most a day")
    names = [args.only] if args.only else list(CASES)
    load_before = os.getloadavg()[0]
    outcomes = [measure(_load(name, args.seconds, args.reliability)) for name in names]
    described = describe_run(args, middleware.which(), outcomes, load_before)
    if args.out:
        write_text_atomic(args.out, json.dumps(described, indent=1) + "\n")
    for line in format_table(outcomes, described):
        print(line)
    if args.out:
        print(f"wrote {args.out}")
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def _import_middleware() -> Any:
    try:
        from clkd_ros import middleware
    except ModuleNotFoundError as err:
        raise ConfigError(
            f"{err.name!r} is not installed, expected a sourced ROS 2 or "
            "`pip install 'clkd-drive[embedded]'`"
        ) from err
    return middleware


def _load(name: str, seconds: float, reliability: str) -> Load:
    prefix = f"clkd_bench_{os.getpid()}_{name}"
    return Load(case=name, seconds=seconds, reliability=reliability, prefix=prefix)


def measure(load: Load) -> Outcome:
    """Run both processes.

    Raises:
        ClkdError: one of them ended early, or they did not find each other.
    """
    with _end("subscribe", load) as subscriber, _end("publish", load) as publisher:
        publisher.wait_for("connected", _START_LIMIT_S)
        for _ in progress(range(load.ticks), desc=f"bench {load.case}", unit="sets"):
            publisher.wait_for("tick", _START_LIMIT_S)
        sending = publisher.wait_for("sent", _START_LIMIT_S)
        subscriber.tell_end()
        hearing = subscriber.wait_for("heard", _START_LIMIT_S + SILENCE_S)
    return summarize(load, sending, hearing)


def summarize(load: Load, sending: Mapping[str, Any], hearing: Mapping[str, Any]) -> Outcome:
    """One row of what both ends counted.

    Args:
        load: what was asked for.
        sending: ``call_ms`` of every publish, ``late_ticks``, ``cpu_frac``.
        hearing: ``heard``, (camera, number, ms) of every counted message, and ``cpu_frac``.
    """
    case, sent = CASES[load.case], load.ticks * CAMERAS
    heard: list[tuple[int, int, float]] = [tuple(entry) for entry in hearing["heard"]]
    times = [ms for _, _, ms in heard] or [math.inf]
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99), method="higher"))
    lost = sent - len({(camera, number) for camera, number, _ in heard})
    in_time = case.p99_goal_ms is None or p99 <= case.p99_goal_ms
    return Outcome(
        case=case.name,
        payload_bytes=case.payload_bytes,
        sent=sent,
        lost=lost,
        disordered=_count_disordered(heard),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(times),
        publish_p50_ms=float(np.median(sending["call_ms"])),
        publish_max_ms=max(sending["call_ms"]),
        late_ticks=sending["late_ticks"],
        publisher_cpu_frac=sending["cpu_frac"],
        subscriber_cpu_frac=hearing["cpu_frac"],
        p99_goal_ms=case.p99_goal_ms,
        goals_met=lost == 0 and in_time,
    )


def _count_disordered(heard: Sequence[tuple[int, int, float]]) -> int:
    newest: dict[int, int] = {}
    count = 0
    for camera, number, _ in heard:
        count += number <= newest.get(camera, -1)
        newest[camera] = max(number, newest.get(camera, -1))
    return count


def describe_run(
    args: argparse.Namespace, which: str, outcomes: Sequence[Outcome], load_before: float
) -> dict[str, Any]:
    """What the JSON file holds."""
    provenance = collect_provenance(mode="direct", checkpoint=Path(), bag="", device="cpu")
    return {
        "format_version": FORMAT_VERSION,
        "device": provenance.device,
        "middleware": which,
        "created": provenance.created,
        "command": provenance.command,
        "git_revision": provenance.git_revision,
        "versions": dict(provenance.versions),
        "reliability": args.reliability,
        "seconds": args.seconds,
        "rate_hz": RATE_HZ,
        "cameras": CAMERAS,
        "net_core_rmem_max": receive_limit_bytes(),
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "cases": [_finite(asdict(outcome)) for outcome in outcomes],
    }


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a time that never came is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def format_table(outcomes: Sequence[Outcome], described: Mapping[str, Any]) -> list[str]:
    """Lines for a terminal."""
    load, limit = described["load_average"], described["net_core_rmem_max"]
    lines = [
        f"device: {described['device']}; middleware: {described['middleware']}, "
        f"{described['reliability']}; net.core.rmem_max {limit}",
        f"load average {load['before']:.2f} before, {load['after']:.2f} after",
        f"{'':10} {'sent':>6} {'lost':>5} {'p50 ms':>7} {'p95 ms':>7} {'p99 ms':>7} {'max ms':>7}"
        f" {'call ms':>8} {'max ms':>7} {'late':>5} {'CPU out':>8} {'CPU in':>7}  goal",
    ]
    for row in outcomes:
        goal = "nothing lost"
        if row.p99_goal_ms is not None:
            goal += f", p99 <= {row.p99_goal_ms:g} ms"
        lines.append(
            f"{row.case:10} {row.sent:6d} {row.lost:5d} {row.p50_ms:7.2f} {row.p95_ms:7.2f} "
            f"{row.p99_ms:7.2f} {row.max_ms:7.1f} {row.publish_p50_ms:8.2f} "
            f"{row.publish_max_ms:7.1f} {row.late_ticks:5d} {row.publisher_cpu_frac:8.1%} "
            f"{row.subscriber_cpu_frac:7.1%}  {goal}: {'met' if row.goals_met else 'MISSED'}"
        )
    return lines + _advice(outcomes, limit, described["reliability"])


def _advice(outcomes: Sequence[Outcome], limit: int | None, reliability: str) -> list[str]:
    """What would help where something was lost."""
    if not any(row.lost for row in outcomes):
        return []
    if limit is not None and limit < RECEIVE_BYTES:
        return [f"lost messages: `sudo sysctl -w net.core.rmem_max={RECEIVE_BYTES}` helps"]
    return [] if reliability == "reliable" else ["lost messages: --reliability reliable helps"]


class _Process:
    """One end of the transport while it runs; it says one JSON object a line."""

    def __init__(self, role: str, load: Load) -> None:
        self.role = role
        words = [sys.executable, "-m", "clkd_ros.bench_ends", role, json.dumps(asdict(load))]
        with signals_held():
            self.process = subprocess.Popen(
                words,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=bind_to_parent,
            )

    def wait_for(self, what: str, limit_s: float) -> dict[str, Any]:
        """The next object, which must hold ``what``.

        Raises:
            ClkdError: the process has ended, or says nothing for too long.
        """
        watch = threading.Timer(limit_s, self.process.kill)
        watch.start()
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        finally:
            watch.cancel()
        said: dict[str, Any] = json.loads(line) if line else {}
        if what not in said:
            problem = said.get("error", f"nothing within {limit_s:g} s, or its end")
            raise ClkdError(f"bench: the {self.role} process was to say {what!r}, got {problem}")
        return said

    def tell_end(self) -> None:
        """Close its input: nothing more comes."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def _end(role: str, load: Load) -> Iterator[_Process]:
    end = _Process(role, load)
    try:
        yield end
    finally:
        end.process.kill()  # it has nothing left to save
        end.process.wait()


def _environment() -> dict[str, str]:
    """A child's: with the shipped tuning, and on this host unless the user's variables say else.

    The embedded middleware sees to both by itself; this is for rclpy on Cyclone DDS.
    """
    environment = child_environment()
    if not environment.get("ROS_LOCALHOST_ONLY"):
        environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("CYCLONEDDS_URI", tuning_config())
    return environment
