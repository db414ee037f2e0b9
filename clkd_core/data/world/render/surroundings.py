"""What stands beside the roads: buildings, trees, street lamps; seeded by the layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.shapes import Color, Shape, ShapeBuilder
from clkd_core.data.world.scene.layout import Layout, lane_path

_WALLS: tuple[Color, ...] = (
    (178, 120, 96),
    (205, 192, 168),
    (150, 150, 156),
    (220, 214, 204),
    (168, 140, 120),
    (122, 132, 146),
    (196, 164, 128),
)
_PANEL_M = 4.5
_REACH_M = 100.0


@dataclass(frozen=True)
class Walls:
    """The panels of all walls, seen from above."""

    start: NDArray[np.float64]
    """(N, 2) metres, layout frame."""
    end: NDArray[np.float64]
    """(N, 2)."""
    top: NDArray[np.float64]
    """(N,) height [m]."""


def build_surroundings(layout: Layout, *, night: bool) -> Shape:
    """Everything that stands still in a layout."""
    rng = np.random.default_rng(layout.texture_seed)
    b = ShapeBuilder()
    roads = [arm.center_line() for arm in layout.arms.values()]
    clear_m = layout.half_m + 2.3 + layout.sidewalk_m
    urban = rng.uniform(0.25, 1.0)
    for arm in layout.arms:
        for inwards in (True, False):
            _row_of_buildings(b, rng, layout, arm, inwards, roads, clear_m, urban, night)
            _row_of_trees(b, rng, layout, arm, inwards, roads, clear_m)
    return b.build()


def walls_of(shape: Shape) -> Walls:
    """The walls in what :func:`build_surroundings` made: upright, from the ground, wide."""
    low, high = shape.corners[:, 0], shape.corners[:, 2]
    wide = np.hypot(high[:, 0] - low[:, 0], high[:, 1] - low[:, 1]) > 1.0
    is_wall = shape.solid & wide & (low[:, 2] == 0.0) & (high[:, 2] > 2.0)
    corners = shape.corners[is_wall].astype(np.float64)
    return Walls(corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, 2])


def _row_of_buildings(
    b: ShapeBuilder,
    rng: np.random.Generator,
    layout: Layout,
    arm: str,
    inwards: bool,
    roads: list[NDArray[np.float64]],
    clear_m: float,
    urban: float,
    night: bool,
) -> None:
    setback = clear_m + rng.uniform(0.5, 7.0)
    lane = lane_path(layout, arm, inwards=inwards, offset_m=setback)
    at = layout.box_m + rng.uniform(0.0, 8.0)
    while at < _REACH_M:
        length, depth = rng.uniform(9.0, 22.0), rng.uniform(8.0, 14.0)
        if rng.random() < urban:
            s = lane.length_m - at - length / 2.0 if inwards else at + length / 2.0
            x, y, yaw = lane.pose_at(np.array(s))
            center = np.array([x + np.sin(yaw) * depth / 2, y - np.cos(yaw) * depth / 2])
            if _free(center, yaw, length, depth, roads, clear_m):
                _building(b, rng, center, yaw, length, depth, night)
        at += length + rng.choice([0.0, 0.0, rng.uniform(3.0, 12.0)])


def _free(
    center: NDArray[np.float64],
    yaw: float,
    length: float,
    depth: float,
    roads: list[NDArray[np.float64]],
    clear_m: float,
) -> bool:
    """Whether a footprint leaves every road free."""
    corners = _footprint(center, yaw, length + 1.0, depth)
    points = np.concatenate([corners, center[None], (corners + np.roll(corners, 1, 0)) / 2.0])
    return all(
        np.linalg.norm(points[:, None] - road[None], axis=-1).min() > clear_m for road in roads
    )


def _footprint(
    center: NDArray[np.float64], yaw: float, length: float, depth: float
) -> NDArray[np.float64]:
    ahead = np.array([np.cos(yaw), np.sin(yaw)]) * length / 2.0
    left = np.array([-np.sin(yaw), np.cos(yaw)]) * depth / 2.0
    return np.array(
        [
            center - ahead - left,
            center + ahead - left,
            center + ahead + left,
            center - ahead + left,
        ]
    )


def _building(
    b: ShapeBuilder,
    rng: np.random.Generator,
    center: NDArray[np.float64],
    yaw: float,
    length: float,
    depth: float,
    night: bool,
) -> None:
    floors = int(rng.integers(2, 7))
    wall = np.array(_WALLS[int(rng.integers(len(_WALLS)))]) * rng.uniform(0.85, 1.1)
    corners = _footprint(center, yaw, length, depth)
    for i in range(4):
        start, end = corners[i], corners[(i + 1) % 4]
        shade = (0.95, 0.8, 0.72, 0.88)[(i + int(yaw > 0)) % 4]
        _wall(b, rng, start, end, floors, wall * shade, night)


def _wall(
    b: ShapeBuilder,
    rng: np.random.Generator,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    floors: int,
    color: NDArray[np.float64],
    night: bool,
) -> None:
    """A wall of panels, each sorted on its own, so that nearer things are drawn over it."""
    count = max(1, round(float(np.linalg.norm(end - start)) / _PANEL_M))
    storey = 3.1
    top = floors * storey + 0.9
    for i in range(count):
        a, e = start + (end - start) * i / count, start + (end - start) * (i + 1) / count
        b.group(*((a + e) / 2.0))
        b.quad(_upright(a, e, 0.0, top), _rgb(color), solid=True)
        left, right = a + (e - a) * 0.2, a + (e - a) * 0.8
        for floor in range(floors):
            low = floor * storey + (0.5 if floor == 0 else 1.0)
            lit = night and rng.random() < 0.3
            glass: Color = (250, 215, 140) if lit else (58, 72, 88)
            if not night and rng.random() < 0.25:
                glass = (120, 140, 160)
            b.quad(_upright(left, right, low, low + 1.7), glass, 1.0 if lit else 0.0, solid=True)
        b.quad(_upright(a, e, top - 0.35, top), _rgb(color * 0.6), solid=True)


def _upright(
    a: NDArray[np.float64], e: NDArray[np.float64], low: float, high: float
) -> NDArray[np.float64]:
    return np.array([[*a, low], [*e, low], [*e, high], [*a, high]])


def _rgb(color: NDArray[np.float64]) -> Color:
    return (float(color[0]), float(color[1]), float(color[2]))


def _row_of_trees(
    b: ShapeBuilder,
    rng: np.random.Generator,
    layout: Layout,
    arm: str,
    inwards: bool,
    roads: list[NDArray[np.float64]],
    clear_m: float,
) -> None:
    """Trees and street lamps at the outer edge of the pavement."""
    lane = lane_path(layout, arm, inwards=inwards, offset_m=clear_m - 0.6)
    spacing = rng.uniform(8.0, 22.0)
    lamp_every = int(rng.integers(2, 4))
    for i, at in enumerate(np.arange(layout.stop_line_m + 4.0, _REACH_M, spacing)):
        s = lane.length_m - at if inwards else at
        x, y, _ = lane.pose_at(np.array(s + rng.uniform(-2.0, 2.0)))
        if min(np.linalg.norm(road - [x, y], axis=1).min() for road in roads) < clear_m - 1.5:
            continue
        if i % lamp_every == 0:
            _street_lamp(b, x, y)
        else:
            _tree(b, rng, x, y)


def _tree(b: ShapeBuilder, rng: np.random.Generator, x: float, y: float) -> None:
    b.group(x, y)
    height = rng.uniform(3.2, 5.5)
    b.box((x - 0.16, y - 0.16, 0.0), (x + 0.16, y + 0.16, height), (86, 66, 48))
    tone = rng.uniform(0.75, 1.15)
    for i in range(7):
        shade = tone * (0.7 + 0.07 * i)
        z = height + rng.uniform(-0.6, 1.8)
        dx, dy = rng.uniform(-1.1, 1.1, 2)
        b.disc(x + dx, y + dy, z, rng.uniform(0.9, 1.5), (52 * shade, 96 * shade, 44 * shade))


def _street_lamp(b: ShapeBuilder, x: float, y: float) -> None:
    b.group(x, y)
    b.box((x - 0.08, y - 0.08, 0.0), (x + 0.08, y + 0.08, 6.5), (95, 100, 102))
    b.box((x - 0.3, y - 0.3, 6.4), (x + 0.3, y + 0.3, 6.6), (70, 74, 76))
