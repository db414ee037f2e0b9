import copy

import pytest
import torch
from tiny_vlm import tiny_model, tiny_t5_language, tiny_t5_model, tiny_views
from torch import Tensor, nn

from clkd_core.data.prompts import plan_question
from clkd_core.models.halving import halve
from clkd_core.models.moe import (
    FullMoeFfn,
    LoraMoeFfn,
    MoeAdapter,
    MoeConfig,
    RoutedLoraLinear,
    Routing,
    build_moe_ffn,
    count_idle_parameters,
    expert_usage,
    iter_moe_ffns,
    load_balance_loss,
    mixture_weights,
    router_z_loss,
)


def small_ffn() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))


def disturb(module: nn.Module) -> None:
    """Move every weight, so that experts differ."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_mixture_weights_are_a_softmax_over_all_experts() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    torch.testing.assert_close(mixture_weights(logits, None), logits.softmax(-1))
    torch.testing.assert_close(mixture_weights(logits, 4), logits.softmax(-1))


def test_mixture_weights_keep_the_largest_and_sum_to_one() -> None:
    weights = mixture_weights(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    pair = torch.tensor([3.0, 2.0]).softmax(-1)
    torch.testing.assert_close(weights, torch.tensor([[0.0, pair[0], pair[1], 0.0]]))


@pytest.mark.parametrize("top_k", [None, 2])
def test_adapter_is_the_weighted_sum_of_its_experts(top_k: int | None) -> None:
    adapter = MoeAdapter(small_ffn(), width=6, experts=3, top_k=top_k)
    disturb(adapter)
    x = torch.randn(2, 5, 6)
    expected = torch.zeros(2, 5, 6)
    for b in range(2):
        for p in range(5):
            weights = mixture_weights(adapter.router(x[b, p]), top_k)
            for weight, expert in zip(weights, adapter.experts, strict=True):
                expected[b, p] += weight * expert(x[b, p])
    torch.testing.assert_close(adapter(x), expected)


def test_lora_ffn_is_the_shared_layer_with_the_routed_deltas_added() -> None:
    dense = small_ffn()
    moe = LoraMoeFfn(copy.deepcopy(dense), width=6, experts=4, top_k=2, rank=2)
    disturb(moe)
    x = torch.randn(7, 6)

    def slow_linear(layer: RoutedLoraLinear, token: Tensor, weights: Tensor) -> Tensor:
        out = layer.dense(token)
        for expert, weight in enumerate(weights):
            rows = slice(2 * expert, 2 * expert + 2)
            out = out + weight * (layer.up.weight[:, rows] @ (layer.down.weight[rows] @ token))
        return out

    for row, token in enumerate(x):
        weights = mixture_weights(moe.router(token), 2)
        first, last = moe.ffn.get_submodule("0"), moe.ffn.get_submodule("2")
        assert isinstance(first, RoutedLoraLinear)
        assert isinstance(last, RoutedLoraLinear)
        hidden = nn.functional.gelu(slow_linear(first, token, weights))
        expected = slow_linear(last, hidden, weights)
        torch.testing.assert_close(moe(x)[row], expected)


def test_full_ffn_is_the_weighted_sum_of_its_top_experts() -> None:
    moe = FullMoeFfn(small_ffn(), width=6, experts=3, top_k=2)
    disturb(moe)
    x = torch.randn(4, 6)
    for row, token in enumerate(x):
        weights = mixture_weights(moe.router(token), 2)
        expected = sum(w * expert(token) for w, expert in zip(weights, moe.experts, strict=True))
        torch.testing.assert_close(moe(x)[row], expected)
        assert int((weights == 0).sum()) == 1


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_fresh_experts_compute_what_the_dense_layer_did(kind: str) -> None:
    dense = small_ffn()
    config = MoeConfig(ffn_kind=kind, lora_rank=2)  # type: ignore[arg-type]
    moe = build_moe_ffn(copy.deepcopy(dense), width=6, config=config)
    x = torch.randn(3, 6)
    torch.testing.assert_close(moe(x), dense(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "full"])
@torch.no_grad()
def test_fresh_student_scores_within_1e5_of_its_dense_twin(kind: str) -> None:
    teacher = tiny_model()
    dense = halve(teacher).eval()
    moe = MoeConfig(ffn_kind=kind, ffn_experts=2, adapter_experts=2, lora_rank=2)  # type: ignore[arg-type]
    student = halve(teacher, moe=moe).eval()
    assert len(list(iter_moe_ffns(student))) == 2
    views, present = tiny_views(2)
    scores = []
    for model in (dense, student):
        scene = model.scene_tokens(model.encode_views(views, present), present)
        scores.append(model.answer_log_probs(scene, [plan_question(None, None)] * 2))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("gated_ffn", [False, True])
@pytest.mark.parametrize("kind", ["lora", "full"])
@torch.no_grad()
def test_fresh_t5_student_predicts_within_1e5_of_its_dense_twin(
    kind: str, gated_ffn: bool
) -> None:
    teacher = tiny_t5_model(language=tiny_t5_language(gated_ffn=gated_ffn))
    dense = halve(teacher).eval()
    moe = MoeConfig(ffn_kind=kind, ffn_experts=2, adapter_experts=2, lora_rank=2)  # type: ignore[arg-type]
    student = halve(teacher, moe=moe).eval()
    assert len(list(iter_moe_ffns(student))) == 4
    views, present = tiny_views(2)
    text = dense.pack([[(" Plan:", " STOP, STRAIGHT")], [(" Plan:", " KEEP, STRAIGHT")]])
    logits = [model(views, present, text) for model in (dense, student)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_mixtures_are_captured_whole_and_compute_the_same() -> None:
    """No data-dependent shape and no break: what torch.compile and CUDA graphs need."""
    x = torch.randn(2, 5, 6)
    for moe in (
        MoeAdapter(small_ffn(), width=6, experts=3),
        MoeAdapter(small_ffn(), width=6, experts=3, top_k=1),
        LoraMoeFfn(small_ffn(), width=6, experts=4, top_k=2, rank=2),
        FullMoeFfn(small_ffn(), width=6, experts=4, top_k=2),
    ):
        captured = torch.compile(moe, fullgraph=True, backend="eager")
        torch.testing.assert_close(captured(x), moe(x))


def test_every_expert_gets_a_gradient_of_its_own() -> None:
    adapter = MoeAdapter(small_ffn(), width=6, experts=3)
    adapter(torch.randn(8, 6)).square().sum().backward()
    grads = [next(iter(expert.parameters())).grad for expert in adapter.experts]
    assert adapter.router.weight.grad is not None
    assert adapter.router.weight.grad.abs().sum() > 0 or grads[0] is not None
    assert not torch.allclose(torch.as_tensor(grads[0]), torch.as_tensor(grads[1]))


def routing_of(logits: Tensor, top_k: int) -> Routing:
    return Routing(logits, mixture_weights(logits, top_k))


def test_load_balance_loss_equals_a_count_over_valid_tokens() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 6, 4)
    valid = torch.rand(2, 6) > 0.4
    counts, probabilities, tokens = [0.0] * 4, [0.0] * 4, 0
    for b, t in torch.nonzero(valid).tolist():
        tokens += 1
        p = logits[b, t].softmax(-1)
        for e in logits[b, t].topk(2).indices.tolist():
            counts[e] += 0.5
        for e in range(4):
            probabilities[e] += float(p[e])
    slow = 4 * sum(c * p for c, p in zip(counts, probabilities, strict=True)) / tokens**2
    assert float(load_balance_loss(routing_of(logits, 2), valid)) == pytest.approx(slow, rel=1e-5)


def test_load_balance_loss_is_one_when_even_and_the_number_of_experts_when_one_takes_all() -> None:
    even = routing_of(torch.eye(4)[None] * 1e-4, 1)
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert float(load_balance_loss(even, valid)) == pytest.approx(1.0, abs=1e-3)
    collapsed = routing_of(torch.tensor([50.0, 0.0, 0.0, 0.0]).expand(1, 4, 4), 1)
    assert float(load_balance_loss(collapsed, valid)) == pytest.approx(4.0)


def test_router_terms_are_zero_when_no_token_is_valid() -> None:
    routing = routing_of(torch.randn(1, 3, 4), 2)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert float(load_balance_loss(routing, nothing)) == 0.0
    assert float(router_z_loss(routing, nothing)) == 0.0


def test_router_z_loss_is_the_mean_squared_log_sum_exp() -> None:
    logits = torch.tensor([[[0.0, 0.0], [3.0, 1.0], [9.0, 9.0]]])
    valid = torch.tensor([[True, True, False]])
    slow = sum(float(logits[0, t].exp().sum().log()) ** 2 for t in (0, 1)) / 2
    assert float(router_z_loss(routing_of(logits, 1), valid)) == pytest.approx(slow, rel=1e-5)


def test_expert_usage_counts_valid_tokens_and_sums_to_one() -> None:
    logits = torch.tensor([[[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]]])
    usage = expert_usage(routing_of(logits, 1), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(usage, torch.tensor([0.5, 0.5]))


def test_count_idle_parameters_is_the_share_of_experts_a_token_passes_by() -> None:
    per_expert = sum(p.numel() for p in small_ffn().parameters())
    assert count_idle_parameters(FullMoeFfn(small_ffn(), width=6, experts=4, top_k=1)) == (
        3 * per_expert
    )
    lora = LoraMoeFfn(small_ffn(), width=6, experts=4, top_k=2, rank=3)
    assert count_idle_parameters(lora) == 2 * 3 * ((6 + 10) + (10 + 6))
    assert count_idle_parameters(small_ffn()) == 0


@pytest.mark.parametrize(
    "values", [{"ffn_top_k": 5}, {"ffn_experts": 0}, {"adapter_top_k": 9}, {"lora_rank": 0}]
)
def test_moe_config_refuses_numbers_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        MoeConfig(**values)  # type: ignore[arg-type]
