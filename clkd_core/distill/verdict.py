"""The end of a run: models judged on unseen drives beside the baselines, curves, report."""

import logging
import shutil

import numpy as np
import torch

from clkd_core.config import config_to_dict
from clkd_core.data.sidecar import action_indices, subset_of
from clkd_core.distill.config import TrainConfig
from clkd_core.distill.evaluate import Judged, judge
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.distill.record.metrics_log import read_metrics
from clkd_core.distill.record.report import write_curves, write_report
from clkd_core.distill.record.versions import collect_versions
from clkd_core.distill.setup import load_unseen
from clkd_core.distill.state import Progress, save_state
from clkd_core.metrics.baselines.ego_status import fit_ego_status_baseline
from clkd_core.models.vlm import DrivingVlm, count_parameters
from clkd_core.types import MetaAction

log = logging.getLogger(__name__)

NOT_LABELLED = "No validation keyframe has a plan; `clkd evaluate` scores their answers in words."
"""In place of a table, where the validation split holds questions only."""


def write_verdict(
    config: TrainConfig,
    device: torch.device,
    models: dict[str, DrivingVlm],
    everything: SampleSet,
) -> None:
    """Judge the models on unseen drives beside the baselines; write curves, report, last state."""
    known = action_indices(everything.keyframes)
    labels = [MetaAction.from_index(index) for index in known[known >= 0].tolist()]
    unseen = load_unseen(config)
    table: list[Judged] = []
    baseline = None
    if labels:
        labelled = subset_of(everything.keyframes, np.flatnonzero(known >= 0))
        status = [(k.ego, k.command) for k in labelled]  # the keyframes themselves stay on disk
        egos, commands = [ego for ego, _ in status], [command for _, command in status]
        baseline = fit_ego_status_baseline(egos, commands, labels, seed=config.seed)
        if config.distill is not None:
            baseline.save(config.out / "student" / "ego_status")
    else:
        log.info("no keyframe has a plan to learn: nothing to fit a baseline on")
    if unseen is not None:
        table = judge(
            models,
            unseen,
            train_labels=labels,
            ego_baseline=baseline,
            device=device,
            bf16=config.bf16,
            seed=config.seed,
        )
    lines = read_metrics(config.out / "metrics.jsonl")
    write_curves(lines, config.out / "curves.png")
    parameters = {name: count_parameters(model) for name, model in models.items()}  # type: ignore[arg-type]
    versions = collect_versions(str(device))
    why_empty = {"why_empty": NOT_LABELLED} if unseen is not None else {}
    write_report(config.out / "report.md", parameters, table, lines, versions, **why_empty)
    done = Progress("done", 0, config_to_dict(config))
    save_state(config.out / "state", {}, {}, done, keep=config.keep_states)
    shutil.rmtree(config.out / "cache", ignore_errors=True)  # served resuming; hundreds of MB
