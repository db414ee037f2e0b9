"""Where an engine computes: names of devices, threads, and the line that says so.

Torch is imported only where it has to be asked.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clkd_core.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(device: str) -> "torch.device":
    """``auto`` becomes CUDA where there is one; others are checked to exist.

    Raises:
        ConfigError: the name is no device, or there is no such device here.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as err:
        raise ConfigError(f"device is {device!r}, expected auto, cpu or cuda[:N]") from err
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device is {device!r}, but {torch.cuda.device_count()} GPUs are here")
    return chosen


def resolve_device(device: str) -> str:
    """:func:`choose_device`; torch is not asked where the CPU is meant or there is no torch."""
    if device == "cpu" or (device == "auto" and find_spec("torch") is None):
        return "cpu"
    return str(choose_device(device))


def set_torch_threads(threads: int | None) -> None:
    """Let one operation of torch spread over so many threads in this process; None: as it is."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def check_threads(threads: int | None) -> None:
    """ConfigError where ``threads`` is below 1."""
    if threads is not None and threads < 1:
        raise ConfigError(f"engine threads is {threads}, expected at least 1")


def where_it_runs(
    folder: Path, *, device: str, backend: str, threads: int | None, asked: str
) -> str:
    """One line for the log; ``auto`` that ended on the CPU is said first."""
    if device != "cpu":
        place = device
        if device.startswith("cuda"):
            place += f", {sys.modules['torch'].cuda.get_device_name(device)}"
        return f"{folder} runs on {place}, {backend}"
    count = threads or os.cpu_count()
    place = f"{folder} runs on the CPU, {count} thread{'' if count == 1 else 's'}, {backend}"
    return f"{_why_no_cuda()}: {place}" if asked == "auto" else place


def _why_no_cuda() -> str:
    torch = sys.modules.get("torch")
    if torch is None:
        return "no torch"
    return "torch without CUDA" if torch.version.cuda is None else "no CUDA device"
