"""Fail when the engine lost speed beside a reference of the same run, against a committed file.

`clkd bench gate BASELINE.json` answers frames with the shipped student, in turn with a control
loop of fixed length, and compares the ratio of their times with the file's: exit code 1 when it
is more than 5 % larger, else 0. `--write` makes the file, for this device.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clkd_core.errors import ClkdError, ConfigError, DataError
from clkd_core.files import write_text_atomic
from clkd_core.runtime.bench.command import add_setting, describe_run, read_setting
from clkd_core.runtime.bench.contenders.line_up import (
    CONTROL,
    OURS,
    control_loop,
    line_up,
)
from clkd_core.runtime.bench.contenders.spec import Contender, Setting
from clkd_core.runtime.bench.contest import find_device, seated, time_interleaved
from clkd_core.runtime.bench.frames import DISTINCT_FRAMES, make_frames

FORMAT_VERSION = 1
REFERENCE = CONTROL
"""Not another model in our engine: it would get slower with ours where they share code."""
REPEATS = 36
"""Of the control loop: about as long as nano's answer on two cores, in every run the same."""
BLOCK_FRAMES = 50
"""Of each contender; a block's ratio is that of their medians in it."""
DEFAULT_FRAMES = 600
"""Half a minute with the start. Five such runs on two cores, beside others' load of 2.8 to 4, gave
ratios of 1.129 to 1.138, 0.8 % apart."""
DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a gate's run, or the file of an earlier one, says."""

    device: str
    """Its name for people, and cores."""
    threads: int
    reference: str
    frames: int
    ratio: float
    """Our p50 over the reference's: median of the blocks' ratios."""
    ratio_spread: float
    """Half of the range that the middle half of the blocks' ratios spans, over ``ratio``."""
    p50_ms: float
    reference_p50_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd bench gate``."""
    parser.add_argument("baseline", type=Path, metavar="BASELINE.json")
    parser.add_argument("--write", action="store_true", help="make the file instead")
    parser.add_argument("--frames", type=int, default=DEFAULT_FRAMES, help="default %(default)s")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        help="share by which the ratio may be worse, default %(default)s",
    )
    add_setting(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, say one line; 0, or 1 when our engine became slower than is tolerated.

    Raises:
        ConfigError: a word is out of range, or the file is of another device.
        DataError: the file is missing or none of ours.
        ClkdError: a contender died or does not fit.
    """
    if args.frames < BLOCK_FRAMES or not args.tolerance >= 0:
        raise ConfigError(
            f"frames is {args.frames} and tolerance {args.tolerance}, expected at least "
            f"{BLOCK_FRAMES} and 0"
        )
    setting, path = read_setting(args), args.baseline
    baseline = None if args.write else read_baseline(path)
    name, device = find_device(setting)
    if baseline is not None:
        check_device(baseline, device, path)
    found = measure(replace(setting, device=name), device, args.frames)
    if baseline is None:
        write_baseline(path, found, describe_run(device, args.checkpoint))
        print(f"{_words(found)}; wrote {path}")
        return 0
    check_threads(baseline, found, path)
    worse = is_worse(found, baseline, args.tolerance)
    verdict = "worse by more than" if worse else "within"
    print(
        f"bench gate: {_words(found)}, {verdict} {args.tolerance:.0%} of {baseline.ratio:.4f} "
        f"({path})"
    )
    return int(worse)


def measure(setting: Setting, device_words: str, frames: int) -> Measured:
    """Both in turn.

    Raises:
        ClkdError: one died or does not fit.
    """
    pair = _pair()
    with seated(pair, setting, make_frames(DISTINCT_FRAMES)) as (seats, skipped):
        if skipped:
            raise ClkdError(f"{skipped[0].name} cannot take part: {skipped[0].why}")
        times = time_interleaved(seats, {each.name: 1 for each in pair}, frames)
        threads = int(seats[OURS].ask("threads"))
    return summarize(times, device_words=device_words, threads=threads)


def _pair() -> list[Contender]:
    everybody = line_up(slow_every=1, on_gpu=True)
    return [*(each for each in everybody if each.name == OURS), control_loop(REPEATS)]


def summarize(
    times: Mapping[str, Sequence[float]], *, device_words: str, threads: int
) -> Measured:
    """Ratio of the medians, block by block, of both contenders' times.

    A neighbour on the same cores slows down a block's both sides; a last block that is not full
    is left out.
    """
    ours, other = (np.asarray(times[name]) for name in (OURS, REFERENCE))
    blocks = len(ours) // BLOCK_FRAMES
    shape = (blocks, BLOCK_FRAMES)
    medians = [np.median(side[: np.prod(shape)].reshape(shape), axis=1) for side in (ours, other)]
    ratios = medians[0] / medians[1]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return Measured(
        device=device_words,
        threads=threads,
        reference=REFERENCE,
        frames=len(ours),
        ratio=float(middle),
        ratio_spread=float((high - low) / 2 / middle),
        p50_ms=float(np.median(ours)),
        reference_p50_ms=float(np.median(other)),
    )


def is_worse(found: Measured, baseline: Measured, tolerance: float) -> bool:
    """Whether our engine lost more than the tolerance beside the reference."""
    return found.ratio > baseline.ratio * (1 + tolerance)


def write_baseline(path: Path, found: Measured, made: Mapping[str, Any]) -> None:
    """Write what later runs are held against.

    Raises:
        DataError: the file cannot be written.
    """
    content = {"format_version": FORMAT_VERSION, **asdict(found), "made": dict(made)}
    write_text_atomic(path, json.dumps(content, indent=1) + "\n")


def read_baseline(path: Path) -> Measured:
    """Read what :func:`write_baseline` wrote.

    Raises:
        DataError: the file is missing or none of ours; says how to make one.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        names = Measured.__dataclass_fields__
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {content['format_version']}, not {FORMAT_VERSION}")
        baseline = Measured(**{name: content[name] for name in names})
        if baseline.reference != REFERENCE or not baseline.ratio > 0:
            raise ValueError(f"ratio {baseline.ratio} to {baseline.reference}, not {REFERENCE}")
        return baseline
    except OSError as err:
        reason = err.strerror or err
        raise DataError(f"cannot read {path}: {reason}; {_how_to_make(path)}") from err
    except (ValueError, TypeError, KeyError) as err:
        raise DataError(f"{path} is no baseline: {err}; {_how_to_make(path)}") from err


def check_device(baseline: Measured, device_words: str, path: Path) -> None:
    """Refuse a file of another kind of device.

    Raises:
        ConfigError: names both, and how to make a file for this one.
    """
    if baseline.device != device_words:
        raise ConfigError(
            f"{path} is of {baseline.device!r}, this is {device_words!r}: ratios differ between "
            f"devices; {_how_to_make(path)}"
        )


def check_threads(baseline: Measured, found: Measured, path: Path) -> None:
    """Refuse a file of another number of threads.

    Raises:
        ConfigError: names both, and how to make a file for this one.
    """
    if baseline.threads != found.threads:
        raise ConfigError(
            f"{path} is of {baseline.threads} threads, this run of {found.threads}; "
            f"{_how_to_make(path)}"
        )


def _how_to_make(path: Path) -> str:
    return f"make one here by `clkd bench gate {path} --write`"


def _words(found: Measured) -> str:
    return (
        f"{OURS} {found.p50_ms:.1f} ms / {found.reference} {found.reference_p50_ms:.1f} ms = "
        f"{found.ratio:.4f} (blocks +- {found.ratio_spread:.1%})"
    )
