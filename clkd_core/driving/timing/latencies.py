"""How long decisions and plans take: measured once, kept in a file, replayed from it.

A late answer acts late in a simulated drive, and the same seed and file give the same drive on
any machine with the same arithmetic.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """What each frame took, in the order measured: neighbours in time stay neighbours.

    Raises:
        ValueError: there is none, the two are not as many, or one is no number >= 0.
    """

    decision_ms: tuple[float, ...]
    """Encoded views in, decision out."""
    plan_ms: tuple[float, ...]
    """Encoded views in, trajectory out."""
    device: str = ""
    """What it was measured on, in words."""
    measured: str = ""
    """How, in words."""

    def __post_init__(self) -> None:
        if not self.decision_ms or len(self.decision_ms) != len(self.plan_ms):
            raise ValueError(
                f"{len(self.decision_ms)} decision_ms and {len(self.plan_ms)} plan_ms, "
                "expected one of each for at least one frame"
            )
        for name in ("decision_ms", "plan_ms"):
            for value in getattr(self, name):
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise ValueError(f"{name} holds {value!r}, expected numbers")
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"{name} holds {value}, expected numbers >= 0")

    def digest(self) -> str:
        """Identity of the numbers, whatever is said about them."""
        numbers = json.dumps([list(self.decision_ms), list(self.plan_ms)])
        return hashlib.blake2b(numbers.encode(), digest_size=12).hexdigest()


NO_LATENCIES = Latencies(
    decision_ms=(0.0,), plan_ms=(0.0,), measured="none: answers are there at once"
)
"""For drivers that compute nothing."""


@dataclass(frozen=True)
class LatencyStream:
    """What each frame of one drive takes: the file in its order from a place that the seed says,
    and from its beginning again at its end."""

    latencies: Latencies
    first: int

    @classmethod
    def drawn(cls, latencies: Latencies, seed: int) -> "LatencyStream":
        """Begin somewhere; the same seed begins in the same place."""
        count = len(latencies.plan_ms)
        return cls(latencies, int(np.random.default_rng([seed, count]).integers(count)))

    def decision_ms(self, frame: int) -> float:
        """Of the frame with this number, counted from 0."""
        return self.latencies.decision_ms[(self.first + frame) % len(self.latencies.decision_ms)]

    def plan_ms(self, frame: int) -> float:
        """Of the frame with this number, counted from 0."""
        return self.latencies.plan_ms[(self.first + frame) % len(self.latencies.plan_ms)]


def save_latencies(latencies: Latencies, path: Path) -> None:
    """Write the file.

    Raises:
        DataError: the folder cannot be written.
    """
    content = {"format_version": FORMAT_VERSION, **asdict(latencies)}
    write_text_atomic(path, json.dumps(content, indent=1) + "\n")


def load_latencies(path: Path) -> Latencies:
    """Read what :func:`save_latencies` wrote.

    Raises:
        DataError: the file is missing, no JSON, of another version, or holds no latencies.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DataError(
            f"{path}: no such file, expected one that clkd drive --measure-latencies wrote"
        ) from err
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read as JSON: {err}") from err
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
    try:
        return Latencies(
            decision_ms=tuple(content["decision_ms"]),
            plan_ms=tuple(content["plan_ms"]),
            device=str(content.get("device", "")),
            measured=str(content.get("measured", "")),
        )
    except (KeyError, TypeError, ValueError) as err:
        missing = f"no {err}" if isinstance(err, KeyError) else str(err)
        raise DataError(f"{path}: {missing}") from err


def latency_line(latencies: Latencies) -> str:
    """What a file says, in a line."""
    parts = []
    for name, values in (("decision", latencies.decision_ms), ("plan", latencies.plan_ms)):
        p50, p95 = np.quantile(values, [0.5, 0.95]).tolist()
        parts.append(f"{name} p50 {p50:.1f}, p95 {p95:.1f}, max {max(values):.1f} ms")
    about = f" on {latencies.device}" if latencies.device else ""
    return f"latencies: {'; '.join(parts)} ({len(latencies.plan_ms)} frames{about})"
