"""How well a model decides on keyframes it never trained on, beside what any answer is worth."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from clkd_core.data.prompts import plan_question
from clkd_core.data.sidecar import action_indices
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline, answer_by_ego_status
from clkd_core.metrics.baselines.majority import answer_by_majority, majority_action
from clkd_core.metrics.baselines.shuffled import choose_sources
from clkd_core.metrics.decisions.meta_action import ActionScores
from clkd_core.metrics.frames import FrameRow, Outcome, row_from_keyframe
from clkd_core.models.vlm import DrivingVlm
from clkd_core.report.scoring.scores import score_models
from clkd_core.report.scoring.words import NOT_LABELLED
from clkd_core.types import MetaAction

log = logging.getLogger(__name__)

BATCH = 32
CASES = ("all", "regular", "corner")


@dataclass(frozen=True)
class Judged:
    """One row of a table: who answered, on which cases, how well."""

    name: str
    cases: str
    """``all``, ``regular`` or ``corner``."""
    scores: ActionScores


@torch.inference_mode()
def decide_all(
    model: DrivingVlm,
    samples: SampleSet,
    *,
    device: torch.device,
    bf16: bool,
    blank: bool = False,
    sources: NDArray[np.int64] | None = None,
) -> list[MetaAction]:
    """The model's decision on every keyframe.

    Args:
        model: in evaluation mode.
        samples: N keyframes with views.
        device: where the model is.
        bf16: compute in bfloat16 under autocast.
        blank: show black images in place of the views.
        sources: (N,) whose views are shown; None: each keyframe's own.
    """
    actions: list[MetaAction] = []
    count = len(samples.keyframes)
    shown = np.arange(count) if sources is None else sources
    for start in range(0, count, BATCH):
        chosen = range(start, min(start + BATCH, count))
        pixels, seen = samples.pixels(shown[start : start + BATCH])
        views, present = torch.from_numpy(pixels).to(device), torch.from_numpy(seen).to(device)
        asked = [samples.keyframes[index] for index in chosen]
        questions = [plan_question(keyframe.ego, keyframe.command) for keyframe in asked]
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = model.encode_views(torch.zeros_like(views) if blank else views, present)
            scene = model.scene_tokens(features, present)
            scores = model.answer_log_probs(scene, questions)
        actions += [MetaAction.from_index(int(index)) for index in scores.argmax(dim=1)]
    return actions


def judge(
    models: dict[str, DrivingVlm],
    samples: SampleSet,
    *,
    train_labels: Sequence[MetaAction],
    ego_baseline: EgoStatusBaseline | None,
    device: torch.device,
    bf16: bool,
    seed: int = 0,
) -> list[Judged]:
    """Score every model, each with blank and with shuffled images too, and the baselines.

    Args:
        models: in evaluation mode, by name.
        samples: what is judged on; keyframes without a label are left out.
        train_labels: whose majority always answers; where there is none, the samples' own.
        ego_baseline: None where there was nothing to fit it on.
        device: where the models are.
        bf16: compute in bfloat16 under autocast.
        seed: of the choice whose images are shown in place of a keyframe's own.

    Returns:
        A row for each answerer and kind of case; empty where no keyframe is labelled.
    """
    labelled = samples.subset(np.flatnonzero(action_indices(samples.keyframes) >= 0))
    rows = [row_from_keyframe(keyframe) for keyframe in labelled.keyframes]
    if not rows:
        log.info("the validation keyframes are %s: no decisions to judge", NOT_LABELLED)
        return []
    sources = choose_sources([row.scene for row in rows], seed=seed)
    answered: dict[str, list[FrameRow]] = {}
    for name, model in models.items():
        decided = decide_all(model, labelled, device=device, bf16=bf16)
        blind = decide_all(model, labelled, device=device, bf16=bf16, blank=True)
        answered[name] = _answered(rows, decided)
        answered[f"{name}, blank images"] = _answered(rows, blind)
        if sources is not None:
            misled = decide_all(model, labelled, device=device, bf16=bf16, sources=sources)
            answered[f"{name}, shuffled images"] = _answered(rows, misled)
    majority = majority_action(train_labels or [row.label for row in rows if row.label])
    answered[f"always {majority.text}"] = answer_by_majority(rows, majority)
    if ego_baseline is not None:
        answered["ego status only"] = answer_by_ego_status(rows, ego_baseline)
    scores = score_models(answered, seed=0)
    return [
        Judged(name, case, cases[case])
        for name, cases in scores.items()
        for case in CASES
        if case in cases
    ]


def _answered(rows: Sequence[FrameRow], actions: Sequence[MetaAction]) -> list[FrameRow]:
    return [
        replace(row, answer=action, outcome=Outcome.ANSWERED)
        for row, action in zip(rows, actions, strict=True)
    ]
