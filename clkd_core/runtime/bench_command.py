"""Time our engine beside what a user would run instead, in one interleaved run.

`clkd bench latency --out FILE` feeds six 1600 x 900 JPEGs per frame, decoding included, and
writes p50/p95/p99, frames per second, parameters, memory and every ratio as JSON.
"""

import argparse
import json
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clkd_core.errors import ConfigError
from clkd_core.files import write_text_atomic
from clkd_core.progress import progress
from clkd_core.report.provenance import collect_provenance

if TYPE_CHECKING:  # torch takes seconds, --help does not need it
    from clkd_core.runtime.bench_models import Contender

FORMAT_VERSION = 1
_DISTINCT_FRAMES = 8
_WARM_UP_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contender's row."""

    name: str
    what: str
    frames: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    frames_per_s: float
    """Answers per second of its own time, one after the other."""
    total_parameters: int
    active_parameters: int
    over_80_ms_frac: float
    ratio_to_first: float
    """Its p50 over the first contender's p50: how many times slower."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench``."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    latency = kinds.add_parser("latency", help="from six JPEGs to an answer", description=__doc__)
    latency.add_argument("--out", type=Path, required=True, help="JSON file")
    latency.add_argument("--checkpoint", type=Path, help="default: nano with random weights")
    latency.add_argument("--frames", type=int, default=200, help="default %(default)s")
    latency.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    latency.add_argument("--threads", type=int, help="of torch and decoding; default torch's own")
    latency.add_argument(
        "--slow-every", type=int, default=20, help="slow contenders' rounds, default every 20th"
    )
    latency.add_argument("--no-t5", action="store_true", help="leave Swin-T + T5 out")


def run(args: argparse.Namespace) -> int:
    """Benchmark, print the table, write the file; 0."""
    if args.frames < 1 or args.slow_every < 1:
        raise ConfigError(
            f"frames is {args.frames}, slow-every {args.slow_every}, expected at least 1"
        )
    from clkd_core.runtime.bench_models import build_contenders, build_engine, make_frames

    engine = build_engine(args.checkpoint, device=args.device, threads=args.threads)
    engine.warm_up()
    contenders = build_contenders(engine, with_t5=not args.no_t5, every=args.slow_every)
    frames = make_frames(_DISTINCT_FRAMES)
    timings = summarize(contenders, time_interleaved(contenders, frames, args.frames))
    result = describe_run(args, str(engine.device), timings, frames)
    write_text_atomic(args.out, json.dumps(result, indent=1) + "\n")
    for line in format_table(timings, result["device"]):
        print(line)
    print(f"wrote {args.out}")
    return 0


def time_interleaved(
    contenders: "Sequence[Contender]", frames: Sequence[Any], rounds: int
) -> list[list[float]]:
    """Milliseconds per answer by contender; all meet the same weather of the machine.

    Each round gives every contender whose turn it is the same frame; the first rounds are not
    counted.
    """
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(_WARM_UP_ROUNDS):
        for contender in contenders:
            if contender.every == 1 or number == 0:
                contender.answer(frames[number % len(frames)])
    for number in progress(range(rounds), desc="bench", unit="frames"):
        for contender, kept in zip(contenders, times, strict=True):
            if number % contender.every == 0:
                kept.append(contender.time_ms(frames[number % len(frames)]))
    return times


def summarize(contenders: "Sequence[Contender]", times: Sequence[Sequence[float]]) -> list[Timing]:
    """One row per contender, in their order."""
    first_p50 = float(np.percentile(times[0], 50))
    rows = []
    for contender, kept in zip(contenders, times, strict=True):
        p50, p95, p99 = (float(value) for value in np.percentile(kept, (50, 95, 99)))
        rows.append(
            Timing(
                name=contender.name,
                what=contender.what,
                frames=len(kept),
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                frames_per_s=1e3 * len(kept) / sum(kept),
                total_parameters=contender.total_parameters,
                active_parameters=contender.active_parameters,
                over_80_ms_frac=float(np.mean(np.asarray(kept) > 80.0)),
                ratio_to_first=p50 / first_p50,
            )
        )
    return rows


def describe_run(
    args: argparse.Namespace, device: str, timings: Sequence[Timing], frames: Sequence[Any]
) -> dict[str, Any]:
    """What the JSON file holds."""
    import torch

    provenance = collect_provenance(
        mode="direct", checkpoint=args.checkpoint or Path("random weights"), bag="", device=device
    )
    sizes = [len(image.encoded) for frame in frames for image in frame.images.values()]
    return {
        "format_version": FORMAT_VERSION,
        "device": provenance.device,
        "threads": torch.get_num_threads(),
        "checkpoint": provenance.checkpoint,
        "created": provenance.created,
        "git_revision": provenance.git_revision,
        "versions": dict(provenance.versions),
        "input": f"six 1600 x 900 JPEGs of {np.mean(sizes) / 1e3:.0f} kB",
        "peak_memory_mb": _peak_memory_mb(device),
        "contenders": [asdict(timing) for timing in timings],
    }


def _peak_memory_mb(device: str) -> dict[str, float]:
    """Of the whole process with all contenders in it."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.startswith("cuda"):
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peak


def format_table(timings: Sequence[Timing], device: str) -> list[str]:
    """Lines for a terminal."""
    width = max(len(timing.name) for timing in timings)
    head = f"{'':{width}} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'frames/s':>9}"
    lines = [f"device: {device}", f"{head} {'params':>8} {'active':>8} {'ratio':>7} {'n':>5}"]
    for row in timings:
        lines.append(
            f"{row.name:{width}} {row.p50_ms:8.1f} {row.p95_ms:8.1f} {row.p99_ms:8.1f} "
            f"{row.frames_per_s:9.1f} {row.total_parameters / 1e6:7.1f}M "
            f"{row.active_parameters / 1e6:7.1f}M {row.ratio_to_first:6.1f}x {row.frames:5d}"
        )
    return lines
