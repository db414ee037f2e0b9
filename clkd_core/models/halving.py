"""Cutting the student out of its teacher: half of the blocks of every stack, weights copied."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from clkd_core.errors import ConfigError
from clkd_core.models.llama_vlm import LlamaVlm, LlamaVlmConfig
from clkd_core.models.moe import MoeConfig
from clkd_core.models.vlm import count_parameters

KeepRule = Literal["every_other", "first", "last"] | tuple[int, ...]

_LAYER = re.compile(r"^(language\.model\.layers\.)(\d+)(\..*)$")
_STAGE = re.compile(r"^(vision_tower\.(?:front|side)\.stages\.)(\d)\.(\d+)(\..*)$")


def kept_blocks(count: int, rule: KeepRule, *, entry_stays: bool = False) -> tuple[int, ...]:
    """Which of a stack's blocks the student keeps.

    Args:
        count: blocks of the teacher's stack.
        rule: ``every_other`` (0, 2, 4, ...), the ``first`` or ``last`` half (rounded up), or
            the indices themselves, of which those beyond a shorter stack are left out.
        entry_stays: block 0 changes the width and cannot go; it then takes the place of the
            first block kept.

    Raises:
        ConfigError: the list keeps nothing, repeats a block or is not ascending.
    """
    half = -(-count // 2)
    if isinstance(rule, tuple):
        kept = tuple(index for index in rule if 0 <= index < count)
        if not kept or list(rule) != sorted(set(rule)):
            raise ConfigError(f"keep is {rule}, expected ascending blocks out of 0..{count - 1}")
    else:
        choices = {
            "every_other": range(0, count, 2),
            "first": range(half),
            "last": range(count - half, count),
        }
        kept = tuple(choices[rule])
    return (0, *kept[1:]) if entry_stays else kept


def halved_config(config: LlamaVlmConfig, rule: KeepRule) -> LlamaVlmConfig:
    """The teacher's architecture with only the kept blocks, still dense."""
    stages = _stage_blocks(config, rule)
    layers = kept_blocks(config.language.layers, rule)
    first, second, third, fourth = (len(kept) for kept in stages)
    return replace(
        config,
        vision=replace(config.vision, blocks=(first, second, third, fourth)),
        language=replace(config.language, layers=len(layers)),
        moe=None,
    )


def halve(
    teacher: LlamaVlm, rule: KeepRule = "every_other", moe: MoeConfig | None = None
) -> LlamaVlm:
    """A student with half of the teacher's blocks and their weights, then given its experts.

    Raises:
        ConfigError: the student would be larger than its teacher, or the rule keeps nothing.
    """
    config = halved_config(teacher.config, rule)
    student = LlamaVlm(config, teacher.tokenizer)
    student.load_state_dict(halved_state(teacher.state_dict(), teacher.config, rule))
    if moe is not None:
        student.config = replace(config, moe=moe)
        student.add_experts(moe)
    ours, theirs = count_parameters(student)[0], count_parameters(teacher)[0]
    if ours > theirs:
        raise ConfigError(
            f"the student has {ours:,} parameters, expected at most its teacher's {theirs:,}: "
            "use fewer or smaller experts"
        )
    return student.to(next(teacher.parameters()).device)


def halved_state(
    state: Mapping[str, Tensor], config: LlamaVlmConfig, rule: KeepRule
) -> dict[str, Tensor]:
    """The kept blocks' tensors under their new numbers, everything else as it is."""
    layers = kept_blocks(config.language.layers, rule)
    stages = _stage_blocks(config, rule)
    kept: dict[str, Tensor] = {}
    for key, value in state.items():
        new_key = _new_key(key, layers, stages)
        if new_key is not None:
            kept[new_key] = torch.clone(value)
    return kept


def _new_key(key: str, layers: tuple[int, ...], stages: Sequence[tuple[int, ...]]) -> str | None:
    if match := _LAYER.match(key):
        head, index, tail = match[1], int(match[2]), match[3]
        return f"{head}{layers.index(index)}{tail}" if index in layers else None
    if match := _STAGE.match(key):
        kept, index = stages[int(match[2])], int(match[3])
        return f"{match[1]}{match[2]}.{kept.index(index)}{match[4]}" if index in kept else None
    return key


def _stage_blocks(config: LlamaVlmConfig, rule: KeepRule) -> list[tuple[int, ...]]:
    return [kept_blocks(count, rule, entry_stays=True) for count in config.vision.blocks]
