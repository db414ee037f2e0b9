"""Work over answer tokens a few at a time, and how much memory a piece of work takes."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIN_CHUNK_VALUES = 1 << 16
"""Smaller pieces cost more in calls than they save: 256 KiB of float32."""
MAX_CHUNK_VALUES = 1 << 22
"""Larger pieces are no faster on a GPU: 16 MiB of float32, 131 tokens of 32k words."""
CHUNKS = 16
"""Pieces aimed at in between, so that temporaries stay small beside the logits themselves."""


def kept_rows(keep: Tensor) -> Tensor:
    """(K, 2) int64: sample and token of every True in ``keep`` (B, L), in order."""
    return keep.nonzero()


def chunks(rows: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut rows into pieces whose float32 logits are small beside all of them.

    Args:
        rows: (K, 2) int64, from :func:`kept_rows`.
        vocabulary: V, values per token.

    Yields:
        Sample and token indices, (k,) each: ``logits[piece]`` is (k, V) and copies nothing else.
    """
    values = len(rows) * vocabulary // CHUNKS
    tokens = max(1, min(max(values, MIN_CHUNK_VALUES), MAX_CHUNK_VALUES) // vocabulary)
    for start in range(0, len(rows), tokens):
        piece = rows[start : start + tokens]
        yield piece[:, 0], piece[:, 1]


def wide_dtype(logits: Tensor) -> torch.dtype:
    """What losses are computed in: float32, or float64 for logits that are float64."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def peak_bytes(call: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """The most tensor memory that ``call`` held at one time.

    Counted is what torch's allocator of the device hands out during the call, temporaries inside
    operations included, less what of it was given back by then; so gradients and results that
    the call leaves behind count, and arguments that were there before do not. Freeing earlier
    tensors is no credit on a CPU (only the call's own blocks are followed) but is one on CUDA:
    let the caller hold on to its arguments. Memory of other threads counts too, memory outside
    torch does not.

    Args:
        call: the work; its result is dropped after the measurement.
        device: "cpu" or a CUDA device.

    Raises:
        ValueError: torch counts no memory on such a device.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return _cuda_peak_bytes(call, torch.device(device))
    if kind != "cpu":
        raise ValueError(f"device is {device}, expected cpu or cuda")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recording.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return _highest_sum(events)


def _highest_sum(events: list[dict[str, Any]]) -> int:
    """The most that blocks allocated in these events took together at one time."""
    memory = [event for event in events if event.get("name") == "[memory]"]
    alive: dict[int, int] = {}
    held = peak = 0
    for event in sorted(memory, key=lambda event: float(event["ts"])):
        address, size = int(event["args"]["Addr"]), int(event["args"]["Bytes"])
        if size > 0:
            alive[address] = size
            held += size
            peak = max(peak, held)
        else:
            # Of older blocks torch reports the size of whatever it once saw at their address.
            held -= alive.pop(address, 0)
    return peak


def _cuda_peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak
