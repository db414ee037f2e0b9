"""Progress on stderr: a bar where a person looks, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY_S = 5.0
"""Pause between two plain lines where stderr is not a terminal [s]."""


def progress(
    iterable: Iterable[T],
    *,
    total: int | None = None,
    desc: str,
    unit: str = "it",
    stream: TextIO | None = None,
) -> Iterator[T]:
    """Yield the items unchanged and show how far they are.

    Args:
        iterable: what to go through.
        total: number of items; taken from ``len(iterable)`` when None and it has one.
        desc: what is being done, a few words.
        unit: what one item is.
        stream: where to write; stderr of the moment when None.
    """
    out = stream or sys.stderr
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if out.isatty():
        yield from tqdm(
            iterable, total=total, desc=desc, unit=unit, file=out, mininterval=0.5, leave=False
        )
    else:
        yield from _with_lines(iterable, total, f"{desc}:", unit, out)


def _with_lines(
    iterable: Iterable[T], total: int | None, desc: str, unit: str, out: TextIO
) -> Iterator[T]:
    start_s = line_s = time.monotonic()
    for done, item in enumerate(iterable):
        now_s = time.monotonic()
        if now_s - line_s >= LINE_EVERY_S:
            print(desc, _line(done, total, unit, now_s - start_s), file=out, flush=True)
            line_s = now_s
        yield item


def _line(done: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """``120/400 frames, 35 s, eta 82 s``; without a total only what is known."""
    if not total:
        return f"{done} {unit}, {elapsed_s:.0f} s"
    eta = f"{elapsed_s * (total - done) / done:.0f} s" if done else "unknown"
    return f"{done}/{total} {unit}, {elapsed_s:.0f} s, eta {eta}"
