"""Time our engine beside what a user would run instead, in one interleaved run.

`clkd bench latency --out FILE` shows six 1600 x 900 JPEGs per frame, decoding included, to every
contender, each in a process of its own, and writes p50/p95/p99, frames per second, parameters,
memory, every ratio and the device's floor as JSON. Those that do not fit are left out with a word.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import write_text_atomic
from clkd_core.progress import progress
from clkd_core.report.provenance import collect_provenance
from clkd_core.runtime.bench.ceilings import Ceilings, best_of
from clkd_core.runtime.bench.contenders.line_up import CONTROL, OURS, choose, line_up
from clkd_core.runtime.bench.contenders.spec import Contender, Setting
from clkd_core.runtime.bench.contest import (
    Skipped,
    calibrate,
    measure_ceilings,
    seated,
    time_interleaved,
)
from clkd_core.runtime.bench.figures.goals import Verdict, judge
from clkd_core.runtime.bench.figures.rows import Row, build_rows, compute_ratios
from clkd_core.runtime.bench.figures.tables import format_all
from clkd_core.runtime.bench.frames import (
    DISTINCT_FRAMES,
    describe_frames,
    make_frames,
)
from clkd_core.types import SurroundFrame

FORMAT_VERSION = 2
_PACKAGES = ("transformers", "timm", "torchvision", "onnxruntime", "openvino")
"""That time may depend on, beside those every run names."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that was measured."""

    rows: Sequence[Row]
    skipped: Sequence[Skipped]
    verdicts: Sequence[Verdict]
    ceilings: Ceilings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench``."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    latency = kinds.add_parser("latency", help="from six JPEGs to an answer", description=__doc__)
    add_setting(latency)
    latency.add_argument("--out", type=Path, required=True, help="JSON file")
    names = [each.name for each in line_up(slow_every=1, on_gpu=False)]
    latency.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(names)}"
    )
    latency.add_argument("--frames", type=int, default=200, help="default %(default)s")
    latency.add_argument(
        "--slow-every", type=int, default=20, help="slow contenders' rounds, default every 20th"
    )


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Declare what contenders are built for; read by :func:`read_setting`."""
    parser.add_argument(
        "--checkpoint", type=Path, help=f"student of {OURS}; default the one that is shipped"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument("--threads", type=int, help="of the model; default all cores")


def read_setting(args: argparse.Namespace) -> Setting:
    """What contenders are built for.

    Raises:
        ConfigError: no thread is wanted.
    """
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"threads is {args.threads}, expected at least 1")
    return Setting(device=args.device, threads=args.threads, checkpoint=args.checkpoint)


def run(args: argparse.Namespace) -> int:
    """Benchmark, print the tables, write the file; 0.

    Raises:
        ConfigError: a word is out of range or names nobody, or the device is not there.
        ClkdError: a contender died, or none was left.
    """
    if args.frames < 1 or args.slow_every < 1:
        raise ConfigError(
            f"frames is {args.frames}, slow-every {args.slow_every}, expected at least 1"
        )
    setting = read_setting(args)
    choose(line_up(slow_every=1, on_gpu=False), args.only)  # a wrong word: before the work
    ceilings = measure_ceilings(setting)
    setting = replace(setting, device=ceilings.device)  # who is told `cpu` loads no torch to ask
    everybody = line_up(slow_every=args.slow_every, on_gpu=ceilings.device.startswith("cuda"))
    frames = make_frames(DISTINCT_FRAMES)
    result = measure(choose(everybody, args.only), setting, frames, args.frames, ceilings)
    words = describe_frames(frames)
    content = json.dumps(describe(result, words, args.checkpoint), indent=1)
    write_text_atomic(args.out, content + "\n")
    for line in format_all(result.rows, result.skipped, result.verdicts, result.ceilings, words):
        print(line)
    print(f"wrote {args.out}")
    return 0


def measure(
    contenders: Sequence[Contender],
    setting: Setting,
    frames: Sequence[SurroundFrame],
    rounds: int,
    ceilings: Ceilings,
) -> Result:
    """Build all, time all, take all down; then measure the ceilings once more.

    Raises:
        ClkdError: a contender died, or none was left.
    """
    every = {contender.name: contender.every for contender in contenders}
    with seated(contenders, setting, frames) as (seats, skipped):
        if not seats:
            raise ClkdError("; ".join(f"{each.name}: {each.why}" for each in skipped))
        if CONTROL in seats:
            calibrate(seats[CONTROL], next(iter(seats.values())))
        times = time_interleaved(seats, every, rounds)
        counting = progress(seats, desc="counting", unit="contenders")
        facts = {name: seats[name].ask("facts") for name in counting}
    ceilings = best_of(ceilings, measure_ceilings(setting))
    rows = build_rows(contenders, times, facts, ceilings)
    on_gpu = ceilings.device.startswith("cuda")
    verdicts = judge(rows, cores=None if on_gpu else len(os.sched_getaffinity(0)))
    return Result(rows=rows, skipped=skipped, verdicts=verdicts, ceilings=ceilings)


def describe(result: Result, frames: str, checkpoint: Path | None) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "format_version": FORMAT_VERSION,
        **describe_run(result.ceilings.device_words, checkpoint),
        "threads": result.rows[0].threads,
        "input": frames,
        "ceilings": asdict(result.ceilings),
        "contenders": [asdict(row) for row in result.rows],
        "skipped": [asdict(each) for each in result.skipped],
        "ratios": compute_ratios(result.rows),
        "goals": [{**asdict(each), "met": each.met} for each in result.verdicts],
    }


def describe_run(device_words: str, checkpoint: Path | None) -> dict[str, Any]:
    """Device, versions, revision, date and command."""
    found = collect_provenance(mode="direct", checkpoint=checkpoint or "", bag="", device="cpu")
    return {
        "device": device_words,
        "versions": {**found.versions, **_more_versions()},
        "git_revision": found.git_revision,
        "created": found.created,
        "command": found.command,
    }


def _more_versions() -> Mapping[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
