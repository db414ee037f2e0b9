"""Further terms of the student's loss: a new one is one file and one entry point.

The group ``clkd.terms`` maps a name to a frozen dataclass below :class:`LossTerm`, whose ``kind``
is that name; a config lists terms under ``extra_terms``.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clkd_core.cli import find_entries, load_entry

GROUP = "clkd.terms"


@dataclass(frozen=True)
class TermInputs:
    """What a term may look at: one micro-step's samples of this process."""

    logits: Tensor
    """(B, K, V) float32, the student's."""
    targets: Tensor
    """(B, K) int64, the answer tokens."""
    keep: Tensor
    """(B, K) bool, True where there is an answer token."""
    is_corner: Tensor
    """(B,) bool."""
    count: Tensor
    """() float32, answer tokens of all processes."""


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """A term and its weight.

    Raises:
        ValueError: the weight is negative.
    """

    weight: float = 1.0
    """Factor of the term in the loss, >= 0."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}, expected >= 0")

    @classmethod
    def config_variants(cls) -> tuple[type["LossTerm"], ...]:
        """What a file may mean by this section: all terms that are registered."""
        if cls is not LossTerm:
            return (cls,)
        return tuple(load_entry(target) for _, target in sorted(find_entries(GROUP).items()))

    @property
    def name(self) -> str:
        """Its ``kind``, under which the term is logged."""
        return str(vars(self)["kind"])

    def compute(self, inputs: TermInputs) -> Tensor:
        """() float32: this process's sum over its tokens / ``inputs.count``."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Confidence(LossTerm):
    """Penalty on confident predictions: minus the entropy (Pereyra et al. 2017, Eq. 3)."""

    kind: Literal["confidence"] = "confidence"

    def compute(self, inputs: TermInputs) -> Tensor:
        """Minus the mean entropy of the predictions, nats per answer token."""
        log_p = torch.log_softmax(inputs.logits.float(), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return -torch.where(inputs.keep, entropy, 0.0).sum() / inputs.count.clamp(min=1.0)
