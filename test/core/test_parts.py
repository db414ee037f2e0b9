import copy
from collections.abc import Iterator

import pytest
import torch
from tiny_vlm import SQUARES_VERSION, tiny_model, write_squares

from clkd_core.data.sidecar import load_keyframes
from clkd_core.distill.config import AugmentConfig
from clkd_core.distill.feed.batches import Batch, Look, build_batch
from clkd_core.distill.feed.samples import load_samples
from clkd_core.distill.losses import answer_token_loss, h2g_loss
from clkd_core.distill.processes.parts import PartedModel
from clkd_core.models.base import VlmBase
from clkd_core.models.halving import halve
from clkd_core.models.moe import MoeConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    root = tmp_path_factory.mktemp("squares") / "set"
    write_squares(root, train=7, val=1)
    samples = load_samples(load_keyframes(root, SQUARES_VERSION, "train"), (36, 64), workers=1)
    return build_batch(
        samples,
        [Look(index, (1, 0, 0, index)) for index in range(7)],
        tiny_model(),
        AugmentConfig(),
        questions_per_sample=1,
        device=torch.device("cpu"),
    )


def moe_student() -> VlmBase:
    """In evaluation mode, so that a sample does not depend on its part's statistics."""
    return halve(tiny_model(), moe=MoeConfig(lora_rank=1, adapter_experts=2)).eval()


def loss_of(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    token_loss = answer_token_loss(logits, batch.text.targets)
    return h2g_loss(token_loss, batch.text.keep, sample_frac=0.5, token_frac=0.6)


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_give_the_gradients_of_the_whole_batch(batch: Batch, parts: int) -> None:
    whole = moe_student()
    scene = whole.scene_tokens(whole.encode_views(batch.views, batch.present), batch.present)
    loss_of(whole.answer_logits(scene, batch.text), batch).backward()

    student = moe_student()
    parted = PartedModel(student, parts, bf16=False)
    outputs = parted.forward(batch)
    (loss_of(outputs.logits, batch) + 0.0 * outputs.router_losses.sum()).backward()
    parted.backward()
    for (name, ours), theirs in zip(student.named_parameters(), whole.parameters(), strict=True):
        expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        assert ours.grad is not None, name
        torch.testing.assert_close(ours.grad, expected, atol=1e-5, rtol=1e-3)


def test_parts_share_their_weights_after_a_step(batch: Batch) -> None:
    student = moe_student()
    parted = PartedModel(student, 2, bf16=False)
    before = parted.infer(batch)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    student.train().eval()  # forget the prefix, as every training step does
    for twin in parted._models[1:]:
        twin.train().eval()
    after = parted.infer(batch)
    assert not torch.allclose(before[-1], after[-1])
    alone = PartedModel(student, 1, bf16=False).infer(batch)
    torch.testing.assert_close(after, alone, atol=1e-5, rtol=1e-4)


def test_router_terms_reach_the_routers_and_usage_sums_to_one(batch: Batch) -> None:
    student = moe_student()
    parted = PartedModel(student, 2, bf16=False)
    outputs = parted.forward(batch)
    (0.0 * outputs.logits.sum() + outputs.router_losses.sum()).backward()
    parted.backward()
    router = student.language.model.layers[0].mlp.router.weight
    assert router.grad is not None
    assert router.grad.abs().sum() > 0
    assert sum(outputs.ffn_usage) == pytest.approx(1.0, abs=1e-3)
    assert sum(outputs.adapter_usage) == pytest.approx(1.0, abs=1e-3)


def test_dense_model_has_no_router_terms(batch: Batch) -> None:
    outputs = PartedModel(tiny_model(), 2, bf16=False).forward(batch)
    assert outputs.router_losses.tolist() == [0.0, 0.0]
    assert outputs.ffn_usage == outputs.adapter_usage == ()


def test_statistics_of_all_parts_are_joined(batch: Batch) -> None:
    teacher = tiny_model().train()
    parted = PartedModel(teacher, 2, bf16=False)
    before = copy.deepcopy(teacher.vision_tower.front.stem.bn.running_mean)
    outputs = parted.forward(batch)
    loss_of(outputs.logits, batch).backward()
    parted.backward()
    ours, theirs = (m.vision_tower.front.stem.bn.running_mean for m in parted._models)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, before)


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="parts is 0"):
        PartedModel(tiny_model(), 0, bf16=False)
