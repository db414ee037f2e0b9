"""Stacks of equal blocks inside a network: what halving may thin out, and how it counts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar


@dataclass(frozen=True)
class Stack:
    """Blocks that follow each other and have the same shape."""

    name: str
    """Unique in its model; the key of :meth:`Stacked.with_blocks`."""
    prefixes: tuple[str, ...]
    """What stands before the block's number in the keys of a state; several where networks that
    are thinned out alike run side by side."""
    blocks: int
    """How many there are."""
    entry_stays: bool = False
    """Block 0 changes the width and cannot go."""
    carried: tuple[str, ...] = ()
    """Beginnings of keys behind the number that only block 0 has, and that whoever becomes
    block 0 takes over, such as T5's relative position bias."""


Config = TypeVar("Config", bound="Stacked")


class Stacked(Protocol):
    """An architecture that knows its stacks."""

    def stacks(self) -> tuple[Stack, ...]:
        """All stacks, outermost names first."""

    def with_blocks(self: Config, blocks: Mapping[str, int]) -> Config:
        """The same architecture with other numbers of blocks, by stack name."""
