"""``clkd replay --live``: play a bag in real time through the nodes, keep what they answered."""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from clkd_core.data import topics
from clkd_core.data.bags import find_bags, open_bag
from clkd_core.errors import ClkdError
from clkd_core.metrics.frames import read_frames
from clkd_core.report.provenance import collect_provenance, write_provenance
from clkd_core.runtime.replay import describe_rows, finish_run
from clkd_ros.launcher import (
    ENDING_S,
    LaunchedSystem,
    SystemSpec,
    bind_to_parent,
    child_environment,
    default_system_file,
    load_system,
)

ACTIVE_TIMEOUT_S = 120.0
"""Loading a model from a slow disk and its first pass on a CPU fit in this."""

SUBSCRIBERS_TIMEOUT_S = 10.0
"""Nodes that are active are discovered within this, usually in 0.1 s."""

IDLE_S = 2.5
"""The evaluator ends when nothing came for so long; an answer later than this has no worth."""

SAFE_DOMAINS = 101
"""Higher domain ids use ports that Linux gives to others (ROS 2 documentation, ROS_DOMAIN_ID)."""

_log = logging.getLogger(__name__)


def replay_live(args: argparse.Namespace) -> int:
    """Run the nodes on ``args.bag`` and leave the report in ``args.out``.

    Args:
        args: the words of ``clkd replay``: bag, checkpoint, out, device, threads, deadline_ms.

    Raises:
        ClkdError: a bag or checkpoint cannot be used, or a node failed.
    """
    bags = find_bags(args.bag)
    system = _system(args, sum(_count_keyframes(bag) for bag in bags))
    _choose_domain()
    with LaunchedSystem(system) as launched:
        launched.wait_active(ACTIVE_TIMEOUT_S)
        _log.info("active: %s", ", ".join(launched.nodes))
        played = [_play(bag, launched) for bag in bags]
        launched.wait_for_end("evaluator", IDLE_S + 3.0)
        codes = launched.stop()
    _log.info("ended: %s", ", ".join(f"{name} {code}" for name, code in codes.items()))
    failed = [f"{name} (exit code {code})" for name, code in codes.items() if code != 0]
    if failed:
        raise ClkdError(f"nodes ended badly: {', '.join(failed)}")
    _report(args, bags, played)
    return 0


def _system(args: argparse.Namespace, keyframes: int) -> SystemSpec:
    """The dual system with the command's words; without the planner where there is none."""
    chosen: dict[str, Any] = {
        "checkpoint": str(args.checkpoint),
        "device": args.device,
        "evaluator.output_dir": str(args.out),
        "evaluator.deadline_ms": float(args.deadline_ms),
        "evaluator.expected_keyframes": keyframes,
        "evaluator.idle_timeout_s": IDLE_S,
    }
    if args.threads:
        chosen |= {"vlm.threads": args.threads, "planner.threads": args.threads}
    system = load_system(default_system_file(), chosen, evaluate=True)
    if (args.checkpoint / "planner").is_dir():
        return system
    _log.warning("%s has no planner: no trajectories", args.checkpoint)
    without = tuple(node for node in system.nodes if node.name != "planner")
    return replace(system, nodes=without)


def _count_keyframes(bag: Path) -> int:
    with open_bag(bag) as reader:
        return reader.counts.get(topics.TRUE_META_ACTION, 0)


def _choose_domain() -> None:
    """Two replays on one machine must not hear each other; a user's own choice is kept."""
    if not os.environ.get("ROS_DOMAIN_ID"):
        os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % SAFE_DOMAINS)
    _log.info("ROS_DOMAIN_ID=%s", os.environ["ROS_DOMAIN_ID"])


def _play(bag: Path, launched: LaunchedSystem) -> str:
    """Run the player as a process of its own; what it says at the end.

    Raises:
        ClkdError: the player failed, or a node ended while it played.
    """
    player = subprocess.Popen(
        [
            *(sys.executable, "-m", "clkd_core.cli", "bag", "play", str(bag)),
            *("--wait-for-subscribers", str(SUBSCRIBERS_TIMEOUT_S)),
        ],
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=bind_to_parent,
    )
    try:
        while player.poll() is None:
            launched.check_running(but_not="evaluator")
            time.sleep(0.1)
        assert player.stdout is not None
        said = player.stdout.read().strip()
    finally:
        _end(player)
    if player.returncode != 0:
        raise ClkdError(f"the bag player ended with exit code {player.returncode} on {bag}")
    return said


def _end(player: "subprocess.Popen[str]") -> None:
    for number, grace_s in ENDING_S:
        if player.poll() is not None:
            return
        with suppress(ProcessLookupError):
            player.send_signal(signal.SIGKILL if number is signal.SIGKILL else number)
        with suppress(subprocess.TimeoutExpired):
            player.wait(timeout=grace_s / 2)  # the nodes need the other half of the 3 s


def _report(args: argparse.Namespace, bags: list[Path], played: list[str]) -> None:
    from clkd_core.report.build import FRAMES_FILE
    from clkd_core.runtime.engine import Engine  # torch takes seconds; the nodes have their own

    engine = Engine.from_checkpoint(args.checkpoint, device=args.device, threads=args.threads)
    engine.warm_up()
    rows = read_frames(args.out / FRAMES_FILE)
    notes = [*describe_rows(rows), *played]
    provenance = collect_provenance(
        mode="live",
        checkpoint=args.checkpoint,
        bag=", ".join(str(bag) for bag in bags),
        device=str(engine.device),
        counters=Counter(row.outcome.value for row in rows),
        deadline_ms=args.deadline_ms,
        notes=notes,
    )
    write_provenance(args.out, provenance)
    for note in notes:
        print(note)
    finish_run(args.out, bags, engine, args.checkpoint)
