"""Weights, gradients and optimizer spread over processes: torch's ``fully_shard`` (FSDP2)."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import unique_keys


def shard(model: VlmBase) -> list[str]:
    """Shard in place: every block of the language model for itself, the rest together.

    Returns:
        The keys of the model's state without the twins of tied weights, which can no longer be
        told once weights are spread.
    """
    keys = unique_keys(model)
    model.run_blocks_once()
    for parameter in model.parameters():  # channels-last kernels cannot be cut into rows
        parameter.data = parameter.data.contiguous()
    for blocks in model.block_lists():
        for block in blocks:
            fully_shard(block)
    fully_shard(model)
    return keys


def whole_tensor(value: Tensor) -> Tensor:
    """All of a tensor on the CPU; of a sharded one all processes must ask."""
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu().contiguous()


def whole_state(model: nn.Module, keys: list[str]) -> dict[str, Tensor]:
    """A model's tensors by key, on the CPU; all processes must ask."""
    state = model.state_dict()
    return {key: whole_tensor(state[key]) for key in keys}


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the device, memory order and sharding of ``like``."""
    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    # The fused optimizer walks both through memory: they must be laid out alike.
    return torch.empty_like(like).copy_(value)
