"""Several processes as one: each computes its rows of every micro-step, sums are shared.

A process computes *its part of a sum* whose divisor counts the tokens of all processes, so that
gradients of all processes only need to be added. ``torchrun`` or ``accelerate launch`` start the
processes and say by environment variables who is who.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clkd_core.distill.processes.parts import running_statistics
from clkd_core.errors import ConfigError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")

TIMEOUT_S = 7200.0
"""How long a process waits for the others: one of them may be generating and decoding the set. A
process that dies is noticed by the launcher, which ends the rest at once."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    """Where tensors must lie to be exchanged."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes to disk and talks."""
        return self.rank == 0

    def own_rows(self, count: int) -> slice:
        """This process's share of ``count`` samples.

        Raises:
            ConfigError: they cannot be shared out evenly.
        """
        if count % self.size:
            raise ConfigError(
                f"a micro-step has {count} samples, expected a multiple of {self.size} processes"
            )
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, own: Tensor) -> Tensor:
        """(size * B, ...) of all processes in order of their ranks; all have the same shape."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def total(self, values: Tensor) -> Tensor:
        """Sums over all processes."""
        if self.size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def mean_shares(self, own: tuple[float, ...]) -> list[float]:
        """Means over all processes, to four decimals."""
        means = self.total(torch.tensor(own, dtype=torch.float64, device=self.device)) / self.size
        return [round(share, 4) for share in means.tolist()]

    def gather_names(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Texts of all processes in order of their ranks."""
        if self.size == 1:
            return own
        parts: list[tuple[str, ...]] = [()] * self.size
        dist.all_gather_object(parts, own)
        return tuple(name for part in parts for name in part)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by the sum over all processes; a missing one counts as zero."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for grad, summed in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(summed.view_as(grad))

    @torch.no_grad()
    def average_statistics(self, model: nn.Module) -> None:
        """Give every process the mean of all processes' running statistics."""
        if self.size == 1:
            return
        kept = running_statistics(model)
        if kept:
            flat = self.total(torch.cat([buffer.reshape(-1) for buffer in kept])) / self.size
            parts = torch.split(flat, [buffer.numel() for buffer in kept])
            for buffer, mean in zip(kept, parts, strict=True):
                buffer.copy_(mean.view_as(buffer))

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """The processes that were started together, or just this one.

    Raises:
        ConfigError: the launcher's environment variables make no group.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT_S))
    except (ValueError, RuntimeError) as err:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but the processes do not meet: {str(err)[:120]}"
        ) from err
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
