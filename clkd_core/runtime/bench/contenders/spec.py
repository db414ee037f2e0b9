"""What a contender is: a few words, and how it is built in the process that will hold it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from clkd_core.errors import ClkdError
from clkd_core.types import SurroundFrame

Kind = Literal["ours", "other", "machine"]
"""``machine``: no model, it tells what the machine does by itself."""


class NoRoomError(ClkdError):
    """A contender's memory does not fit here: it is left out, the others go on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contenders of a run are built for."""

    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda[:N]``."""
    threads: int | None = None
    """Of the model; None: all cores."""
    checkpoint: Path | None = None
    """Of the student that stands for ``nano``; None: the one that comes with the package."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one answer cannot do without, image decoding apart."""

    weight_bytes: int
    """Weights read: once per call of the layer that has them, so once per token in generation."""
    flops: int
    """Multiplications and additions of matrix products, convolutions and attention."""
    dtype: str
    """That they are computed in, by torch's name."""


class Answerer(Protocol):
    """A contender that is built."""

    @property
    def backend(self) -> str:
        """What computes, for tables: library and number format."""

    @property
    def threads(self) -> int:
        """That one of its operations may spread over."""

    @property
    def parameters(self) -> tuple[int, int]:
        """(total, active); may load a model to count them."""

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the weights; None: they are random, or there are none."""

    def answer(self, frame: SurroundFrame) -> object:
        """Encoded bytes in, answer on the host."""

    def decode(self, frame: SurroundFrame) -> object:
        """The images alone, as :meth:`answer` decodes them."""

    def count_work(self, frame: SurroundFrame) -> Work | None:
        """Of one answer; None where there is no model."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to answer a frame."""

    name: str
    """One word."""
    what: str
    """One line for the table's reader."""
    build: Callable[[Setting], Answerer]
    """A module's function, or a ``functools.partial`` of one: it goes to another process.

    Raises:
        NoRoomError: the memory it needs is not there.
    """
    prepare: Callable[[Setting], None] | None = None
    """Run once before, in a process that ends with it: what it leaves on disk is found by
    ``build``, whose process is then as small as on any later day."""
    kind: Kind = "other"
    every: int = 1
    """Takes part in every so many rounds; slow ones in few."""
