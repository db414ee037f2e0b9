"""How well a model decides on keyframes it never trained on, beside what any answer is worth."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.prompts import plan_question
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline
from clkd_core.metrics.baselines.majority import majority_action
from clkd_core.metrics.decisions.meta_action import ActionScores, score_actions
from clkd_core.models.vlm import DrivingVlm
from clkd_core.types import MetaAction

log = logging.getLogger(__name__)

BATCH = 32


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
) -> list[MetaAction]:
    """The model's decision on every keyframe.

    Args:
        model: in evaluation mode.
        samples: N keyframes with views.
        device: where the model is.
        bf16: compute in bfloat16 under autocast.
        blank: show black images in place of the views.
    """
    actions: list[MetaAction] = []
    for start in range(0, len(samples.keyframes), BATCH):
        chosen = range(start, min(start + BATCH, len(samples.keyframes)))
        pixels, seen = samples.pixels(chosen)
        views, present = torch.from_numpy(pixels).to(device), torch.from_numpy(seen).to(device)
        questions = [
            plan_question(k.ego, k.command) for k in samples.keyframes[start : start + BATCH]
        ]
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
) -> list[Judged]:
    """Score every model, each with blank images too, and the baselines.

    Keyframes without a label are left out.
    """
    labelled = samples.subset([i for i, k in enumerate(samples.keyframes) if k.action is not None])
    answers: dict[str, Sequence[MetaAction | None]] = {}
    for name, model in models.items():
        answers[name] = decide_all(model, labelled, device=device, bf16=bf16)
        answers[f"{name}, blank images"] = decide_all(
            model, labelled, device=device, bf16=bf16, blank=True
        )
    majority = majority_action(train_labels)
    answers[f"always {majority.text}"] = [majority] * len(labelled.keyframes)
    if ego_baseline is not None:
        egos = [k.ego for k in labelled.keyframes]
        commands = [k.command for k in labelled.keyframes]
        answers["ego status only"] = ego_baseline.predict(egos, commands)
    return [
        judged
        for name, given in answers.items()
        for judged in _judge_cases(name, labelled.keyframes, given)
    ]


def _judge_cases(
    name: str, keyframes: Sequence[Keyframe], answers: Sequence[MetaAction | None]
) -> list[Judged]:
    is_corner = np.asarray([k.is_corner for k in keyframes])
    rows = []
    for cases, chosen in (
        ("all", np.ones_like(is_corner)),
        ("regular", ~is_corner),
        ("corner", is_corner),
    ):
        indices = np.flatnonzero(chosen)
        labels = [action for i in indices if (action := keyframes[i].action) is not None]
        if labels:
            scenes = [keyframes[i].scene for i in indices]
            scores = score_actions(labels, [answers[i] for i in indices], clusters=scenes)
            rows.append(Judged(name, cases, scores))
    return rows
