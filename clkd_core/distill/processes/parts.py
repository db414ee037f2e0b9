"""A batch computed in parts, one thread each: both cores busy without waiting for each other.

Splitting single operations over threads makes them meet thousands of times a step, which is
ruinous where other processes want the same cores. Here they meet once. The parts' models share
their weights; gradients and normalisation statistics are each part's own and are joined in a
fixed order, so that a step's result does not depend on timing.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from clkd_core.distill.feed.batches import Batch
from clkd_core.models.base import VlmBase
from clkd_core.models.moe import RouterTerms, router_terms

T = TypeVar("T")


class Outputs(NamedTuple):
    """What a forward pass over a whole batch gave; losses are computed on these."""

    logits: Tensor
    """(B, K, V) for the answer tokens."""
    router_losses: Tensor
    """(2,) float32: load-balancing and z-loss, means over layers; zero for a dense model."""
    ffn_usage: tuple[float, ...]
    """Mean weight of each routed FFN expert; empty for a dense model."""
    adapter_usage: tuple[float, ...]
    """Mean weight of each adapter expert; empty for a dense model."""


class PartedModel:
    """A model and its copies with shared weights, one per part of the batch."""

    def __init__(self, model: VlmBase, parts: int, *, bf16: bool) -> None:
        """Make ``parts - 1`` copies of ``model``; its mode is theirs.

        Raises:
            ValueError: parts is not positive.
        """
        if parts < 1:
            raise ValueError(f"parts is {parts}, expected at least 1")
        self.model = model
        self._models = [model, *(_with_shared_weights(model) for _ in range(parts - 1))]
        self._bf16 = bf16
        self._pool = ThreadPoolExecutor(parts, "part") if parts > 1 else None
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._joined: Outputs | None = None

    def forward(self, batch: Batch) -> Outputs:
        """Run the batch; the outputs are leaves: call :meth:`backward` after the loss's own."""
        parts = self._split(batch)
        results = self._run([partial(self._forward_part, m, b) for m, b in parts])
        self._pending = [(logits, terms.losses) for logits, terms in results]
        losses = torch.stack([losses.detach() for _, losses in self._pending])
        self._joined = Outputs(
            torch.cat([logits.detach() for logits, _ in self._pending]).requires_grad_(),
            losses.mean(0).requires_grad_(),
            _mean_shares([terms.ffn_usage for _, terms in results]),
            _mean_shares([terms.adapter_usage for _, terms in results]),
        )
        return self._joined

    def infer(self, batch: Batch) -> Tensor:
        """(B, K, V) logits without a gradient: what a teacher says."""
        parts = self._split(batch)
        return torch.cat(self._run([partial(self._infer_part, m, b) for m, b in parts]))

    def backward(self) -> None:
        """Carry the gradient of the outputs to the weights and join the parts' results."""
        assert self._joined is not None  # forward comes first
        logits_grad = self._joined.logits.grad
        assert logits_grad is not None  # and so does the loss's own backward
        terms_grad = self._joined.router_losses.grad
        rows = [len(logits) for logits, _ in self._pending]
        calls = [
            partial(_backward_part, part, grad, terms_grad, len(rows))
            for part, grad in zip(self._pending, torch.split(logits_grad, rows), strict=True)
        ]
        self._run(calls)
        self._pending, self._joined = [], None
        self._join_gradients()
        self._join_statistics()

    def _forward_part(self, model: VlmBase, batch: Batch) -> tuple[Tensor, RouterTerms]:
        with torch.autocast(batch.present.device.type, torch.bfloat16, enabled=self._bf16):
            logits = model(batch.views, batch.present, batch.text, batch.features)
        return logits.float(), router_terms(model)

    def _infer_part(self, model: VlmBase, batch: Batch) -> Tensor:
        with torch.no_grad():  # per thread, like autocast
            return self._forward_part(model, batch)[0]

    def _split(self, batch: Batch) -> list[tuple[VlmBase, Batch]]:
        """Rows in order, as evenly as they go; a batch smaller than the parts leaves some idle."""
        count = min(len(self._models), len(batch.sample_tokens))
        bounds = [len(batch.sample_tokens) * i // count for i in range(count + 1)]
        return [
            (model, batch.rows(slice(start, end)))
            for model, (start, end) in zip(self._models, pairwise(bounds), strict=False)
        ]

    def _run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        if self._pool is None:
            return [call() for call in calls]
        futures = [self._pool.submit(call) for call in calls]
        return [future.result() for future in futures]

    def _join_gradients(self) -> None:
        for shared in zip(*(m.parameters() for m in self._models), strict=True):
            for parameter in shared[1:]:
                if parameter.grad is None:
                    continue
                if shared[0].grad is None:
                    shared[0].grad = parameter.grad
                else:
                    shared[0].grad.add_(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def _join_statistics(self) -> None:
        """Every part takes the mean of all parts' running statistics."""
        if len(self._models) > 1:
            for shared in zip(*(running_statistics(m) for m in self._models), strict=True):
                mean = torch.stack(shared).mean(dim=0)
                for statistic in shared:
                    statistic.copy_(mean)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Means and variances that the model's normalisation layers are just learning."""
    learning = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    statistics = [s for m in learning for s in (m.running_mean, m.running_var)]
    return [statistic for statistic in statistics if statistic is not None]


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a training step of the model uses dropout of any kind."""
    return any(
        getattr(module, "drop_prob", None) or (isinstance(module, nn.Dropout) and module.p)
        for module in model.modules()
    )


def _with_shared_weights(model: VlmBase) -> VlmBase:
    twin = copy.deepcopy(model)
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        ours.data = theirs.data
    return twin


def _backward_part(
    part: tuple[Tensor, Tensor], logits_grad: Tensor, terms_grad: Tensor | None, parts: int
) -> None:
    logits, terms = part
    if terms_grad is None or not terms.requires_grad:
        torch.autograd.backward([logits], [logits_grad])
    else:
        torch.autograd.backward([logits, terms], [logits_grad, terms_grad / parts])


def _mean_shares(usages: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(round(sum(shares) / len(shares), 4) for shares in zip(*usages, strict=True))
