"""Tokens that go only to their own experts: the same numbers, gradients and state, for less."""

import copy
from collections.abc import Iterator

import pytest
import torch
from tiny_vlm import tiny_model, tiny_views
from torch import Tensor, nn

from clkd_core.data.prompts import plan_question
from clkd_core.models.moe import FullMoeFfn, MoeConfig, iter_moe_ffns, pays_to_gather


def mixture(width: int = 24, *, top_k: int = 2, gathers: bool | None = None) -> FullMoeFfn:
    """Four experts that differ."""
    torch.manual_seed(1)
    ffn = nn.Sequential(nn.Linear(width, 40), nn.GELU(), nn.Linear(40, width))
    moe = FullMoeFfn(ffn, width=width, experts=4, top_k=top_k)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    moe.gathers = gathers
    return moe


def both_ways(moe: FullMoeFfn, x: Tensor) -> Iterator[Tensor]:
    for moe.gathers in (True, False):
        yield moe(x)


def called_with(moe: FullMoeFfn) -> list[int]:
    """Grows by the tokens of every call of an expert."""
    sizes: list[int] = []
    for expert in moe.experts:
        expert.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[:-1].numel()))
    return sizes


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 50, 24), (1, 1, 24), (2, 0, 24)])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("grad", [True, False])
def test_gathered_outputs_are_those_of_computing_all(
    shape: tuple[int, ...], top_k: int, grad: bool
) -> None:
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        gathered, computed = both_ways(mixture(top_k=top_k), x)
    assert gathered.shape == shape
    torch.testing.assert_close(gathered, computed, atol=1e-5, rtol=0)


def test_gathered_gradients_are_those_of_computing_all_also_where_no_token_goes() -> None:
    moe, grads = mixture(top_k=1), []
    with torch.no_grad():
        moe.router.weight[3] = 0.0
        moe.router.weight[3, 0] = -1e3  # the first value of every token is positive
    start = torch.randn(30, 24)
    start[:, 0] = start[:, 0].abs() + 1.0
    for moe.gathers in (True, False):
        x = start.clone().requires_grad_()
        moe.zero_grad()
        moe(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in moe.parameters())
        grads.append([x.grad, *(parameter.grad for parameter in moe.parameters())])
    assert not grads[0][-1].any()  # of the expert without tokens: zero, as in the other way
    for gathered, computed in zip(*grads, strict=True):
        torch.testing.assert_close(gathered, computed, atol=1e-5, rtol=1e-5)


def test_experts_see_their_own_tokens_only_and_in_inference_none_is_called_for_nothing() -> None:
    moe = mixture(gathers=True)
    sizes = called_with(moe)
    moe(torch.randn(5, 10, 24))
    assert len(sizes) == 4 and sum(sizes) == 2 * 50
    sizes.clear()
    with torch.no_grad():
        moe(torch.randn(1, 24))
    assert sizes == [1, 1]


@torch.no_grad()
def test_nan_of_the_router_goes_through_either_way() -> None:
    moe = mixture()
    moe.router.weight[1] = torch.nan
    for mixed in both_ways(moe, torch.randn(6, 24)):
        assert mixed.isnan().all()


def test_many_tokens_and_single_ones_are_gathered_few_go_to_all() -> None:
    assert not pays_to_gather(64, 135_168, experts=4, top_k=2)  # nano's prompt
    assert pays_to_gather(3200, 135_168, experts=4, top_k=2)  # nano's training batch
    assert pays_to_gather(350, 2_654_208, experts=4, top_k=2)  # SmolLM2-135M's prompt
    assert not pays_to_gather(16, 2_654_208, experts=4, top_k=2)
    assert pays_to_gather(1, 135_168, experts=4, top_k=2)  # two of four are not called
    assert not pays_to_gather(1, 135_168, experts=2, top_k=2)
    assert not pays_to_gather(1_000_000, 2_654_208, experts=4, top_k=4)


@torch.no_grad()
def test_choice_is_made_by_the_size_of_the_call() -> None:
    moe = mixture(width=200)  # 16 k parameters an expert: 6 k tokens pay
    sizes = called_with(moe)
    for tokens, sent in ((1, 2), (100, 4 * 100), (7000, 2 * 7000)):
        sizes.clear()
        moe(torch.randn(tokens, 200))
        assert sum(sizes) == sent
    moe.gathers = False
    sizes.clear()
    moe(torch.randn(7000, 200))
    assert sizes == [7000] * 4


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_captured_graphs_compute_all_so_that_no_shape_depends_on_the_tokens() -> None:
    moe, x = mixture(width=200), torch.randn(7000, 200)
    expected = moe(x)
    compiled = torch.compile(moe, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-5)
    exported = torch.export.export(moe, (x,)).module()
    torch.testing.assert_close(exported(x), expected, atol=1e-5, rtol=1e-5)
    traced = torch.jit.trace(moe, (x,), check_trace=False)  # type: ignore[no-untyped-call]
    moved = x.flip(1)  # other tokens for every expert than those it was traced with
    torch.testing.assert_close(traced(moved), moe(moved), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_comes_out_as_close_either_way() -> None:
    moe, x = mixture(), torch.randn(64, 24)
    exact = next(both_ways(moe, x))
    with torch.autocast("cpu", torch.bfloat16):
        gathered, computed = both_ways(moe, x)
    assert gathered.dtype == computed.dtype == torch.bfloat16
    assert (gathered - exact).abs().max() <= 1.1 * (computed - exact).abs().max()


@torch.no_grad()
def test_model_with_full_experts_scores_the_same_either_way_from_the_same_state() -> None:
    torch.manual_seed(0)
    model = tiny_model(moe=MoeConfig(ffn_kind="full", ffn_experts=4))
    views, present = tiny_views(2)
    names, scores = list(model.state_dict()), []
    assert "language.model.layers.0.mlp.experts.3.up_proj.weight" in names
    for gathers in (True, False):
        twin = copy.deepcopy(model)
        for moe in iter_moe_ffns(twin):
            assert isinstance(moe, FullMoeFfn)
            moe.gathers = gathers
        scene = twin.scene_tokens(twin.encode_views(views, present), present)
        scores.append(twin.answer_log_probs(scene, [plan_question(None, None)] * 2))
        assert list(twin.state_dict()) == names
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)
