from collections.abc import Callable

import pytest
import torch
from tiny_vlm import tiny_model, tiny_t5_model, tiny_views

from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase
from clkd_core.models.halving import KeepRule, halve, kept_blocks
from clkd_core.models.moe import MoeConfig
from clkd_core.models.vision.timm_tower import TimmConfig
from clkd_core.models.vlm import count_parameters


@pytest.mark.parametrize(
    ("count", "rule", "kept"),
    [
        (6, "every_other", (0, 2, 4)),
        (5, "every_other", (0, 2, 4)),
        (6, "first", (0, 1, 2)),
        (5, "last", (2, 3, 4)),
        (1, "last", (0,)),
        (4, (1, 3), (1, 3)),
        (2, (1, 3), (1,)),
    ],
)
def test_kept_blocks_are_half_of_the_stack(
    count: int, rule: KeepRule, kept: tuple[int, ...]
) -> None:
    assert kept_blocks(count, rule) == kept


def test_kept_blocks_keep_the_entry_of_a_stage_that_changes_width() -> None:
    assert kept_blocks(4, "last", entry_stays=True) == (0, 3)
    assert kept_blocks(2, "last", entry_stays=True) == (0,)


def test_kept_blocks_spare_a_stack_that_is_short() -> None:
    assert [kept_blocks(n, "every_other", least=2) for n in (1, 2, 3, 6)] == [
        (0,), (0, 1), (0, 2), (0, 2, 4),
    ]  # fmt: skip
    assert kept_blocks(6, (5,), least=2) == (5,)  # a list means what it says


@pytest.mark.parametrize("rule", [(), (7,), (2, 1), (1, 1)])
def test_kept_blocks_refuse_a_list_that_makes_no_student(rule: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="keep is"):
        kept_blocks(4, rule)


@pytest.mark.parametrize("rule", ["every_other", "first", "last", (1, 2)])
def test_student_has_half_of_every_stack_with_its_teachers_weights(rule: KeepRule) -> None:
    teacher = tiny_model()
    student = halve(teacher, rule)
    assert student.config.language.layers == 2
    assert student.config.vision.blocks == (1, 1, 1, 1)
    layers = kept_blocks(4, rule)
    ours, theirs = student.language.model.layers, teacher.language.model.layers
    for new, old in enumerate(layers):
        for mine, its in zip(ours[new].parameters(), theirs[old].parameters(), strict=True):
            assert torch.equal(mine, its)
            assert mine.data_ptr() != its.data_ptr()
    for view in ("front", "side"):
        mine = student.vision_tower.get_submodule(f"{view}.stages.1.0").state_dict()
        its = teacher.vision_tower.get_submodule(f"{view}.stages.1.0").state_dict()
        assert all(torch.equal(mine[key], its[key]) for key in its)


@pytest.mark.parametrize("rule", ["every_other", "first", "last", (1, 2)])
def test_t5_student_keeps_the_position_bias_whichever_block_becomes_its_first(
    rule: KeepRule,
) -> None:
    teacher = tiny_t5_model()
    student = halve(teacher, rule)
    assert (student.config.language.layers, student.config.language.decoder_layers) == (2, 2)
    for stack in ("encoder", "decoder"):
        ours = student.get_submodule(f"language.{stack}.block").state_dict()
        theirs = teacher.get_submodule(f"language.{stack}.block").state_dict()
        bias = "0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert torch.equal(ours.pop(bias), theirs.pop(bias))
        for key, value in ours.items():
            number, _, tail = key.partition(".")
            assert torch.equal(value, theirs[f"{kept_blocks(4, rule)[int(number)]}.{tail}"])
    assert student.language.lm_head.weight is student.language.shared.weight


@pytest.mark.parametrize("rule", ["every_other", "first", "last", (1, 2)])
def test_stages_of_swin_lose_half_of_their_blocks(rule: KeepRule) -> None:
    tower = TimmConfig(height_px=224, width_px=224, blocks=(1, 2, 3, 1))
    teacher = tiny_t5_model(vision=tower, tokens_per_view=None)
    student = halve(teacher, rule if isinstance(rule, str) else (0, *rule))
    for stage, count in enumerate(tower.blocks):
        kept = kept_blocks(count, rule if isinstance(rule, str) else (0, *rule))
        ours = student.get_submodule(f"vision_tower.net.layers.{stage}.blocks")
        theirs = teacher.get_submodule(f"vision_tower.net.layers.{stage}.blocks").state_dict()
        assert student.config.vision.blocks[stage] == len(kept)
        for key, value in ours.state_dict().items():
            number, _, tail = key.partition(".")
            assert torch.equal(value, theirs[f"{kept[int(number)]}.{tail}"])


@pytest.mark.parametrize("build", [tiny_model, tiny_t5_model])
@torch.no_grad()
def test_cutting_nothing_leaves_the_teacher(build: Callable[[], VlmBase]) -> None:
    teacher = build()
    twin = halve(teacher, (0, 1, 2, 3)).eval()
    views, present = tiny_views(1)
    scenes = [m.scene_tokens(m.encode_views(views, present), present) for m in (teacher, twin)]
    torch.testing.assert_close(scenes[0], scenes[1])
    scores = [m.answer_log_probs(scenes[0], [" Plan:"]) for m in (teacher, twin)]
    torch.testing.assert_close(scores[0], scores[1])


def test_training_the_student_leaves_its_teacher_alone() -> None:
    teacher = tiny_model()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student = halve(teacher, moe=MoeConfig(lora_rank=1, adapter_experts=2))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_student_larger_than_its_teacher_is_refused_with_both_counts() -> None:
    teacher = tiny_model()
    experts = MoeConfig(ffn_kind="full", ffn_experts=40, adapter_experts=40)
    with pytest.raises(
        ConfigError, match=f"at most its teacher's {count_parameters(teacher)[0]:,}"
    ):
        halve(teacher, moe=experts)
