"""Every word the language model is asked with: one wording for training and for the road.

A conversation reads ``PREAMBLE``, then per camera its name and its visual tokens, then turns of
question and answer. What never changes stands first and what changes with every frame last, so
that the state of the beginning can be computed once and kept (prefix caching). The contents
follow Senna's prompt (six named views, speed in whole m/s, navigation command, the two option
lists, an example of the answer); the wording is our own.
"""

from collections.abc import Mapping
from types import MappingProxyType

from clkd_core.types import CAMERAS, EgoState, MetaAction, PathAction, RouteCommand, SpeedAction

PREAMBLE = (
    "You drive a car. Its plan is a speed out of "
    + ", ".join(action.name for action in SpeedAction)
    + " and a path out of "
    + ", ".join(action.name for action in PathAction)
    + ". A plan reads like KEEP, STRAIGHT. The six views:"
)
"""The task, the option lists and an answer example; the same in every conversation."""

VIEW_NAMES: Mapping[str, str] = MappingProxyType(
    {camera: f" {camera.removeprefix('CAM_').replace('_', ' ')}:" for camera in CAMERAS}
)
"""What is written before a camera's visual tokens, by camera name."""

MAX_PROMPT_SPEED_MPS = 60
"""Speeds above this are written as this; 216 km/h is beyond every drive we know."""


def plan_question(ego: EgoState | None, command: RouteCommand | None) -> str:
    """The question whose answer is the meta-action.

    Args:
        ego: its speed is written in whole metres per second, reverse as 0; None reads "unknown".
        command: Senna's phrase; None reads "unknown".
    """
    speed = "unknown"
    if ego is not None:
        speed = f"{min(max(round(ego.speed_mps), 0), MAX_PROMPT_SPEED_MPS)} m/s"
    route = "unknown" if command is None else command.value
    return f" Speed {speed}, route {route}. Plan:"


def turn_text(question: str) -> str:
    """A driving question as it stands in a conversation, the place of its answer at the end."""
    return f" {question.strip()} Answer:"


def answer_text(action: MetaAction) -> str:
    """A meta-action as it stands after :func:`plan_question`."""
    return f" {action.text}"


_SWAPS: tuple[tuple[str, str], ...] = (("LEFT", "RIGHT"), ("left", "right"), ("Left", "Right"))


def mirrored_text(text: str) -> str:
    """The same text about the mirror image of the scene: left and right change places."""
    for left, right in _SWAPS:
        text = text.replace(left, "\0").replace(right, left).replace("\0", right)
    return text
