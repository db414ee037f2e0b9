"""The loop that trains the planner, top to bottom: read it in order."""

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.config import save_config
from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import action_indices, load_keyframes, subset_of
from clkd_core.data.sidecar_images import list_image_files, refuse_missing, stat_image_files
from clkd_core.errors import DataError
from clkd_core.files import replace_folder
from clkd_core.models.drivable import start_speeds
from clkd_core.models.manoeuvres import missing_manoeuvres, own_actions
from clkd_core.models.planner import (
    NO_ACTION,
    NO_COMMAND,
    Planner,
    PlannerConfig,
    PlannerInputs,
    build_inputs,
)
from clkd_core.models.planner_checkpoint import (
    FOLDER,
    load_planner,
    student_identity,
    write_planner,
)
from clkd_core.models.trajectories import build_vocabulary
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.planner_training.config import DropoutConfig, PlannerTrainConfig
from clkd_core.planner_training.curves import save_curves
from clkd_core.planner_training.evaluate import PlannerScores, score_planner
from clkd_core.planner_training.features import PlannerSet, encode_keyframes
from clkd_core.planner_training.losses import planner_loss
from clkd_core.planner_training.penalty import compute_penalty
from clkd_core.planner_training.scoring.ego_status import EgoStatusPlanner, ego_status_loss
from clkd_core.runtime.engine import Engine
from clkd_core.types import CAMERAS

_log = logging.getLogger(__name__)


def train_planner(config: PlannerTrainConfig) -> tuple[Path, PlannerScores]:
    """Train on the training drives, score on the validation drives, write the folder.

    Returns:
        The folder written, and the scores of the planner in it.

    Raises:
        ClkdError: the student, the data or the place to write cannot be used.
    """
    identity = student_identity(config.student)
    train, val = _load_keyframes(config)
    for keyframes in (train, val):
        refuse_missing(stat_image_files(list_image_files(keyframes)))
    engine = _open_engine(config)
    train_set = encode_keyframes(train, engine, desc="encode training views")
    val_set = encode_keyframes(val, engine, desc="encode validation views", judge=True)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    folder = config.student / FOLDER
    with replace_folder(folder) as part:
        planner, records = fit_planner(config, train_set, device=engine.device)
        ego_status = fit_ego_status(config, train_set.inputs, train_set.truth_m)
        scores = score_planner(planner, val_set, ego_status=ego_status)
        save_config(config, part / "config.yaml")
        _write_metrics(part / "metrics.jsonl", [*records, scores.to_json()])
        save_curves(records, part / "curves.png")
        write_planner(planner, part, student_sha256=identity)
    return folder, scores


def evaluate_planner(config: PlannerTrainConfig) -> tuple[Path, PlannerScores]:
    """Score the planner that the student has already; writes nothing.

    The ego-status baseline is trained anew on the training drives, which takes seconds.

    Returns:
        The planner's folder, and its scores on the validation drives.

    Raises:
        ClkdError: the student, its planner or the data cannot be used.
    """
    planner = load_planner(config.student, vehicle=config.vehicle)
    train, val = _load_keyframes(config)
    refuse_missing(stat_image_files(list_image_files(val)))
    engine = _open_engine(config)
    val_set = encode_keyframes(val, engine, desc="encode validation views", judge=True)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    ego_status = fit_ego_status(config, *_status_rows(train))
    scores = score_planner(planner.to(engine.device), val_set, ego_status=ego_status)
    return config.student / FOLDER, scores


