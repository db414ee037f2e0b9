"""Time the whole pipeline live: bag -> nodes -> trajectory, what each stage takes of it.

`clkd bench pipeline` starts player, nodes and evaluator as processes, first both nodes in one
process with one engine, then each in its own, plays camera images at their real size and rate, and
says how long a decision and a plan took from the last image on, which stage took what share, and
what each process cost; then it times decoding, vision, language and planning one by one. Without
--bag it draws its own images, once. --out DIR gets pipeline.json, stages.png and the evaluator's
tables. Exit code 0 when all was measured, whatever the figures are.
"""

import argparse
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clkd_core.errors import ConfigError
from clkd_core.files import shipped_student, write_bytes_atomic, write_text_atomic

if TYPE_CHECKING:  # middleware and images; --help does not need them
    from clkd_ros.bench_pipeline.cameras import BagDescription
    from clkd_ros.bench_pipeline.job import Job
    from clkd_ros.bench_pipeline.offline import OfflineStages
    from clkd_ros.bench_pipeline.show import Goal
    from clkd_ros.bench_pipeline.stages import Figures

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
JSON_FILE = "pipeline.json"
PICTURE_FILE = "stages.png"
CAMERA_HZ = 10.0
MAX_CAMERA_HZ = 20.0
"""Faster, and the images of two sets would lie within one set's tolerance."""
FEWEST_SETS = 10
"""In the steady part; of fewer a percentile says nothing."""
_TAIL_S = 1.0
"""Made images go on for so long after the steady part."""
_LONGEST_S = 1500.0
"""The evaluator keeps 20,000 camera sets."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench pipeline``."""
    add = parser.add_argument
    add("--bag", type=Path, help="default: drives of the synthetic world, 1600 x 900, drawn once")
    add("--topics", type=Path, metavar="FILE", help="what BAG calls our topics, config/topics/*")
    add("--checkpoint", type=Path, metavar="DIR", help="default: the shipped student")
    add("--seconds", type=float, default=60.0, help="that count, default %(default)g")
    add("--warm-up", type=float, default=3.0, metavar="S", help="before, default %(default)g")
    add("--rate", type=float, default=1.0, help="speed of the player, default %(default)g")
    add("--camera-hz", type=float, metavar="HZ", help="of the drawn images, default 10")
    add(
        "--composed",
        choices=("both", "true", "false"),
        default="both",
        help="true: nodes in one process, false: each in its own, both (default): in turn",
    )
    add("--threads", type=int, help="of each engine, default the launch's, 1")
    add("--device", default="auto", help="auto (default), cpu or cuda[:N]")
    add(
        "--offline-frames",
        type=int,
        default=200,
        metavar="N",
        help="frames whose stages are timed one by one, 0: none; default %(default)d",
    )
    add("--work", type=Path, metavar="DIR", help="where drawn images stay (default: user's cache)")
    add("--out", type=Path, metavar="DIR", help=f"{JSON_FILE}, {PICTURE_FILE} and tables")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the files; always 0."""
    check_words(args)
    load_before = os.getloadavg()[0]
    with _own_network(), TemporaryDirectory(prefix="clkd-bench-") as folder:
        job, bag = _describe_job(args)
        arrangements = _measure(args, job, Path(folder))
        offline = _measure_offline(args, job)
        described, goals = describe_run(args, job, bag, arrangements, offline, load_before)
        if args.out:
            _write(args.out, Path(folder), described, arrangements)
    from clkd_ros.bench_pipeline.show import format_table

    print("\n".join(format_table(described, arrangements, offline, goals)))
    if args.out:
        print(f"wrote {args.out / JSON_FILE} and {args.out / PICTURE_FILE}")
    return 0


def check_words(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured.

    Raises:
        ConfigError: names the word, what came and what was wanted.
    """
    limits = {
        "seconds": (1.0, _LONGEST_S),
        "warm-up": (0.0, _LONGEST_S),
        "rate": (0.01, 100.0),
        "camera-hz": (0.5, MAX_CAMERA_HZ),
    }
    for word, (least, most) in limits.items():
        value = getattr(args, word.replace("-", "_"))
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            raise ConfigError(f"{word} is {value:g}, expected {least:g} to {most:g}")
    if args.threads is not None and not 1 <= args.threads <= 256:
        raise ConfigError(f"threads is {args.threads}, expected 1 to 256")
    if args.offline_frames < 0:
        raise ConfigError(f"offline-frames is {args.offline_frames}, expected 0 or more")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", args.device):
        raise ConfigError(f"device is {args.device!r}, expected auto, cpu or cuda[:N]")
    if args.bag and args.camera_hz is not None:
        raise ConfigError("camera-hz is of drawn images and --bag has its own: use --rate")
    if args.topics and not args.bag:
        raise ConfigError("--topics says what --bag calls things, expected a bag, too")
    if args.out and (args.out.is_file() or args.out.suffix in (".json", ".png")):
        raise ConfigError(f"out {args.out} names a file, expected a folder, there or not")
    if args.checkpoint and not args.checkpoint.is_dir():
        raise ConfigError(f"checkpoint {args.checkpoint} does not exist, expected a folder")


