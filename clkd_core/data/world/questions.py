"""Driving questions about a keyframe whose short answers follow from the scene.

The kinds are DriveLM's (perception, prediction, planning) and CODA-LM's (general perception).
Everything asked can be seen in the images; the vocabulary is kept small on purpose.
"""

import numpy as np

from clkd_core.data.keyframes import QuestionAnswer
from clkd_core.data.world.scene.actors import PEOPLE, VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive

_FRONT_M = 3.9
_LIGHTS = {
    "green": "The light is green.",
    "amber": "The light is amber.",
    "red": "The light is red.",
    "red_amber": "The light is red and amber.",
}
_WEATHER = {
    "night": "It is night.",
    "fog": "There is fog.",
    "rain_glare": "It rains and the sun is low.",
}


def build_questions(drive: Drive, t_s: float) -> tuple[QuestionAnswer, ...]:
    """Five questions about an instant."""
    on_way = actors_on_way(drive, t_s)
    state = light_ahead(drive, t_s)
    last = _junction(drive, t_s) if round(t_s * 2) % 2 else _weather(drive)
    return (
        _qa("perception", "What is the state of the traffic light?", _light_answer(state)),
        _qa("perception", "Who is in the way?", _who(on_way)),
        _qa("prediction", "What does the vehicle ahead do?", _vehicle_answer(on_way, t_s)),
        _qa("planning", "What blocks the way?", _blocker(on_way, state, t_s)),
        last,
    )


def light_ahead(drive: Drive, t_s: float) -> str | None:
    """State of the traffic light in front of the ego; None when there is none in view."""
    if drive.signal is None:
        return None
    x, y, yaw = drive.ego_pose(t_s)
    head = drive.signal.heads_m[0]
    forward = np.cos(yaw) * (head[0] - x) + np.sin(yaw) * (head[1] - y)
    left = -np.sin(yaw) * (head[0] - x) + np.cos(yaw) * (head[1] - y)
    visible = 9.0 < forward < 75.0 and abs(left) < 0.5 * forward and abs(yaw) < 0.7
    return drive.signal.state_at(t_s) if visible else None


def actors_on_way(drive: Drive, t_s: float) -> list[tuple[float, Actor]]:
    """Who stands or moves on the ego's planned way, with the distance from its front, sorted."""
    s0, _ = drive.motion.at(t_s)
    near = (drive.path.s_m > s0 + _FRONT_M) & (drive.path.s_m < s0 + _FRONT_M + 32.0)
    line, along = drive.path.xy_m[near], drive.path.s_m[near] - s0 - _FRONT_M
    found = []
    for actor in drive.near_actors(t_s):
        gap = np.linalg.norm(line - actor.pose_at(t_s)[:2], axis=1)
        reach = 1.3 if actor.kind in VEHICLES else drive.layout.lane_m / 2.0
        if len(gap) and gap.min() < reach and actor.name != "works-truck":
            found.append((float(along[int(gap.argmin())]) - actor.size_m[0] / 2.0, actor))
    return sorted(found, key=lambda item: item[0])


def _qa(kind: str, question: str, answer: str) -> QuestionAnswer:
    return QuestionAnswer(kind=kind, question=question, answer=answer)


def _light_answer(state: str | None) -> str:
    return "There is no traffic light." if state is None else _LIGHTS[state]


def _who(on_way: list[tuple[float, Actor]]) -> str:
    kinds = [a.kind for _, a in on_way]
    if any(k in PEOPLE for k in kinds):
        return "A pedestrian."
    return "An animal." if "animal" in kinds else "Nobody."


def _vehicle_answer(on_way: list[tuple[float, Actor]], t_s: float) -> str:
    for _, actor in on_way:
        if actor.kind in VEHICLES:
            return "The vehicle brakes." if actor.is_on(t_s) else "The vehicle does not brake."
    return "There is no vehicle ahead."


def _blocker(on_way: list[tuple[float, Actor]], state: str | None, t_s: float) -> str:
    kinds = {a.kind for _, a in on_way}
    if kinds & set(PEOPLE):
        return "A pedestrian."
    if "animal" in kinds:
        return "An animal."
    if "barrier" in kinds:
        return "Barriers."
    if any(a.kind in VEHICLES and a.is_on(t_s) for _, a in on_way):
        return "A braking vehicle."
    if state in ("red", "amber"):
        return "The traffic light."
    return "Nothing."


def _junction(drive: Drive, t_s: float) -> QuestionAnswer:
    x, y, yaw = drive.ego_pose(t_s)
    ahead = -(np.cos(yaw) * x + np.sin(yaw) * y) - drive.layout.box_m
    if not drive.layout.crossing or ahead < 1.5 or ahead > 45.0:
        answer = "There is no junction ahead."
    else:
        answer = "The junction is near." if ahead < 18.0 else "The junction is far."
    return _qa("perception", "Is there a junction ahead?", answer)


def _weather(drive: Drive) -> QuestionAnswer:
    answer = _WEATHER.get(drive.spec.case_name, "It is a clear day.")
    return _qa("description", "What is the weather?", answer)
