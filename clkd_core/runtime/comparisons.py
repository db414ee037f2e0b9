"""The rows that a student's score must stand beside: itself without its own images, and who never
looks; for a live run also itself without a transport.

Made for a finished run, direct or live, on the keyframes of its own bags.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from clkd_core.data.bags.files import find_bags
from clkd_core.data.bags.frames import load_labels
from clkd_core.data.bags.topics import BagTopics
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline, answer_by_ego_status
from clkd_core.metrics.baselines.majority import answer_by_majority
from clkd_core.metrics.frames import FrameRow, read_frames, write_frames
from clkd_core.progress import progress
from clkd_core.report.build import DIRECT_FILE, FRAMES_FILE, OTHER_FILES
from clkd_core.report.scoring.words import DIRECT
from clkd_core.runtime.bag_run import Decider, ReplayConfig, replay_bag
from clkd_core.runtime.shuffled_bags import answer_shuffled, choose_bag_sources

_log = logging.getLogger(__name__)

EGO_STATUS_FOLDER = "ego_status"
"""Inside a student's folder: the baseline fitted on the student's training keyframes."""


def write_comparisons(
    run: Path,
    bags: Path | Sequence[Path],
    engine: Decider,
    checkpoint: Path,
    *,
    names: BagTopics | None = None,
    seed: int = 0,
    live: bool = False,
) -> dict[str, str]:
    """Add the files of ``OTHER_FILES`` to a run that has labels.

    Args:
        run: holds ``frames.csv``.
        bags: what the run was played from.
        engine: the run's student, computing as it did in the run.
        checkpoint: its folder; without a fitted ego-status baseline in it that row is left out.
        names: which topic is what; ours when None.
        seed: of the choice whose images are shown in place of a keyframe's own.
        live: add ``DIRECT_FILE``, too.

    Returns:
        By model: why its file is not there.

    Raises:
        DataError: the run or a bag cannot be read.
        CheckpointError: the baseline is damaged.
    """
    labelled = [row for row in read_frames(run / FRAMES_FILE) if row.label is not None]
    remove_comparisons(run)
    if not labelled:
        return {}
    paths = find_bags(bags) if isinstance(bags, Path) else bags
    passes = {
        "blank": answer_keyframes(paths, engine, names=names, blank=True),
        "shuffled": _answer_all_shuffled(paths, engine, names, seed),
    } | ({DIRECT: answer_keyframes(paths, engine, names=names)} if live else {})
    files = {**OTHER_FILES, DIRECT: DIRECT_FILE}
    for model, rows in passes.items():
        shown = progress(rows, total=len(labelled), desc=f"{model} answers", unit="frames")
        write_some_frames(run / files[model], list(shown))
    reasons = dict.fromkeys(passes, "the bags have no label")
    reasons["shuffled"] = "there is no other keyframe"
    folder = checkpoint / EGO_STATUS_FOLDER
    if folder.is_dir():
        write_blind_rows(run, labelled, EgoStatusBaseline.load(folder))
    else:
        _log.info("%s has no %s: its row is left out", checkpoint, EGO_STATUS_FOLDER)
        reasons["ego_status"] = f"{checkpoint} has no {EGO_STATUS_FOLDER}"
    return {model: why for model, why in reasons.items() if not (run / files[model]).exists()}


def remove_comparisons(run: Path) -> None:
    """Take away what an earlier run in the same folder left."""
    for name in (DIRECT_FILE, *OTHER_FILES.values()):
        (run / name).unlink(missing_ok=True)


def write_blind_rows(run: Path, labelled: Sequence[FrameRow], baseline: EgoStatusBaseline) -> None:
    """Add what can be said without a picture: ego status, and the training labels' majority."""
    write_some_frames(run / OTHER_FILES["ego_status"], answer_by_ego_status(labelled, baseline))
    if baseline.majority is not None:
        write_some_frames(
            run / OTHER_FILES["majority"], answer_by_majority(labelled, baseline.majority)
        )


def write_some_frames(path: Path, rows: Sequence[FrameRow]) -> None:
    """Write a table that the report reads where it is there; no rows, no table."""
    if rows:
        write_frames(path, rows)


def answer_keyframes(
    bags: Iterable[Path],
    engine: Decider,
    *,
    names: BagTopics | None = None,
    blank: bool = False,
) -> Iterator[FrameRow]:
    """The labelled keyframes of bags answered directly, on black images where ``blank``."""
    config = ReplayConfig(keyframes_only=True, blank=blank)
    labelled = (bag for bag in bags if load_labels(bag, names))
    return chain.from_iterable(
        replay_bag(bag, engine, config=config, names=names) for bag in labelled
    )


def _answer_all_shuffled(
    bags: Sequence[Path], engine: Decider, names: BagTopics | None, seed: int
) -> Iterator[FrameRow]:
    for bag, sources in choose_bag_sources(bags, names, seed=seed).items():
        if sources:
            yield from answer_shuffled(bag, sources, engine, names=names)