@contextmanager
def _own_network() -> Iterator[None]:
    """A domain that nobody uses, on this host, with the shipped tuning; the user's words win."""
    try:
        from clkd_ros.live_replay import choose_domain_id
    except ModuleNotFoundError as err:
        raise ConfigError(
            f"{err.name!r} is not installed, expected a sourced ROS 2 or "
            "`pip install 'clkd-drive[embedded]'`"
        ) from err
    from clkd_ros.embedded.wire.domain import tuning_config

    wanted = {"ROS_DOMAIN_ID": str(choose_domain_id())}
    if not os.environ.get("ROS_LOCALHOST_ONLY"):
        wanted["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    wanted["CYCLONEDDS_URI"] = tuning_config()  # for rclpy on Cyclone DDS
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _describe_job(args: argparse.Namespace) -> "tuple[Job, BagDescription]":
    """What is to be measured; draws the images where no bag is given."""
    from clkd_core.data.bags.topics import load_topics
    from clkd_ros.bench_pipeline.cameras import describe_bag
    from clkd_ros.bench_pipeline.job import Job
    from clkd_ros.live_replay import find_views

    names = load_topics(args.topics) if args.topics else None
    path = args.bag or _make_bag(args)
    views = find_views([path], names)
    described, sets = describe_bag(path, views, names, made=not args.bag)
    job = Job(
        bag=path,
        views=views,
        sets=sets,
        checkpoint=args.checkpoint or shipped_student(),
        device=args.device,
        threads=args.threads,
        seconds=args.seconds,
        warm_up_s=args.warm_up,
        rate=args.rate,
        topics=args.topics,
    )
    if len(job.window) < FEWEST_SETS:
        raise ConfigError(
            f"{path} has {len(job.window)} camera sets between {args.warm_up:g} s of warm-up and "
            f"{args.seconds:g} s after it, expected at least {FEWEST_SETS}: it lasts "
            f"{described.seconds / args.rate:.1f} s at this rate"
        )
    return job, described


def _make_bag(args: argparse.Namespace) -> Path:
    from clkd_ros.bench_pipeline.cameras import MadeCameras, make_bag

    camera_hz = args.camera_hz or CAMERA_HZ
    lasts_s = (args.warm_up + args.seconds) * args.rate + _TAIL_S
    cameras = MadeCameras(sets=math.ceil(lasts_s * camera_hz), hz=camera_hz)
    return make_bag(cameras, args.work or default_work())


def default_work() -> Path:
    """Where drawn images stay for the next run: below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "clkd-drive" / "bench-pipeline"


def _measure(args: argparse.Namespace, job: "Job", folder: Path) -> "list[Figures]":
    """Each arrangement in turn; the evaluator's run goes below ``folder``."""
    from clkd_ros.bench_pipeline.live import run_arrangement

    composed = {"both": (True, False), "true": (True,), "false": (False,)}[args.composed]
    if not job.planned:
        _log.warning("%s has no planner inside: decisions only", job.checkpoint)
        composed = (True,)
    return [run_arrangement(job, composed=each, folder=folder) for each in composed]


def _measure_offline(args: argparse.Namespace, job: "Job") -> "OfflineStages | None":
    if not args.offline_frames:
        return None
    from clkd_core.data.bags.frames import read_frames
    from clkd_core.data.bags.topics import load_topics
    from clkd_ros.bench_pipeline.offline import measure_offline

    names = load_topics(args.topics) if args.topics else None
    frames = read_frames(job.bag, names, labels=())
    taken = [entry.frame for entry in islice(frames, args.offline_frames)]
    return measure_offline(taken, job.checkpoint, device=args.device, threads=job.engine_threads)


def describe_run(
    args: argparse.Namespace,
    job: "Job",
    bag: "BagDescription",
    arrangements: "Sequence[Figures]",
    offline: "OfflineStages | None",
    load_before: float,
) -> "tuple[dict[str, Any], list[Goal]]":
    """What the JSON file holds, and the goals in it."""
    from clkd_core.report.provenance import collect_provenance, describe_device
    from clkd_ros import middleware
    from clkd_ros.bench_pipeline.show import list_goals

    model_device = _model_device(args.device) if offline is None else offline.device
    provenance = collect_provenance(
        mode="live", checkpoint=job.checkpoint, bag=job.bag, device=model_device
    )
    goals = list_goals(arrangements, offline, bag.hz * args.rate)
    described = {
        "format_version": FORMAT_VERSION,
        "device": provenance.device,
        "host": describe_device("cpu"),
        "middleware": middleware.which(),
        "created": provenance.created,
        "command": provenance.command,
        "git_revision": provenance.git_revision,
        "versions": dict(provenance.versions),
        "checkpoint": str(job.checkpoint),
        "model_device": model_device,
        "threads": job.engine_threads,
        "seconds": args.seconds,
        "warm_up_s": args.warm_up,
        "rate": args.rate,
        "camera_hz": bag.hz * args.rate,
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "bag": {**asdict(bag), "line": bag.line},
        "arrangements": [asdict(figures) for figures in arrangements],
        "offline": None if offline is None else asdict(offline),
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
    }
    return described, goals


def _model_device(device: str) -> str:
    """What ``auto`` meant to the nodes."""
    if device != "auto":
        return device
    import torch  # takes seconds, and only here

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _write(
    out: Path, folder: Path, described: Mapping[str, Any], arrangements: "Sequence[Figures]"
) -> None:
    """The figures last: where they are, all is."""
    from clkd_core.report.build import FRAMES_FILE
    from clkd_ros.bench_pipeline.show import draw_stages

    for figures in arrangements:
        table = (folder / figures.name / FRAMES_FILE).read_bytes()
        write_bytes_atomic(out / f"{figures.name}-{FRAMES_FILE}", table)
    write_bytes_atomic(out / PICTURE_FILE, draw_stages(arrangements, described["device"]))
    text = json.dumps(_finite(described), indent=1, allow_nan=False)
    write_text_atomic(out / JSON_FILE, text + "\n")


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN: a time that never came is null."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
