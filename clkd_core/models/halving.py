"""Cutting the student out of its teacher: half of the blocks of every stack, weights copied."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase, VlmConfig
from clkd_core.models.families import build_from_config
from clkd_core.models.moe import MoeConfig
from clkd_core.models.stacks import Stack
from clkd_core.models.vlm import count_parameters

KeepRule = Literal["every_other", "first", "last"] | tuple[int, ...]

Config = TypeVar("Config", bound=VlmConfig)


def kept_blocks(
    count: int, rule: KeepRule, *, entry_stays: bool = False, least: int = 1
) -> tuple[int, ...]:
    """Which of a stack's blocks the student keeps.

    Args:
        count: blocks of the teacher's stack.
        rule: ``every_other`` (0, 2, 4, ...), the ``first`` or ``last`` half (rounded up), or
            the indices themselves, of which those beyond a shorter stack are left out.
        entry_stays: block 0 changes the width and cannot go; it then takes the place of the
            first block kept.
        least: where a half would be fewer blocks, the first ones of the stack stay, so many.

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
        if len(kept) < least:
            kept = tuple(range(min(least, count)))
    return (0, *kept[1:]) if entry_stays else kept


def halved_config(config: Config, rule: KeepRule, *, least: int = 1) -> Config:
    """The teacher's architecture with only the kept blocks, still dense."""
    blocks = {stack.name: len(_kept(stack, rule, least)) for stack in config.stacks()}
    return replace(config.with_blocks(blocks), moe=None)


def halve(
    teacher: VlmBase,
    rule: KeepRule = "every_other",
    moe: MoeConfig | None = None,
    *,
    least: int = 1,
) -> VlmBase:
    """A student with half of the teacher's blocks and their weights, then given its experts.

    Args:
        teacher: stays as it is.
        rule: see :func:`kept_blocks`.
        moe: None leaves the student dense.
        least: see :func:`kept_blocks`.

    Raises:
        ConfigError: the student would be larger than its teacher, the rule keeps nothing, or
            the teacher has experts itself.
    """
    if teacher.config.moe is not None:
        raise ConfigError("the teacher has experts, expected a dense model to cut a student from")
    student = build_from_config(
        halved_config(teacher.config, rule, least=least), teacher.tokenizer
    )
    state = halved_state(teacher.state_dict(), teacher.config, rule, least=least)
    student.load_state_dict(state)
    if moe is not None:
        student.add_experts(moe)
    check_size(student, teacher)
    return student.to(teacher.missing_view.device)


def check_size(student: VlmBase, teacher: VlmBase) -> None:
    """Refuse a student with more parameters than its teacher.

    Raises:
        ConfigError: it has more; names both counts.
    """
    ours, theirs = count_parameters(student)[0], count_parameters(teacher)[0]
    if ours > theirs:
        raise ConfigError(
            f"the student has {ours:,} parameters, expected at most its teacher's {theirs:,}: "
            "use fewer or smaller experts"
        )


def halved_state(
    state: Mapping[str, Tensor], config: VlmConfig, rule: KeepRule, *, least: int = 1
) -> dict[str, Tensor]:
    """The kept blocks' tensors under their new numbers, everything else as it is."""
    places = [
        (prefix, stack, _kept(stack, rule, least))
        for stack in config.stacks()
        for prefix in stack.prefixes
    ]
    kept: dict[str, Tensor] = {}
    for key, value in state.items():
        new_key = _new_key(key, places)
        if new_key is not None:
            kept[new_key] = torch.clone(value)
    return kept


def _kept(stack: Stack, rule: KeepRule, least: int) -> tuple[int, ...]:
    return kept_blocks(stack.blocks, rule, entry_stays=stack.entry_stays, least=least)


def _new_key(key: str, places: list[tuple[str, Stack, tuple[int, ...]]]) -> str | None:
    for prefix, stack, kept in places:
        number, _, tail = key.removeprefix(prefix).partition(".")
        if not key.startswith(prefix) or not number.isdecimal():
            continue
        if number == "0" and any(tail.startswith(start) for start in stack.carried):
            return key
        index = int(number)
        return f"{prefix}{kept.index(index)}.{tail}" if index in kept else None
    return key
