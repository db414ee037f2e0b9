"""A part of one view with questions about it, as CODA-LM has them for its corner cases.

The box is the outline of what is drawn, cut at the image's edges. It is asked about only where
most of it is inside the view, nothing hides it and it is large enough to be looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import QuestionAnswer, Region
from clkd_core.data.world.questions.facts import Facts, on_carriageway
from clkd_core.data.world.questions.scenes import STOPPING, name_of, with_article
from clkd_core.data.world.questions.sight import Sighting, in_ego_frame
from clkd_core.data.world.render.bodies import head_outline
from clkd_core.data.world.render.cameras import Camera
from clkd_core.data.world.render.renderer import actor_shape
from clkd_core.data.world.scene.actors import VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive

WHAT = "What is in the red box?"
WHY = "Why does it matter?"
THEN = "What should the ego vehicle do about it?"
_INSIDE = 0.7  # share of the outline's area that must be inside the image
_HIGH, _WIDE = 0.05, 0.012  # share of the image that a box must fill at least, up and across

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RegionQuestions:
    """A red box and what is asked about it."""

    region: Region
    questions: tuple[QuestionAnswer, ...]


def region_questions(
    drive: Drive,
    t_s: float,
    facts: Facts,
    sightings: Sequence[Sighting],
    cameras: Mapping[str, Camera],
) -> RegionQuestions | None:
    """One of the things that make this drive a corner case, each in turn.

    Returns:
        None in a regular drive, and where nothing of it is seen well enough.
    """
    if drive.spec.case_name == "regular":
        return None
    found = _actor_regions(drive, t_s, facts, sightings, cameras)
    found += _light_regions(drive, t_s, facts, cameras["CAM_FRONT"])
    return found[round(t_s * 2) % len(found)] if found else None


def _actor_regions(
    drive: Drive,
    t_s: float,
    facts: Facts,
    sightings: Sequence[Sighting],
    cameras: Mapping[str, Camera],
) -> list[RegionQuestions]:
    found, done = [], set()
    for seen in sightings:
        if seen.actor.role == "background" or seen.actor.name in done:
            continue
        outline = actor_outline(drive, t_s, seen.actor, cameras[seen.camera])
        box = visible_box(outline, cameras[seen.camera])
        if box is not None:
            done.add(seen.actor.name)
            region = Region(camera=seen.camera, box_xywh_px=box)
            texts = _actor_texts(drive, t_s, facts, seen.actor)
            found.append(RegionQuestions(region=region, questions=_asked(*texts)))
    return found


def _light_regions(
    drive: Drive, t_s: float, facts: Facts, camera: Camera
) -> list[RegionQuestions]:
    """The traffic light, where that is what the drive is about; the hidden one where one is."""
    signal = drive.signal
    if signal is None or facts.light is None or facts.lead() is not None:
        return []
    head = signal.hidden_head or 0
    corners = in_ego_frame(head_outline(signal, head), drive.ego_pose(t_s))
    box = visible_box(_projected(corners, np.zeros(len(corners)), camera), camera)
    if box is None:
        return []
    texts = _light_texts(facts.light, signal.hidden_head is not None)
    region = Region(camera=camera.name, box_xywh_px=box)
    return [RegionQuestions(region=region, questions=_asked(*texts))]


def _asked(what: str, why: str, then: str) -> tuple[QuestionAnswer, ...]:
    pairs = ((WHAT, what), (WHY, why), (THEN, then))
    return tuple(QuestionAnswer(kind="region", question=q, answer=a) for q, a in pairs)


def actor_outline(drive: Drive, t_s: float, actor: Actor, camera: Camera) -> Array | None:
    """(4,) left, top, right, bottom [px] of what is drawn of an actor, the image's edges ignored.

    None where a part of it is behind the lens.
    """
    ego = drive.ego_pose(t_s)
    shape = actor_shape(actor, t_s, ego, night=drive.spec.case_name == "night")
    corners = in_ego_frame(shape.corners.astype(np.float64), ego).reshape(-1, 3)
    return _projected(corners, np.repeat(shape.radius.astype(np.float64), 4), camera)


def _projected(corners: Array, radius_m: Array, camera: Camera) -> Array | None:
    """Bounds of discs of the given radius, 0 for points, around places of the ego frame."""
    seen = camera.project(corners)
    if seen[:, 2].min() < 0.5:
        return None
    reach = (radius_m * camera.intrinsic[0, 0] / seen[:, 2])[:, None]
    low, high = seen[:, :2] - reach, seen[:, :2] + reach
    bounds: Array = np.concatenate([low.min(axis=0), high.max(axis=0)])
    return bounds


def visible_box(outline: Array | None, camera: Camera) -> tuple[float, float, float, float] | None:
    """The outline cut at the image's edges, as left, top, width, height in whole pixels.

    None where there is none, it is too small, or too much of it is outside.
    """
    if outline is None:
        return None
    edges = np.array([camera.width_px, camera.height_px, camera.width_px, camera.height_px])
    left, top, right, bottom = np.round(np.clip(outline, 0.0, edges)).tolist()
    width, height = right - left, bottom - top
    whole = float(np.prod(outline[2:] - outline[:2]))
    if width < _WIDE * camera.width_px or height < _HIGH * camera.height_px:
        return None
    return (left, top, width, height) if width * height >= _INSIDE * whole else None


def _actor_texts(drive: Drive, t_s: float, facts: Facts, actor: Actor) -> tuple[str, str, str]:
    """What it is, why it matters, what to do about it."""
    if actor.kind == "barrier":
        return "A road barrier.", "It blocks the lane.", _around(facts)
    if actor.name == "works-truck":
        return "A works truck.", "It blocks the lane.", _around(facts)
    if actor.kind == "flagger":
        if actor.is_on(t_s):
            return "A road worker with a red sign.", "We are told to stop.", "Wait."
        return "A road worker with a green sign.", "We may pass.", "Go around the roadworks."
    if actor.kind in VEHICLES:
        return _lead_texts(t_s, facts, actor)
    if in_ego_frame(np.array([*actor.pose_at(t_s)[:2], 0.0]), drive.ego_pose(t_s))[0] < 0.0:
        return f"{with_article(name_of(actor)).capitalize()}.", "We have passed it.", "Drive on."
    place = "on" if on_carriageway(drive, actor.pose_at(t_s)[:2]) else "beside"
    what = f"{with_article(name_of(actor)).capitalize()} {place} the road."
    if facts.is_on_way(actor):
        return what, "It is in the way.", "Let it pass."
    return what, "It may get in the way.", "Watch it."


def _around(facts: Facts) -> str:
    return "Wait." if facts.flagger_stops else "Go around it."


def _lead_texts(t_s: float, facts: Facts, actor: Actor) -> tuple[str, str, str]:
    if not facts.is_on_way(actor):
        return f"{with_article(actor.kind).capitalize()}.", "It is in another lane.", "Pass it."
    if actor.is_on(t_s):
        return f"A braking {actor.kind}.", "It slows us down.", "Keep a distance."
    return f"{with_article(actor.kind).capitalize()}.", "It drives ahead of us.", "Follow it."


def _light_texts(state: str, hidden: bool) -> tuple[str, str, str]:
    named = with_article(f"{state.replace('_', ' and ')} traffic light").capitalize()
    what = f"{named} behind leaves." if hidden else f"{named}."
    if state == "red_amber":
        return what, "It is about to turn green.", "Get ready to start."
    if state in STOPPING:
        return what, "We must not pass it.", "Stop."
    return what, "We may pass.", "Drive on."
