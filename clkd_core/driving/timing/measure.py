"""Measure what decisions and plans take on this device, on frames like those that are driven.

As in the nodes, both systems are asked about a frame at the same time, in a thread each, and share
what the vision tower makes of it. Frames come as fast as they are answered.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from clkd_core.driving.config import DriveConfig
from clkd_core.driving.results.steps import FRAME_S
from clkd_core.driving.stage.scenarios import SCENARIOS, plan_scenarios
from clkd_core.driving.stage.scene import Stage
from clkd_core.driving.timing.latencies import Latencies
from clkd_core.progress import progress
from clkd_core.report.provenance import describe_device
from clkd_core.runtime.shared import SharedEngine
from clkd_core.types import SurroundFrame

WARM_FRAMES = 10
"""Answered first and not counted."""


def measure_latencies(
    checkpoint: Path,
    config: DriveConfig,
    *,
    frames: int = 200,
    device: str = "auto",
    threads: int | None = 1,
    seed: int = 0,
) -> Latencies:
    """Answer frames of scripted drives of every scenario and note what each took.

    Args:
        checkpoint: folder of the student and its planner.
        config: says how large the images are.
        frames: how many are counted, >= 1.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        threads: of torch and decoding.
        seed: of the drives.

    Raises:
        CheckpointError: the student or its planner is missing or damaged.
        ConfigError: the device is unknown or absent.
        ValueError: no frame is wanted.
    """
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected >= 1")
    engine = SharedEngine.from_checkpoint(checkpoint, device=device, threads=threads)
    decision_ms, plan_ms = _answer(engine, scripted_frames(config, frames + WARM_FRAMES, seed))
    return Latencies(
        decision_ms=tuple(decision_ms[WARM_FRAMES:]),
        plan_ms=tuple(plan_ms[WARM_FRAMES:]),
        device=describe_device(engine.device),
        measured=f"{frames} frames of six {config.width_px} x {config.height_px} JPEGs, decoding "
        f"included, both systems at once on shared features, threads={threads}",
    )


def _answer(engine: SharedEngine, frames: list[SurroundFrame]) -> tuple[list[float], list[float]]:
    """(decision, plan) milliseconds of each frame."""
    decider, planner = engine.decider(), engine.planner()
    decider.warm_up()
    planner.warm_up()
    decision_ms, plan_ms = [], []
    with ThreadPoolExecutor(2, "systems") as pool:
        for frame in progress(frames, desc="measure latencies", unit="frames"):
            decided = pool.submit(decider.decide, frame)
            planned = pool.submit(planner.plan, frame, None)
            decision_ms.append(round(decided.result().inference_ms, 3))
            plan_ms.append(round(planned.result().inference_ms, 3))
    return decision_ms, plan_ms


def scripted_frames(config: DriveConfig, count: int, seed: int) -> list[SurroundFrame]:
    """Frames of scripted drives, each scenario's share in a row, as neighbours in time."""
    shown = _frames_in_turn(config, -(-count // len(SCENARIOS)), seed)
    return list(progress(islice(shown, count), total=count, desc="render", unit="frames"))


def _frames_in_turn(config: DriveConfig, each: int, seed: int) -> Iterator[SurroundFrame]:
    for spec in plan_scenarios(SCENARIOS, seed=seed, count=1):
        stage = Stage(spec, config)
        for number in range(each):
            t_s = number * FRAME_S
            state = stage.scripted_state(t_s)
            stage.route.advance(state)
            yield stage.capture(number, t_s, state, look=True).frame
