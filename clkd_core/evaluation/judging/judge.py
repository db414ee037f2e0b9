"""The models of one worker: decisions, plans and words about one frame at a time.

Frames are never gathered into batches: what a frame is answered does not depend on its
neighbours, nor on how the tasks are shared out. The questions about one frame are.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from clkd_core.data.keyframes import AgentFuture
from clkd_core.errors import CheckpointError, FrameError
from clkd_core.evaluation.config import JudgeConfig, checkpoint_identity
from clkd_core.metrics.frames import FrameRow, compute_outcome
from clkd_core.metrics.plans.collision import collision_steps
from clkd_core.models.planner_checkpoint import load_planner
from clkd_core.report.scoring.plans import constant_velocity
from clkd_core.runtime.bag_run import AskedFrame, ReplayConfig, answer_frame
from clkd_core.runtime.engine import EncodedFrame, Engine
from clkd_core.runtime.planning import PlannerEngine
from clkd_core.types import SurroundFrame, Trajectory


class Judge:
    """One student, and its planner where that is wanted; not for several threads at once."""

    def __init__(
        self, engine: "JudgingEngine", planner: PlannerEngine | None, config: JudgeConfig
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._config = config

    def answer(self, asked: AskedFrame) -> FrameRow:
        """The frame decided on, and planned for where there is a planner."""
        return self._row(asked, self._planner)

    def decide(self, asked: AskedFrame, *, blank: bool = False) -> FrameRow:
        """The frame decided on, without a look at its images if ``blank``; nothing planned."""
        return self._row(asked, None, blank=blank)

    def say(self, frame: SurroundFrame | None, questions: Sequence[str]) -> list[str | None]:
        """Greedy answers to questions about a frame; None for each where nothing can be seen.

        Args:
            frame: what is asked about; None where there is none.
            questions: as they stand in a conversation, see :mod:`clkd_core.data.prompts`.
        """
        if frame is None or not questions:
            return [None] * len(questions)
        try:
            limit = self._config.max_new_tokens
            return list(self._engine.say(frame, questions, max_new_tokens=limit))
        except FrameError:
            return [None] * len(questions)

    def _row(
        self, asked: AskedFrame, planner: PlannerEngine | None, *, blank: bool = False
    ) -> FrameRow:
        row = answer_frame(asked, self._engine, planner, config=ReplayConfig(blank=blank))
        return row if self._config.timed else _untimed(row)


class JudgingEngine(Engine):
    """Also answers any questions, and may look at a frame only once."""

    remembers = False
    """Keep what the vision tower made of the last frame: it is decided, planned and asked about.
    What ``inference_ms`` says then no longer holds."""
    _last: tuple[SurroundFrame, EncodedFrame] | None = None

    def encode(self, frame: SurroundFrame, *, blank: bool = False) -> EncodedFrame:
        """See :meth:`Engine.encode`."""
        if blank or not self.remembers:
            return super().encode(frame, blank=blank)
        if self._last is None or self._last[0] is not frame:
            self._last = (frame, super().encode(frame))
        return self._last[1]


@lru_cache(maxsize=1)
def load_judge(config: JudgeConfig) -> Judge:
    """The models, loaded once in a worker.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not the one that was asked about.
        ConfigError: the device is unknown or absent.
    """
    found = checkpoint_identity(config.checkpoint, planner=config.planner)
    if found != config.identity:
        raise CheckpointError(
            f"{config.checkpoint} is {found[:12]}..., expected {config.identity[:12]}...: "
            "it changed, or is another one on another machine"
        )
    engine = JudgingEngine.from_checkpoint(
        config.checkpoint, device=config.device, threads=config.threads
    )
    assert isinstance(engine, JudgingEngine)  # from_checkpoint builds the class it is called on
    engine.remembers = not config.timed
    planner = None
    if config.planner:
        planner = PlannerEngine(load_planner(config.checkpoint, device=engine.device), engine)
    if config.timed:
        engine.warm_up()
    return Judge(engine, planner, config)


def with_collisions(row: FrameRow, agents: Sequence[AgentFuture]) -> FrameRow:
    """The row with what its plan would touch, keeping speed and turn would, and the truth does."""
    steady = constant_velocity(row) if math.isfinite(row.speed_mps) else None
    return replace(
        row,
        plan_collisions=_steps(row.plan, agents),
        steady_collisions=_steps(steady, agents),
        true_collisions=_steps(row.truth, agents),
    )


def _steps(plan: Trajectory | None, agents: Sequence[AgentFuture]) -> tuple[bool, ...] | None:
    if plan is None:
        return None
    return tuple(bool(step) for step in collision_steps(plan.xy_m, agents))


def _untimed(row: FrameRow) -> FrameRow:
    """Without the times, which workers beside each other do not measure well."""
    outcome = compute_outcome(
        answered=row.answered, stale=row.stale, response_ms=math.nan, inference_ms=math.nan
    )
    return replace(row, inference_ms=math.nan, plan_inference_ms=math.nan, outcome=outcome)
