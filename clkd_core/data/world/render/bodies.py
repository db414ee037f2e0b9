"""What actors look like: vehicles, people, animals, barriers; and traffic lights.

All shapes stand at the origin and look along x. Causes are drawn larger and brighter than life,
so that they survive being shrunk to a hundred pixels.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.shapes import Color, Shape, ShapeBuilder
from clkd_core.data.world.scene.actors import SIZES_M, Signal

_GLASS: Color = (38, 48, 58)
_TYRE: Color = (22, 22, 24)
_BRAKE_ON: Color = (255, 25, 20)
_BRAKE_OFF: Color = (95, 14, 16)
_BOARD_M = 0.18  # how far a traffic light's backboard stands out around the housing
_LAMPS: dict[str, Color] = {"red": (255, 20, 15), "amber": (255, 190, 0), "green": (10, 255, 90)}
_DARK_LAMPS: dict[str, Color] = {"red": (62, 18, 18), "amber": (62, 50, 14), "green": (14, 58, 28)}
_LIT_LAMPS = {
    "red": ("red",),
    "amber": ("amber",),
    "green": ("green",),
    "red_amber": ("red", "amber"),
}


@lru_cache(maxsize=256)
def vehicle_shape(kind: str, color: tuple[int, int, int], braking: bool, night: bool) -> Shape:
    """A car, van, truck or bus."""
    length, width, height = SIZES_M[kind]
    half, side = length / 2.0, width / 2.0
    b = ShapeBuilder()
    b.group(0.0, 0.0)
    _shadow(b, half + 0.15, side + 0.2)
    for x in (-half + 0.9, half - 0.9):
        for y in (-side + 0.1, side - 0.1):
            b.disc(x, y, 0.36, 0.36, _TYRE)
    if kind == "car":
        b.box((-half, -side, 0.28), (half, side, 0.88), color, taper=0.06)
        b.box(
            (-half + 0.5, -side + 0.08, 0.86),
            (half - 1.3, side - 0.08, height),
            _GLASS,
            top=color,
            taper=0.45,
        )
    else:
        b.box((-half, -side, 0.35), (half, side, height), color, taper=0.04)
        _windows(b, kind, half, side, height)
    _tail(b, kind, half, side, height, braking, night)
    return b.build()


def _windows(b: ShapeBuilder, kind: str, half: float, side: float, height: float) -> None:
    low, high = 0.55 * height, 0.86 * height
    b.quad(_across_x(half + 0.02, (0.15 - side, side - 0.15), (low, high)), _GLASS, solid=True)
    if kind == "truck":
        return
    for y, flip in ((side + 0.02, False), (-side - 0.02, True)):
        x0, x1 = (-half + 0.5, half - 0.2) if kind == "bus" else (half - 2.0, half - 0.3)
        corners = np.array([(x1, y, low), (x0, y, low), (x0, y, high), (x1, y, high)])
        b.quad(corners[::-1] if flip else corners, _GLASS, solid=True)
    b.panel(-half - 0.02, (side - 0.2, -side + 0.2), (low, high), _GLASS)


def _across_x(x: float, y: tuple[float, float], z: tuple[float, float]) -> NDArray[np.float64]:
    """Corners of a panel at constant x, seen from the front (from larger x)."""
    return np.array([(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])])


def _tail(
    b: ShapeBuilder, kind: str, half: float, side: float, height: float, braking: bool, night: bool
) -> None:
    """Rear lights (big), number plate, headlights."""
    low, high = (0.5, 0.9) if kind == "car" else (0.55, 1.25)
    color, glow = (_BRAKE_ON, 1.6) if braking else (_BRAKE_OFF, 1.0 if night else 0.0)
    if night and not braking:
        color = (150.0, 12.0, 12.0)
    x = -half - 0.04
    b.panel(x, (0.28, -0.28), (low - 0.08, low + 0.1), (215, 215, 205))
    for inner, outer in ((side, side - 0.55), (-side + 0.55, -side)):
        b.panel(x, (inner, outer), (low, high), color, glow)
    if braking:
        b.panel(x - 0.02, (0.5, -0.5), (0.9 * height - 0.16, 0.9 * height), _BRAKE_ON, 1.3)
    for y in (side - 0.3, -side + 0.3):
        b.quad(
            _across_x(half + 0.04, (y - 0.22, y + 0.22), (low, high)),
            (255, 250, 215),
            1.0 if night else 0.4,
            solid=True,
        )


def _shadow(b: ShapeBuilder, half: float, side: float) -> None:
    corners = np.array(
        [(-half, -side, 0.01), (half, -side, 0.01), (half, side, 0.01), (-half, side, 0.01)]
    )
    b.quad(corners, (34, 34, 38))


@lru_cache(maxsize=128)
def person_shape(kind: str, color: tuple[int, int, int], step: int, red_paddle: bool) -> Shape:
    """A person as a flat figure facing along x; ``step`` 0..3 moves the legs."""
    b = ShapeBuilder()
    b.group(0.0, 0.0)
    swing = (0.0, 0.16, 0.0, -0.16)[step]
    legs: Color = (40, 45, 80) if kind == "pedestrian" else (230, 120, 20)
    for side in (-1.0, 1.0):
        foot = side * (0.1 + swing)
        b.quad(
            np.array(
                [
                    (0, side * 0.02, 0.85),
                    (0, side * 0.2, 0.85),
                    (0, foot + 0.1, 0.0),
                    (0, foot - 0.1, 0.0),
                ]
            ),
            legs,
        )
    b.quad(np.array([(0, -0.3, 1.5), (0, 0.3, 1.5), (0, 0.27, 0.78), (0, -0.27, 0.78)]), color)
    for side in (-1.0, 1.0):
        b.quad(
            np.array(
                [
                    (0, side * 0.26, 1.48),
                    (0, side * 0.36, 1.4),
                    (0, side * (0.34 + swing), 0.85),
                    (0, side * (0.24 + swing), 0.85),
                ]
            ),
            color,
        )
    b.disc(0.0, 0.0, 1.66, 0.16, (215, 165, 130))
    b.disc(0.0, 0.0, 1.74, 0.13, (60, 40, 25) if kind == "pedestrian" else (255, 215, 0))
    if kind == "flagger":
        b.quad(
            np.array([(0, 0.42, 2.3), (0, 0.5, 2.3), (0, 0.5, 0.9), (0, 0.42, 0.9)]),
            (120, 120, 120),
        )
        b.disc(0.0, 0.46, 2.5, 0.66, (250, 250, 250), 0.5)
        b.disc(0.0, 0.46, 2.5, 0.57, (235, 15, 20) if red_paddle else (15, 200, 70), 0.8)
    return b.build()


@lru_cache(maxsize=16)
def animal_shape(color: tuple[int, int, int]) -> Shape:
    """A deer-sized animal."""
    b = ShapeBuilder()
    b.group(0.0, 0.0)
    _shadow(b, 0.8, 0.25)
    dark: Color = (70, 45, 25)
    for x in (-0.6, 0.6):
        for y in (-0.15, 0.15):
            b.box((x - 0.07, y - 0.06, 0.0), (x + 0.07, y + 0.06, 0.7), dark)
    b.box((-0.8, -0.26, 0.62), (0.8, 0.26, 1.22), color)
    b.box((0.66, -0.14, 1.0), (0.98, 0.14, 1.66), color)
    b.box((0.8, -0.15, 1.45), (1.3, 0.15, 1.74), color)
    for side in (-1.0, 1.0):
        b.quad(
            np.array(
                [
                    (0.9, side * 0.1, 1.7),
                    (0.98, side * 0.1, 1.7),
                    (0.8, side * 0.45, 2.25),
                    (0.74, side * 0.45, 2.25),
                ]
            ),
            dark,
        )
    b.disc(-0.84, 0.0, 1.05, 0.15, (240, 240, 235))
    return b.build()


@lru_cache(maxsize=4)
def barrier_shape() -> Shape:
    """A road barrier with red and white stripes, and a lamp."""
    b = ShapeBuilder()
    b.group(0.0, 0.0)
    b.box((-0.06, -0.7, 0.0), (0.06, -0.6, 1.2), (90, 90, 90))
    b.box((-0.06, 0.6, 0.0), (0.06, 0.7, 1.2), (90, 90, 90))
    for low in (0.35, 0.8):
        for i in range(6):
            color: Color = (255, 95, 10) if i % 2 else (250, 250, 250)
            y = -0.75 + 0.25 * i
            corners = np.array(
                [
                    (-0.08, y, low),
                    (-0.08, y, low + 0.36),
                    (-0.08, y + 0.25, low + 0.36),
                    (-0.08, y + 0.25, low),
                ]
            )
            b.quad(corners, color, 0.3)
    return b.build()


@lru_cache(maxsize=4)
def works_truck_shape(color: tuple[int, int, int]) -> Shape:
    """A truck with a large lit arrow pointing left on its rear."""
    length, width, height = SIZES_M["truck"]
    half, side = length / 2.0, width / 2.0
    b = ShapeBuilder()
    b.group(0.0, 0.0)
    _shadow(b, half + 0.2, side + 0.2)
    for x in (-half + 1.0, half - 1.0):
        for y in (-side + 0.1, side - 0.1):
            b.disc(x, y, 0.45, 0.45, _TYRE)
    b.box((-half, -side, 0.45), (half, side, height - 0.6), color)
    x = -half - 0.1
    b.panel(x, (side, -side), (1.1, 3.6), (25, 25, 28))
    for y, z in ((0.8, 2.35), (0.45, 2.7), (0.45, 2.0), (0.1, 2.35), (-0.3, 2.35), (-0.7, 2.35)):
        b.disc(x - 0.02, y, z, 0.2, (255, 190, 20), 1.3)
    for i in range(5):
        stripe: Color = (250, 250, 250) if i % 2 else (230, 30, 30)
        b.panel(x, (side - 0.5 * i, side - 0.5 * (i + 1)), (0.5, 1.05), stripe, 0.3)
    return b.build()


def signal_shape(signal: Signal, state: str) -> Shape:
    """The housings of a traffic light with its poles and wires, in the layout frame."""
    b = ShapeBuilder()
    for x0, y0, x1, y1 in signal.poles_m:
        b.group(x0, y0)
        b.box((x0 - 0.12, y0 - 0.12, 0.0), (x0 + 0.12, y0 + 0.12, 7.0), (110, 115, 115))
        b.group((x0 + x1) / 2.0, (y0 + y1) / 2.0)
        _bar(b, (x0, y0, 6.95), (x1, y1, 6.95))
    x_beam = signal.heads_m[0][0]
    edges = [p[3] for p in signal.poles_m]
    b.group(x_beam + 0.4, 0.0)
    _bar(b, (x_beam, min(edges), 6.95), (x_beam, max(edges), 6.95))
    for i, (x, y, z) in enumerate(signal.heads_m):
        b.group(x, y)
        _head(b, x, y, z, signal.lamp_m, state)
        if signal.hidden_head == i:
            _foliage(b, x - 0.6, y, z)
    return b.build()


def _bar(
    b: ShapeBuilder, start: tuple[float, float, float], end: tuple[float, float, float]
) -> None:
    a, e = np.array(start), np.array(end)
    up = np.array([0.0, 0.0, 0.16])
    b.quad(np.array([a, e, e + up, a + up]), (85, 88, 90))


def _half_head(lamp_m: float) -> tuple[float, float]:
    """Half the width and half the height of a housing."""
    return 0.68 * lamp_m, 1.78 * lamp_m


def head_outline(signal: Signal, number: int) -> NDArray[np.float64]:
    """(4, 3) corners of a housing with its backboard, in the layout frame."""
    x, y, z = signal.heads_m[number]
    half_w, half_h = (half + _BOARD_M for half in _half_head(signal.lamp_m))
    places = [(a * half_w, b * half_h) for a in (-1, 1) for b in (-1, 1)]
    return np.array([(x, y + across, z + up) for across, up in places])


def _head(b: ShapeBuilder, x: float, y: float, z: float, lamp: float, state: str) -> None:
    """Backboard, housing and three lamps, facing towards smaller x."""
    half_w, half_h = _half_head(lamp)
    b.panel(
        x,
        (y + half_w + _BOARD_M, y - half_w - _BOARD_M),
        (z - half_h - _BOARD_M, z + half_h + _BOARD_M),
        (235, 235, 225),
    )
    b.panel(x - 0.02, (y + half_w, y - half_w), (z - half_h, z + half_h), (12, 14, 16))
    lit = _LIT_LAMPS[state]
    for row, name in enumerate(("red", "amber", "green")):
        on = name in lit
        color = _LAMPS[name] if on else _DARK_LAMPS[name]
        b.disc(x - 0.05, y, z + (1 - row) * 1.14 * lamp, lamp / 2.0, color, 1.8 if on else 0.0)
    back = np.array(
        [
            (x + 0.02, y - half_w, z - half_h),
            (x + 0.02, y + half_w, z - half_h),
            (x + 0.02, y + half_w, z + half_h),
            (x + 0.02, y - half_w, z + half_h),
        ]
    )
    b.quad(back, (30, 32, 34), solid=True)


def _foliage(b: ShapeBuilder, x: float, y: float, z: float) -> None:
    """A branch that hides about half of a housing."""
    rng = np.random.default_rng(7)
    for _ in range(26):
        dy, dz = rng.uniform(-1.6, 0.1), rng.uniform(-2.0, 2.2)
        green = rng.uniform(0.7, 1.1)
        b.disc(x, y + dy, z + dz, rng.uniform(0.25, 0.5), (40 * green, 105 * green, 35 * green))
