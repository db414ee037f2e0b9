"""A live run's folder: the table as it grows; the numbers, then the page when the run is over.

The order is that of worth: whoever kills the process before it is done has lost the least.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clkd_core.data.bags.messages import Label
from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.metrics.frames import FrameRow, Outcome, text_from_frames, write_frames
from clkd_core.report.build import (
    FRAMES_FILE,
    OTHER_FILES,
    ScoredRun,
    clear_report,
    score_folder,
    write_pages,
)
from clkd_core.report.provenance import Provenance, collect_provenance, write_provenance
from clkd_core.report.scoring.words import DIRECT
from clkd_core.runtime.bag_run import row_without_answer
from clkd_core.runtime.deadline import NewestOnly
from clkd_core.runtime.ledger import UNLABELLED_KEPT
from clkd_core.runtime.replay import describe_rows

_log = logging.getLogger(__name__)

SAVE_EVERY_S = 10.0
"""Seconds of a run that a kill can lose at most."""

UNHEARD = "the label never reached the evaluator"
"""Reason of a keyframe that is in the bag and not in the evaluator's table."""

ADDED_LATER = "`clkd report RUN --bag BAG --checkpoint DIR` adds it"
"""Why a run that nobody has shown its bag lacks what needs the student once more."""

UNKNOWN_DEVICE = "a device that the nodes did not name"


class LiveRun:
    """Writes one live run, from one thread; the growing table is written in another."""

    def __init__(
        self,
        folder: Path,
        *,
        checkpoint: str,
        bags: Sequence[Path],
        labels: Sequence[Label],
        deadline_ms: float,
    ) -> None:
        """Nothing is written yet: an older run in the folder stays until there is a row.

        Args:
            folder: of the run.
            checkpoint: folder of the student, for the record; empty where nobody said.
            bags: what is played, for the record; may be empty.
            labels: all that these bags hold; each gets a row, heard or not.
            deadline_ms: what the outcomes are held against.
        """
        self._folder, self._labels = folder, labels
        self._provenance = replace(
            collect_provenance(
                mode="live",
                checkpoint=checkpoint,
                bag=", ".join(str(bag) for bag in bags),
                device="cpu",
                deadline_ms=deadline_ms,
            ),
            device=UNKNOWN_DEVICE,
            not_built=dict.fromkeys((*OTHER_FILES, DIRECT), ADDED_LATER),
        )
        self._header = text_from_frames([])
        self._lines: deque[str] = deque()
        self._labelled = False
        self._saved_s: float | None = None
        self._cleared = False
        self._writing = threading.Lock()
        self._writer = NewestOnly(self._write_growing, name="frames.csv")

    def note(self, row: FrameRow) -> None:
        """A row that will hardly change any more; it becomes text once."""
        if row.label is not None and not self._labelled:
            self._lines.clear()  # where some keyframes are labelled, the others do not count
            self._labelled = True
        if not self._labelled and len(self._lines) >= UNLABELLED_KEPT:
            self._lines.popleft()
        self._lines.append(text_from_frames([row]).removeprefix(self._header))

    def save_now_and_then(self, now_s: float) -> None:
        """Write the rows noted so far, every :data:`SAVE_EVERY_S`; returns at once.

        Args:
            now_s: reading of a clock that never jumps back.
        """
        if self._saved_s is None:
            self._saved_s = now_s
        if self._lines and now_s - self._saved_s >= SAVE_EVERY_S:
            self._saved_s = now_s
            self._writer.submit(self._header + "".join(self._lines))

    def write_numbers(
        self,
        rows: Sequence[FrameRow],
        *,
        nodes: Mapping[str, Mapping[str, str]],
        counters: Mapping[str, int],
    ) -> ScoredRun:
        """Write ``frames.csv``, ``provenance.json`` and ``metrics.json``; ends the growing table.

        Args:
            rows: of the whole run; at least one of them or of the bags' labels.
            nodes: see :class:`Provenance`.
            counters: what was counted beside the outcomes.

        Raises:
            DataError: the folder cannot be written.
        """
        self.close()
        devices = [values["device"] for values in nodes.values() if "device" in values]
        provenance = replace(
            self._provenance,
            device=", ".join(dict.fromkeys(devices)) or UNKNOWN_DEVICE,
            counters=counters,
            nodes=nodes,
        )
        try:
            rows = account_for(rows, self._labels)
        except DataError as err:  # the rows are worth more than the count of what is missing
            _log.error("%s", err)
            provenance = replace(provenance, notes=(f"keyframes not heard of: unknown, {err}",))
        with self._writing:
            self._clear()
            write_frames(self._folder / FRAMES_FILE, rows)
            write_provenance(self._folder, recount(provenance, (), rows))
            return score_folder(self._folder)

    def write_pages(self, scored: ScoredRun) -> None:
        """Write ``report.md`` and ``report.html``.

        Raises:
            DataError: the folder cannot be written.
        """
        write_pages(self._folder, scored)

    def close(self) -> None:
        """End the growing table."""
        self._writer.close()

    def _write_growing(self, text: str) -> None:
        try:
            with self._writing:
                self._clear()
                write_text_atomic(self._folder / FRAMES_FILE, text)
        except (DataError, OSError) as err:
            _log.error("%s", err)

    def _clear(self) -> None:
        """Once: what an older run in the folder left must not pass for this one's."""
        if not self._cleared:
            clear_report(self._folder)
            write_provenance(self._folder, self._provenance)  # a killed run has one, too
            self._cleared = True


def account_for(rows: Sequence[FrameRow], labels: Sequence[Label]) -> list[FrameRow]:
    """One row for every label of the bags, by stamp; all rows where there is no label.

    Args:
        rows: what the evaluator saw.
        labels: all that the bags hold.

    Raises:
        DataError: a labelled row is none of the bags' keyframes: they are another run's.
    """
    if not labels:
        return sorted(rows, key=lambda row: row.stamp_ns)
    heard = {row.stamp_ns: row for row in rows if row.label is not None}
    foreign = heard.keys() - {label.stamp_ns for label in labels}
    if foreign:
        raise DataError(
            f"{len(foreign)} of {len(heard)} labelled keyframes are in none of the bags, the "
            f"first at {min(foreign)}: expected the bags that were played"
        )
    return [
        heard.get(label.stamp_ns, row_without_answer(label, UNHEARD))
        for label in sorted(labels, key=lambda label: label.stamp_ns)
    ]


def recount(
    provenance: Provenance, before: Sequence[FrameRow], rows: Sequence[FrameRow]
) -> Provenance:
    """The provenance with the counters and notes of other rows than it was written with.

    Args:
        provenance: of a run.
        before: the rows that its counters and notes speak of.
        rows: those that they are to speak of.
    """
    said, outcomes = describe_rows(before) if before else [], {each.value for each in Outcome}
    counters = Counter(row.outcome.value for row in rows)
    other = {name: n for name, n in provenance.counters.items() if name not in outcomes}
    notes = [note for note in provenance.notes if note not in said]
    return replace(
        provenance, counters={**counters, **other}, notes=(*describe_rows(rows), *notes)
    )
