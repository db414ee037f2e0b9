import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clkd_core.distill import losses
from clkd_core.distill.losses import (
    answer_token_loss,
    distill_kl,
    h2g_loss,
    mean_token_loss,
    select_hard,
)


def slow_h2g(token_loss: Tensor, keep: Tensor, sample_frac: float, token_frac: float) -> float:
    """Eq. 3-5 with lists and sorts; the stable sort lets the earlier of equals win."""
    samples = []
    for row, row_keep in zip(token_loss.tolist(), keep.tolist(), strict=True):
        tokens = [loss for loss, kept in zip(row, row_keep, strict=True) if kept]
        if tokens:
            samples.append(tokens)
    samples.sort(key=lambda tokens: -sum(tokens) / len(tokens))
    chosen: list[float] = []
    for tokens in samples[: math.ceil(round(sample_frac * len(samples), 9))]:
        count = math.ceil(round(token_frac * len(tokens), 9))
        chosen += sorted(tokens, reverse=True)[:count]
    return sum(chosen) / len(chosen) if chosen else 0.0


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 6),
    length=st.integers(1, 7),
    seed=st.integers(0, 1000),
    sample_frac=st.floats(0.01, 1.0),
    token_frac=st.floats(0.01, 1.0),
)
def test_h2g_equals_the_slow_obvious_version(
    batch: int, length: int, seed: int, sample_frac: float, token_frac: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    token_loss = torch.rand(batch, length, generator=generator)
    keep = torch.rand(batch, length, generator=generator) > 0.3
    fast = h2g_loss(token_loss, keep, sample_frac=sample_frac, token_frac=token_frac)
    slow = slow_h2g(token_loss, keep, sample_frac, token_frac)
    assert float(fast) == pytest.approx(slow, rel=1e-5, abs=1e-7)


def test_h2g_takes_the_hard_tokens_of_the_hard_samples() -> None:
    token_loss = torch.tensor([[1.0, 9.0, 2.0, 3.0], [0.1, 0.2, 0.3, 0.4]])
    keep = torch.ones(2, 4, dtype=torch.bool)
    assert float(h2g_loss(token_loss, keep, sample_frac=0.5, token_frac=0.5)) == 6.0


def test_h2g_of_everything_is_the_plain_mean() -> None:
    token_loss, keep = torch.rand(4, 5), torch.rand(4, 5) > 0.5
    everything = h2g_loss(token_loss, keep, sample_frac=1.0, token_frac=1.0)
    torch.testing.assert_close(everything, mean_token_loss(token_loss, keep))


def test_h2g_keeps_one_sample_and_one_token_at_least() -> None:
    one = h2g_loss(
        torch.tensor([[2.0, 5.0]]),
        torch.ones(1, 2, dtype=torch.bool),
        sample_frac=0.01,
        token_frac=0.01,
    )
    assert float(one) == 5.0


def test_h2g_is_zero_with_zero_gradient_when_nothing_is_kept() -> None:
    token_loss = torch.rand(2, 3, requires_grad=True)
    loss = h2g_loss(
        token_loss, torch.zeros(2, 3, dtype=torch.bool), sample_frac=0.5, token_frac=0.5
    )
    loss.backward()
    assert loss.item() == 0.0
    assert token_loss.grad is not None
    assert not token_loss.grad.any()


def test_h2g_gradient_reaches_hard_tokens_only_and_is_one_over_their_number() -> None:
    token_loss = torch.tensor([[1.0, 4.0, 3.0], [0.1, 0.1, 0.1]], requires_grad=True)
    keep = torch.ones(2, 3, dtype=torch.bool)
    h2g_loss(token_loss, keep, sample_frac=0.5, token_frac=0.6).backward()
    torch.testing.assert_close(token_loss.grad, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]]))


def test_h2g_ties_go_to_the_earlier_sample_and_token() -> None:
    hard = select_hard(
        torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool), sample_frac=0.5, token_frac=0.5
    )
    assert hard.samples.tolist() == [True, True, False, False]
    assert hard.tokens[0].tolist() == [True, True, False, False]


def test_h2g_ignores_nan_in_masked_tokens() -> None:
    token_loss = torch.tensor([[1.0, math.nan], [3.0, 2.0]], requires_grad=True)
    keep = torch.tensor([[True, False], [True, True]])
    loss = h2g_loss(token_loss, keep, sample_frac=1.0, token_frac=1.0)
    loss.backward()
    assert loss.item() == 2.0
    assert token_loss.grad is not None
    assert token_loss.grad.isfinite().all()


