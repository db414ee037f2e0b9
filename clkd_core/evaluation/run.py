"""From inputs to a run folder: tasks done or found done, and put together with the baselines."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.data.sidecar import Keyframes, load_keyframes
from clkd_core.errors import DataError
from clkd_core.evaluation.config import JudgeConfig
from clkd_core.evaluation.inputs import Inputs
from clkd_core.evaluation.judging.outcome import Outcome, TaskFiles
from clkd_core.evaluation.workers.choose import run_tasks
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline, fit_ego_status_baseline
from clkd_core.metrics.frames import FrameRow, write_frames
from clkd_core.progress import progress
from clkd_core.report.bag_pictures import make_gallery_from_bags
from clkd_core.report.build import FRAMES_FILE, OTHER_FILES
from clkd_core.report.pictures import PictureInput, choose_frames, write_gallery
from clkd_core.report.provenance import collect_provenance, write_provenance
from clkd_core.report.scoring.answers import ANSWERS_FILE, write_answers
from clkd_core.runtime.comparisons import (
    EGO_STATUS_FOLDER,
    remove_comparisons,
    write_blind_rows,
    write_some_frames,
)
from clkd_core.runtime.replay import describe_rows

_log = logging.getLogger(__name__)

TASKS_FOLDER = "tasks"


@dataclass(frozen=True, kw_only=True)
class Blind:
    """What answers without a picture, and where it comes from."""

    baseline: EgoStatusBaseline | None
    note: str = ""


def do_tasks(
    inputs: Inputs, config: JudgeConfig, out: Path, *, engine: str, workers: int | None
) -> list[Outcome]:
    """All outcomes in the order of the tasks; those that an earlier run finished are read.

    Raises:
        ClkdError: a task failed, or the folder cannot be written.
    """
    files = TaskFiles(out / TASKS_FOLDER)
    tasks = inputs.tasks
    outcomes = {
        task.fingerprint: outcome
        for task in tasks
        if (outcome := files.load(task.fingerprint)) is not None
    }
    todo = [task for task in tasks if task.fingerprint not in outcomes]
    if len(todo) < len(tasks):
        _log.info("%d of %d tasks were finished before", len(tasks) - len(todo), len(tasks))
    if todo:
        done = run_tasks(todo, config, engine=engine, workers=workers)
        for task, outcome in progress(done, total=len(todo), desc="evaluate", unit="tasks"):
            files.save(task.fingerprint, task.name, outcome)
            outcomes[task.fingerprint] = outcome
    files.forget_others(outcomes)
    return [outcomes[task.fingerprint] for task in tasks]


def write_run(
    out: Path,
    inputs: Inputs,
    outcomes: Sequence[Outcome],
    config: JudgeConfig,
    blind: Blind,
    *,
    engine: str,
) -> None:
    """Write everything that the report is built from.

    Raises:
        DataError: the folder cannot be written, or nothing was judged.
    """
    rows = [row for outcome in outcomes for row in outcome.rows]
    if not rows:
        raise DataError(f"{inputs.what} has no frame to judge")
    labelled = [row for row in rows if row.label is not None]
    remove_comparisons(out)
    write_frames(out / FRAMES_FILE, rows)
    for model in ("blank", "shuffled"):
        others = [row for outcome in outcomes for row in getattr(outcome, model)]
        write_some_frames(out / OTHER_FILES[model], others)
    if labelled and blind.baseline is not None:
        write_blind_rows(out, labelled, blind.baseline)
    write_answers(
        out / ANSWERS_FILE, [answer for outcome in outcomes for answer in outcome.answers]
    )
    notes = [*inputs.notes, *describe_rows(rows)]
    notes += [blind.note] if labelled and blind.note else []
    provenance = collect_provenance(
        mode="direct" if config.timed else "untimed",
        checkpoint=config.checkpoint,
        bag=inputs.what,
        device=config.device,
        counters=Counter(row.outcome.value for row in rows),
        seed=config.seed,
        notes=notes,
    )
    if engine == "ray":
        provenance = replace(provenance, device=f"Ray cluster, {config.device}")
    write_provenance(out, provenance)
    _draw_gallery(out, inputs, rows)


def find_blind(checkpoint: Path, inputs: Inputs, *, seed: int) -> Blind:
    """The checkpoint's ego-status baseline, or one fitted on the set's training keyframes.

    Raises:
        CheckpointError: the checkpoint's is damaged.
        DataError: the set is damaged.
    """
    folder = checkpoint / EGO_STATUS_FOLDER
    if folder.is_dir():
        return Blind(baseline=EgoStatusBaseline.load(folder))
    train = None if inputs.keyframes is None else _labelled_train(inputs.keyframes.file.path)
    if train is None or not len(train):
        note = f"the checkpoint has no {EGO_STATUS_FOLDER}, and no training split is at hand: no "
        return Blind(baseline=None, note=note + "row for ego status only")
    keyframes: Sequence[Keyframe] = list(train)
    baseline = fit_ego_status_baseline(
        [k.ego for k in keyframes],
        [k.command for k in keyframes],
        [k.action for k in keyframes if k.action is not None],
        seed=seed,
    )
    note = f"the checkpoint has no {EGO_STATUS_FOLDER}: fitted on {len(train)} training keyframes"
    return Blind(baseline=baseline, note=f"{note} of the set")


def _labelled_train(sidecar: Path) -> Keyframes | None:
    version = sidecar.parent
    try:
        train = load_keyframes(version.parent, version.name, "train")
    except DataError as err:
        _log.info("no training split: %s", err)
        return None
    return train.subset(np.flatnonzero(train.action_indices >= 0))


def _draw_gallery(out: Path, inputs: Inputs, rows: Sequence[FrameRow]) -> None:
    if inputs.keyframes is None:
        make_gallery_from_bags(out, rows, inputs.bags, inputs.names)
        return
    number_of = {id(row): number for number, row in enumerate(rows)}
    pictures = []
    for row in choose_frames(rows):
        number = number_of[id(row)]
        keyframe = inputs.keyframes[number]
        try:
            frame = surround_frame(keyframe)
            pictures.append(PictureInput(frame=frame, row=row, number=number))
        except DataError as err:
            _log.warning("no picture of %s: %s", keyframe.sample_token, err)
    write_gallery(out, pictures)