def fit_planner(
    config: PlannerTrainConfig, train_set: PlannerSet, *, device: torch.device | str
) -> tuple[Planner, list[dict[str, Any]]]:
    """Sample the vocabulary and train; the same config and set give the same weights.

    Returns:
        The planner in evaluation mode, and one record per progress line.

    Raises:
        DataError: the vehicle can drive none of the futures, or collisions are to count and
            nobody says who else is on the road.
    """
    generator = torch.Generator().manual_seed(config.seed)
    planner = build_planner(config, train_set).to(device).train()
    penalty = compute_penalty(config, planner.vocabulary_m.cpu().numpy(), train_set)
    optimizer = torch.optim.AdamW(
        planner.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(config, step))
    batches = _batches(len(train_set), config.batch_size, generator)
    records, losses, start_s = [], [], time.monotonic()
    for step in range(1, config.steps + 1):
        rows = next(batches)
        inputs = drop_inputs(_rows(train_set.inputs, rows), config.dropout, generator)
        inputs = PlannerInputs(*(tensor.to(device) for tensor in inputs))
        output = planner(inputs)
        loss = planner_loss(
            planner, inputs, output, train_set.truth_m[rows],
            tau_m2=config.tau_m2, refine_weight=config.refine_weight,
            penalty=None if penalty is None else penalty[rows],
        )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.total)
        torch.nn.utils.clip_grad_norm_(planner.parameters(), 1.0)
        optimizer.step()
        lr = float(schedule.get_last_lr()[0])
        schedule.step()
        losses.append(torch.stack([part.detach() for part in loss]))
        if step % config.log_every == 0 or step == config.steps:
            records.append(_record(step, losses, lr, (time.monotonic() - start_s) / step))
            _log.info(_progress_line(records[-1], config.steps))
            losses = []
    return planner.eval(), records


