"""Whether a model fits, asked before it is built: a machine without memory helps nobody."""

from pathlib import Path

import psutil
import torch
from torch import nn

from clkd_core.runtime.bench.contenders.spec import NoRoomError

WORKING_FRAC = 0.15
"""Of the weights: activations, the cache of keys and values, casts of one layer at a time."""
WORKING_BYTES = 1 << 30
"""In any case: libraries, decoded images, allocators."""

_CGROUP = Path("/sys/fs/cgroup")


def check_room(skeleton: nn.Module, device: torch.device, *, bytes_each: int) -> None:
    """Refuse a model that does not fit.

    Args:
        skeleton: the model; only its parameters' shapes matter.
        device: where it is to be.
        bytes_each: of one parameter as it will be stored.

    Raises:
        NoRoomError: says how much is needed and how much is free.
    """
    weights = sum(parameter.numel() for parameter in skeleton.parameters()) * bytes_each
    needed, free = weights * (1 + WORKING_FRAC) + WORKING_BYTES, free_bytes(device)
    if needed > free:
        raise NoRoomError(f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on a device; on a CPU within the container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limit = _container_bytes(_CGROUP)
    return available if limit is None else min(available, limit)


def _container_bytes(folder: Path) -> int | None:
    """What a control group (version 2) still allows; None where it sets no limit.

    Files that are only remembered do not count as used: the kernel gives them up.
    """
    try:
        limit, used = (folder / "memory.max").read_text(), (folder / "memory.current").read_text()
        stat = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    if not limit.strip().isdecimal():
        return None
    files = sum(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
    return int(limit) - int(used) + files
