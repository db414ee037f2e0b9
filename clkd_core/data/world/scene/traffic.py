"""Everybody who is there without being a cause: traffic, parked cars, people walking."""

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.actors import Actor, standing, track_on_path, track_times
from clkd_core.data.world.scene.causes import CLOTHES, PAINTS, Staging
from clkd_core.data.world.scene.layout import crossing_path, lane_path
from clkd_core.data.world.scene.path import Path2D

_KEEP_AWAY_M = 3.0
"""Traffic that would come closer than this to the ego or a cause is left out."""


def build_traffic(stage: Staging, causes: list[Actor], *, cause: str) -> list[Actor]:
    """Background actors that get in nobody's way."""
    candidates = _parked(stage) + _walkers(stage) + _behind(stage) + _oncoming(stage)
    if cause.startswith("red_light"):
        candidates += _crossing(stage)
    times = track_times(stage.total_s)
    taken = [_ego_track(stage, times)] + [_tracked(a, times) for a in causes]
    return [a for a in candidates if a.name == "behind" or _clear(_tracked(a, times), taken)]


def _tracked(actor: Actor, times: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([actor.pose_at(float(t))[:2] for t in times[::2]])


def _ego_track(stage: Staging, times: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.array([stage.motion.at(float(t))[0] for t in times[::2]]) + 1.4  # middle of the ego
    return stage.path.pose_at(s)[:, :2]


def _clear(track: NDArray[np.float64], taken: list[NDArray[np.float64]]) -> bool:
    return all(np.linalg.norm(track - t, axis=1).min() > _KEEP_AWAY_M for t in taken)


def _paint(rng: np.random.Generator) -> tuple[int, int, int]:
    return PAINTS[int(rng.integers(len(PAINTS)))]


def _oncoming(stage: Staging) -> list[Actor]:
    """None where the ego turns left: there, somebody coming is a reason to wait."""
    rng, layout, times = stage.rng, stage.layout, track_times(stage.total_s)
    if stage.manoeuvre == "left" or "ahead" not in layout.arms:
        return []
    path, _, _ = crossing_path(layout, "ahead", "back", "straight")
    speed = rng.uniform(7.0, 11.0)
    first = rng.uniform(60.0, 150.0)
    actors: list[Actor] = []
    for i in range(int(rng.integers(0, 5))):
        kind = str(rng.choice(["car", "car", "van", "truck", "bus"]))
        s = first - i * rng.uniform(16.0, 30.0) + speed * times
        poses = track_on_path(path, s)
        actors.append(Actor(name=f"oncoming-{i}", kind=kind, color=_paint(rng), poses=poses))
    return actors


def _crossing(stage: Staging) -> list[Actor]:
    """Cars on the side road while the ego's light is red."""
    rng, layout, times = stage.rng, stage.layout, track_times(stage.total_s)
    if "left" not in layout.arms or "right" not in layout.arms or stage.off_s < 1.0:
        return []
    start, end = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    path, middle = _through(stage, start, end)
    speed = rng.uniform(7.0, 9.0)
    actors: list[Actor] = []
    for i in range(int(rng.integers(1, 5))):
        passed = stage.off_s - 1.2 - i * rng.uniform(1.8, 2.6)
        if passed < stage.on_s + 2.0:
            break
        s = np.maximum(0.0, middle + speed * (times - passed))
        poses = track_on_path(path, s)
        kind = str(rng.choice(["car", "van", "truck"]))
        actors.append(Actor(name=f"crossing-{i}", kind=kind, color=_paint(rng), poses=poses))
    return actors


def _through(stage: Staging, start: str, end: str) -> tuple[Path2D, float]:
    """A lane across the junction, and where it passes the middle."""
    path, begin, turned = crossing_path(stage.layout, start, end, "straight")
    return path, (begin + turned) / 2.0


def _parked(stage: Staging) -> list[Actor]:
    rng, layout = stage.rng, stage.layout
    actors: list[Actor] = []
    density = rng.uniform(0.0, 0.7)
    for arm in ("back", "ahead"):
        if arm not in layout.arms:
            continue
        for inwards in (True, False):
            lane = lane_path(layout, arm, inwards=inwards, offset_m=layout.half_m + 1.15)
            for along in np.arange(layout.stop_line_m + 10.0, 95.0, 7.0):
                s = lane.length_m - along if inwards else along
                if rng.random() < density:
                    pose = lane.pose_at(np.array(s + rng.uniform(-0.5, 0.5)))
                    kind = str(rng.choice(["car", "car", "car", "van"]))
                    name = f"parked-{len(actors)}"
                    actors.append(
                        Actor(name=name, kind=kind, color=_paint(rng), poses=standing(*pose))
                    )
    return actors


def _walkers(stage: Staging) -> list[Actor]:
    """People on the pavement, some of them standing at the kerb."""
    rng, layout, times = stage.rng, stage.layout, track_times(stage.total_s)
    actors: list[Actor] = []
    for i in range(int(rng.integers(0, 5))):
        arm = str(rng.choice(list(layout.arms)))
        inwards = bool(rng.random() < 0.5)
        offset = layout.half_m + 2.3 + rng.uniform(0.2, layout.sidewalk_m - 0.8)
        lane = lane_path(layout, arm, inwards=inwards, offset_m=float(offset))
        speed = rng.uniform(0.0, 1.6) if rng.random() < 0.8 else 0.0
        along = layout.stop_line_m + rng.uniform(0.0, 45.0)
        s = (lane.length_m - along if inwards else along) + speed * times
        color = CLOTHES[int(rng.integers(len(CLOTHES)))]
        poses = track_on_path(lane, s)
        actors.append(Actor(name=f"walker-{i}", kind="pedestrian", color=color, poses=poses))
    return actors


def _behind(stage: Staging) -> list[Actor]:
    """A vehicle that follows the ego."""
    rng, times = stage.rng, track_times(stage.total_s)
    if rng.random() < 0.45:
        return []
    gap = rng.uniform(6.0, 9.0)
    before = stage.motion.s_m[0] + stage.motion.v_mps[0] * np.minimum(0.0, times - 0.9)
    s = np.array([stage.motion.at(max(0.0, float(t) - 0.9))[0] for t in times])
    s = np.where(times < 0.9, before, s) - gap
    poses = track_on_path(stage.path, np.maximum(s, 0.0))
    return [Actor(name="behind", kind="car", color=_paint(rng), poses=poses)]
