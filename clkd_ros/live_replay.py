"""``clkd replay --live``: a bag in real time through the nodes, scored by the evaluator.

Every process is started here and none outlives the command. The evaluator node writes the run;
then the student looks at its keyframes once more, as for ``clkd report --bag --checkpoint``.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from clkd_core.data.bags.files import find_bags, open_bag
from clkd_core.data.bags.frames import check_topics, find_cameras, load_labels
from clkd_core.data.bags.topics import IMAGE, BagTopics, load_topics
from clkd_core.errors import ClkdError, ConfigError
from clkd_core.report.build import FRAMES_FILE
from clkd_core.report.provenance import (
    describe_command,
    describe_device,
    read_provenance,
    write_provenance,
)
from clkd_core.runtime.live_run import UNKNOWN_DEVICE
from clkd_core.runtime.replay import finish_run
from clkd_core.types import CAMERAS
from clkd_ros.cli import ACTIVE_TIMEOUT_S
from clkd_ros.launcher import LaunchedSystem, child_environment
from clkd_ros.signals import bind_to_parent, signals_held
from clkd_ros.system import SystemSpec, default_system_file, load_system
from clkd_ros.vlm_node import VlmNodeConfig

SUBSCRIBERS_TIMEOUT_S = 10.0
"""Nodes that are active are discovered within this, usually in 0.1 s."""

LAST_ANSWER_S = 2.0
"""After the last message of the last bag; an answer that comes later has no worth."""

LAST_DOMAIN_ID = 101
"""Higher ids use ports that Linux gives to others (ROS 2 documentation, ROS_DOMAIN_ID)."""

_log = logging.getLogger(__name__)


def replay_live(args: argparse.Namespace) -> int:
    """Play ``args.bag`` through the nodes and leave the table and the report in ``args.out``.

    Args:
        args: the words of ``clkd replay``: bag, checkpoint, out, device, threads, deadline_ms,
            topics.

    Raises:
        ClkdError: a bag, checkpoint or topic mapping cannot be used, or a node failed.
    """
    names = load_topics(args.topics) if args.topics else None
    bags = find_bags(args.bag)
    keyframes = sum(len(load_labels(bag, names)) for bag in bags)
    system = describe_system(args, keyframes, find_views(bags, names))
    os.environ.setdefault("ROS_DOMAIN_ID", str(choose_domain_id()))
    table = args.out / FRAMES_FILE
    table.unlink(missing_ok=True)  # an old table must not pass for this run's
    played = run_system(system, bags, args.topics)
    if not table.exists():
        raise ClkdError(f"the evaluator saw not one frame of {args.bag}")
    _say_how(args, played)
    _report(args, system, bags)
    return 0


class Views(NamedTuple):
    """What the nodes are to listen to."""

    cameras: tuple[str, ...] = CAMERAS
    """Nobody waits for others; every frame is flagged where some are missing."""
    raw: bool = False
    """sensor_msgs/Image and not CompressedImage."""


def find_views(bags: Sequence[Path], names: BagTopics | None = None) -> Views:
    """Cameras that the bags hold at all, and how they send.

    Args:
        bags: what is to be played.
        names: which topic is what; ours when None.

    Raises:
        DataError: a bag holds no camera that we know, or lacks a topic of the mapping.
        ConfigError: some cameras send raw images and some compressed ones.
    """
    names = names or BagTopics()
    found: dict[str, set[str]] = {}
    for bag in bags:
        with open_bag(bag) as reader:
            check_topics(reader, names)
            for camera in find_cameras(reader, names):
                found.setdefault(camera, set()).add(reader.types[names.images[camera]])
    raw = {camera: types == {IMAGE} for camera, types in found.items()}
    if len(set.union(*found.values())) > 1:
        listed = ", ".join(camera for camera in CAMERAS if raw.get(camera))
        raise ConfigError(
            f"the bags have raw images ({listed}) and compressed ones, expected one kind: nodes "
            "listen to one; direct replay, without --live, reads both"
        )
    return Views(tuple(camera for camera in CAMERAS if camera in found), all(raw.values()))


def describe_system(
    args: argparse.Namespace, keyframes: int, views: Views | None = None
) -> SystemSpec:
    """The dual system with the command's words; without the planner where there is none.

    Args:
        args: the words of ``clkd replay``.
        keyframes: labelled ones in all bags.
        views: which cameras are waited for, and how they send; all, compressed, when None.

    Raises:
        ConfigError: there is no checkpoint folder.
    """
    if not args.checkpoint.is_dir():
        raise ConfigError(f"checkpoint {args.checkpoint} does not exist, expected a folder")
    views = views or Views()
    with_planner = (args.checkpoint / "planner").is_dir()
    chosen: dict[str, Any] = {
        "checkpoint": str(args.checkpoint),
        "device": args.device,
        "evaluator.output_dir": str(args.out),
        "evaluator.checkpoint": str(args.checkpoint),
        "evaluator.bag": str(args.bag),
        "evaluator.bag_topics": str(args.topics or ""),
        "evaluator.idle_timeout_s": 0.0,  # between two bags nobody speaks
        "evaluator.deadline_ms": float(args.deadline_ms),
        "vlm.deadline_ms": float(args.deadline_ms),
        "evaluator.expected_keyframes": keyframes if with_planner else 0,
    }
    for node in ("vlm", "planner", "evaluator"):
        chosen[f"{node}.sync.cameras"] = list(views.cameras)
        chosen[f"{node}.transport"] = "raw" if views.raw else "compressed"
    if args.threads:
        chosen |= {"vlm.threads": args.threads, "planner.threads": args.threads}
    system = load_system(default_system_file(), {**chosen, "evaluate": True})
    if with_planner:
        return system
    _log.warning("%s has no planner inside: no trajectories", args.checkpoint)
    return replace(system, nodes=tuple(node for node in system.nodes if node.name != "planner"))


def choose_domain_id() -> int:
    """A ROS domain that nobody on this machine uses: two replays must not hear each other.

    Domain d has the 250 UDP ports from 7400 + 250 d on (DDSI-RTPS 2.3, section 9.6.1).
    """
    used = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                used.add((int(line.split()[1].rpartition(":")[2], 16) - 7400) // 250)
    first = os.getpid() % LAST_DOMAIN_ID
    candidates = [1 + (first + number) % LAST_DOMAIN_ID for number in range(LAST_DOMAIN_ID)]
    return next((number for number in candidates if number not in used), candidates[0])


def run_system(system: SystemSpec, bags: Sequence[Path], topics: Path | None = None) -> list[str]:
    """Start the nodes, play the bags one after the other, end the nodes.

    Args:
        system: the nodes.
        bags: what is played.
        topics: file of the topic mapping through which they are played; None: as recorded.

    Returns:
        What the player said of each bag.

    Raises:
        ClkdError: a node or the player failed; says which and why.
    """
    players: list[subprocess.Popen[str]] = []
    with ExitStack() as ending:
        ending.callback(_kill, players)
        launched = ending.enter_context(LaunchedSystem(system))
        launched.wait_active(ACTIVE_TIMEOUT_S)
        _log.info("active on ROS domain %s: %s", os.environ["ROS_DOMAIN_ID"], _names(launched))
        played = [_play(bag, topics, launched, players) for bag in bags]
        launched.wait_for_end("evaluator", LAST_ANSWER_S)
        codes = launched.stop()
    failed = [f"{name} (exit code {code})" for name, code in codes.items() if code != 0]
    if failed:
        raise ClkdError(f"nodes ended badly: {', '.join(failed)}")
    return played


def _names(launched: LaunchedSystem) -> str:
    return ", ".join(launched.processes)


def _play(
    bag: Path,
    topics: Path | None,
    launched: LaunchedSystem,
    players: "list[subprocess.Popen[str]]",
) -> str:
    """Run the player as a process of its own until the bag, or the evaluator's count, is full."""
    with signals_held():
        player = _start_player(bag, topics)
        players.append(player)
    assert player.stdout is not None
    try:
        while player.poll() is None:
            launched.check_running(but_not="evaluator")
            if launched.exit_codes()["evaluator"] is not None:
                return f"{bag}: all keyframes were answered before its end"
            time.sleep(0.1)
        if player.returncode != 0:
            raise ClkdError(f"bag player ended with exit code {player.returncode} on {bag}")
        return player.stdout.read().strip()
    finally:
        if player.poll() is None:
            player.send_signal(signal.SIGINT)  # reaped, and killed if need be, after the nodes


