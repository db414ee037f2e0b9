"""Steps with their batches, the next one drawn while this one computes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from tqdm.contrib.logging import logging_redirect_tqdm

from clkd_core.distill.feed.batches import Batch
from clkd_core.progress import progress


def shown_steps(start: int, stop: int, stage: str, *, quiet: bool) -> Iterable[int]:
    """Step numbers behind a progress bar; where nobody looks, the log's lines are enough."""
    steps: Sequence[int] = range(start, stop)
    if not sys.stderr.isatty() or quiet:
        yield from steps
        return
    with ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        yield from progress(steps, desc=stage, unit="step")


def prefetched(
    draw: Callable[..., list[Batch]], steps: Iterable[int]
) -> Iterator[tuple[int, list[Batch]]]:
    """(step, its batches); while one step computes, a thread draws the next one's."""
    with ThreadPoolExecutor(1, "draw") as pool:
        waiting: tuple[int, Future[list[Batch]]] | None = None
        for step in steps:
            upcoming = (step, pool.submit(draw, step=step))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = upcoming
        if waiting is not None:
            yield waiting[0], waiting[1].result()
