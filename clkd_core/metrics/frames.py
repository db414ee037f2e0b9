"""One row per frame: what was right, what was answered, how late, what was planned.

Direct replay and the evaluator node write these rows as ``frames.csv``; every number of the
report is computed from them and from nothing else. Knows no torch.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import REGULAR, Keyframe
from clkd_core.errors import ClkdError, DataError, FrameError
from clkd_core.files import write_text_atomic
from clkd_core.types import (
    FUTURE_STEPS,
    META_ACTIONS,
    MetaAction,
    PlanMode,
    RouteCommand,
    Trajectory,
)

DEADLINE_MS = 80.0
"""The share of the paper's 100 ms from sensor to actuation that the VLM may use."""

T = TypeVar("T")


class Outcome(str, Enum):
    """What became of one frame."""

    ANSWERED = "answered"
    """A decision made from this frame, in time."""
    LATE = "late"
    """A decision after the deadline or flagged late, or one that only repeats an earlier one."""
    DROPPED = "dropped"
    """No decision carries this frame's stamp."""


@dataclass(frozen=True, kw_only=True)
class FrameRow:
    """One frame of a run. NaN means not measured, None means there is none.

    Raises:
        FrameError: a latency is negative, the probabilities are not (20,), or ``plan_mode`` and
            ``plan_with_decision`` contradict each other.
    """

    scene: str
    """Name of the drive; intervals are drawn by whole drives."""
    case_name: str
    """``regular``, the corner case's name, or empty where nobody labelled the frame."""
    stamp_ns: int
    """Capture time of the newest image of the set."""
    label: MetaAction | None = None
    """The right action; None on an unlabelled frame."""
    answer: MetaAction | None = None
    """The decision that carries this stamp; None when there was none."""
    outcome: Outcome = Outcome.DROPPED
    """See :func:`compute_outcome`, the one place that decides it."""
    stale: bool = False
    """The answer repeats an earlier one (fallbacks included)."""
    late: bool = False
    """The node said itself that this frame's own answer came after its deadline."""
    degraded: bool = False
    """The answer was made with an input missing; ``reason`` says which."""
    reason: str = ""
    """Why the answer is degraded or stale, or why the frame was dropped."""
    probabilities: tuple[float, ...] | None = None
    """(A,) of the 20 actions in index order."""
    inference_ms: float = math.nan
    """Encoded bytes in, decision out [ms]."""
    node_response_ms: float = math.nan
    """Camera set complete in the node, decision published [ms]."""
    response_ms: float = math.nan
    """Last image on the transport, decision seen by the evaluator [ms]."""
    speed_mps: float = math.nan
    """Forward speed at the frame [m/s]."""
    yaw_rate_radps: float = math.nan
    """Rate of turn at the frame, counter-clockwise positive [rad/s]."""
    command: RouteCommand | None = None
    """Route command at the frame."""
    plan: Trajectory | None = None
    """The planner's trajectory for this stamp."""
    truth: Trajectory | None = None
    """Where the vehicle went."""
    plan_inference_ms: float = math.nan
    """Encoded bytes in, trajectory out [ms]."""
    plan_with_decision: bool = False
    """The plan followed a fresh meta-action."""
    plan_mode: PlanMode | None = None
    """What the plan is worth; None exactly where there is no plan. Left out, it follows from
    ``plan_with_decision``, as in older tables: planners did not stop then."""
    plan_collisions: tuple[bool, ...] | None = None
    """(T,) whether the vehicle would touch an agent at each point of the plan; None where there
    is no plan, or nobody knows where the agents are."""
    steady_collisions: tuple[bool, ...] | None = None
    """(T,) the same at each point of keeping speed and rate of turn."""
    true_collisions: tuple[bool, ...] | None = None
    """(T,) the same at each point of where the vehicle went; published scores excuse these."""

    def __post_init__(self) -> None:
        for name in _LATENCIES:
            if getattr(self, name) < 0:  # False for NaN
                raise FrameError(f"{name} of frame {self.stamp_ns} is {getattr(self, name)}, < 0")
        self._settle_mode()
        given = self.probabilities
        if given is not None and len(given) != len(META_ACTIONS):
            raise FrameError(
                f"frame {self.stamp_ns} has {len(given)} probabilities, "
                f"expected {len(META_ACTIONS)}"
            )
        for name in _COLLISIONS:
            steps = getattr(self, name)
            if steps is not None and len(steps) != FUTURE_STEPS:
                raise FrameError(
                    f"{name} of frame {self.stamp_ns} are {len(steps)}, expected {FUTURE_STEPS}"
                )

    def _settle_mode(self) -> None:
        follows, mode = self.plan_with_decision, self.plan_mode
        if self.plan is None:
            mode = None
        elif mode is None:
            mode = PlanMode.FOLLOWING if follows else PlanMode.WITHOUT_DECISION
        elif (mode is PlanMode.FOLLOWING) != follows:
            raise FrameError(
                f"frame {self.stamp_ns} has plan_mode {mode.name} and plan_with_decision "
                f"{follows}, expected True exactly where it is FOLLOWING"
            )
        object.__setattr__(self, "plan_mode", mode)

    @property
    def answered(self) -> bool:
        """A decision carries this frame's stamp, whenever it came."""
        return self.answer is not None

    @property
    def unanswered(self) -> "FrameRow":
        """The frame and its label without anything that was answered or planned."""
        return FrameRow(
            scene=self.scene,
            case_name=self.case_name,
            stamp_ns=self.stamp_ns,
            label=self.label,
            speed_mps=self.speed_mps,
            yaw_rate_radps=self.yaw_rate_radps,
            command=self.command,
            truth=self.truth,
        )

    @property
    def corner(self) -> bool | None:
        """True on a corner case, False on a regular frame, None where nobody said."""
        return None if not self.case_name else self.case_name != REGULAR

    @property
    def correct(self) -> bool:
        """Answered from this very frame, and rightly."""
        return self.label is not None and not self.stale and self.answer == self.label

    @property
    def point_distances_m(self) -> NDArray[np.float64] | None:
        """(T,) metres between planned and true points; None unless there are both."""
        return compute_point_distances(self.plan, self.truth) if self.plan and self.truth else None