def fit_ego_status(
    config: PlannerTrainConfig, inputs: PlannerInputs, truth_m: Tensor
) -> EgoStatusPlanner:
    """The baseline without images, on the same rows for as many steps; on the CPU."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay untouched
        torch.manual_seed(config.seed)
        network = EgoStatusPlanner()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(config, step))
    batches = _batches(len(truth_m), config.batch_size, generator)
    for _ in range(config.steps):
        rows = next(batches)
        loss = ego_status_loss(network(_rows(inputs, rows)), truth_m[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def build_planner(config: PlannerTrainConfig, train_set: PlannerSet) -> Planner:
    """A planner with fresh weights and a vocabulary that its vehicle can drive.

    Sampled from the training futures that are within the limits, and completed by manoeuvres, so
    that every meta-action is known from every speed that the training drives reach.

    Raises:
        DataError: the vehicle can drive none of the training futures.
    """
    vocabulary_m = _sampled_vocabulary(config.model, config.vehicle, train_set)
    if config.complete_vocabulary:
        speeds = train_set.inputs.speed_mps[train_set.inputs.has_ego]
        top_mps = float(speeds.max()) if len(speeds) else 0.0
        added = missing_manoeuvres(vocabulary_m, config.vehicle, max(top_mps, 0.0))
        vocabulary_m = np.concatenate([vocabulary_m, added])
        _log.info("vocabulary: %d manoeuvres for what nobody drove", len(added))
    patches, feature_width = train_set.inputs.features.shape[-2:]
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay untouched
        torch.manual_seed(config.seed)
        return Planner(
            config.model, vocabulary_m=torch.from_numpy(vocabulary_m),
            own_action=torch.from_numpy(own_actions(vocabulary_m)),
            patches=patches, feature_width=feature_width, vehicle=config.vehicle,
        )  # fmt: skip


def _sampled_vocabulary(
    model: PlannerConfig, vehicle: VehicleConfig, train_set: PlannerSet
) -> NDArray[np.float32]:
    futures = train_set.truth_m.numpy()
    low, high = start_speeds(futures, vehicle)
    drivable = low <= high
    if not drivable.any():
        raise DataError(
            f"{vehicle.name} can drive none of {len(futures)} training futures: "
            "is this vehicle's configuration the right one?"
        )
    _log.info("training futures: %d of %d within the vehicle's limits", drivable.sum(), len(low))
    vocabulary_m = build_vocabulary(futures[drivable], model.vocabulary_size)
    if len(vocabulary_m) < model.vocabulary_size:
        _log.info(
            "vocabulary: %d trajectories, wanted %d: the training futures differ no more",
            len(vocabulary_m), model.vocabulary_size,
        )  # fmt: skip
    return vocabulary_m


def drop_inputs(
    inputs: PlannerInputs, dropout: DropoutConfig, generator: torch.Generator
) -> PlannerInputs:
    """Withhold meta-action, ego state, route command and views at random, each on its own."""

    def drawn(shape: torch.Size, frac: float) -> Tensor:
        return torch.rand(shape, generator=generator) < frac

    rows = inputs.action.shape
    return inputs._replace(
        action=inputs.action.masked_fill(drawn(rows, dropout.action_frac), NO_ACTION),
        has_ego=inputs.has_ego & ~drawn(rows, dropout.ego_frac),
        command=inputs.command.masked_fill(drawn(rows, dropout.command_frac), NO_COMMAND),
        present=inputs.present & ~drawn(inputs.present.shape, dropout.view_frac),
    )


def _load_keyframes(
    config: PlannerTrainConfig,
) -> tuple[Sequence[Keyframe], Sequence[Keyframe]]:
    data = config.data
    train = load_keyframes(data.root, data.version, "train")
    return _thinned(train, data.max_keyframes), load_keyframes(data.root, data.version, "val")


def _open_engine(config: PlannerTrainConfig) -> Engine:
    # One frame is too little work to share: on two busy cores two threads took 11 s where one
    # took 1 s, waiting for each other after every layer. Batches of the planner are worth it.
    return Engine.from_checkpoint(config.student, device=config.device, threads=1)


def _status_rows(keyframes: Sequence[Keyframe]) -> tuple[PlannerInputs, Tensor]:
    """What the baseline learns from: no image is read."""
    labelled = [k for k in keyframes if k.future is not None and k.action is not None]
    if not labelled:
        raise DataError(f"none of {len(keyframes)} training keyframes has 3 s of future")
    futures = torch.from_numpy(np.stack([k.future.xy_m for k in labelled if k.future]))
    views = torch.zeros(len(labelled), len(CAMERAS), 1, 1)
    return build_inputs(
        views, torch.zeros(views.shape[:2], dtype=torch.bool), [k.ego for k in labelled],
        [k.command for k in labelled], [k.action for k in labelled],
    ), futures  # fmt: skip


def _thinned(keyframes: Sequence[Keyframe], limit: int | None) -> Sequence[Keyframe]:
    """At most ``limit`` keyframes with a label, evenly spread."""
    labelled = np.flatnonzero(action_indices(keyframes) >= 0)
    if limit is None or len(labelled) <= limit:
        return keyframes
    picks = np.linspace(0, len(labelled) - 1, limit).round().astype(np.int64)
    return subset_of(keyframes, labelled[picks])


def _batches(size: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled passes; the last rows of a pass that fill no batch wait for the next."""
    while True:
        order = torch.randperm(size, generator=generator)
        for start in range(0, max(size - batch_size, 0) + 1, batch_size):
            yield order[start : start + batch_size]


def _rows(inputs: PlannerInputs, rows: Tensor) -> PlannerInputs:
    return PlannerInputs(*(tensor[rows] for tensor in inputs))


def _lr_factor(config: PlannerTrainConfig, step: int) -> float:
    warm = max(1, config.steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def _record(step: int, losses: list[Tensor], lr: float, seconds: float) -> dict[str, Any]:
    total, plan, refine_m, hazard = torch.stack(losses).mean(dim=0).tolist()
    return {
        "step": step, "loss": total, "plan": plan, "refine_m": refine_m, "hazard": hazard,
        "lr": lr,
        "ms_per_step": 1000 * seconds,
    }  # fmt: skip


def _progress_line(record: dict[str, Any], steps: int) -> str:
    eta_min = (steps - record["step"]) * record["ms_per_step"] / 60e3
    return (
        f"step {record['step']:04d}/{steps} | loss {record['loss']:.3f} | "
        f"plan {record['plan']:.3f} | refine {record['refine_m']:.3f} m | "
        f"lr {record['lr']:.1e} | {record['ms_per_step']:.0f} ms/step | eta {eta_min:.1f} min"
    )


def _write_metrics(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
