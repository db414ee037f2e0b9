"""clkd_core.distill.frozen.soft_labels: labels shortened to k tokens, and what that costs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clkd_core.distill import memory
from clkd_core.distill.frozen.soft_labels import (
    SoftLabels,
    compress_logits,
    compression_error,
    lumped_kl,
    lumped_kl_slope,
    outcome_kl,
)
from clkd_core.distill.losses import distill_kl


def slow_lumped_kl(student: Tensor, teacher: Tensor, k: int, temperature: float) -> float:
    """One token, with lists: sort, cut, sum the rest."""
    p = (teacher.double() / temperature).softmax(0).tolist()
    q = (student.double() / temperature).softmax(0).tolist()
    order = sorted(range(len(p)), key=lambda token: -p[token])
    top, rest = order[:k], order[k:]
    pairs = [(p[i], q[i]) for i in top]
    pairs += [(sum(p[i] for i in rest), sum(q[i] for i in rest))] if rest else []
    return sum(a * math.log(a / b) for a, b in pairs)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.integers(1, 12),
    k=st.integers(1, 14),
    temperature=st.floats(0.5, 4.0),
    sharpness=st.floats(0.1, 8.0),
    seed=st.integers(0, 1000),
)
def test_distill_kl_of_labels_equals_the_slow_obvious_version_and_bounds_the_full_from_below(
    vocabulary: int, k: int, temperature: float, sharpness: float, seed: int
) -> None:
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, 3, vocabulary), torch.randn(2, 3, vocabulary) * sharpness
    keep = torch.tensor([[True, True, False], [False, True, True]])
    labels = compress_logits(teacher, k=k, temperature=temperature)
    fast = float(distill_kl(student, labels, keep, temperature=temperature))
    slow = [
        slow_lumped_kl(student[b, t], teacher[b, t], k, temperature)
        for b, t in keep.nonzero().tolist()
    ]
    assert fast == pytest.approx(temperature**2 * sum(slow) / 4, rel=1e-4, abs=1e-5)
    full = float(distill_kl(student, teacher, keep, temperature=temperature))
    assert fast <= full + 1e-5
    if k >= vocabulary:
        assert fast == pytest.approx(full, rel=1e-4, abs=1e-5)


def test_compress_logits_keeps_the_most_probable_tokens_and_the_mass_of_the_rest() -> None:
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]]])
    labels = compress_logits(logits, k=2, temperature=2.0)
    p = (logits[0, 0] / 2.0).softmax(0)
    assert labels.indices.tolist() == [[[1, 3]]]
    torch.testing.assert_close(labels.log_probs[0, 0].exp(), p[[1, 3]])
    torch.testing.assert_close(labels.tail_log_prob[0, 0].exp(), p[0] + p[2])
    assert labels.temperature == 2.0


@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
def test_compress_logits_does_not_depend_on_the_pieces_it_works_in(
    chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(3, 5, 7)
    whole = compress_logits(logits, k=3, temperature=1.0)
    monkeypatch.setattr(memory, "MIN_CHUNK_VALUES", chunk_tokens * 7)
    monkeypatch.setattr(memory, "MAX_CHUNK_VALUES", chunk_tokens * 7)
    for cut, part in zip(compress_logits(logits, k=3, temperature=1.0), whole, strict=True):
        torch.testing.assert_close(cut, part)


def test_compress_logits_gives_small_detached_labels_of_any_float_type() -> None:
    logits = torch.randn(2, 3, 50).bfloat16().requires_grad_()
    labels = compress_logits(logits, k=8, temperature=2.0)
    assert sum(part.nbytes for part in labels[:3]) == 2 * 3 * (8 * 8 + 4)
    assert not any(part.requires_grad for part in labels[:3])
    assert labels.log_probs.dtype == torch.float32


def test_compress_logits_leaves_a_sure_teacher_its_small_tail() -> None:
    logits = torch.zeros(1, 1, 4)
    logits[..., 0] = 40.0
    labels = compress_logits(logits, k=1, temperature=1.0)
    # 1 - p(top) is 0 in float32; the tail is 3 exp(-40)
    assert labels.tail_log_prob.item() == pytest.approx(math.log(3) - 40.0)


@pytest.mark.parametrize("k", [5, 9])
def test_labels_of_the_whole_vocabulary_have_no_tail_and_the_full_gradient(k: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 5)
    keep = torch.ones(2, 3, dtype=torch.bool)
    labels = compress_logits(teacher, k=k, temperature=2.0)
    assert labels.indices.shape == (2, 3, 5)
    assert (labels.tail_log_prob == -math.inf).all()
    results = []
    for form in (labels, teacher):
        kl = distill_kl(student, form, keep, temperature=2.0)
        results.append((kl.detach(), *torch.autograd.grad(kl, student)))
    torch.testing.assert_close(*results)


def test_lumped_kl_has_the_slope_that_autograd_finds() -> None:
    torch.manual_seed(0)
    scaled = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    labels = compress_logits(torch.randn(1, 4, 6).double(), k=2, temperature=1.0)
    log_probs, indices, tail = (part[0] for part in labels[:3])
    log_q = scaled.log_softmax(-1)
    ours = log_q.gather(-1, indices.long())
    rest = (1 - ours.exp().sum(-1)).log()
    slow = (log_probs.exp() * (log_probs - ours)).sum(-1) + tail.exp() * (tail - rest)
    torch.testing.assert_close(lumped_kl(scaled, log_probs, indices, tail), slow)
    (expected,) = torch.autograd.grad(slow.sum(), scaled)
    torch.testing.assert_close(
        lumped_kl_slope(scaled.detach(), log_probs, indices, tail), expected
    )


def test_labels_kept_in_bfloat16_do_not_sum_to_one_and_still_have_the_slope_of_their_value() -> (
    None
):
    torch.manual_seed(0)
    student = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = compress_logits(torch.randn(1, 4, 6), k=2, temperature=2.0)
    short = [part.bfloat16() for part in (labels.log_probs, labels.tail_log_prob)]
    halved = SoftLabels(short[0], labels.indices, short[1], 2.0)
    mass = short[0].double().exp().sum(-1) + short[1].double().exp()
    assert (mass - 1.0).abs().max() > 1e-4
    keep = torch.ones(1, 4, dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda z: distill_kl(z, halved, keep, temperature=2.0), (student,)
    )


def test_a_student_that_is_sure_of_a_labelled_token_still_has_a_finite_gradient() -> None:
    student = torch.tensor([[[200.0, 0.0, 0.0, -200.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.3, 0.0, 0.0, 0.0]]])
    labels = compress_logits(teacher, k=1, temperature=1.0)
    distill_kl(student, labels, torch.ones(1, 1).bool(), temperature=1.0).backward()
    tail = 1.0 - float(teacher.softmax(-1)[0, 0, 0])
    # The rest's mass underflows to 0, yet tokens 1 and 2 share what it should gain.
    expected = torch.tensor([[[tail, -tail / 2, -tail / 2, 0.0]]])
    torch.testing.assert_close(student.grad, expected)


def test_a_student_that_rules_all_the_rest_out_pays_only_if_the_teacher_does_not() -> None:
    student = torch.tensor([[[1.0, 0.0, -math.inf, -math.inf]]], requires_grad=True)
    keep = torch.ones(1, 1, dtype=torch.bool)
    open_minded = compress_logits(torch.zeros(1, 1, 4), k=2, temperature=1.0)
    assert distill_kl(student, open_minded, keep, temperature=1.0).isinf()
    agreeing = compress_logits(student.detach(), k=2, temperature=1.0)
    kl = distill_kl(student, agreeing, keep, temperature=1.0)
    kl.backward()
    assert float(kl.detach()) == pytest.approx(0.0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_outcome_kl_counts_impossible_outcomes_as_nothing() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.75, 0.0])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(outcome_kl(p.log(), q.log())) == pytest.approx(expected)
    assert outcome_kl(q.log(), torch.tensor([1.0, 0.0, 0.0]).log()).isinf()


def test_distill_kl_of_labels_reaches_kept_tokens_only_and_never_the_teacher() -> None:
    student = torch.randn(1, 2, 5, requires_grad=True)
    labels = compress_logits(torch.randn(1, 2, 5), k=2, temperature=1.0)
    for part in (labels.log_probs, labels.tail_log_prob):
        part.requires_grad_()
    distill_kl(student, labels, torch.tensor([[True, False]]), temperature=1.0).backward()
    assert labels.log_probs.grad is None
    assert labels.tail_log_prob.grad is None
    assert student.grad is not None
    assert student.grad[0, 0].all()
    assert not student.grad[0, 1].any()


def test_distill_kl_refuses_labels_that_do_not_fit() -> None:
    student, keep = torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    labels = compress_logits(torch.randn(2, 3, 5), k=2, temperature=2.0)
    with pytest.raises(ValueError, match=r"made for temperature 2\.0, expected 1\.0"):
        distill_kl(student, labels, keep, temperature=1.0)
    with pytest.raises(ValueError, match=r"labels are .*expected log_probs, indices, tail_log_"):
        distill_kl(student[:, :2], labels, keep[:, :2], temperature=2.0)
    foreign = labels._replace(indices=torch.full_like(labels.indices, 7))
    with pytest.raises(ValueError, match=r"labels name tokens 7\.\.7, expected 0\.\.4"):
        distill_kl(student, foreign, keep, temperature=2.0)
    with pytest.raises(ValueError, match=r"keep is \(2, 2\)"):
        distill_kl(student, labels, keep[:, :2], temperature=2.0)


def test_labels_may_hold_anything_where_no_token_is_kept() -> None:
    student, keep = torch.randn(1, 2, 5, requires_grad=True), torch.tensor([[True, False]])
    labels = compress_logits(torch.randn(1, 2, 5), k=2, temperature=1.0)
    clean = distill_kl(student, labels, keep, temperature=1.0)
    labels.indices[0, 1] = 99
    labels.log_probs[0, 1] = math.nan
    labels.tail_log_prob[0, 1] = math.nan
    torch.testing.assert_close(distill_kl(student, labels, keep, temperature=1.0), clean)


def test_labels_move_to_a_device() -> None:
    labels = compress_logits(torch.randn(1, 2, 5), k=2, temperature=1.5).to("meta")
    assert all(part.is_meta for part in labels[:3])
    assert labels.temperature == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0, "temperature": 1.0}, "k is 0, expected >= 1"),
        ({"k": 1, "temperature": -1.0}, r"temperature is -1\.0, expected > 0"),
        ({"k": 1, "temperature": math.nan}, "temperature is nan, expected > 0"),
    ],
)
def test_compress_logits_refuses_what_makes_no_labels(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compress_logits(torch.randn(1, 2, 3), **arguments)
    with pytest.raises(ValueError, match=message):
        compression_error(*[torch.randn(1, 2, 3)] * 2, torch.ones(1, 2).bool(), **arguments)
    with pytest.raises(ValueError, match=r"logits is \(2, 3\), expected \(B, L, V\)"):
        compress_logits(torch.randn(2, 3), k=1, temperature=1.0)


def test_compression_error_is_the_difference_of_the_two_losses() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 20), 3.0 * torch.randn(3, 4, 20)
    keep = torch.rand(3, 4) > 0.3
    student[~keep] = math.nan
    error = compression_error(student, teacher, keep, k=4, temperature=2.0)
    labels = compress_logits(teacher, k=4, temperature=2.0)
    full = float(distill_kl(student, teacher, keep, temperature=2.0))
    compressed = float(distill_kl(student, labels, keep, temperature=2.0))
    assert error == pytest.approx((full, compressed, (full - compressed) / full), rel=1e-5)
    assert 0.0 < error.relative < 1.0


def test_compression_error_shrinks_with_k_down_to_nothing() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 16), 2.0 * torch.randn(2, 5, 16)
    keep = torch.ones(2, 5, dtype=torch.bool)
    relative = [
        compression_error(student, teacher, keep, k=k, temperature=2.0).relative
        for k in (1, 2, 4, 8, 16)
    ]
    assert relative == sorted(relative, reverse=True)
    assert relative[0] > 0.1
    assert relative[-1] == pytest.approx(0.0, abs=1e-6)


def test_compression_error_of_nothing_is_nothing() -> None:
    logits = torch.randn(1, 2, 5)
    nothing = torch.zeros(1, 2).bool()
    assert compression_error(logits, -logits, nothing, k=2, temperature=1.0) == (0.0, 0.0, 0.0)