def row_from_keyframe(keyframe: Keyframe) -> FrameRow:
    """What is known of a set's keyframe before anybody answers."""
    ego = keyframe.ego
    return FrameRow(
        scene=keyframe.scene,
        case_name=keyframe.case_name,
        stamp_ns=keyframe.stamp_ns,
        label=keyframe.action,
        truth=keyframe.future,
        command=keyframe.command,
        speed_mps=math.nan if ego is None else ego.speed_mps,
        yaw_rate_radps=math.nan if ego is None else ego.yaw_rate_radps,
    )


def compute_point_distances(plan: Trajectory, truth: Trajectory) -> NDArray[np.float64]:
    """(T,) Euclidean distances of matching points [m]."""
    difference = plan.xy_m.astype(np.float64) - truth.xy_m.astype(np.float64)
    return np.asarray(np.hypot(difference[:, 0], difference[:, 1]))


def compute_outcome(
    *,
    answered: bool,
    stale: bool,
    response_ms: float,
    inference_ms: float,
    deadline_ms: float = DEADLINE_MS,
    late: bool = False,
) -> Outcome:
    """Say what became of a frame.

    The deadline is held against ``response_ms``; where no transport was there to measure it
    (NaN: direct replay), against ``inference_ms``. An answer nobody timed is not called late,
    one that was flagged ``late`` is, whatever the times say.
    """
    if not answered:
        return Outcome.DROPPED
    latency_ms = inference_ms if math.isnan(response_ms) else response_ms
    return Outcome.LATE if stale or late or latency_ms > deadline_ms else Outcome.ANSWERED


def write_frames(path: Path, rows: Iterable[FrameRow]) -> None:
    """Write the rows as CSV in the order given; the file appears whole or not at all."""
    write_text_atomic(path, text_from_frames(rows))


def read_frames(path: Path) -> list[FrameRow]:
    """Read what :func:`write_frames` wrote; columns it does not know are ignored.

    Raises:
        DataError: the file is missing, lacks a column, or has a cell that cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _read_table(file, str(path))
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read as a table of frames: {err}") from err


def text_from_frames(rows: Iterable[FrameRow]) -> str:
    """What :func:`write_frames` writes."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)  # its \r\n makes it quote both in a cell
    writer.writeheader()
    writer.writerows(map(_cells_from_row, rows))
    return table.getvalue()


def frames_from_text(text: str, where: str) -> list[FrameRow]:
    """Inverse of :func:`text_from_frames`; ``where`` names the text in errors.

    Raises:
        DataError: as :func:`read_frames`.
    """
    return _read_table(io.StringIO(text, newline=""), where)


def _read_table(lines: Iterable[str], where: str) -> list[FrameRow]:
    try:
        reader = csv.DictReader(lines)
        missing = sorted(set(COLUMNS) - set(_NEWER) - set(reader.fieldnames or ()))
        if missing:
            raise DataError(f"{where}: no column {', '.join(missing)}: not a table of frames")
        return [_row_from_cells(cells, f"{where}:{reader.line_num}") for cells in reader]
    except csv.Error as err:
        raise DataError(f"{where}: cannot be read as a table of frames: {err}") from err


_LATENCIES = ("inference_ms", "node_response_ms", "response_ms", "plan_inference_ms")
_NUMBERS = (*_LATENCIES, "speed_mps", "yaw_rate_radps")
_FLAGS = ("stale", "late", "degraded", "plan_with_decision")
_COLLISIONS = ("plan_collisions", "steady_collisions", "true_collisions")
_NEWER = (*_COLLISIONS, "plan_mode", "late")  # not in older tables
_DISTANCES = tuple(f"d{step}_m" for step in range(1, FUTURE_STEPS + 1))

