"""Rows of small invented runs for the tests of the report."""

import math
from dataclasses import replace

import numpy as np

from clkd_core.metrics.frames import FrameRow, compute_outcome
from clkd_core.report.provenance import Provenance
from clkd_core.types import MetaAction, PathAction, RouteCommand, SpeedAction, Trajectory

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)


def straight(step_m: float) -> Trajectory:
    ahead = step_m * np.arange(1, 7)
    return Trajectory(xy_m=np.stack([ahead, np.zeros(6)], axis=1).astype(np.float32))


def make_row(
    number: int,
    label: MetaAction | None = KEEP,
    answer: MetaAction | None = KEEP,
    *,
    scene: str = "drive",
    case_name: str = "regular",
    inference_ms: float = 10.0,
    response_ms: float = 30.0,
    stale: bool = False,
) -> FrameRow:
    """A frame with a speed of 4 m/s and no plan."""
    measured = (inference_ms, response_ms) if answer else (math.nan, math.nan)
    return FrameRow(
        scene=scene,
        case_name=case_name if label else "",
        stamp_ns=number * 500_000_000,
        label=label,
        answer=answer,
        stale=stale,
        outcome=compute_outcome(
            answered=answer is not None,
            stale=stale,
            inference_ms=measured[0],
            response_ms=measured[1],
        ),
        probabilities=tuple([0.62] + [0.02] * 19) if answer else None,
        inference_ms=measured[0],
        response_ms=measured[1],
        speed_mps=4.0,
        yaw_rate_radps=0.0,
        command=RouteCommand.STRAIGHT,
    )


def make_labelled_rows() -> list[FrameRow]:
    """Ten frames of two drives: 7 right, 1 wrong, 1 stale though right, 1 dropped."""
    rows = [make_row(number) for number in range(4)]
    rows.append(make_row(4, STOP, STOP, response_ms=90.0))
    rows.append(make_row(5, STOP, KEEP))
    corner = {"scene": "foggy", "case_name": "fog"}
    rows.append(make_row(6, LEFT, LEFT, **corner))
    rows.append(make_row(7, STOP, STOP, **corner))
    rows.append(make_row(8, STOP, STOP, stale=True, **corner))
    rows.append(make_row(9, KEEP, None, **corner))
    return rows


def with_plans(rows: list[FrameRow]) -> list[FrameRow]:
    """The vehicle drove 2 m a step, as its speed says; the plan says 1 m a step more."""
    return [replace(row, plan=straight(3.0), truth=straight(2.0)) for row in rows]


LIVE = Provenance(mode="live", checkpoint="student", bag="val", device="CPU of a test")
DIRECT = replace(LIVE, mode="direct")
