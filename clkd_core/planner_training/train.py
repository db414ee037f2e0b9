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
from torch import Tensor

from clkd_core.config import save_config
from clkd_core.data.keyframes import Keyframe
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.sidecar import action_indices, load_keyframes, subset_of
from clkd_core.data.sidecar_images import list_image_files, refuse_missing, stat_image_files
from clkd_core.files import replace_folder
from clkd_core.models.planner import NO_ACTION, NO_COMMAND, Planner, PlannerConfig, PlannerInputs
from clkd_core.models.planner_checkpoint import FOLDER, student_identity, write_planner
from clkd_core.models.trajectories import build_vocabulary
from clkd_core.planner_training.config import DropoutConfig, PlannerTrainConfig
from clkd_core.planner_training.curves import save_curves
from clkd_core.planner_training.evaluate import PlannerScores, score_planner
from clkd_core.planner_training.features import PlannerSet, encode_keyframes
from clkd_core.planner_training.losses import planner_loss
from clkd_core.runtime.engine import Engine

_log = logging.getLogger(__name__)


def train_planner(config: PlannerTrainConfig) -> tuple[Path, PlannerScores]:
    """Train on the training drives, score on the validation drives, write the folder.

    Returns:
        The folder written, and the scores of the planner in it.

    Raises:
        ClkdError: the student, the data or the place to write cannot be used.
    """
    identity = student_identity(config.student)
    data = config.data
    train = _thinned(load_keyframes(data.root, data.version, "train"), data.max_keyframes)
    val = load_keyframes(data.root, data.version, "val")
    for keyframes in (train, val):
        refuse_missing(stat_image_files(list_image_files(keyframes)))
    threads = config.threads or torch.get_num_threads()
    # One frame is too little work to share: on two busy cores two threads took 11 s where one
    # took 1 s, waiting for each other after every layer. Batches of the planner are worth it.
    engine = Engine.from_checkpoint(config.student, device=config.device, threads=1)
    train_set = encode_keyframes(train, engine, desc="encode training views")
    val_set = encode_keyframes(val, engine, desc="encode validation views")
    torch.set_num_threads(threads)
    folder = config.student / FOLDER
    with replace_folder(folder) as part:
        planner, records = fit_planner(config, train_set, device=engine.device)
        scores = score_planner(planner, val_set)
        save_config(config, part / "config.yaml")
        _write_metrics(part / "metrics.jsonl", [*records, scores.to_json()])
        save_curves(records, part / "curves.png")
        write_planner(planner, part, student_sha256=identity)
    return folder, scores


def fit_planner(
    config: PlannerTrainConfig, train_set: PlannerSet, *, device: torch.device | str
) -> tuple[Planner, list[dict[str, Any]]]:
    """Sample the vocabulary and train; the same config and set give the same weights.

    Returns:
        The planner in evaluation mode, and one record per progress line.
    """
    generator = torch.Generator().manual_seed(config.seed)
    planner = build_planner(config.model, train_set, seed=config.seed).to(device).train()
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


def build_planner(config: PlannerConfig, train_set: PlannerSet, *, seed: int) -> Planner:
    """A planner with fresh weights and a vocabulary sampled from the training futures."""
    vocabulary_m = build_vocabulary(train_set.truth_m.numpy(), config.vocabulary_size)
    if len(vocabulary_m) < config.vocabulary_size:
        _log.info(
            "vocabulary: %d trajectories, wanted %d: the training futures differ no more",
            len(vocabulary_m), config.vocabulary_size,
        )  # fmt: skip
    own = [meta_action_from_future(lidar_from_ego(xy_m)).index for xy_m in vocabulary_m]
    patches, feature_width = train_set.inputs.features.shape[-2:]
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay untouched
        torch.manual_seed(seed)
        return Planner(
            config, vocabulary_m=torch.from_numpy(vocabulary_m), own_action=torch.tensor(own),
            patches=patches, feature_width=feature_width,
        )  # fmt: skip


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
    total, plan, refine_m = torch.stack(losses).mean(dim=0).tolist()
    return {
        "step": step, "loss": total, "plan": plan, "refine_m": refine_m, "lr": lr,
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
