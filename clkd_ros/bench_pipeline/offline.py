"""The engine's stages one by one, without a transport: decoding, vision, language, planning.

Live, where both nodes share an engine, a plan's time includes waiting for the images' encoding,
and a decision's too; no clock of theirs tells the stages apart. Here every frame goes through all
of them in turn, so that each stage meets the same weather of the machine.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clkd_core.progress import progress
from clkd_core.runtime.decode import decode_frame
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame
from clkd_ros.bench_pipeline.stages import Spread, compute_spread

if TYPE_CHECKING:  # torch takes seconds
    from clkd_core.runtime.engine import Engine
    from clkd_core.runtime.planning import PlannerEngine

WARM_UP_FRAMES = 10
"""Go through all stages first and are not counted."""

PLANNING = "planning"
"""The planner's own share, beyond the vision features that it has in common with the VLM."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class OfflineStages:
    """What each stage takes when nothing else runs beside it."""

    frames: int
    device: str
    """torch's name of it."""
    backend: str
    """What computes the decisions there."""
    threads: int
    """That one operation may spread over."""
    stages: Mapping[str, Spread]
    """decoding, vision, language and, where the student has a planner, planning."""
    shares: Mapping[str, float]
    """Each stage's mean over the sum of the means."""
    decision: Spread
    """The engine's ``decide`` as a whole, in the same turns: about decoding, vision, language."""


def measure_offline(
    frames: Iterable[SurroundFrame], checkpoint: Path, *, device: str, threads: int | None
) -> OfflineStages:
    """Time the stages of the frames.

    Args:
        frames: at least one; some of them go through all stages once before, to warm up.
        checkpoint: of the student.
        device: auto, cpu or cuda[:N].
        threads: of the model; None takes all cores, as decoding does.

    Raises:
        CheckpointError: the folder is no checkpoint, or its planner cannot be used.
        FrameError: a frame holds no usable view.
    """
    import torch

    from clkd_core.models.planner_checkpoint import load_planner
    from clkd_core.runtime.engine import Engine
    from clkd_core.runtime.planning import PlannerEngine

    engine = Engine.from_checkpoint(checkpoint, device=device, threads=threads)
    planner = None
    if (checkpoint / "planner").is_dir():
        planner = PlannerEngine(load_planner(checkpoint, device=engine.device), engine)
    engine.warm_up()
    used = torch.get_num_threads()
    with ExitStack() as ending:
        workers = min(len(CAMERAS), len(os.sched_getaffinity(0)))  # as the engine has it
        pool = ending.enter_context(ThreadPoolExecutor(workers)) if workers > 1 else None
        bench = _Stages(engine, planner, pool, synchronise=_synchroniser(engine.device))
        times = bench.time_all(list(frames))
    return summarize(times, device=engine.device, backend=engine.backend, threads=used)


def summarize(
    times: Mapping[str, Sequence[float]], *, device: str, backend: str, threads: int
) -> OfflineStages:
    """Percentiles and shares of the stages' times [ms], ``decision`` being the whole beside."""
    spreads = {name: compute_spread(values) for name, values in times.items()}
    decision = spreads.pop("decision")
    whole_ms = sum(spread.mean_ms for spread in spreads.values())
    return OfflineStages(
        frames=decision.count,
        device=device,
        backend=backend,
        threads=threads,
        stages=spreads,
        shares={name: spread.mean_ms / whole_ms for name, spread in spreads.items()},
        decision=decision,
    )


def _synchroniser(device: object) -> Callable[[], None]:
    """Waits until the device has done what it was given; a CPU has."""
    import torch

    kind = torch.device(str(device))
    return (lambda: torch.cuda.synchronize(kind)) if kind.type == "cuda" else (lambda: None)


class _Stages:
    """One engine, and the planner beside it."""

    def __init__(
        self,
        engine: "Engine",
        planner: "PlannerEngine | None",
        pool: ThreadPoolExecutor | None,
        *,
        synchronise: Callable[[], None],
    ) -> None:
        self._engine, self._planner, self._pool = engine, planner, pool
        self._synchronise = synchronise
        self._times: dict[str, list[float]] = {}

    def time_all(self, frames: Sequence[SurroundFrame]) -> dict[str, list[float]]:
        """Milliseconds by stage, one entry a frame."""
        for number in range(WARM_UP_FRAMES):
            self._time_frame(frames[number % len(frames)])
        self._times.clear()
        for frame in progress(frames, desc="bench offline", unit="frames"):
            self._time_frame(frame)
        return self._times

    def _time_frame(self, frame: SurroundFrame) -> None:
        engine, size = self._engine, self._engine.image_size
        decoded = self._time("decoding", lambda: decode_frame(frame, size, pool=self._pool))
        views = {
            camera: CameraImage(
                stamp_ns=frame.stamp_ns, pixels=decoded.views[number].transpose(1, 2, 0).copy()
            )
            for number, camera in enumerate(CAMERAS)
            if decoded.present[number]
        }
        small = replace(frame, images=views)  # at the model's size: nothing is left to decode
        encoded = self._time("vision", lambda: engine.encode(small))
        decision = self._time("language", lambda: engine.decide_from_features(frame, encoded))
        if (planner := self._planner) is not None:
            self._time(PLANNING, lambda: planner.plan_from_features(frame, decision, encoded))
        self._time("decision", lambda: engine.decide(frame))

    def _time(self, name: str, work: Callable[[], Result]) -> Result:
        start_ns = time.perf_counter_ns()
        done = work()
        self._synchronise()
        self._times.setdefault(name, []).append((time.perf_counter_ns() - start_ns) / 1e6)
        return done
