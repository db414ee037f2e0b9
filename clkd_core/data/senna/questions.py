"""Senna's questions about a keyframe, answered by rule from where everybody is and goes.

What is asked and how it is decided follows the public converter (``senna_nusc_data_converter.py``
and ``senna_qa_utils.py`` of the Senna repository): the plan, vulnerable road users ahead, and the
behaviour of the agents in each view. The wording is our own.

The converter measures from the LIDAR_TOP sensor, 0.94 m ahead of the ego frame's origin, and so do
these questions; ``lidar_forward_m=0`` measures from the ego frame's origin instead, which makes
whatever is ahead 0.94 m farther away.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.types import (
    CAMERAS,
    FUTURE_STEPS,
    STEP_S,
    EgoState,
    MetaAction,
    PathAction,
    RouteCommand,
    SpeedAction,
)

LIDAR_FORWARD_M = 0.94
"""How far nuScenes' LIDAR sits ahead of the ego frame's origin; the same in our world."""
VULNERABLE_WITHIN_M = 20.0
VULNERABLE_SIDE_M = 2.0
"""From here on a vulnerable road user is said to be to one side."""
VIEW_WITHIN_M: Mapping[str, float] = MappingProxyType(
    {camera: 40.0 if camera == "CAM_FRONT" else 20.0 for camera in CAMERAS}
)
"""How near an agent has to be to be asked about, by camera."""
PLAN_WORDS = "SPEED plan"
"""By these the public evaluation finds the question that it scores."""

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "movable_object.barrier": "barrier",
        "movable_object.trafficcone": "traffic cone",
        "vehicle.bicycle": "bicycle",
        "vehicle.bus.bendy": "bus",
        "vehicle.bus.rigid": "bus",
        "vehicle.car": "car",
        "vehicle.construction": "construction vehicle",
        "vehicle.emergency.police": "police car",
        "vehicle.motorcycle": "motorcycle",
        "vehicle.trailer": "trailer",
        "vehicle.truck": "truck",
        "human.pedestrian.adult": "pedestrian",
        "human.pedestrian.child": "pedestrian",
        "human.pedestrian.construction_worker": "pedestrian",
        "human.pedestrian.police_officer": "pedestrian",
    }
)
"""nuScenes categories that the converter groups into ten classes; one with a clearer word."""
_VULNERABLE = ("bicycle", "motorcycle", "pedestrian")
_SPEEDS = ", ".join(action.name for action in SpeedAction)
_PATHS = ", ".join(action.name for action in PathAction)


@dataclass(frozen=True)
class _Seen:
    """An agent from where the LIDAR sits."""

    agent: AgentFuture
    right_m: float
    forward_m: float

    @property
    def distance_m(self) -> float:
        return float(np.linalg.norm((self.right_m, self.forward_m)))


def build_questions(
    keyframe: Keyframe, *, agents_known: bool = True, lidar_forward_m: float = LIDAR_FORWARD_M
) -> tuple[QuestionAnswer, ...]:
    """All of Senna's questions that a rule can answer: kinds planning, perception, prediction.

    Args:
        keyframe: with its agents; one that is about a region of a view gets no question.
        agents_known: False where ``keyframe.agents`` is empty because nobody annotated any: then
            only the plan is asked for.
        lidar_forward_m: how far ahead of the ego frame's origin distances are measured from.

    Returns:
        The plan first, where 3 s follow; then vulnerable road users; then the views in which
        agents with a complete future are near, nearest agent first.

    Raises:
        DataError: an agent's future is NaN or infinite.
    """
    if keyframe.region is not None:
        return ()
    plan = _plan(keyframe)
    if not agents_known:
        return plan
    seen = sorted((_seen(a, lidar_forward_m) for a in keyframe.agents), key=_distance)
    views = (_behaviour(camera, seen, lidar_forward_m) for camera in CAMERAS)
    return (*plan, _vulnerable(seen), *(asked for asked in views if asked is not None))


def plan_question(ego: EgoState | None, command: RouteCommand | None) -> str:
    """Ask for the meta-action, with the words that the public evaluation looks for.

    Args:
        ego: its speed is cut down to whole metres per second, as the converter does.
        command: the navigation command.
    """
    speed = "at an unknown speed" if ego is None else f"at {int(ego.speed_mps)} m/s"
    route = "no route is known" if command is None else f"the route says '{command.value}'"
    return (
        f"The car drives {speed} and {route}. What are its {PLAN_WORDS} and its PATH plan for the "
        f"next 3 s? SPEED is one of {_SPEEDS}; PATH is one of {_PATHS}. "
        f"The answer looks like '{MetaAction(SpeedAction.KEEP, PathAction.LEFT_CHANGE).text}'."
    )


def camera_towards(right_m: float, forward_m: float) -> str:
    """Which view an agent counts to, by its bearing from the LIDAR alone.

    The converter cuts the circle into overlapping fields of view and takes the first that fits;
    what is left of each: 70 degrees ahead, 55 to each side of that, 55 behind the left and the
    right, and 70 straight behind.

    Args:
        right_m: in LIDAR axes.
        forward_m: likewise.
    """
    bearing = math.degrees(math.atan2(forward_m, right_m))  # 0 right, 90 ahead, -90 behind
    turned = bearing if bearing >= 0 else bearing + 360.0
    for below, camera in (
        (55.0, "CAM_FRONT_RIGHT"),
        (125.0, "CAM_FRONT"),
        (180.0, "CAM_FRONT_LEFT"),
        (235.0, "CAM_BACK_LEFT"),
    ):
        if turned < below:
            return camera
    return "CAM_BACK" if bearing < -55.0 else "CAM_BACK_RIGHT"


def agent_action(
    agent: AgentFuture, *, lidar_forward_m: float = LIDAR_FORWARD_M
) -> MetaAction | None:
    """Senna's rule applied to an agent's future in the agent's own frame; None without 3 s of it.

    The converter places a LIDAR on every agent, as far ahead of its middle as on the ego vehicle.
    That moves only the line between a turn and a lane change: 5 degrees begin 0.94 m later.

    Args:
        agent: its poses in any one frame.
        lidar_forward_m: how far ahead of the agent's middle its LIDAR would sit.

    Raises:
        DataError: a position is NaN or infinite.
    """
    if len(agent.poses) <= FUTURE_STEPS:
        return None
    return meta_action_from_future(
        lidar_from_ego(_own_future(agent), lidar_forward_m=lidar_forward_m)
    )


def _own_future(agent: AgentFuture) -> NDArray[np.float64]:
    """(T, 2) x forward, y left in the frame of the agent of now."""
    poses = np.asarray(agent.poses, np.float64)
    x, y, yaw = poses[0]
    moved = poses[1 : FUTURE_STEPS + 1, :2] - (x, y)
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.asarray(moved @ np.array([[cos, -sin], [sin, cos]]))


def _seen(agent: AgentFuture, lidar_forward_m: float) -> _Seen:
    place = lidar_from_ego(agent.poses[0, :2], lidar_forward_m=lidar_forward_m)
    return _Seen(agent, float(place[0]), float(place[1]))


def _distance(seen: _Seen) -> float:
    return seen.distance_m


def _plan(keyframe: Keyframe) -> tuple[QuestionAnswer, ...]:
    if keyframe.future is None or keyframe.action is None:
        return ()
    asked = plan_question(keyframe.ego, keyframe.command)
    return (QuestionAnswer(kind="planning", question=asked, answer=keyframe.action.text),)


def _vulnerable(seen: Sequence[_Seen]) -> QuestionAnswer:
    found = "; ".join(
        f"{_word(one.agent)} {int(abs(one.forward_m))} m ahead{_side(one.right_m)}"
        for one in seen
        if camera_towards(one.right_m, one.forward_m) == "CAM_FRONT"
        and _word(one.agent) in _VULNERABLE
        and one.distance_m < VULNERABLE_WITHIN_M
    )
    return QuestionAnswer(
        kind="perception",
        question=f"Who walks or rides in front of the car, {VULNERABLE_WITHIN_M:.0f} m or nearer? "
        "Name each pedestrian, bicycle and motorcycle and its place.",
        answer=f"{found[:1].upper()}{found[1:]}." if found else "Nobody.",
    )


def _side(right_m: float) -> str:
    if abs(right_m) < VULNERABLE_SIDE_M:
        return ""
    return f", {int(abs(right_m))} m to the {'right' if right_m > 0 else 'left'}"


def _behaviour(
    camera: str, seen: Sequence[_Seen], lidar_forward_m: float
) -> QuestionAnswer | None:
    """What the agents of a view do next; None where there is none to ask about."""
    near = list(_near(camera, seen, lidar_forward_m))
    if not near:
        return None
    view = camera.removeprefix("CAM_").replace("_", " ").lower()
    places = "; ".join(f"{i}. {_description(one)}" for i, (one, _) in enumerate(near, 1))
    return QuestionAnswer(
        kind="prediction",
        question=f"In the {view} view: {places}. What does each of them do in the next 3 s? "
        f"Give its speed, one of {_SPEEDS}, and its path, one of {_PATHS}.",
        answer="; ".join(f"{i}. {action.text}" for i, (_, action) in enumerate(near, 1)),
    )


def _near(
    camera: str, seen: Sequence[_Seen], lidar_forward_m: float
) -> Iterator[tuple[_Seen, MetaAction]]:
    for one in seen:
        if camera_towards(one.right_m, one.forward_m) != camera:
            continue
        action = agent_action(one.agent, lidar_forward_m=lidar_forward_m)
        if one.distance_m < VIEW_WITHIN_M[camera] and action is not None:
            yield one, action


def _description(one: _Seen) -> str:
    """Class, place and speed; the speed is the one between the first two *future* points."""
    ahead = f"{int(abs(one.forward_m))} m {'ahead' if one.forward_m >= 0 else 'behind'}"
    side = f"{int(abs(one.right_m))} m {'right' if one.right_m >= 0 else 'left'}"
    step_m = np.linalg.norm(np.diff(one.agent.poses[1:3, :2].astype(np.float64), axis=0))
    return f"{_word(one.agent)} {ahead}, {side}, {int(step_m / STEP_S)} m/s"


def _word(agent: AgentFuture) -> str:
    last = agent.category.rpartition(".")[2]
    return _WORDS.get(agent.category, last.replace("_", " "))
