"""Training runs side by side: what was set differently, and what came of it."""

import itertools
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clkd_core.distill.record.metrics_log import METRICS_FILE, is_number, read_metrics
from clkd_core.distill.record.panels import (
    COLOURS,
    Curve,
    Panel,
    collect_points,
    draw_panels,
    is_telling,
    stage_steps,
)
from clkd_core.distill.record.results import RESULTS_FILE, Results, read_results
from clkd_core.errors import ConfigError, DataError
from clkd_core.metrics.intervals import Interval

log = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
ABSENT = "\N{EN DASH}"

_OUT = "out"
"""The run's own folder differs always and says nothing."""
_LAST_PANELS = ("lr", "grad_norm", "samples_per_s", "peak_memory_mb")
_PLANNED = ("lr", "alpha")
"""They follow a plan; a running mean would only bend them."""
_MOST_PANELS = 60
"""More make a picture that no one reads and, at last, none that can be drawn."""
_LONGEST_NAME = 42
"""Letters of a name that have room in the picture."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder holds; an unfinished one lacks some of it."""

    name: str
    """Of the folder, printable; no two of a comparison are alike."""
    config: Mapping[str, str]
    """Values as text by dotted key; empty where there is no config that can be read."""
    metrics: Sequence[Mapping[str, Any]]
    """Lines of ``metrics.jsonl``, lists replaced by their largest number."""
    results: Results | None
    """None of an unfinished run."""
    remarks: tuple[str, ...]
    """Whether it is finished, and what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a heading, not escaped for any kind of page."""

    heading: str
    words: str = ""
    """What there is to know, or why there is no row."""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str | Interval]] = ()


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Read what there is of each run.

    Raises:
        ConfigError: fewer than two folders, or one is given twice.
        DataError: a folder is no run.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} run is given, expected at least two to compare")
    twice = [path for path, count in Counter(f.resolve() for f in folders).items() if count > 1]
    if twice:
        raise ConfigError(f"{plain(str(twice[0]))} is given twice, expected different runs")
    names = _choose_names(folders)
    return [_load_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def build_tables(runs: Sequence[Run]) -> list[Table]:
    """All that is told in words and numbers, in reading order."""
    return [
        Table(
            heading="Runs",
            head=("run", "state"),
            rows=[(run.name, "; ".join(run.remarks)) for run in runs],
        ),
        _settings_table(runs),
        _scores_table(runs),
        _last_table(runs),
        _sizes_table(runs),
        _versions_table(runs),
    ]


def draw_curves(runs: Sequence[Run], *, smooth: int) -> bytes:
    """A panel for each metric, a colour for each run.

    Args:
        runs: in the order of their colours.
        smooth: points of the running mean; 1 shows what was logged.

    Returns:
        A PNG's bytes.
    """
    panels = [_panel(runs, stage, key) for stage, key in _metric_keys(runs)]
    panels = [panel for panel in panels if any(is_telling(c.points) for c in panel.curves)]
    if len(panels) > _MOST_PANELS:
        log.warning("%d metrics, the first %d are drawn", len(panels), _MOST_PANELS)
    colours = zip(runs, itertools.cycle(COLOURS), strict=False)
    legend = [(_shorten(run.name), colour) for run, colour in colours]
    return draw_panels(panels[:_MOST_PANELS], smooth=smooth, legend=legend)


def plain(text: str) -> str:
    """One printable line: no control or direction marks, no half characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _panel(runs: Sequence[Run], stage: str, key: str) -> Panel:
    curves = [
        Curve(points=points, colour=colour)
        for run, colour in zip(runs, itertools.cycle(COLOURS), strict=False)
        if (points := collect_points(run.metrics, stage, key))
    ]
    return Panel(
        title=_shorten(plain(f"{stage}: {key}")),
        curves=curves,
        share=key.endswith("_frac"),
        steps=stage_steps([line for run in runs for line in run.metrics], stage),
        smooth=key not in _PLANNED,
    )


def _choose_names(folders: Sequence[Path]) -> list[str]:
    short = [plain(folder.resolve().name) or str(folder) for folder in folders]
    if len(set(short)) == len(short):
        return short
    whole = [plain(str(folder)) for folder in folders]
    if len(set(whole)) == len(whole):
        return whole
    return [f"{name} ({number})" for number, name in enumerate(whole, start=1)]


def _load_run(folder: Path, name: str) -> Run:
    if not any((folder / file).is_file() for file in (CONFIG_FILE, METRICS_FILE)):
        raise DataError(
            f"{plain(str(folder))} is no run, expected a folder with {CONFIG_FILE} or "
            f"{METRICS_FILE}"
        )
    lacks: list[str] = []
    config, metrics, results = (
        _read_or_remark(read, folder / file, lacks)
        for read, file in (
            (_read_config, CONFIG_FILE),
            (read_metrics, METRICS_FILE),
            (read_results, RESULTS_FILE),
        )
    )
    lines = [_without_lists(line) for line in metrics or ()]
    state = "finished" if results is not None else "unfinished"
    if lines:
        state += f", last line: {lines[-1]['stage']} step {lines[-1]['step']}"
    return Run(
        name=name,
        config=config or {},
        metrics=lines,
        results=results,
        remarks=tuple(plain(remark) for remark in (state, *lacks)),
    )


def _read_or_remark(read: Any, path: Path, lacks: list[str]) -> Any:
    if not path.is_file():
        lacks.append(f"no {path.name}")
        return None
    try:
        return read(path)
    except DataError as err:
        lacks.append(str(err))
        return None


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases: ours have none, and a few can stand for endless text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, expected plain values")
        return super().compose_node(parent, index)


def _read_config(path: Path) -> dict[str, str]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
        if not isinstance(values, dict):
            raise DataError(f"{path.name} holds no keys with values")
        return dict(_flatten(values, ""))
    except OSError as err:
        raise DataError(f"cannot read {path.name}: {err.strerror or err}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise DataError(f"{path.name} cannot be read: {err}") from err


def _flatten(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """(dotted key, value as text); a list is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield f"{prefix}{key}", text


def _without_lists(line: Mapping[str, Any]) -> dict[str, Any]:
    """Of the experts' shares the largest one: how far use is from even."""
    return {
        f"{key}, largest" if isinstance(value, list) else key: (
            max(filter(is_number, value), default=None) if isinstance(value, list) else value
        )
        for key, value in line.items()
    }


def _differing(
    sides: Sequence[Mapping[str, str]], *, apart_from: str = ""
) -> list[tuple[str, ...]]:
    """Rows of key and values where they are not all alike; a side without any value is unknown."""
    keys = dict.fromkeys(key for side in sides for key in side if key != apart_from)
    rows = []
    for key in sorted(keys):
        if len({side.get(key, ABSENT) for side in sides if side}) > 1:
            rows.append((key, *(side.get(key, ABSENT) for side in sides)))
    return rows


def _settings_table(runs: Sequence[Run]) -> Table:
    rows = _differing([run.config for run in runs], apart_from=_OUT)
    words = "" if rows else "None."
    if any(row[0].startswith("h2g.") for row in rows):
        words = (
            "Where h2g differs, the loss h2g, and with it the whole, is of other tokens: compare "
            "its course, not its height."
        )
    return Table(
        heading="Settings that differ",
        words=words,
        head=("key", *(run.name for run in runs)),
        rows=rows,
    )


def _versions_table(runs: Sequence[Run]) -> Table:
    rows = _differing([run.results.versions if run.results else {} for run in runs])
    return Table(
        heading="Versions that differ",
        words="" if rows else "None.",
        head=("", *(run.name for run in runs)),
        rows=rows,
    )


def _scores_table(runs: Sequence[Run]) -> Table:
    found = {
        (row.name, row.cases, run.name): row
        for run in runs
        for row in (run.results.table if run.results else ())
    }
    order = dict.fromkeys((who, cases) for who, cases, _ in found)
    rows = [
        (
            row.name,
            row.cases,
            run.name,
            str(row.frames),
            ABSENT if math.isnan(row.accuracy) else f"{row.accuracy:.3f}",
            row.macro_f1,
        )
        for who, cases in order
        for run in runs
        if (row := found.get((who, cases, run.name)))
    ]
    words = "Macro-F1 with its 95 % interval: runs whose intervals overlap may well be equal."
    return Table(
        heading="Unseen drives",
        words=words if rows else "No run has validation numbers.",
        head=("who", "cases", "run", "frames", "accuracy", "macro-F1"),
        rows=rows,
    )


def _last_table(runs: Sequence[Run]) -> Table:
    rows = []
    for stage, key in _metric_keys(runs):
        ends = [collect_points(run.metrics, stage, key)[-1:] for run in runs]
        values = [f"{end[0][1]:.4g} @ {end[0][0]:.0f}" if end else ABSENT for end in ends]
        if any(ends):
            rows.append((f"{stage}: {key}", *values))
    return Table(
        heading="Last logged values",
        words="Of a single step each, @ its number; the curves say how far they scatter."
        if rows
        else "Nothing was logged.",
        head=("metric", *(run.name for run in runs)),
        rows=rows,
    )


def _sizes_table(runs: Sequence[Run]) -> Table:
    sizes = [run.results.parameters if run.results else {} for run in runs]
    models = dict.fromkeys(model for side in sizes for model in side)
    rows = [(model, *(_size_words(side.get(model)) for side in sizes)) for model in models]
    return Table(
        heading="Parameters",
        words="" if rows else "No run has said.",
        head=("model", *(run.name for run in runs)),
        rows=rows,
    )


def _size_words(size: tuple[int, int] | None) -> str:
    return ABSENT if size is None else f"{size[0]:,} ({size[1]:,} active)"


def _metric_keys(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(stage, key) of all numbers in the order they appear, pace and memory last."""
    found = dict.fromkeys(
        (line["stage"], key)
        for run in runs
        for line in run.metrics
        for key, value in line.items()
        if key not in ("stage", "step") and is_number(value)
    )
    return sorted(found, key=lambda pair: pair[1] in _LAST_PANELS)


def _shorten(name: str) -> str:
    """The middle goes: runs tend to begin alike and to end with what tells them apart."""
    if len(name) <= _LONGEST_NAME:
        return name
    end = _LONGEST_NAME * 2 // 3
    return f"{name[: _LONGEST_NAME - end - 1]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"
