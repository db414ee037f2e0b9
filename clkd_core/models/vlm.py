"""What every driving vision-language model can do, whatever its family."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from clkd_core.models.moe import count_idle_parameters
from clkd_core.models.tokenizer import TextTokenizer

Conversation = Sequence[tuple[str, str]]
"""Turns of question and answer about one scene; a question ends where its answer begins."""

Text = TypeVar("Text", bound="TextBatch")


class TextBatch(Protocol):
    """Conversations to learn from, as :meth:`DrivingVlm.pack` arranges them for its family.

    K: answer tokens of the longest conversation, its ends of answers included.
    """

    @property
    def targets(self) -> Tensor:
        """(B, K) int64, the answer tokens; anything where ``keep`` is False."""

    @property
    def keep(self) -> Tensor:
        """(B, K) bool, True where there is an answer token."""

    def rows(self: Text, rows: slice) -> Text:
        """Some of the conversations, no less padded than before."""

    def to(self: Text, device: torch.device) -> Text:
        """The same on another device."""


class DrivingVlm(Protocol):
    """Images and questions in; decisions, text and training logits out."""

    tokenizer: TextTokenizer

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""

    def encode_views(self, views: Tensor, present: Tensor) -> Tensor:
        """(B, C, 3, H, W) RGB 0..255 and (B, C) bool to (B, C, P, D); missing views are zero."""

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """(B, C, P, D) and (B, C) bool to the (B, S, E) tokens the language model reads."""

    def answer_log_probs(self, scene: Tensor, questions: Sequence[str]) -> Tensor:
        """(B, A) float32 log-probability of each meta-action, normalised over the 20."""

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """One greedy answer per question."""

    def pack(self, conversations: Sequence[Conversation]) -> TextBatch:
        """Token ids of conversations, every answer followed by its end, on the CPU."""

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """(B, K, V) prediction for each answer token from what stands before it."""

    def save_pretrained(self, folder: Path) -> None:
        """Write a checkpoint that :func:`clkd_core.models.checkpoint.load_vlm` reads."""


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(total, active): all parameters, and those that one token passes through."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - count_idle_parameters(model)
