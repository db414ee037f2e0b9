"""clkd_core.distill.losses, the teacher's term: value, gradient and what must not reach it."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clkd_core.distill import memory
from clkd_core.distill.frozen.soft_labels import compress_logits
from clkd_core.distill.losses import distill_kl


def cut_into(monkeypatch: pytest.MonkeyPatch, tokens: int, vocabulary: int) -> None:
    """Let the losses work on so many tokens at a time."""
    monkeypatch.setattr(memory, "MIN_CHUNK_VALUES", tokens * vocabulary)
    monkeypatch.setattr(memory, "MAX_CHUNK_VALUES", tokens * vocabulary)


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
    cut_into(monkeypatch, chunk_tokens, vocabulary=6)
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    keep = torch.rand(3, 4) > 0.3
    fast = distill_kl(student, teacher, keep, temperature=temperature)
    assert float(fast) == pytest.approx(slow_kl(student, teacher, keep, temperature), rel=1e-5)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 1024])
def test_distill_kl_has_the_gradient_of_the_slow_obvious_version(
    k: int | None, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_into(monkeypatch, chunk_tokens, vocabulary=6)
    torch.manual_seed(0)
    student = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    teacher = logits if k is None else compress_logits(logits, k=k, temperature=2.0)
    keep = torch.rand(3, 4) > 0.3
    assert torch.autograd.gradcheck(
        lambda z: distill_kl(z, teacher, keep, temperature=2.0), (student,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_distill_kl_gradient_is_that_of_float32_in_the_students_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 9).to(dtype), torch.randn(2, 5, 9).to(dtype)
    keep = torch.rand(2, 5) > 0.3
    mine, plain = student.clone().requires_grad_(), student.float().requires_grad_()
    (3.0 * distill_kl(mine, teacher, keep, temperature=2.0)).backward()
    p, q = (teacher.float() / 2.0).softmax(-1), (plain / 2.0).log_softmax(-1)
    per_token = functional.kl_div(q, p, reduction="none").sum(-1)
    (3.0 * 4.0 * per_token[keep].mean()).backward()
    assert mine.grad is not None
    assert mine.grad.dtype == dtype
    assert plain.grad is not None
    torch.testing.assert_close(mine.grad, plain.grad.to(dtype), rtol=1e-2, atol=1e-6)


def test_distill_kl_takes_logits_that_are_a_view() -> None:
    torch.manual_seed(0)
    whole = torch.randn(2, 6, 7, requires_grad=True)
    teacher, keep = torch.randn(2, 5, 7), torch.rand(2, 5) > 0.3
    shifted = distill_kl(whole[:, :-1], teacher, keep, temperature=1.0)
    copied = whole.detach()[:, :-1].clone().requires_grad_()
    plain = distill_kl(copied, teacher, keep, temperature=1.0)
    torch.testing.assert_close(shifted, plain)
    shifted.backward()
    plain.backward()
    assert whole.grad is not None
    torch.testing.assert_close(whole.grad[:, :-1], copied.grad)


def test_distill_kl_is_zero_with_a_zero_gradient_when_nothing_is_kept() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    kl = distill_kl(logits, -logits, torch.zeros(2, 3).bool(), temperature=2.0)
    kl.backward()
    assert float(kl.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_distill_kl_keeps_what_stands_in_masked_places_out(k: int | None, bad: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    keep = torch.tensor([[True, False, True], [False, True, True]])
    dirty_student = student.masked_fill(~keep[..., None], bad).requires_grad_()
    dirty_teacher = teacher.masked_fill(~keep[..., None], bad)
    results = []
    for ours, theirs in ((student.requires_grad_(), teacher), (dirty_student, dirty_teacher)):
        labels = theirs if k is None else compress_logits(theirs, k=k, temperature=2.0)
        kl = distill_kl(ours, labels, keep, temperature=2.0)
        results.append((kl.detach(), *torch.autograd.grad(kl, ours)))
    torch.testing.assert_close(results[1], results[0])


def test_distill_kl_lets_nan_of_a_kept_token_through() -> None:
    student = torch.randn(1, 2, 5)
    student[0, 1, 3] = math.nan
    keep = torch.ones(1, 2, dtype=torch.bool)
    assert distill_kl(student, torch.randn(1, 2, 5), keep, temperature=1.0).isnan()


@pytest.mark.parametrize("k", [None, 2, 4])
def test_distill_kl_is_finite_where_both_rule_out_the_same_tokens(k: int | None) -> None:
    student = torch.tensor([[[1.0, 2.0, -math.inf, 0.0]]], requires_grad=True)
    logits = torch.tensor([[[0.5, 0.0, -math.inf, -math.inf]]])
    teacher = logits if k is None else compress_logits(logits, k=k, temperature=1.0)
    kl = distill_kl(student, teacher, torch.ones(1, 1).bool(), temperature=1.0)
    kl.backward()
    q = torch.tensor([1.0, 2.0, 0.0]).softmax(0)[:2]
    p = torch.tensor([0.5, 0.0]).softmax(0)
    torch.testing.assert_close(kl.detach(), (p * (p / q).log()).sum())
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[0, 0, 2] == 0.0


def test_distill_kl_divided_by_the_count_of_all_processes_adds_up_to_their_mean() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 6), torch.randn(5, 4, 6)
    keep = torch.rand(5, 4) > 0.3
    parts = [
        distill_kl(student[r], teacher[r], keep[r], temperature=2.0, count=keep.sum())
        for r in (slice(0, 1), slice(1, 5))
    ]
    torch.testing.assert_close(sum(parts), distill_kl(student, teacher, keep, temperature=2.0))
    with pytest.raises(ValueError, match=r"count is \(1,\), expected a \(\) tensor"):
        distill_kl(student, teacher, keep, temperature=2.0, count=keep.sum()[None])


def test_distill_kl_sees_logits_changed_before_the_gradient_was_taken() -> None:
    student, teacher = torch.randn(1, 2, 5, requires_grad=True), torch.randn(1, 2, 5)
    kl = distill_kl(student, teacher, torch.ones(1, 2).bool(), temperature=1.0)
    teacher.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kl.backward()


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
    fixed = distill_kl(student.detach(), teacher, torch.ones(1, 2).bool(), temperature=1.0)
    assert not fixed.requires_grad


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
