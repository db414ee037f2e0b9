"""What one answer cannot do without: weights to be read, multiplications to be made."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from clkd_core.runtime.bench.contenders.spec import Work


def count_work(model: nn.Module, call: Callable[[], object], *, dtype: str) -> Work:
    """Run ``call`` once more than counted, and count what it does.

    Args:
        model: whose layers ``call`` runs.
        call: one answer from decoded images; the uncounted run before lets the model keep what
            it keeps between answers.
        dtype: that it computes in; weights that are stored wider count as if stored so.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_uncounted_by_torch())
    with torch.no_grad():
        call()
        with _weights_read(model, most_bytes=_size_of(dtype)) as read, counter as flops:
            call()
    return Work(weight_bytes=sum(read), flops=int(flops.get_total_flops()), dtype=dtype)


def _uncounted_by_torch() -> dict[Any, Any]:
    """Attention's fused kernel on a CPU; torch counts those on a GPU only."""
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)

    def count(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    return {} if kernel is None else {kernel: count}


@contextmanager
def _weights_read(model: nn.Module, *, most_bytes: int) -> Iterator[list[int]]:
    """Bytes of each layer's own weights, once per call; of an embedding the rows looked up."""
    read: list[int] = []

    def note(module: nn.Module, inputs: Sequence[Any]) -> None:
        for weight in module.parameters(recurse=False):
            count = weight.numel()
            if isinstance(module, nn.Embedding) and inputs and isinstance(inputs[0], Tensor):
                count = inputs[0].numel() * module.embedding_dim
            read.append(count * min(weight.element_size(), most_bytes))

    handles = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _size_of(dtype: str) -> int:
    """Bytes of one number."""
    found: torch.dtype = getattr(torch, dtype)
    return found.itemsize
