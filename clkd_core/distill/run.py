"""What a training run leaves on disk: metrics, curves, report, and a state to resume from."""

import json
import logging
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from clkd_core.distill.evaluate import Judged
from clkd_core.errors import CheckpointError
from clkd_core.files import replace_folder, write_bytes_atomic, write_text_atomic
from clkd_core.models.checkpoint import (
    MANIFEST,
    WEIGHTS,
    check_manifest,
    load_weights,
    unique_state,
    write_manifest,
)

log = logging.getLogger(__name__)

OPTIMIZER = "optimizer.safetensors"
PROGRESS = "config.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come; ``step`` optimizer steps of ``stage`` are done."""

    stage: str
    step: int
    config: Mapping[str, Any]
    """The resolved config of the run."""


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything that the rest of a stage depends on, atomically.

    Random numbers need no saving: they follow from seed, stage and step.

    Raises:
        DataError: the folder cannot be written.
    """
    moments = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    with replace_folder(folder) as temporary:
        save_file(unique_state(model), temporary / WEIGHTS)
        save_file(moments, temporary / OPTIMIZER)
        text = json.dumps(vars(progress), indent=1)
        (temporary / PROGRESS).write_text(text, encoding="utf-8")
        write_manifest(temporary)


def load_progress(folder: Path) -> Progress | None:
    """How far the run in ``folder`` had come, or None when it left no state.

    Raises:
        CheckpointError: there is a state and it is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return None
    check_manifest(folder)
    try:
        return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as err:
        raise CheckpointError(f"{folder / PROGRESS}: {err}") from err


def restore_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer back as :func:`save_state` found them.

    Raises:
        CheckpointError: the state is damaged or of another model.
    """
    load_weights(model, folder / WEIGHTS)
    try:
        moments = load_file(folder / OPTIMIZER)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{folder / OPTIMIZER} cannot be read: {err}") from err
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        if value.shape == parameters[int(index)].shape:
            # The fused optimizer walks both through memory: they must be laid out alike.
            value = torch.empty_like(parameters[int(index)]).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


class MetricsLog:
    """Appends to ``metrics.jsonl``: one object a line, flushed at once."""

    def __init__(self, path: Path, *, resume_at: Mapping[str, int] | None) -> None:
        """Start a new file, or keep the lines before the step that each stage resumes at."""
        self.path = path
        kept: list[Mapping[str, Any]] = []
        if resume_at is not None and path.is_file():
            lines = read_metrics(path)
            kept = [line for line in lines if line["step"] < resume_at.get(line["stage"], 0)]
        write_text_atomic(path, "".join(_json_line(line) for line in kept))

    def write(self, values: Mapping[str, Any]) -> None:
        """Add one line; numbers that are not finite become null, which JSON can hold."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_json_line(values))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``; one cut off by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            log.warning("%s: a line was cut off and is left out", path)
    return lines


def _json_line(values: Mapping[str, Any]) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps(finite) + "\n"


def collect_versions() -> dict[str, str]:
    """Versions and git revision that a result depends on; ``unknown`` outside a checkout."""
    packages = ("torch", "transformers", "timm", "tokenizers", "numpy", "safetensors")
    versions = {"python": platform.python_version(), "clkd": _git_revision()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _git_revision() -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def write_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss terms, alpha and the shares of hard samples into one PNG."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    _draw(panels[0], metrics, "teacher", ("loss",), "teacher: loss [nats/token]")
    _draw(panels[1], metrics, "distill", ("h2g", "kd", "alpha"), "student: loss terms and alpha")
    shares = ("hard_regular_frac", "hard_corner_frac")
    _draw(panels[2], metrics, "distill", shares, "student: share found hard")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes_atomic(path, buffer.getvalue())


def _draw(
    panel: Any, metrics: Sequence[Mapping[str, Any]], stage: str, keys: Sequence[str], title: str
) -> None:
    lines = [line for line in metrics if line["stage"] == stage]
    for key in keys:
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        if points:
            panel.plot(*zip(*points, strict=True), label=key)
    panel.set(title=title, xlabel="optimizer step")
    if panel.lines:
        panel.legend()


def write_report(
    path: Path,
    parameters: Mapping[str, tuple[int, int]],
    table: Sequence[Judged],
    metrics: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> None:
    """Write ``report.md``: sizes, validation numbers, last losses, versions.

    Args:
        path: the file.
        parameters: (total, active) by model name.
        table: what :func:`clkd_core.distill.evaluate.judge` gave; empty without validation data.
        metrics: lines of ``metrics.jsonl``.
        versions: from :func:`collect_versions`.
    """
    lines = ["# Training run", "", "| model | parameters | active |", "|---|---:|---:|"]
    lines += [f"| {name} | {all_:,} | {active:,} |" for name, (all_, active) in parameters.items()]
    lines += ["", "## Unseen drives", ""]
    lines += _table_lines(table) or ["No validation split was there to judge on."]
    lines += ["", "## Last step of each stage", ""]
    last = {str(line["stage"]): line for line in metrics}
    lines += [f"- {stage}: " + _short(line) for stage, line in last.items()]
    lines += ["", "## Made with", ""]
    lines += [f"- {name} {version}" for name, version in versions.items()]
    write_text_atomic(path, "\n".join(lines) + "\n")


def _table_lines(table: Sequence[Judged]) -> list[str]:
    if not table:
        return []
    head = [
        "| who | cases | frames | accuracy | macro-F1 (95 % interval) |",
        "|---|---|---:|---:|---|",
    ]
    rows = []
    for row in table:
        f1 = row.scores.macro_f1
        rows.append(
            f"| {row.name} | {row.cases} | {row.scores.frames} | {row.scores.accuracy.value:.3f} "
            f"| {f1.value:.3f} ({f1.low:.3f} to {f1.high:.3f}) |"
        )
    return head + rows


def _short(line: Mapping[str, Any]) -> str:
    numbers = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k != "stage"}
    return ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
