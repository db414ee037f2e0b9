"""What makes the ego vehicle act, timed to what it does.

The ego's motion is planned first. ``on_s`` lies just before the first keyframe labelled as
braking, ``off_s`` just before the first standing keyframe that is labelled as anything but STOP:
between the two the cause is there to be seen, outside it is not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.actors import (
    SIZES_M,
    TRACK_S,
    Actor,
    Signal,
    standing,
    track_on_path,
    track_through,
    track_times,
)
from clkd_core.data.world.scene.layout import Layout, lane_path
from clkd_core.data.world.scene.motion import Motion
from clkd_core.data.world.scene.path import Path2D

FRONT_M = 3.9
"""From the ego's origin (rear axle) to its front bumper."""
LEAD_AHEAD_S = 0.6
"""A vehicle ahead does everything this much earlier than its follower (Newell's car following)."""
LEAD_SLOT_M = 8.0
"""Length of the longest vehicle ahead."""
CLOTHES = ((240, 60, 200), (30, 140, 250), (250, 215, 30), (140, 60, 230), (250, 250, 250))
"""Vivid, but neither the red nor the green of a traffic light."""
PAINTS = (
    (200, 205, 210),
    (60, 65, 75),
    (30, 70, 150),
    (70, 45, 95),
    (235, 235, 235),
    (90, 110, 95),
)


@dataclass(frozen=True, kw_only=True)
class Staging:
    """What the builders of causes need to know about a drive."""

    rng: np.random.Generator
    layout: Layout
    path: Path2D
    motion: Motion
    total_s: float
    manoeuvre: str
    on_s: float
    """From here the cause can be seen."""
    off_s: float
    """From here it can be seen to end."""


def build_signal(stage: Staging, *, follows_cause: bool, hidden: bool) -> Signal:
    """A light over the ego's way, 11 to 13.5 m behind the stop line so that it stays in view."""
    layout, rng = stage.layout, stage.rng
    x = -layout.stop_line_m + rng.uniform(11.0, 13.5)
    own = -layout.lane_offset_m(stage.manoeuvre)
    edge = layout.half_m + 1.2
    z = 4.7
    return Signal(
        heads_m=((x, own, z), (x, edge if rng.random() < 0.5 else -own, z)),
        poles_m=_poles(layout, x, edge),
        lamp_m=1.15,
        changes=_light_changes(stage) if follows_cause else ((-np.inf, "green"),),
        hidden_head=0 if hidden else None,
    )


def _poles(layout: Layout, x: float, edge: float) -> tuple[tuple[float, float, float, float], ...]:
    """Posts beside the road where the lights hang; at the corners when that is on a side road."""
    if layout.crossing and abs(x) < layout.box_m + 0.5:
        corner = float(np.copysign(layout.box_m + 0.7, x))
        return ((corner, -edge, x, -edge), (corner, edge, x, edge))
    return ((x, -edge, x, -edge), (x, edge, x, edge))


def _light_changes(stage: Staging) -> tuple[tuple[float, str], ...]:
    green_s = (stage.motion.go_s or 0.0) - 2 * LEAD_AHEAD_S
    return (
        (-np.inf, "green"),
        (stage.on_s, "amber"),
        (stage.on_s + 1.6, "red"),
        (stage.off_s, "red_amber"),
        (max(stage.off_s + 0.5, green_s), "green"),
    )


def build_leads(stage: Staging, gap_m: float, count: int, *, pulls_over: bool) -> list[Actor]:
    """Vehicles that the ego follows, nearest first: brake lights between on and off.

    Args:
        stage: the drive.
        gap_m: from the ego's front to the nearest one's rear when both stand, and between them.
        count: how many; each takes at most :data:`LEAD_SLOT_M` beside its gap.
        pulls_over: they leave for the lane to the right when the cause ends, at their slow speed.
    """
    rng, times = stage.rng, track_times(stage.total_s)
    leads: list[Actor] = []
    front_m = FRONT_M
    for i in range(count):
        kind = str(rng.choice(["car", "car", "van", "truck"] if i == 0 else ["car", "van"]))
        length = SIZES_M[kind][0]
        earlier_s = LEAD_AHEAD_S * (i + 1)
        s = np.array([stage.motion.at(float(t) + earlier_s)[0] for t in times])
        s += front_m + gap_m + length / 2.0
        front_m += gap_m + length
        leads.append(
            Actor(
                name=f"lead-{i}",
                kind=kind,
                color=PAINTS[int(rng.integers(len(PAINTS)))],
                poses=_pulling_over(stage, s) if pulls_over else track_on_path(stage.path, s),
                on_s=((stage.on_s, stage.on_s + 2.2 if pulls_over else stage.off_s),),
                role="lead",
            )
        )
    return leads


