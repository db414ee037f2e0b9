import pytest
import torch
from tiny_vlm import tiny_model, tiny_views

from clkd_core.errors import ConfigError
from clkd_core.models.halving import KeepRule, halve, kept_blocks
from clkd_core.models.moe import MoeConfig
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


@torch.no_grad()
def test_cutting_nothing_leaves_the_teacher() -> None:
    teacher = tiny_model()
    twin = halve(teacher, (0, 1, 2, 3)).eval()
    views, present = tiny_views(1)
    scenes = [m.scene_tokens(m.encode_views(views, present), present) for m in (teacher, twin)]
    torch.testing.assert_close(scenes[0], scenes[1])


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
