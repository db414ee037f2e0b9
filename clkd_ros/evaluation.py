"""One run of the evaluator node, from activation to its end: what it heard, and what it leaves."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clkd_core.data.bags.files import find_bags
from clkd_core.data.bags.frames import load_labels
from clkd_core.data.bags.messages import Label
from clkd_core.data.bags.topics import load_topics
from clkd_core.errors import ClkdError, FrameError
from clkd_core.metrics.frames import DEADLINE_MS, FrameRow
from clkd_core.report.build import FRAMES_FILE, METRICS_FILE, PAGE_FILE
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_core.runtime.live_run import LiveRun
from clkd_ros.inputs import LOG_EVERY_S, InputConfig
from clkd_ros.params import RANGE
from clkd_ros.sightings import Note

SETTLE_NS = 1_000_000_000
"""A keyframe's verdict is published this long after its label came."""

_DRIVE = ("image", "odometry", "label", "true_trajectory")
"""Whose messages show that the drive goes on; see ``KeyframeLedger.heard``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(InputConfig):
    """What is evaluated, how strictly, and where it goes."""

    output_dir: str = "runs/live"
    """Folder of the run: frames.csv, metrics.json, report.html; created when missing."""
    deadline_ms: float = field(default=DEADLINE_MS, metadata={RANGE: (0.1, 60000.0)})
    """A decision seen later than this after its last image is late [ms]."""
    checkpoint: str = ""
    """Folder of the student that answers, for the record; empty: not said."""
    bag: str = ""
    """What is played, a bag or a folder of bags: a keyframe in it that is never heard of counts as
    dropped. Empty: not said."""
    bag_topics: str = ""
    """YAML file that says which topic of the bag is what; empty: the bag has our topics."""


class PlayedBags(NamedTuple):
    """What the evaluator is told of the bags that are played to it."""

    bags: Sequence[Path] = ()
    labels: Sequence[Label] = ()


def load_played(config: EvaluationConfig) -> PlayedBags:
    """Find the bags that a config names, and read their labels.

    Raises:
        DataError: a bag cannot be read.
        ConfigError: the topic mapping cannot.
    """
    if not config.bag:
        return PlayedBags()
    names = load_topics(Path(config.bag_topics)) if config.bag_topics else None
    bags = find_bags(Path(config.bag))
    return PlayedBags(bags, [label for each in bags for label in load_labels(each, names)])


class Evaluation:
    """The ledger of one run, and its folder.

    Safe to use from two threads: an executor's, and that of a transition that ends the run.
    """

    def __init__(self, config: EvaluationConfig, played: PlayedBags, logger: Any) -> None:
        """Nothing is written yet; ``logger`` is the node's."""
        self.ledger = KeyframeLedger(
            tolerance_ns=round(config.sync.tolerance_ms * 1e6),
            ego_max_age_ms=config.sync.ego_max_age_ms,
            deadline_ms=config.deadline_ms,
        )
        self._folder = Path(config.output_dir).resolve()
        self._played, self._logger = played, logger
        self._unusable: Counter[str] = Counter()
        self._turn, self._over = threading.Lock(), False
        self._live_run = LiveRun(
            self._folder,
            checkpoint=config.checkpoint,
            bags=played.bags,
            labels=played.labels,
            deadline_ms=config.deadline_ms,
        )

    def note(self, name: str, note: Note, msg: Any, seen_ns: int) -> None:
        """Enter a message; one that cannot be used is counted, and logged now and then.

        Args:
            name: of what came.
            note: enters it.
            msg: what came.
            seen_ns: reading of the clock when it came.
        """
        with self._turn:
            if self._over:
                return
            if name in _DRIVE:
                self.ledger.heard(seen_ns)
            try:
                note(self.ledger, msg, seen_ns)
            except FrameError as err:
                self._unusable[f"{name} messages not usable"] += 1
                self._logger.warning(f"{name}: {err}", throttle_duration_sec=LOG_EVERY_S)

    def take_verdicts(self, now_ns: int) -> list[FrameRow]:
        """Rows of keyframes that are settled, each once; the table on disk follows them."""
        with self._turn:
            if self._over:
                return []
            rows = self.ledger.take_finished(seen_before_ns=now_ns - SETTLE_NS)
            for row in rows:
                self._live_run.note(row)
            self._live_run.save_now_and_then(time.monotonic())
        return [row for row in rows if row.label is not None]

    def finish(self) -> None:
        """Write everything, the most precious first, and say where; a second time do nothing."""
        with self._turn:
            if not self._over:
                self._over = True
                self._finish()

    def _finish(self) -> None:
        rows = self.ledger.rows()
        if not rows and not (self.ledger.began and self._played.labels):
            self._live_run.close()  # an older run is worth more than an empty one
            self._logger.warning(f"nothing was heard, nothing is written to {self._folder}")
            return
        try:
            self._write(rows)
        except (ClkdError, OSError) as err:
            self._logger.error(f"{self._folder}: {err}; `clkd report` may make what is missing")

    def _write(self, rows: Sequence[FrameRow]) -> None:
        begun_s = time.monotonic()
        scored = self._live_run.write_numbers(
            rows, nodes=self.ledger.nodes, counters=self._counters()
        )
        counts = scored.scores.counts
        self._logger.info(
            f"{self._folder / FRAMES_FILE}: {counts.frames} keyframes, {counts.answered} answered;"
            f" {METRICS_FILE} beside it. Should the page be cut off: clkd report {self._folder}"
        )
        self._live_run.write_pages(scored)
        took_s = time.monotonic() - begun_s
        self._logger.info(f"page: {self._folder / PAGE_FILE} (all written in {took_s:.2f} s)")

    def _counters(self) -> dict[str, int]:
        counts = {
            "stops planned without a frame": self.ledger.blind_stops,
            "answers too many to be kept": self.ledger.forgotten,
            **self._unusable,
        }
        return {name: count for name, count in counts.items() if count}
