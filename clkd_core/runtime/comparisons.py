"""The rows that a student's score must stand beside: itself seeing nothing, and who never looks.

Made for a finished run, direct or live, on the keyframes of its own bags.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from clkd_core.data.bags.files import find_bags
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline, answer_by_ego_status
from clkd_core.metrics.frames import FrameRow, read_frames, write_frames
from clkd_core.progress import progress
from clkd_core.report.build import BLANK_FILE, EGO_STATUS_FILE, FRAMES_FILE
from clkd_core.runtime.bag_run import Decider, ReplayConfig, replay_bag

_log = logging.getLogger(__name__)

EGO_STATUS_FOLDER = "ego_status"
"""Inside a student's folder: the baseline fitted on the student's training keyframes."""


def write_comparisons(
    run: Path, bags: Path | Sequence[Path], engine: Decider, checkpoint: Path
) -> None:
    """Add ``frames_blank.csv`` and ``frames_ego_status.csv`` to a run that has labels.

    Args:
        run: holds ``frames.csv``.
        bags: what the run was played from.
        engine: the run's student.
        checkpoint: its folder; without a fitted ego-status baseline in it that row is left out.

    Raises:
        DataError: the run or a bag cannot be read.
        CheckpointError: the baseline is damaged.
    """
    labelled = [row for row in read_frames(run / FRAMES_FILE) if row.label is not None]
    for name in (BLANK_FILE, EGO_STATUS_FILE):
        (run / name).unlink(missing_ok=True)  # of an earlier run in the same folder
    if not labelled:
        return
    write_frames(run / BLANK_FILE, answer_blank(bags, engine, total=len(labelled)))
    folder = checkpoint / EGO_STATUS_FOLDER
    if folder.is_dir():
        rows = answer_by_ego_status(labelled, EgoStatusBaseline.load(folder))
        write_frames(run / EGO_STATUS_FILE, rows)
    else:
        _log.info("%s has no %s: its row is left out", checkpoint, EGO_STATUS_FOLDER)


def answer_blank(
    bags: Path | Sequence[Path], engine: Decider, *, total: int | None = None
) -> list[FrameRow]:
    """The labelled keyframes answered on black images."""
    paths = find_bags(bags) if isinstance(bags, Path) else bags
    config = ReplayConfig(keyframes_only=True, blank=True)
    rows = chain.from_iterable(replay_bag(path, engine, config=config) for path in paths)
    return list(progress(rows, total=total, desc="blank images", unit="frames"))
