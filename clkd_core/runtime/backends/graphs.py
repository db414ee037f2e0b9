"""The two halves of a decision as modules of tensors only: what is exported and captured."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clkd_core.data.prompts import MAX_PROMPT_SPEED_MPS, plan_question
from clkd_core.models.base import VlmBase
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.types import CAMERAS, EgoState, RouteCommand


class VisionGraph(nn.Module):
    """Six views to features."""

    def __init__(self, model: VlmBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Tensor, present: Tensor) -> Tensor:
        """(1, C, 3, H, W) uint8 and (1, C) bool to (1, C, P, D)."""
        return self.model.encode_views(views, present)


class DecisionGraph(nn.Module):
    """Features and a question to the 20 scores."""

    def __init__(self, model: VlmBase) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, present: Tensor, question_ids: Tensor) -> Tensor:
        """(1, C, P, D), (1, C) bool and (1, Q) int64 to (1, A) float32 log-probabilities."""
        scene = self.model.scene_tokens(features, present)
        return self.model.question_log_probs(scene, question_ids)


def example_inputs(model: VlmBase, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Views, which of them are there, and question ids of the shapes that both graphs are for."""
    height, width = model.image_size
    views = torch.zeros(1, len(CAMERAS), 3, height, width, dtype=torch.uint8, device=device)
    present = torch.ones(1, len(CAMERAS), dtype=torch.bool, device=device)
    tokens = count_question_tokens(model.tokenizer)
    ids = torch.full((1, tokens), model.tokenizer.pad_id, device=device)
    asked = model.tokenizer.encode(plan_question(None, None))
    ids[0, : len(asked)] = torch.tensor(asked, device=device)
    return views, present, ids


def count_question_tokens(tokenizer: TextTokenizer) -> int:
    """Q: tokens of the longest question that a frame can lead to."""
    return max(len(tokenizer.encode(question)) for question in _all_questions())


def _all_questions() -> Iterator[str]:
    speeds = [float(speed) for speed in range(MAX_PROMPT_SPEED_MPS + 1)]
    egos = [None, *(EgoState(stamp_ns=0, speed_mps=speed) for speed in speeds)]
    for ego in egos:
        for command in (None, *RouteCommand):
            yield plan_question(ego, command)