def _start_player(bag: Path, topics: Path | None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "clkd_core.cli", "bag", "play", str(bag)),
            *("--wait-for-subscribers", str(SUBSCRIBERS_TIMEOUT_S)),
            *(("--topics", str(topics)) if topics else ()),
        ],
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=bind_to_parent,
    )


def _kill(players: "list[subprocess.Popen[str]]") -> None:
    """The nodes are gone by now; a player that still runs had its time."""
    for player in players:
        with suppress(subprocess.TimeoutExpired):
            player.wait(timeout=0.3)
        if player.poll() is None:
            player.kill()
            player.wait()


def _say_how(args: argparse.Namespace, played: Sequence[str]) -> None:
    """What the evaluator cannot know of the run goes into its provenance."""
    provenance = read_provenance(args.out)
    if provenance.device == UNKNOWN_DEVICE:
        provenance = replace(provenance, device=describe_device(_device_name(args.device)))
    provenance = replace(
        provenance,
        command=describe_command(),
        notes=(*provenance.notes, *played),
    )
    write_provenance(args.out, provenance)
    for note in provenance.notes:
        print(note, flush=True)


def _report(args: argparse.Namespace, system: SystemSpec, bags: Sequence[Path]) -> None:
    """What needs the student once more, in our own process, with the nodes' threads."""
    from clkd_core.runtime.engine import Engine

    (vlm,) = (node for node in system.nodes if node.name == "vlm")
    threads = vlm.parameters.get("threads", VlmNodeConfig.threads) or None
    engine = Engine.from_checkpoint(args.checkpoint, device=args.device, threads=threads)
    names = load_topics(args.topics) if args.topics else None
    finish_run(args.out, bags, engine, args.checkpoint, names=names)


def _device_name(device: str) -> str:
    """What ``auto`` meant to the nodes."""
    if device != "auto":
        return device
    import torch  # takes seconds, and only here

    return "cuda:0" if torch.cuda.is_available() else "cpu"
