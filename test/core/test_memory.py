"""clkd_core.distill.memory: what the losses hold at one time, and how it is counted."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clkd_core.distill.frozen.soft_labels import compress_logits
from clkd_core.distill.losses import answer_token_loss, distill_kl, h2g_loss, mean_token_loss
from clkd_core.distill.memory import (
    MAX_CHUNK_VALUES,
    MIN_CHUNK_VALUES,
    chunks,
    kept_rows,
    peak_bytes,
)

MIB = 1 << 20


def test_chunks_cover_every_kept_token_once_and_in_order() -> None:
    keep = torch.rand(7, 50) > 0.3
    for vocabulary in (5, 3000, MAX_CHUNK_VALUES * 2):
        seen = [torch.stack(piece, dim=1) for piece in chunks(kept_rows(keep), vocabulary)]
        torch.testing.assert_close(torch.cat(seen), keep.nonzero())


def test_chunks_of_nothing_are_none() -> None:
    assert list(chunks(kept_rows(torch.zeros(2, 3).bool()), 10)) == []


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "expected"),
    [
        (10_000, 32_000, MAX_CHUNK_VALUES // 32_000),  # many: no larger than the upper bound
        (64, 100, 64),  # few: all at once
        (512, 8192, 32),  # between: a sixteenth
        (3, MAX_CHUNK_VALUES * 2, 1),  # never less than one token
    ],
)
def test_chunks_are_of_the_promised_size(tokens: int, vocabulary: int, expected: int) -> None:
    first = next(chunks(torch.zeros(tokens, 2, dtype=torch.long), vocabulary))
    assert len(first[0]) == expected
    assert MIN_CHUNK_VALUES < MAX_CHUNK_VALUES


def test_peak_bytes_counts_what_is_alive_at_one_time() -> None:
    def one_after_another() -> None:
        for _ in range(5):
            torch.empty(MIB, dtype=torch.uint8)

    def together() -> list[Tensor]:
        return [torch.empty(MIB, dtype=torch.uint8) for _ in range(5)]

    assert peak_bytes(one_after_another) == MIB
    assert peak_bytes(together) == 5 * MIB


def test_peak_bytes_counts_temporaries_inside_operations_and_not_what_was_there() -> None:
    logits = torch.randn(64, 1024)
    # Summing the exponentials takes an array that no Python name ever holds.
    assert peak_bytes(lambda: logits.logsumexp(-1)) >= logits.nbytes
    assert peak_bytes(lambda: logits.mul_(2.0)) < 1024


def test_peak_bytes_gives_no_credit_for_freeing_what_was_there() -> None:
    held = [torch.empty(4 * MIB, dtype=torch.uint8)]

    def free_then_allocate() -> Tensor:
        held.clear()
        return torch.empty(MIB, dtype=torch.uint8)

    assert peak_bytes(free_then_allocate) == MIB


def test_peak_bytes_refuses_a_device_that_counts_nothing() -> None:
    with pytest.raises(ValueError, match="device is meta, expected cpu or cuda"):
        peak_bytes(lambda: None, "meta")


def ratios_to_cross_entropy(
    dtype: torch.dtype, device: str, batch: int = 8, length: int = 64, vocabulary: int = 8192
) -> dict[str, float]:
    """Peaks of loss and gradient, over that of plain cross-entropy on the same logits.

    The logits, the targets and the teacher's labels are there before and count for nobody.
    """
    torch.manual_seed(0)
    logits = torch.randn(batch, length, vocabulary, device=device).to(dtype).requires_grad_()
    teacher = torch.randn(batch, length, vocabulary, device=device).to(dtype)
    targets = torch.randint(0, vocabulary, (batch, length), device=device)
    keep = torch.ones(batch, length, dtype=torch.bool, device=device)
    labels = compress_logits(teacher, k=32, temperature=2.0)

    def plain() -> Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def kd() -> Tensor:
        return distill_kl(logits, teacher, keep, temperature=2.0)

    def kd_short() -> Tensor:
        return distill_kl(logits, labels, keep, temperature=2.0)

    def mean() -> Tensor:
        return mean_token_loss(answer_token_loss(logits, targets), keep)

    def both() -> Tensor:
        token_loss = answer_token_loss(logits, targets)
        return h2g_loss(token_loss, keep, sample_frac=0.5, token_frac=0.6) + kd()

    def peak(loss: object) -> int:
        assert callable(loss)
        return peak_bytes(lambda: torch.autograd.grad(loss(), logits), device)

    reference = peak(plain)
    return {loss.__name__: peak(loss) / reference for loss in (kd, kd_short, mean, both)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_need_no_more_memory_than_cross_entropy(dtype: torch.dtype) -> None:
    ratios = ratios_to_cross_entropy(dtype, "cpu")
    assert ratios["kd"] <= 1.3
    assert ratios["kd_short"] <= 1.3
    assert ratios["mean"] <= 1.0
    assert ratios["both"] <= 1.3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_need_no_more_memory_than_cross_entropy_on_a_gpu(dtype: torch.dtype) -> None:
    ratios = ratios_to_cross_entropy(dtype, "cuda")
    assert max(ratios.values()) <= 1.3
