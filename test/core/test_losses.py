import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clkd_core.distill import memory
from clkd_core.distill.losses import (
    answer_token_loss,
    h2g_loss,
    masked_sum,
    mean_token_loss,
    select_hard,
)


def cut_into(monkeypatch: pytest.MonkeyPatch, tokens: int, vocabulary: int) -> None:
    """Let the losses work on so many tokens at a time."""
    monkeypatch.setattr(memory, "MIN_CHUNK_VALUES", tokens * vocabulary)
    monkeypatch.setattr(memory, "MAX_CHUNK_VALUES", tokens * vocabulary)


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
    # Long enough for a sort that is not stable to mix them up.
    alike = torch.ones(600, 600)
    hard = select_hard(alike, alike.bool(), sample_frac=0.5, token_frac=0.5)
    assert hard.samples.tolist() == [True] * 300 + [False] * 300
    assert hard.tokens[0].tolist() == [True] * 300 + [False] * 300


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


def test_select_hard_of_one_sample_with_one_token_takes_it() -> None:
    keep = torch.tensor([[False, True]])
    hard = select_hard(torch.tensor([[9.0, 0.0]]), keep, sample_frac=0.01, token_frac=0.01)
    assert hard.samples.tolist() == [True]
    assert hard.tokens.tolist() == keep.tolist()


def test_select_hard_takes_nothing_when_all_is_masked_whatever_stands_there() -> None:
    keep = torch.zeros(3, 2, dtype=torch.bool)
    hard = select_hard(torch.full((3, 2), math.nan), keep, sample_frac=1.0, token_frac=1.0)
    assert not hard.samples.any()
    assert not hard.tokens.any()


def test_select_hard_never_takes_a_sample_without_an_answer_nor_counts_it() -> None:
    keep = torch.tensor([[False, False], [True, True], [True, False]])
    token_loss = torch.tensor([[math.inf, math.nan], [1.0, 0.0], [0.25, 9.0]])
    hard = select_hard(token_loss, keep, sample_frac=0.5, token_frac=1.0)
    assert hard.samples.tolist() == [False, True, False]  # ceil(0.5 x 2), not ceil(0.5 x 3)
    assert hard.tokens.tolist() == [[False, False], [True, True], [False, False]]


def test_select_hard_breaks_ties_between_zero_losses_within_the_kept_tokens() -> None:
    keep = torch.tensor([[False, True, False, True, True]])
    hard = select_hard(torch.zeros(1, 5), keep, sample_frac=1.0, token_frac=0.5)
    assert hard.tokens.tolist() == [[False, True, False, True, False]]


def test_h2g_of_processes_that_choose_among_all_samples_adds_up_to_that_of_one_process() -> None:
    torch.manual_seed(0)
    token_loss, keep = torch.rand(6, 5, requires_grad=True), torch.rand(6, 5) > 0.3
    shares = {"sample_frac": 0.5, "token_frac": 0.6}
    (together,) = torch.autograd.grad(h2g_loss(token_loss, keep, **shares), token_loss)

    chosen = select_hard(token_loss.detach(), keep, **shares).tokens
    parts = [
        mean_token_loss(token_loss[rows], chosen[rows], chosen.sum())
        for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), h2g_loss(token_loss, keep, **shares))
    (apart,) = torch.autograd.grad(sum(parts), token_loss)
    torch.testing.assert_close(apart, together)


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


def slow_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return -functional.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1024])
def test_answer_token_loss_is_minus_the_log_probability_of_the_target(
    chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_into(monkeypatch, chunk_tokens, vocabulary=5)
    logits = torch.randn(2, 3, 5, requires_grad=True)
    targets, upstream = torch.randint(0, 5, (2, 3)), torch.rand(2, 3)
    fast, slow = answer_token_loss(logits, targets), slow_token_loss(logits, targets)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(
        torch.autograd.grad(fast, logits, upstream), torch.autograd.grad(slow, logits, upstream)
    )


def test_answer_token_loss_has_the_gradient_of_finite_differences() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 5, (2, 3))
    assert torch.autograd.gradcheck(lambda z: answer_token_loss(z, targets), (logits,))


def test_answer_token_loss_is_float32_and_its_gradient_of_the_logits_type() -> None:
    logits = torch.randn(2, 3, 5).bfloat16().requires_grad_()
    targets = torch.randint(0, 5, (2, 3))
    loss = answer_token_loss(logits, targets)
    torch.testing.assert_close(loss, slow_token_loss(logits.float(), targets))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_answer_token_loss_gives_tokens_outside_the_mean_no_gradient_even_if_nan() -> None:
    logits = torch.randn(1, 3, 5)
    logits[0, 1] = math.nan
    logits.requires_grad_()
    targets = torch.tensor([[1, 2, -100]])
    token_loss = answer_token_loss(logits, targets)
    assert token_loss[0, 1].isnan()
    assert token_loss[0, 2] == 0.0
    mean_token_loss(token_loss, torch.tensor([[True, False, True]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].any()
    assert not logits.grad[0, 1:].any()


def test_answer_token_loss_refuses_targets_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"targets is \(2, 4\), expected \(B, L\) of logits"):
        answer_token_loss(torch.randn(2, 3, 5), torch.zeros(2, 4, dtype=torch.long))


def test_mean_token_loss_of_nothing_is_zero() -> None:
    nothing = torch.zeros(1, 2).bool()
    assert float(mean_token_loss(torch.rand(1, 2), nothing)) == 0.0
    assert float(mean_token_loss(torch.rand(1, 2), nothing, torch.tensor(0))) == 0.0


def test_mean_token_loss_divides_by_the_count_it_is_given() -> None:
    token_loss, keep = torch.tensor([[1.0, 2.0, math.nan]]), torch.tensor([[True, True, False]])
    assert float(masked_sum(token_loss, keep)) == 3.0
    assert float(mean_token_loss(token_loss, keep)) == 1.5
    assert float(mean_token_loss(token_loss, keep, torch.tensor(6))) == 0.5
