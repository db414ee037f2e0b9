"""Time distilling beside plain fine-tuning of the same student, in one interleaved run.

`clkd bench distill CONFIG --out FILE` makes full training steps on the config's driving set: plain
fine-tuning, with H2G, with KD from the live teacher, with KD from labels on disk. Weights are
random unless the config's `init` gives some; time does not depend on them. It also measures the
memory of the losses. The JSON holds every time, so that each ratio can be computed again.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clkd_core.errors import ConfigError
from clkd_core.files import write_text_atomic

if TYPE_CHECKING:  # torch takes seconds, --help does not need it
    from clkd_core.distill.bench.measure import Peaks, Ratio, Times
    from clkd_core.distill.bench.steps import BenchSteps
    from clkd_core.metrics.intervals import Interval

FORMAT_VERSION = 1
DEFAULT_CONFIG = Path("config/train/demo.yaml")

GOALS = {"selection": 0.03, "cached": 1.15, "live": 2.0, "memory": 1.3}
"""What distilling may cost at most: of a step with H2G, of plain fine-tuning (twice), of torch's
cross-entropy."""
LARGE_VOCABULARY = 32_000
"""Vicuna's; the losses' memory is measured for it and for the config's own."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that was measured."""

    times: "Times"
    ratios: "Sequence[Ratio]"
    peaks: "Sequence[Peaks]"
    about: Mapping[str, Any]
    """Device, versions, config, sizes: what the numbers belong to."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench distill``."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help=f"a training config, default {DEFAULT_CONFIG}, and values over it",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument(
        "--steps", type=int, default=30, help="steps per contender, default %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Benchmark, print the tables, write the file; 0.

    Raises:
        ConfigError: the config cannot be used here.
        DataError: the driving set cannot be used.
    """
    if args.steps < 1:
        raise ConfigError(f"steps is {args.steps}, expected at least 1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training, before torch comes
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # two lines from each profile of memory
    result = measure(*_split_words(args.words), steps=args.steps)
    write_text_atomic(args.out, json.dumps(describe(result), indent=1) + "\n")
    for line in format_result(result):
        print(line)
    print(f"wrote {args.out}")
    return 0


def measure(config_file: Path, overrides: Sequence[str], *, steps: int) -> Result:
    """Everything that ``clkd bench distill`` says.

    Args:
        config_file: of a training run.
        overrides: ``key=value`` over it.
        steps: of every contender.

    Raises:
        ConfigError: the config cannot be used here.
        DataError: the driving set cannot be used.
    """
    import torch

    from clkd_core.config import load_config
    from clkd_core.distill.bench.measure import time_interleaved
    from clkd_core.distill.bench.steps import DISTINCT_STEPS, BenchSteps
    from clkd_core.distill.config import TrainConfig
    from clkd_core.distill.setup import pick_device

    config = load_config(TrainConfig, config_file, overrides)
    device = pick_device(config.device)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.cpu_parts))  # as in training
    with TemporaryDirectory(prefix="clkd-bench-") as folder:
        bench = BenchSteps(config, Path(folder), device, distinct=min(steps, DISTINCT_STEPS))
        try:
            times = time_interleaved(bench.contenders(), steps, seed=config.seed, device=device)
        finally:
            bench.close()
    return Result(
        times=times,
        ratios=compute_ratios(times),
        peaks=_measure_all_peaks(bench),
        about=_describe_run(config_file, bench, str(device)),
    )


def compute_ratios(times: "Times") -> "list[Ratio]":
    """The ratios for which there is a goal, and what H2G does to a whole step."""
    from clkd_core.distill.bench.measure import compute_ratio
    from clkd_core.distill.bench.steps import CACHED, H2G, LIVE, PLAIN, SELECTION

    rows = [
        ("H2G's selection / a step with H2G", SELECTION, H2G, GOALS["selection"]),
        ("with H2G / plain", H2G, PLAIN, None),
        ("labels from disk / plain", CACHED, PLAIN, GOALS["cached"]),
        ("live teacher / plain", LIVE, PLAIN, GOALS["live"]),
    ]
    return [
        compute_ratio(name, times, of=of, over=over, goal=goal) for name, of, over, goal in rows
    ]