COLUMNS: tuple[str, ...] = (
    *("scene", "case_name", "stamp_ns", "label", "answer", "answered", "outcome"),
    *("stale", "degraded", "reason", "inference_ms", "node_response_ms", "response_ms"),
    *("speed_mps", "yaw_rate_radps", "command", "plan_inference_ms", "plan_with_decision"),
    *_DISTANCES,
    *("plan_xy_m", "true_xy_m", "probability"),
    *_NEWER,
)
"""Of ``frames.csv``. ``answered`` and d1..d6 are there for spreadsheets and recomputed here."""


def _cells_from_row(row: FrameRow) -> dict[str, str]:
    distances = row.point_distances_m
    cells = {name: _text_from_number(getattr(row, name)) for name in _NUMBERS}
    cells |= {name: str(int(getattr(row, name))) for name in (*_FLAGS, "answered")}
    cells |= {name: getattr(row, name) for name in ("scene", "case_name", "reason")}
    cells |= {name: _text_from_steps(getattr(row, name)) for name in _COLLISIONS}
    if distances is not None:
        cells |= {name: f"{value:.4f}" for name, value in zip(_DISTANCES, distances, strict=True)}
    return cells | {
        "stamp_ns": str(row.stamp_ns),
        "label": row.label.text if row.label else "",
        "answer": row.answer.text if row.answer else "",
        "outcome": row.outcome.value,
        "command": row.command.value if row.command else "",
        "plan_mode": "" if row.plan_mode is None else row.plan_mode.name.lower(),
        "plan_xy_m": _text_from_trajectory(row.plan),
        "true_xy_m": _text_from_trajectory(row.truth),
        "probability": " ".join(f"{value:.6g}" for value in row.probabilities or ()),
    }


def _row_from_cells(cells: Mapping[str, str], where: str) -> FrameRow:
    """Raises DataError naming the line and the column that cannot be read."""
    if None in cells or None in cells.values():  # DictReader's marks of a long and a short line
        raise DataError(f"{where}: expected {len(COLUMNS)} cells like the header")

    def read(column: str, parse: Callable[[str], T]) -> T:
        text = cells[column]
        try:
            return parse(text)
        except (ValueError, ClkdError) as err:
            raise DataError(f"{where}: column {column} is {text!r}: {err}") from err

    try:
        return FrameRow(
            scene=cells["scene"],
            case_name=cells["case_name"],
            reason=cells["reason"],
            stamp_ns=read("stamp_ns", int),
            label=read("label", _optional(MetaAction.from_text)),
            answer=read("answer", _optional(MetaAction.from_text)),
            outcome=read("outcome", Outcome),
            command=read("command", _optional(RouteCommand)),
            probabilities=read("probability", _optional(_probabilities_from_text)),
            plan=read("plan_xy_m", _optional(_trajectory_from_text)),
            truth=read("true_xy_m", _optional(_trajectory_from_text)),
            stale=read("stale", _flag_from_text),
            degraded=read("degraded", _flag_from_text),
            plan_with_decision=read("plan_with_decision", _flag_from_text),
            **{name: read(name, parse) for name, parse in _NEWER_PARSERS if name in cells},
            inference_ms=read("inference_ms", _number_from_text),
            node_response_ms=read("node_response_ms", _number_from_text),
            response_ms=read("response_ms", _number_from_text),
            speed_mps=read("speed_mps", _number_from_text),
            yaw_rate_radps=read("yaw_rate_radps", _number_from_text),
            plan_inference_ms=read("plan_inference_ms", _number_from_text),
        )
    except FrameError as err:
        raise DataError(f"{where}: {err}") from err


def _optional(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: parse(text) if text.strip() else None


def _text_from_number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _number_from_text(text: str) -> float:
    return float(text) if text.strip() else math.nan


def _flag_from_text(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("expected 0 or 1")
    return text == "1"


def _text_from_steps(steps: tuple[bool, ...] | None) -> str:
    """``001100``: a digit per step."""
    return "" if steps is None else "".join(str(int(step)) for step in steps)


def _steps_from_text(text: str) -> tuple[bool, ...]:
    return tuple(_flag_from_text(digit) for digit in text.strip())


def _text_from_trajectory(trajectory: Trajectory | None) -> str:
    """``x y`` pairs separated by semicolons; str of a float32 is its shortest exact form."""
    return "" if trajectory is None else ";".join(f"{x!s} {y!s}" for x, y in trajectory.xy_m)


def _trajectory_from_text(text: str) -> Trajectory:
    points: Sequence[Sequence[str]] = [pair.split() for pair in text.split(";")]
    return Trajectory(xy_m=np.array(points, dtype=np.float32))


def _probabilities_from_text(text: str) -> tuple[float, ...]:
    return tuple(float(value) for value in text.split())


def _mode_from_text(text: str) -> PlanMode:
    names = {mode.name.lower(): mode for mode in PlanMode}
    if text not in names:
        raise ValueError(f"expected one of {list(names)}")
    return names[text]


_NEWER_PARSERS: tuple[tuple[str, Callable[[str], Any]], ...] = (
    *((name, _optional(_steps_from_text)) for name in _COLLISIONS),
    ("plan_mode", _optional(_mode_from_text)),
    ("late", _flag_from_text),
)