def test_h2g_shares_that_divide_evenly_are_not_rounded_up_by_floating_point() -> None:
    hard = select_hard(
        torch.rand(1, 100), torch.ones(1, 100, dtype=torch.bool), sample_frac=1.0, token_frac=0.07
    )
    assert int(hard.tokens.sum()) == 7


@pytest.mark.parametrize("fracs", [(0.0, 0.5), (0.5, 0.0), (1.1, 0.5), (0.5, math.nan)])
def test_h2g_refuses_shares_out_of_range(fracs: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"_frac is .*, expected 0 <"):
        h2g_loss(
            torch.rand(2, 2),
            torch.ones(2, 2, dtype=torch.bool),
            sample_frac=fracs[0],
            token_frac=fracs[1],
        )


def test_h2g_refuses_shapes_that_disagree() -> None:
    keep = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"keep is \(2, 3\), expected \(B, L\) like token_loss"):
        h2g_loss(torch.rand(2, 4), keep, sample_frac=0.5, token_frac=0.5)
    with pytest.raises(ValueError, match=r"keep is torch\.float32, expected torch\.bool"):
        h2g_loss(torch.rand(2, 3), keep.float(), sample_frac=0.5, token_frac=0.5)


def slow_kl(student: Tensor, teacher: Tensor, keep: Tensor, temperature: float) -> float:
    total, count = 0.0, 0
    for b, t in torch.nonzero(keep).tolist():
        p = (teacher[b, t].double() / temperature).softmax(0)
        q = (student[b, t].double() / temperature).softmax(0)
        total += float((p * (p / q).log()).sum())
        count += 1
    return temperature**2 * total / count if count else 0.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 1024])
def test_distill_kl_equals_the_slow_obvious_version_in_chunks_of_any_size(
    temperature: float, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "KD_CHUNK_TOKENS", chunk_tokens)
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    keep = torch.rand(3, 4) > 0.3
    fast = distill_kl(student, teacher, keep, temperature=temperature)
    assert float(fast) == pytest.approx(slow_kl(student, teacher, keep, temperature), rel=1e-5)


def test_distill_kl_is_zero_when_nothing_is_kept() -> None:
    logits = torch.randn(2, 3, 5)
    assert float(distill_kl(logits, -logits, torch.zeros(2, 3).bool(), temperature=2.0)) == 0.0


def test_distill_kl_is_zero_for_equal_distributions() -> None:
    logits = torch.randn(2, 3, 5)
    keep = torch.ones(2, 3, dtype=torch.bool)
    kl = distill_kl(logits, logits + 3.0, keep, temperature=2.0)
    assert float(kl) == pytest.approx(0.0, abs=1e-6)


def test_distill_kl_gives_the_teacher_no_gradient_and_masked_tokens_none() -> None:
    student = torch.randn(1, 2, 5, requires_grad=True)
    teacher = torch.randn(1, 2, 5, requires_grad=True)
    distill_kl(student, teacher, torch.tensor([[True, False]]), temperature=1.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[0, 0].any()
    assert not student.grad[0, 1].any()


def test_distill_kl_computes_bfloat16_in_float32() -> None:
    student, teacher = torch.randn(1, 3, 7).bfloat16(), torch.randn(1, 3, 7).bfloat16()
    keep = torch.ones(1, 3, dtype=torch.bool)
    low = distill_kl(student, teacher, keep, temperature=2.0)
    assert low.dtype == torch.float32
    torch.testing.assert_close(
        low, distill_kl(student.float(), teacher.float(), keep, temperature=2.0)
    )


def test_distill_kl_refuses_what_does_not_fit() -> None:
    logits, keep = torch.randn(2, 8, 5), torch.ones(2, 8, dtype=torch.bool)
    with pytest.raises(
        ValueError,
        match=r"teacher_logits is \(2, 7, 5\), expected \(2, 8, 5\) like student_logits",
    ):
        distill_kl(logits, torch.randn(2, 7, 5), keep, temperature=1.0)
    with pytest.raises(ValueError, match=r"keep is \(2, 7\)"):
        distill_kl(logits, logits, keep[:, :7], temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature is 0\.0"):
        distill_kl(logits, logits, keep, temperature=0.0)


def test_answer_token_loss_is_minus_the_log_probability_of_the_target() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3))
    slow = -functional.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(answer_token_loss(logits, targets), slow)


def test_mean_token_loss_of_nothing_is_zero() -> None:
    assert float(mean_token_loss(torch.rand(1, 2), torch.zeros(1, 2).bool())) == 0.0
