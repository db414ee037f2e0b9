"""All contenders in one run: each in its process, all meet the same weather of the machine."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from clkd_core.errors import ClkdError
from clkd_core.progress import progress
from clkd_core.runtime.bench.ceilings import Ceilings, Gauge
from clkd_core.runtime.bench.children import Child
from clkd_core.runtime.bench.contenders.spec import Contender, NoRoomError, Setting
from clkd_core.runtime.bench.seat import Preparation, Seat
from clkd_core.types import SurroundFrame

SETTLE_S = 0.005
"""Pause before each answer: the threads of whoever answered before wait busily for some 4 ms of
processor time (torch 2.14, two threads) before they sleep."""
_TARGET_ANSWERS = 15
"""Of the first contender; a control loop is made as long as their lower quartile."""


class Timed(Protocol):
    """What can be given a turn: a seat in another process."""

    name: str

    def ask(self, method: str, *arguments: object) -> float:
        """Of ``time_ms`` with the frame's number: milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A contender that could not take part."""

    name: str
    what: str
    why: str


def measure_ceilings(setting: Setting) -> Ceilings:
    """In a process that ends with it.

    Raises:
        ConfigError: the device is not there.
    """
    found: Ceilings = _ask_gauge(setting, "measure")
    return found


def find_device(setting: Setting) -> tuple[str, str]:
    """torch's name of the run's device, and its name for people.

    Raises:
        ConfigError: it is not there.
    """
    found: tuple[str, str] = _ask_gauge(setting, "find")
    return found


def _ask_gauge(setting: Setting, method: str) -> Any:
    with TemporaryDirectory(prefix="clkd-bench-") as folder:
        gauge = Child("the device's gauge", partial(Gauge, setting), Path(folder) / "log")
        try:
            return gauge.ask(method)
        finally:
            gauge.end()


@contextmanager
def seated(
    contenders: Sequence[Contender], setting: Setting, frames: Sequence[SurroundFrame]
) -> Iterator[tuple[dict[str, Child], list[Skipped]]]:
    """Build the contenders one after the other, warmed up; all their processes end on exit.

    Yields:
        The processes by name, and who was left out.

    Raises:
        ClkdError: one cannot be built for another reason than memory, or died; names it.
    """
    seats: dict[str, Child] = {}
    skipped: list[Skipped] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="clkd-bench-")))
        for contender in progress(contenders, desc="building", unit="contenders"):
            _prepare(contender, setting, folder / f"{contender.name}-prepare")
            make = partial(Seat, contender, setting, frames)
            child = Child(contender.name, make, folder / contender.name)
            stack.callback(child.end)
            try:
                child.ask("warm_up")
                seats[contender.name] = child
            except NoRoomError as err:
                child.end()  # now, not at the end: it may hold memory
                skipped.append(Skipped(name=contender.name, what=contender.what, why=str(err)))
            except ClkdError as err:
                raise _named(contender.name, err) from err
        yield seats, skipped


def _prepare(contender: Contender, setting: Setting, log: Path) -> None:
    if contender.prepare is None:
        return
    child = Child(contender.name, partial(Preparation, contender, setting), log)
    try:
        child.ask("run")
    except ClkdError as err:
        raise _named(contender.name, err) from err
    finally:
        child.end()


def _named(name: str, err: ClkdError) -> ClkdError:
    """The same failure with the contender's name in it."""
    return err if name in str(err) else type(err)(f"contender {name}: {err}")


def calibrate(control: Child, first: Timed) -> float:
    """Make a control loop about as long as another one's undisturbed answer; returns it, ms."""
    times = [take_turn(first, number) for number in range(_TARGET_ANSWERS)]
    target_ms = float(np.quantile(times, 0.25))
    control.ask("calibrate", target_ms)
    return target_ms


def time_interleaved(
    seats: Mapping[str, Timed], every: Mapping[str, int], rounds: int, *, seed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds per answer by contender; one more each before is not counted.

    Each round gives all whose turn it is the same frame, in an order drawn anew, so that none
    always finds the caches that the same other one has left. Frames come round separately for
    each group that meets in a round: by the round's number slow ones would meet few of them.

    Args:
        seats: who answers, by name.
        every: a contender takes part in every so many rounds.
        rounds: R.
        seed: of the orders.
    """
    for seat in seats.values():  # the second warm-up: others were built since the first
        take_turn(seat, 0)
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in seats}
    shown: Counter[tuple[str, ...]] = Counter()
    for number in progress(range(rounds), desc="bench", unit="frames"):
        turn = tuple(name for name in seats if number % every[name] == 0)
        for index in rng.permutation(len(turn)):
            times[turn[index]].append(take_turn(seats[turn[index]], shown[turn]))
        shown[turn] += 1
    return times


def take_turn(seat: Timed, number: int) -> float:
    """One answer of one contender, the machine at rest before it; milliseconds."""
    time.sleep(SETTLE_S)
    return float(seat.ask("time_ms", number))
