"""What is compared: contenders of latency benchmarks, and what is known of their quality."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clkd_core.errors import ConfigError, DataError
from clkd_core.metrics.intervals import Interval
from clkd_core.report.build import METRICS_FILE
from clkd_core.report.provenance import read_provenance

BENCH_VERSION = 2
"""``format_version`` of the files that are read."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Macro-F1 of the meta-action, over all cases."""

    macro_f1: Interval
    """Its ends are NaN where only the number is known."""
    source: str
    """Where it comes from."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contender of one benchmark."""

    name: str
    kind: str
    """``ours`` or ``other``."""
    what: str
    device: str
    file: int
    """Number of the benchmark, from 1."""
    p50_ms: float
    p99_ms: float
    frames_per_s: float
    total_parameters: int
    active_parameters: int
    peak_memory_mib: float
    checkpoint: Path | None
    """Of its weights, as an absolute path; None: they are random."""
    quality: Quality | None = None


def load_entries(files: Sequence[Path]) -> list[Entry]:
    """Contenders of all benchmarks; control loops, which answer nothing, are left out.

    Raises:
        DataError: a file is missing or is none of ours.
    """
    found = [entry for number, path in enumerate(files, start=1) for entry in _load(path, number)]
    if not found:
        raise DataError(f"no contender in {', '.join(map(str, files))}, expected at least one")
    return found


def _load(path: Path, number: int) -> list[Entry]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != BENCH_VERSION:
            raise ValueError(f"format_version {content['format_version']}, not {BENCH_VERSION}")
        rows = [row for row in content["contenders"] if row["kind"] != "machine"]
        return [_entry(row, str(content["device"]), number) for row in rows]
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err
    except (ValueError, TypeError, KeyError) as err:
        raise DataError(f"{path} is no file of `clkd bench latency`: {err}") from err


def _entry(row: Mapping[str, Any], device: str, number: int) -> Entry:
    speeds = [float(row[key]) for key in ("p50_ms", "p99_ms", "frames_per_s")]
    if not all(math.isfinite(value) and value > 0 for value in speeds):
        raise ValueError(f"times of {row['name']} are {speeds}, expected > 0")
    return Entry(
        name=str(row["name"]),
        kind=str(row["kind"]),
        what=str(row["what"]),
        device=device,
        file=number,
        p50_ms=speeds[0],
        p99_ms=speeds[1],
        frames_per_s=speeds[2],
        total_parameters=int(row["total_parameters"]),
        active_parameters=int(row["active_parameters"]),
        peak_memory_mib=float(row["peak_memory_mib"]),
        checkpoint=None if row["checkpoint"] is None else Path(row["checkpoint"]),
    )


def add_scores(entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """Qualities given by hand.

    Args:
        entries: of all benchmarks; one name is one model on whatever device.
        words: ``NAME=VALUE`` each, the value a macro-F1 in 0..1.

    Raises:
        ConfigError: a word is none, names nobody, or somebody whose quality is known.
    """
    rated = list(entries)
    for word in words:
        name, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise ConfigError(f"--score {word}, expected NAME=VALUE with a macro-F1 in 0..1")
        interval = Interval(value=value, low=math.nan, high=math.nan)
        rated = _rate(rated, name, Quality(macro_f1=interval, source="given by hand"), word)
    return rated


def add_evaluations(entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """Qualities from finished runs of ``clkd evaluate``, ``clkd replay`` or ``clkd report``.

    Args:
        entries: of all benchmarks.
        words: ``DIR``, whose run is of a checkpoint that was timed, or ``NAME=DIR``.

    Raises:
        ConfigError: a run is of nobody that was timed, or of somebody whose quality is known.
        DataError: a folder holds no scored run.
    """
    rated = list(entries)
    for word in words:
        name, folder = _split(word)
        quality = read_quality(folder)
        names = [name] if name else _names_of(rated, folder)
        for each in names:
            rated = _rate(rated, each, quality, word)
    return rated


def _split(word: str) -> tuple[str, Path]:
    name, sign, folder = word.partition("=")
    return (name, Path(folder)) if sign and not Path(word).is_dir() else ("", Path(word))


def _names_of(entries: Sequence[Entry], folder: Path) -> list[str]:
    """Who was timed with the checkpoint that the run in ``folder`` judged."""
    judged = Path(read_provenance(folder).checkpoint).resolve()
    names = dict.fromkeys(entry.name for entry in entries if entry.checkpoint == judged)
    if not names:
        timed = ", ".join(sorted({str(e.checkpoint) for e in entries if e.checkpoint})) or "none"
        raise ConfigError(
            f"{folder} judged {judged}, timed were {timed}: say whose it is as NAME={folder}"
        )
    return list(names)


def read_quality(folder: Path) -> Quality:
    """Macro-F1 of a scored run's student.

    Raises:
        DataError: there is no such number in it.
    """
    path = folder / METRICS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["actions"]["student"]["all"]
        interval = Interval(**{key: float(value) for key, value in found["macro_f1"].items()})
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err
    except (ValueError, TypeError, KeyError) as err:
        raise DataError(f"{path} has no macro-F1 of a student over all cases") from err
    return Quality(macro_f1=interval, source=f"{folder}, {found['frames']} keyframes")


def _rate(entries: Sequence[Entry], name: str, quality: Quality, word: str) -> list[Entry]:
    theirs = [entry for entry in entries if entry.name == name]
    if not theirs:
        names = ", ".join(dict.fromkeys(entry.name for entry in entries))
        raise ConfigError(f"{word}: nobody is called {name!r}, expected one of {names}")
    if any(entry.quality is not None for entry in theirs):
        raise ConfigError(f"{word}: the quality of {name} is given twice")
    return [replace(each, quality=quality) if each.name == name else each for each in entries]
