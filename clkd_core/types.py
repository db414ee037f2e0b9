"""What crosses the border between the core and everything around it. Knows numpy only.

Letters used in shapes throughout the project: B batch, C cameras, T future steps, L tokens,
H W pixels, V vocabulary, A the 20 meta-actions, P patches of a view, D feature width.

The ego frame is x forward, y left, z up, metres, with its origin on the ground under the rear
axle (ROS REP 103; nuScenes uses the same). Stamps are integer nanoseconds since the epoch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import FrameError

CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
    "CAM_BACK",
)
"""The six views, in the order of Senna's prompt; every (C, ...) array follows it."""

FUTURE_STEPS = 6
"""T: points of a planned or true future; the first one lies one step ahead of now."""

STEP_S = 0.5
"""Seconds between two future points: nuScenes keyframes come at 2 Hz."""


class SpeedAction(IntEnum):
    """The longitudinal half of a meta-action, in Senna's order."""

    KEEP = 0
    ACCELERATE = 1
    DECELERATE = 2
    STOP = 3


class PathAction(IntEnum):
    """The lateral half of a meta-action, in Senna's order."""

    STRAIGHT = 0
    RIGHT_TURN = 1
    RIGHT_CHANGE = 2
    LEFT_TURN = 3
    LEFT_CHANGE = 4


@dataclass(frozen=True)
class MetaAction:
    """One of the 20 decisions: a speed action and a path action."""

    speed: SpeedAction
    path: PathAction

    @property
    def index(self) -> int:
        """Position among the 20, speed-major: ``5 * speed + path``."""
        return len(PathAction) * self.speed + self.path

    @property
    def text(self) -> str:
        """The answer as the language model writes it: ``KEEP, STRAIGHT``."""
        return f"{self.speed.name}, {self.path.name}"

    @classmethod
    def from_index(cls, index: int) -> "MetaAction":
        """Inverse of :attr:`index`.

        Raises:
            ValueError: index is not in 0..19.
        """
        if not 0 <= index < len(META_ACTIONS):
            raise ValueError(f"meta-action index is {index}, expected 0..{len(META_ACTIONS) - 1}")
        return META_ACTIONS[index]

    @classmethod
    def from_text(cls, text: str) -> "MetaAction":
        """Read ``SPEED, PATH``; surrounding white space is ignored, nothing else is.

        Raises:
            ValueError: the text is not exactly one of the 20 answers.
        """
        for action in META_ACTIONS:
            if action.text == text.strip():
                return action
        raise ValueError(f"meta-action text is {text[:60]!r}, expected like 'KEEP, STRAIGHT'")


META_ACTIONS: tuple[MetaAction, ...] = tuple(
    MetaAction(speed, path) for speed in SpeedAction for path in PathAction
)
"""All 20 in the order of their index."""


class RouteCommand(Enum):
    """The navigation command; the values are Senna's five phrases."""

    STRAIGHT = "go straight"
    LEFT = "turn left"
    RIGHT = "turn right"
    STRAIGHT_LEFT = "go straight and turn left"
    STRAIGHT_RIGHT = "go straight and turn right"


