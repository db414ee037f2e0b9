"""Every frame of a bag through the engine and the planner, in order and repeatably.

Nothing is published and no clock but the engine's is read: the same bag, checkpoint and machine
give the same decisions.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from clkd_core.data.bags.frames import BagFrame, load_labels, read_frames
from clkd_core.data.bags.messages import Label
from clkd_core.data.bags.topics import BagTopics
from clkd_core.errors import ConfigError, FrameError
from clkd_core.metrics.frames import DEADLINE_MS, FrameRow, compute_outcome
from clkd_core.runtime.sync import SyncConfig
from clkd_core.types import Decision, Plan, SurroundFrame

NO_FRAME = "no camera set near the label's stamp"


class Decider(Protocol):
    """The part of an engine that a replay needs."""

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        """See :meth:`clkd_core.runtime.engine.Engine.decide`."""


class Planning(Protocol):
    """The part of a planner that a replay needs."""

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """See :meth:`clkd_core.runtime.planning.PlannerEngine.plan`."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How a bag is run over directly.

    Raises:
        ConfigError: the deadline is not positive.
    """

    keyframes_only: bool = False
    """Decide on labelled keyframes only; bags without labels are not affected."""
    blank: bool = False
    """Show black images: what is left is what the images were worth. Nothing is planned."""
    deadline_ms: float = DEADLINE_MS
    """Later answers are called late [ms], > 0."""
    sync: SyncConfig = field(default_factory=SyncConfig)
    """How images are gathered into sets."""

    def __post_init__(self) -> None:
        if not self.deadline_ms > 0:
            raise ConfigError(f"deadline_ms is {self.deadline_ms}, expected more than 0")


class AskedFrame(NamedTuple):
    """One frame with what is known of it before anybody answers."""

    row: FrameRow
    frame: SurroundFrame | None
    """None where there are no images: the row says why."""


def replay_bag(
    bag: Path,
    engine: Decider,
    planner: Planning | None = None,
    *,
    config: ReplayConfig | None = None,
    names: BagTopics | None = None,
) -> Iterator[FrameRow]:
    """Decide on a bag's frames in order; every labelled keyframe gives a row, answered or not.

    Latency from sensor to answer has no meaning without a transport: ``response_ms`` stays NaN.

    Raises:
        DataError: the bag cannot be read.
    """
    config = config or ReplayConfig()
    for asked in read_asked_frames(bag, config=config, names=names):
        yield answer_frame(asked, engine, planner, config=config)


def read_asked_frames(
    bag: Path, *, config: ReplayConfig | None = None, names: BagTopics | None = None
) -> Iterator[AskedFrame]:
    """A bag's frames in order, and after them the labels for which there was no frame.

    Args:
        bag: what is read.
        config: which frames are wanted, and how images are gathered.
        names: which topic is what; ours when None.

    Raises:
        DataError: the bag cannot be read.
    """
    config = config or ReplayConfig()
    labels = load_labels(bag, names)
    open_stamps = {label.stamp_ns for label in labels}
    for seen in read_frames(bag, names, sync=config.sync, labels=labels):
        if seen.label is not None:
            open_stamps.discard(seen.label.stamp_ns)
        elif config.keyframes_only and labels:
            continue
        yield AskedFrame(_row(seen), seen.frame)
    for label in labels:
        if label.stamp_ns in open_stamps:
            yield AskedFrame(row_without_answer(label, NO_FRAME), None)


def answer_frame(
    asked: AskedFrame,
    engine: Decider,
    planner: Planning | None = None,
    *,
    config: ReplayConfig | None = None,
) -> FrameRow:
    """The row with decision and plan; where there is no answer its ``reason`` says why."""
    config = config or ReplayConfig()
    row, frame = asked
    if frame is None:
        return row
    try:
        decision = engine.decide(frame, blank=config.blank)
    except FrameError as err:
        return replace(row, reason=str(err))
    row = _with_decision(row, decision, config.deadline_ms)
    if planner is None or config.blank:
        return row
    try:
        return _with_plan(row, planner.plan(frame, decision))
    except FrameError as err:
        return replace(row, reason="; ".join(filter(None, (row.reason, f"no plan: {err}"))))


def _row(seen: BagFrame) -> FrameRow:
    """What is known of a frame before anybody answers."""
    label, ego = seen.label, seen.frame.ego
    return FrameRow(
        scene=label.scene if label else "",
        case_name=label.case_name if label else "",
        stamp_ns=label.stamp_ns if label else seen.frame.stamp_ns,
        label=label.action if label else None,
        truth=label.future if label else None,
        command=seen.frame.command,
        speed_mps=ego.speed_mps if ego else math.nan,
        yaw_rate_radps=ego.yaw_rate_radps if ego else math.nan,
    )


def _with_decision(row: FrameRow, decision: Decision, deadline_ms: float) -> FrameRow:
    return replace(
        row,
        answer=decision.action,
        stale=decision.stale,
        degraded=bool(decision.degraded),
        reason="; ".join(decision.degraded),
        probabilities=tuple(float(value) for value in decision.probabilities),
        inference_ms=decision.inference_ms,
        outcome=compute_outcome(
            answered=True,
            stale=decision.stale,
            response_ms=math.nan,
            inference_ms=decision.inference_ms,
            deadline_ms=deadline_ms,
        ),
    )


def _with_plan(row: FrameRow, plan: Plan) -> FrameRow:
    return replace(
        row,
        plan=plan.trajectory,
        plan_inference_ms=plan.inference_ms,
        plan_with_decision=plan.decision_stamp_ns is not None,
    )


def row_without_answer(label: Label, reason: str) -> FrameRow:
    """A labelled keyframe that no decision belongs to, and why."""
    return FrameRow(
        scene=label.scene,
        case_name=label.case_name,
        stamp_ns=label.stamp_ns,
        label=label.action,
        truth=label.future,
        reason=reason,
    )
