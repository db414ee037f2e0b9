import copy

import pytest
import torch
from tiny_vlm import tiny_model, tiny_views

from clkd_core.data.prompts import plan_question
from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase
from clkd_core.models.halving import halve
from clkd_core.models.moe import MoeConfig
from clkd_core.models.tuning import add_lora, freeze_text_embedding, freeze_vision, merge_lora

QUESTION = plan_question(None, None)


def logits_of(model: VlmBase) -> torch.Tensor:
    text = model.pack([[(QUESTION, " STOP, STRAIGHT")]])
    views, present = tiny_views(1)
    logits: torch.Tensor = model(views, present, text)
    return logits


def learning(model: VlmBase) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def shake(model: VlmBase) -> None:
    """Give every weight that learns another value."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_lora_leaves_the_logits_until_it_is_trained_and_merged_equals_unmerged(kind: str) -> None:
    model = halve(tiny_model(), moe=MoeConfig(ffn_kind=kind, lora_rank=1)).eval()  # type: ignore[arg-type]
    keys = list(model.state_dict())
    before = logits_of(model)
    add_lora(model, rank=2, alpha=4, dropout=0.0, targets=None)
    torch.testing.assert_close(logits_of(model), before)
    shake(model)
    unmerged = logits_of(model)
    assert not torch.allclose(unmerged, before, atol=1e-3)
    merge_lora(model)
    torch.testing.assert_close(logits_of(model), unmerged, atol=2e-5, rtol=1e-4)
    assert list(model.state_dict()) == keys


def test_with_lora_only_adapters_and_experts_of_the_language_model_learn() -> None:
    model = halve(tiny_model(), moe=MoeConfig(lora_rank=1))
    add_lora(model, rank=2, alpha=4, dropout=0.0, targets=None)
    of_language = {n for n in learning(model) if n.startswith("language.")}
    kinds = ("lora_A", "lora_B", ".router.", ".down.", ".up.")
    assert all(any(kind in name for kind in kinds) for name in of_language)
    assert all(any(kind in name for name in of_language) for kind in kinds)
    others = {n for n, _ in model.named_parameters() if not n.startswith("language.")}
    assert others <= learning(model)


def test_lora_takes_the_layers_that_are_named_and_refuses_others() -> None:
    model = tiny_model()
    add_lora(model, rank=1, alpha=1, dropout=0.0, targets=("down_proj",))
    adapted = {n.split(".lora_A")[0].rpartition(".")[2] for n in learning(model) if "lora_A" in n}
    assert adapted == {"down_proj"}
    with pytest.raises(ConfigError, match=r"targets are \['wq'\], expected names of .*'k_proj'"):
        add_lora(tiny_model(), rank=1, alpha=1, dropout=0.0, targets=("wq",))


def test_frozen_vision_tower_keeps_weights_and_statistics_in_training() -> None:
    model = tiny_model()
    freeze_vision(model)
    model.train()
    before = copy.deepcopy(model.vision_tower.state_dict())
    logits_of(model).sum().backward()
    after = model.vision_tower.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in model.vision_tower.parameters())
    assert model.mm_projector.training and not model.vision_tower.training


def test_frozen_text_embedding_takes_the_tied_output_layer_along() -> None:
    model = tiny_model()
    freeze_text_embedding(model)
    logits_of(model.train()).sum().backward()
    assert model.language.model.embed_tokens.weight.grad is None
    assert model.language.lm_head.weight is model.language.model.embed_tokens.weight


def test_checkpointed_blocks_give_the_same_gradients_of_loss_and_routers() -> None:
    plain = halve(tiny_model(), moe=MoeConfig(lora_rank=1))
    saving = copy.deepcopy(plain)
    saving.checkpoint_blocks()
    assert list(saving.state_dict()) == list(plain.state_dict())
    from clkd_core.models.moe import router_terms

    for model in (plain, saving):
        (logits_of(model.eval()).square().sum() + router_terms(model).losses.sum()).backward()
    for (name, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