def describe(result: Result) -> dict[str, Any]:
    """What the JSON file holds."""
    return {
        "format_version": FORMAT_VERSION,
        **result.about,
        "contenders": [_timing(name, times) for name, times in result.times.items()],
        "ratios": [{**asdict(row), "met": row.met, "sure": row.sure} for row in result.ratios],
        "memory_bytes": [
            {
                **asdict(row),
                "ratio": row.ratio,
                "ratio_short": row.ratio_short,
                "ratio_to_ours": row.ratio_to_ours,
                "met": row.met,
            }
            for row in result.peaks
        ],
    }


def format_result(result: Result) -> list[str]:
    """Lines for a terminal."""
    about = result.about
    lines = [
        f"device: {about['device']}; {about['threads']} threads, {about['parts']} parts",
        f"config: {about['config_file']}; teacher {about['teacher']}, student {about['student']}",
        f"a step: {about['batch']}",
        "",
        f"{'':34} {'p50 ms':>9} {'mean ms':>9} {'steps':>6}",
    ]
    for name, times in result.times.items():
        row = _timing(name, times)
        lines.append(f"{name:34} {row['p50_ms']:9.2f} {row['mean_ms']:9.2f} {len(times):6d}")
    lines += ["", f"{'':34} {'median of rounds (95 %)':>27} {'of sums (95 %)':>27}   goal"]
    for ratio in result.ratios:
        goal = "" if ratio.goal is None else f"{ratio.goal:<5g} {_verdict(ratio)}"
        both = f"{_interval(ratio.paired):>27} {_interval(ratio.mean):>27}"
        lines.append(f"{ratio.name:34} {both}   {goal}".rstrip())
    lines += ["", *_memory_lines(result.peaks)]
    return lines


def _split_words(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The config, where the first word is one, and the overrides."""
    if not words or "=" in words[0]:
        return DEFAULT_CONFIG, list(words)
    return Path(words[0]), list(words[1:])


def _measure_all_peaks(bench: "BenchSteps") -> "list[Peaks]":
    import torch

    from clkd_core.distill.bench.measure import measure_peaks

    top_k = bench.config.cache.teacher_top_k
    assert top_k is not None  # the bench has set one
    return [
        measure_peaks(
            bench.batches[0][0].text.keep,
            vocabulary,
            dtype,
            top_k=top_k,
            temperature=bench.config.release.temperature,
            goal=GOALS["memory"],
        )
        for vocabulary in (LARGE_VOCABULARY, bench.vocabulary)
        for dtype in (torch.float32, torch.bfloat16)
    ]


def _describe_run(config_file: Path, bench: "BenchSteps", device: str) -> dict[str, Any]:
    import torch

    from clkd_core.config import config_to_dict
    from clkd_core.distill.record.versions import collect_versions

    versions = collect_versions(device)
    return {
        "device": versions.pop("device"),
        "threads": torch.get_num_threads(),
        "parts": bench.parts,
        "versions": versions,
        "created": datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        "config_file": str(config_file),
        **bench.sizes,
        "batch": bench.describe_batches(),
        "config": config_to_dict(bench.config),
    }


def _timing(name: str, times: Any) -> dict[str, Any]:
    import numpy as np

    p50, mean = float(np.median(times)), float(np.mean(times))
    return {"name": name, "p50_ms": p50, "mean_ms": mean, "times_ms": times.tolist()}


def _interval(row: "Interval") -> str:
    return f"{row.value:.4f} ({row.low:.4f} to {row.high:.4f})"


def _verdict(ratio: "Ratio") -> str:
    return ("met" if ratio.met else "missed") + ("" if ratio.sure else ", interval spans it")


def _memory_lines(peaks: "Sequence[Peaks]") -> list[str]:
    head = f"{'torch':>8} {'ours':>8} {'KD':>8} {'KD short':>9} {'ratios':>13} {'to ours':>8}"
    lines = [f"{'peak memory of losses, MiB':26} {head}   goal"]
    for row in peaks:
        parts = (row.torch_cross_entropy, row.cross_entropy, row.kd)
        sizes = " ".join(f"{size / 2**20:8.1f}" for size in parts)
        ratios = f"{row.ratio:6.3f} {row.ratio_short:6.3f} {row.ratio_to_ours:8.3f}"
        lines.append(
            f"{f'  V {row.vocabulary:,} {row.dtype}':26} {sizes} {row.kd_short / 2**20:9.1f} "
            f"{ratios}   {row.goal:<5g} {'met' if row.met else 'missed'}"
        )
    return lines