def _pulling_over(stage: Staging, s_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the speed of when the cause ends, and change to the lane on the right around then."""
    times = track_times(stage.total_s)
    held = int(np.searchsorted(times, stage.off_s))
    speed = (s_m[held] - s_m[held - 1]) / TRACK_S
    s_m[held:] = s_m[held] + speed * (times[held:] - times[held])
    share = np.clip((times - stage.off_s + 1.1) / 1.8, 0.0, 1.0)
    aside = -stage.layout.lane_m * share * share * (3 - 2 * share)
    poses = track_on_path(stage.path, s_m)
    poses[:, 0] -= np.sin(poses[:, 2]) * aside
    poses[:, 1] += np.cos(poses[:, 2]) * aside
    return poses


def build_crossers(stage: Staging, kind: str, arm: str, across_m: float) -> list[Actor]:
    """One to three pedestrians (or one animal) that cross a lane and dawdle in it.

    Args:
        stage: the drive.
        kind: ``pedestrian`` or ``animal``.
        arm: the road that is crossed: ``back`` in front of the ego, or where it turns into.
        across_m: distance of the crossing from the origin along the arm.
    """
    rng = stage.rng
    count = 1 if kind == "animal" else int(rng.integers(1, 4))
    from_right = rng.random() < (1.0 if kind == "animal" else 0.6)
    return [
        _crosser(stage, kind, arm, across_m + 0.8 * (i - 0.5), i, from_right) for i in range(count)
    ]


def _crosser(
    stage: Staging, kind: str, arm: str, across_m: float, number: int, from_right: bool
) -> Actor:
    """Waits at the kerb, enters when the cause begins, leaves the lane when it ends."""
    rng, layout = stage.rng, stage.layout
    inwards = arm == "back"
    offset = layout.lane_offset_m(stage.manoeuvre)
    near, far = offset + layout.lane_m / 2.0, offset - layout.lane_m / 2.0  # to the right
    kerb = layout.half_m + 0.9
    side = 1.0 if from_right else -1.0
    enter, leave = (near, far) if from_right else (far, near)
    start = rng.uniform(-0.2, 0.1)
    walk_in_s = max(0.8, abs(side * kerb - enter) / 1.9)
    on, off = stage.on_s - 0.7 + start, stage.off_s
    drift = rng.uniform(0.25, 0.75, 2)
    inside = [enter + (leave - enter) * d for d in (0.35 * drift[0], 0.4 + 0.4 * drift[1])]
    away_s = abs(leave - (-side) * kerb) / 1.6
    marks = [
        (on - 20.0, side * kerb),
        (on, side * kerb),
        (on + walk_in_s, enter - side * 0.5),
        (max(on + walk_in_s + 0.4, on + 3.0), inside[0]),
        (off - 0.8 - 0.25 * number, inside[1]),
        (off - 0.2 - 0.25 * number, leave + side * 0.12),
        (off + 0.2 - 0.25 * number, leave - side * 0.75),
        (off + 0.2 + away_s, -side * kerb),
        (off + 12.0, -side * (kerb + 12.0)),
    ]
    points = _across(layout, arm, inwards, across_m, marks)
    color = (190, 105, 40) if kind == "animal" else CLOTHES[int(rng.integers(len(CLOTHES)))]
    return Actor(
        name=f"cause-{number}",
        kind=kind,
        color=color,
        poses=track_through(points, track_times(stage.total_s)),
        role="cause",
    )


def _across(
    layout: Layout, arm: str, inwards: bool, across_m: float, marks: list[tuple[float, float]]
) -> list[tuple[float, float, float]]:
    """(time, right of the road's middle) on a line across an arm, as (time, x, y)."""
    heading = layout.arms[arm].heading_rad + (np.pi if inwards else 0.0)
    along = across_m * (-1.0 if inwards else 1.0)
    cos, sin = np.cos(heading), np.sin(heading)
    last, out = -np.inf, []
    for time, right in marks:
        last = max(time, last + 0.05)
        out.append((last, float(along * cos + right * sin), float(along * sin - right * cos)))
    return out


def build_oncoming(stage: Staging) -> list[Actor]:
    """A stream of vehicles that the ego, turning left, must let pass; the last ends the cause."""
    rng, layout = stage.rng, stage.layout
    lane = lane_path(layout, "ahead", inwards=True, offset_m=layout.lane_m * 0.5)
    exit_lane = lane_path(layout, "back", inwards=False, offset_m=layout.lane_m * 0.5)
    path = Path2D(
        np.concatenate([lane.s_m, lane.s_m[-1] + 0.01 + exit_lane.s_m]),
        np.concatenate([lane.xy_m, exit_lane.xy_m]),
        np.concatenate([lane.yaw_rad, np.unwrap(exit_lane.yaw_rad)]),
    )
    times = track_times(stage.total_s)
    speed = rng.uniform(8.0, 9.5)
    actors = []
    for i in range(6):
        passed = stage.off_s - i * rng.uniform(1.5, 1.9)
        kind = str(rng.choice(["car", "car", "van", "truck"]))
        s = lane.length_m + layout.stop_line_m - 5.0 + speed * (times - passed)
        poses = track_on_path(path, np.maximum(s, 0.0))
        actors.append(
            Actor(
                name=f"cause-{i}",
                kind=kind,
                color=PAINTS[int(rng.integers(len(PAINTS)))],
                poses=poses,
                role="cause",
            )
        )
    return actors


def build_roadworks(stage: Staging) -> list[Actor]:
    """Barriers and a truck in the ego's lane, and a flagger: red paddle from on to off."""
    layout, rng = stage.layout, stage.rng
    x, y, yaw = -layout.stop_line_m, -layout.lane_offset_m(stage.manoeuvre), 0.0
    lane = layout.lane_m
    actors = [
        Actor(
            name=f"barrier-{i}",
            kind="barrier",
            color=(250, 120, 20),
            poses=standing(x + 0.4 * i, y + (i - 1.4) * lane * 0.34, yaw),
            role="cause",
        )
        for i in range(3)
    ]
    actors.append(
        Actor(
            name="works-truck",
            kind="truck",
            color=(245, 165, 25),
            poses=standing(x + 8.5, y - 0.2, yaw),
            on_s=((-np.inf, np.inf),),
            role="cause",
        )
    )
    actors.append(
        Actor(
            name="flagger",
            kind="flagger",
            color=(210, 250, 30),
            poses=standing(x - 1.2, y - lane * rng.uniform(0.3, 0.45), yaw + np.pi),
            on_s=((stage.on_s, stage.off_s),),
            role="cause",
        )
    )
    return actors
