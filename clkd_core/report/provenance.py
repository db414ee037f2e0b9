"""Where a run's numbers come from: what ran, on what, with which versions."""

import dataclasses
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.frames import DEADLINE_MS

PROVENANCE_FILE = "provenance.json"
MODES = ("live", "direct", "untimed")

_PACKAGES = ("clkd-drive", "torch", "numpy", "opencv-python-headless", "rosbags", "cyclonedds")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Written beside ``frames.csv`` by whoever made the rows."""

    mode: str
    """``live``: nodes over DDS in real time. ``direct``: frames read without a transport, one at
    a time. ``untimed``: likewise, and so many at a time that no clock is worth reading."""
    checkpoint: str
    """Folder of the student."""
    bag: str
    """What was played or read; several are separated by a comma."""
    device: str
    """What the model ran on, in words; printed beside every latency."""
    command: str = ""
    """The command line."""
    created: str = ""
    """Local time with offset, ISO 8601."""
    git_revision: str = ""
    """Of the checkout that ran; empty outside of one."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Python and the packages that matter."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """What was counted on the way, e.g. frames dropped, by reason."""
    deadline_ms: float = DEADLINE_MS
    """What the outcomes in ``frames.csv`` were held against."""
    seed: int = 0
    """Of the bootstrap."""
    notes: tuple[str, ...] = ()
    """What a reader must know, e.g. that the bag has no odometry."""
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By node's name: what it last said on ``/diagnostics``, as ``Health`` names it."""
    not_built: Mapping[str, str] = field(default_factory=dict)
    """By name of what a run may be compared with: why it was not."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DataError(f"mode is {self.mode!r}, expected one of {list(MODES)}")
        if not (math.isfinite(self.deadline_ms) and self.deadline_ms > 0):
            raise DataError(f"deadline_ms is {self.deadline_ms}, expected > 0")
        if not _is_texts(self.not_built):
            raise DataError("not_built is no mapping of texts")
        if not (isinstance(self.nodes, Mapping) and all(map(_is_texts, self.nodes.values()))):
            raise DataError("nodes is no mapping of mappings of texts")


def _is_texts(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    )


def collect_provenance(
    *,
    mode: str,
    checkpoint: Path | str,
    bag: Path | str,
    device: str,
    counters: Mapping[str, int] | None = None,
    deadline_ms: float = DEADLINE_MS,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Provenance:
    """Fill in what this process knows about itself.

    Args:
        mode: one of :data:`MODES`.
        checkpoint: folder of the student.
        bag: what was played or read.
        device: torch's name of the device, such as ``cpu`` or ``cuda:0``.
        counters: see :class:`Provenance`.
        deadline_ms: > 0.
        seed: of the bootstrap.
        notes: see :class:`Provenance`.
    """
    return Provenance(
        mode=mode,
        checkpoint=str(checkpoint),
        bag=str(bag),
        device=describe_device(device),
        command=describe_command(),
        created=datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds"),
        git_revision=_git_revision(),
        versions=_versions(),
        counters=dict(counters or {}),
        deadline_ms=deadline_ms,
        seed=seed,
        notes=tuple(notes),
    )


def describe_command() -> str:
    """The command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_device(device: str) -> str:
    """``cpu`` -> the processor's name and how many cores this process may use."""
    if device.startswith("cuda"):
        import torch  # the report of a CPU run is built without it

        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU {_cpu_name()}, {len(os.sched_getaffinity(0))} cores"


def write_provenance(run: Path, provenance: Provenance) -> None:
    """Write ``provenance.json`` into the run folder, atomically."""
    text = json.dumps(dataclasses.asdict(provenance), indent=2, ensure_ascii=False)
    write_text_atomic(run / PROVENANCE_FILE, text + "\n")


def read_provenance(run: Path) -> Provenance:
    """Read what :func:`write_provenance` wrote.

    Raises:
        DataError: the file is missing or damaged, or a value has the wrong type.
    """
    path = run / PROVENANCE_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["notes"] = tuple(values.get("notes", ()))
        return Provenance(**values)
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err
    except (ValueError, TypeError, AttributeError, DataError) as err:
        raise DataError(f"{path} does not describe a run: {err}") from err


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str:
    """Short hash of this checkout, with a plus sign where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
