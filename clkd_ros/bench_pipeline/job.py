"""What is measured, and the nodes that it takes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clkd_ros.bench_pipeline.stages import PlayedSets
from clkd_ros.live_replay import Views
from clkd_ros.system import SystemSpec, default_system_file, load_system
from clkd_ros.vlm_node import VlmNodeConfig

IDLE_S = 2.0
"""Silence, beyond the bag's own longest, after which the evaluator ends its run."""
LEFT_AT_END = 3
"""Camera sets of the bag that never count: while they are played, processor time is read."""

_NO_LABELS = {
    "~/input/label": "/clkd_bench/no_label",
    "~/input/true_trajectory": "/clkd_bench/no_trajectory",
}
"""Where the evaluator looks for labels and finds none, so that it keeps every camera set and not
the labelled keyframes alone."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured."""

    bag: Path
    views: Views
    """What the nodes listen to."""
    sets: PlayedSets
    checkpoint: Path
    device: str
    threads: int | None
    """Of each engine; None: the launch's own."""
    seconds: float
    """Of the steady part, on the wall's clock."""
    warm_up_s: float
    """Before it, likewise."""
    rate: float
    """Speed of the player."""
    topics: Path | None = None
    """File of the topic mapping through which the bag is played; None: as recorded."""

    @property
    def window(self) -> range:
        """Numbers of the camera sets that count."""
        first_s, last_s = self.warm_up_s * self.rate, (self.warm_up_s + self.seconds) * self.rate
        wanted = self.sets.between(first_s, last_s)
        stop = min(wanted.stop, len(self.sets.stamps_ns) - LEFT_AT_END)
        return range(wanted.start, max(wanted.start, stop))

    @property
    def idle_s(self) -> float:
        """Silence after which the bag must be over [s]."""
        gaps = zip(self.sets.offsets_s, self.sets.offsets_s[1:], strict=False)
        return IDLE_S + max((after - before for before, after in gaps), default=0.0) / self.rate

    @property
    def engine_threads(self) -> int | None:
        """Of each engine; None: torch's own number."""
        system = describe_system(self, composed=True, folder=Path())
        vlm = next(node for node in system.nodes if node.name == "vlm")
        return int(vlm.parameters.get("threads", VlmNodeConfig.threads)) or None

    @property
    def planned(self) -> bool:
        """Whether the student has a planner."""
        return (self.checkpoint / "planner").is_dir()

    def name(self, *, composed: bool) -> str:
        """Of an arrangement: ``composed``, ``separate``, or ``alone`` where nobody plans."""
        if not self.planned:
            return "alone"
        return "composed" if composed else "separate"


def describe_system(job: Job, *, composed: bool, folder: Path) -> SystemSpec:
    """The shipped dual system for one arrangement, with an evaluator of every camera set.

    Args:
        job: what is measured.
        composed: both nodes in one process, with one engine.
        folder: where the evaluator writes.
    """
    chosen: dict[str, Any] = {
        "evaluate": True,
        "composed": composed,
        "checkpoint": str(job.checkpoint.resolve()),
        "device": job.device,
        "transport": "raw" if job.views.raw else "compressed",
        "evaluator.output_dir": str(folder),
        "evaluator.idle_timeout_s": job.idle_s,
    }
    for node in ("vlm", "planner", "evaluator"):
        chosen[f"{node}.sync.cameras"] = list(job.views.cameras)
    if job.threads:
        chosen |= {"vlm.threads": job.threads, "planner.threads": job.threads}
    system = load_system(default_system_file(), chosen)
    nodes = [node for node in system.nodes if job.planned or node.name != "planner"]
    return replace(
        system,
        nodes=tuple(
            replace(node, remappings={**node.remappings, **_NO_LABELS})
            if node.name == "evaluator"
            else node
            for node in nodes
        ),
    )