@dataclass(frozen=True, kw_only=True)
class EgoState:
    """How the vehicle moves at one instant.

    Raises:
        FrameError: a value is NaN or infinite.
    """

    stamp_ns: int
    """Time of the odometry sample."""
    speed_mps: float
    """Forward speed in the ego frame [m/s]."""
    yaw_rate_radps: float = 0.0
    """Rate of turn about z, counter-clockwise positive [rad/s]."""

    def __post_init__(self) -> None:
        for name in ("speed_mps", "yaw_rate_radps"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise FrameError(f"ego {name} is {value}, expected a finite number")


@dataclass(frozen=True, kw_only=True)
class CameraImage:
    """One view, still encoded or already decoded; decoding belongs to the engine and its clock."""

    stamp_ns: int
    """Capture time."""
    encoded: bytes | None = None
    """A JPEG or PNG file's bytes, or None where ``pixels`` is given."""
    pixels: NDArray[np.uint8] | None = None
    """(H, W, 3) uint8 RGB, or None where ``encoded`` is given."""

    def __post_init__(self) -> None:
        if (self.encoded is None) == (self.pixels is None):
            raise FrameError("a camera image needs either encoded bytes or pixels, exactly one")
        if self.pixels is not None and (self.pixels.ndim != 3 or self.pixels.shape[2] != 3):
            raise FrameError(f"camera pixels are {self.pixels.shape}, expected (H, W, 3)")


@dataclass(frozen=True, kw_only=True)
class SurroundFrame:
    """All that one decision may look at: up to six views, ego state and route command."""

    stamp_ns: int
    """Capture time of the newest image in the set."""
    images: Mapping[str, CameraImage]
    """By camera name; a view that is missing is absent and will be masked."""
    ego: EgoState | None = None
    command: RouteCommand | None = None
    faults: tuple[str, ...] = field(default=())
    """What the source found wrong with its inputs, e.g. ``odometry is NaN``."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.images) - set(CAMERAS))
        if unknown:
            raise FrameError(f"unknown cameras {unknown}, expected names from {list(CAMERAS)}")

    @property
    def degraded_reasons(self) -> tuple[str, ...]:
        """Why an answer to this frame is degraded; empty when nothing is missing."""
        missing = [camera for camera in CAMERAS if camera not in self.images]
        reasons = list(self.faults)
        if missing:
            reasons.append("no image from " + " ".join(missing))
        if self.ego is None:
            reasons.append("no odometry")
        if self.command is None:
            reasons.append("no route command")
        return tuple(reasons)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The slow system's answer to one frame.

    Raises:
        FrameError: it is ``stale`` and ``late``, which are two different things.
    """

    stamp_ns: int
    """Capture time of the newest image used."""
    action: MetaAction
    probabilities: NDArray[np.float32]
    """(A,) float32 over the 20 actions in index order, sums to 1."""
    inference_ms: float
    """Encoded bytes in, decision on the host; NaN if not measured."""
    degraded: tuple[str, ...] = ()
    """Reasons; empty when every input was there. Of a stale one: why it only repeats."""
    stale: bool = False
    """True when this repeats an earlier answer: the deadline passed, or the engine failed."""
    late: bool = False
    """True when this is the frame's own answer, but came after its deadline."""

    def __post_init__(self) -> None:
        if self.stale and self.late:
            raise FrameError(f"decision on frame {self.stamp_ns} is stale and late, expected one")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Where the ego vehicle will be, in the ego frame of the frame it was planned from.

    Raises:
        FrameError: the points are not (6, 2) or not finite.
    """

    xy_m: NDArray[np.float32]
    """(T, 2) metres, x forward, y left, ``STEP_S`` apart, the first point ``STEP_S`` ahead."""

    def __post_init__(self) -> None:
        if self.xy_m.shape != (FUTURE_STEPS, 2):
            raise FrameError(f"trajectory is {self.xy_m.shape}, expected ({FUTURE_STEPS}, 2)")
        if not np.isfinite(self.xy_m).all():
            raise FrameError("trajectory has a point that is NaN or infinite, expected metres")


class PlanMode(IntEnum):
    """What a plan is worth to whoever drives along it."""

    FOLLOWING = 0
    """It follows a fresh meta-action."""
    WITHOUT_DECISION = 1
    """No fresh meta-action was there: planned from the images, odometry and route alone."""
    STOPPING = 2
    """It brakes comfortably to a standstill, because something was missing for too long."""


_MODE_BY_DECISION = cast(PlanMode, None)
"""Never seen from outside: ``Plan`` puts the mode that follows from its decision in its place."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The fast system's answer to one frame.

    Raises:
        FrameError: ``mode`` and ``decision_stamp_ns`` contradict each other.
    """

    stamp_ns: int
    """Capture time of the newest image used; of a stop planned without a frame, when it was."""
    trajectory: Trajectory
    inference_ms: float
    """Encoded bytes in, trajectory on the host; NaN if not measured."""
    decision_stamp_ns: int | None = None
    """Frame of the decision it follows; None when planned without a meta-action."""
    degraded: tuple[str, ...] = ()
    """Reasons; empty when every input was there."""
    mode: PlanMode = _MODE_BY_DECISION
    """FOLLOWING exactly where ``decision_stamp_ns`` is given. Left out, it follows from that:
    FOLLOWING or WITHOUT_DECISION."""

    def __post_init__(self) -> None:
        follows = self.decision_stamp_ns is not None
        if self.mode is None:
            implied = PlanMode.FOLLOWING if follows else PlanMode.WITHOUT_DECISION
            object.__setattr__(self, "mode", implied)
        elif (self.mode is PlanMode.FOLLOWING) != follows:
            stamp = f"{self.decision_stamp_ns}" if follows else "absent"
            raise FrameError(
                f"plan is {self.mode.name} and its decision stamp is {stamp}, "
                "expected a stamp exactly where it is FOLLOWING"
            )
