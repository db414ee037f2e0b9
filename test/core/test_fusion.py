import math

import pytest
import torch
from torch import Tensor

from clkd_core.models.fusion import GatedPooling


def pooling() -> GatedPooling:
    torch.manual_seed(0)
    module = GatedPooling(4 * 3, width=5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(4.0)  # so that the views' weights differ
    return module


def views(batch: int = 2) -> Tensor:
    """(B, 6, 4, 3): six views of four patches."""
    return torch.randn(batch, 6, 4, 3, generator=torch.Generator().manual_seed(1))


def slow_weights(module: GatedPooling, features: Tensor, present: list[bool]) -> list[float]:
    """The formula, one view and one row of Z and G after the other."""
    exponentials = []
    for view, is_there in zip(features, present, strict=True):
        v = view.reshape(-1)
        score = 0.0
        for row, w in enumerate(module.score.weight[0].tolist()):
            signal = math.tanh(float(module.value.weight[row] @ v))
            score += w * signal / (1.0 + math.exp(-float(module.gate.weight[row] @ v)))
        exponentials.append(math.exp(score) if is_there else 0.0)
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize("missing", [(), (0,), (1, 4), (0, 1, 2, 3, 4)])
@torch.no_grad()
def test_weights_are_the_softmax_of_the_gated_scores_over_the_views_there(
    missing: tuple[int, ...],
) -> None:
    module, features = pooling(), views()
    there = [camera not in missing for camera in range(6)]
    present = torch.tensor([there, [True] * 6])
    weights = module.weights(features, present)
    for row, is_there in enumerate((there, [True] * 6)):
        expected = torch.tensor(slow_weights(module, features[row], is_there))
        torch.testing.assert_close(weights[row], expected)
    assert weights[1].max() > 0.3  # not just all the same
    assert not weights[0, list(missing)].any()


@torch.no_grad()
def test_pooled_features_are_the_weighted_sum_of_views_patch_by_patch() -> None:
    module, features = pooling(), views()
    present = torch.ones(2, 6, dtype=torch.bool)
    weights, pooled = module.weights(features, present), module(features, present)
    assert pooled.shape == (2, 4, 3)
    for row in range(2):
        expected = sum(weights[row, c] * features[row, c] for c in range(6))
        torch.testing.assert_close(pooled[row], expected)


@torch.no_grad()
def test_what_stands_in_a_missing_view_does_not_matter() -> None:
    module, features = pooling(), views()
    present = torch.ones(2, 6, dtype=torch.bool)
    present[:, 2] = False
    other = features.clone()
    other[:, 2] = 100.0
    assert torch.equal(module(features, present), module(other, present))


def test_no_view_at_all_is_zero_and_leaves_gradients_finite() -> None:
    module, features = pooling(), views().requires_grad_()
    present = torch.zeros(2, 6, dtype=torch.bool)
    pooled = module(features, present)
    assert not pooled.any()
    pooled.sum().backward()
    grads = [features.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(torch.as_tensor(grad).isfinite().all() for grad in grads)


def test_gradients_reach_every_weight() -> None:
    module = pooling()
    module(views(), torch.ones(2, 6, dtype=torch.bool)).square().sum().backward()
    assert all(torch.as_tensor(p.grad).abs().sum() > 0 for p in module.parameters())


@torch.no_grad()
def test_pooling_runs_under_autocast_and_keeps_its_weights_in_float32() -> None:
    module, features = pooling(), views()
    present = torch.ones(2, 6, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        weights = module.weights(features, present)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, module.weights(features, present), atol=0.05, rtol=0)
