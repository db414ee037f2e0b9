"""What every driving vision-language model can do, whatever its family."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from clkd_core.models.moe import count_idle_parameters
from clkd_core.models.tokenizer import TextTokenizer


@dataclass(frozen=True)
class TextBatch:
    """Conversations to learn from. K: answer tokens of the longest answers in the batch."""

    ids: Tensor
    """(B, L) int64 token ids, filled up with ``<pad>`` on the right."""
    answer_at: Tensor
    """(B, K) int64, where in the L tokens each answer token stands; 0 where ``keep`` is False."""
    keep: Tensor
    """(B, K) bool, True where there is an answer token."""

    @property
    def targets(self) -> Tensor:
        """(B, K) int64, the answer tokens themselves."""
        return self.ids.gather(1, self.answer_at)


class DrivingVlm(Protocol):
    """Images and questions in; decisions, text and training logits out."""

    tokenizer: TextTokenizer

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""

    def encode_views(self, views: Tensor, present: Tensor) -> Tensor:
        """(B, C, 3, H, W) uint8 RGB and (B, C) bool to (B, C, P, D); missing views are zero."""

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """(B, C, P, D) and (B, C) bool to the (B, S, E) tokens the language model reads."""

    def answer_log_probs(self, scene: Tensor, questions: Sequence[str]) -> Tensor:
        """(B, A) float32 log-probability of each meta-action, normalised over the 20."""

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """One greedy answer per question."""

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """(B, K, V) prediction for each answer token of the conversations."""


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(total, active): all parameters, and those that one token passes through."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - count_idle_parameters(model)
