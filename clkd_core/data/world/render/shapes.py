"""Solid shapes as coloured quads and discs; the renderer knows nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]

LIT, GLOWING = 0, 1
"""Whether a primitive's colour depends on the light around it."""


@dataclass
class Shape:
    """Primitives in drawing order; a disc has its middle in the first corner.

    ``group`` numbers the parts that are sorted by distance as one; within a group the order of
    the primitives is the order of drawing.
    """

    corners: NDArray[np.float32]
    """(N, 4, 3) metres."""
    radius: NDArray[np.float32]
    """(N,) metres; 0 for a quad."""
    color: NDArray[np.float32]
    """(N, 3) RGB 0..255."""
    glow: NDArray[np.float32]
    """(N,) 0 lit by the surroundings, 1 shines itself, above 1 with a halo."""
    solid: NDArray[np.bool_]
    """(N,) True where only the side with counter-clockwise corners can be seen."""
    group: NDArray[np.int32]
    """(N,) from 0."""
    middle: NDArray[np.float32]
    """(G, 2) position by which a group is sorted."""

    def placed(self, x: float, y: float, yaw: float) -> "Shape":
        """The shape turned and moved on the ground."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        shift = np.array([x, y, 0.0], dtype=np.float32)
        middle = self.middle @ turn[:2, :2] + shift[:2]
        return Shape(
            self.corners @ turn + shift,
            self.radius,
            self.color,
            self.glow,
            self.solid,
            self.group,
            middle,
        )


class ShapeBuilder:
    """Collects primitives; :meth:`group` begins a part that is sorted on its own."""

    def __init__(self) -> None:
        self._corners: list[NDArray[np.float64]] = []
        self._rows: list[tuple[float, Color, float, bool, int]] = []
        self._middles: list[tuple[float, float]] = []

    def group(self, x: float, y: float) -> None:
        """Begin a part whose distance is that of (x, y)."""
        self._middles.append((x, y))

    def quad(
        self, corners: NDArray[np.float64], color: Color, glow: float = 0.0, *, solid: bool = False
    ) -> None:
        """Add four corners, counter-clockwise seen from outside."""
        self._corners.append(np.asarray(corners, dtype=np.float64))
        self._rows.append((0.0, color, glow, solid, len(self._middles) - 1))

    def disc(
        self, x: float, y: float, z: float, radius: float, color: Color, glow: float = 0.0
    ) -> None:
        """Add a disc that always faces the viewer."""
        self._corners.append(np.tile([float(x), float(y), float(z)], (4, 1)))
        self._rows.append((radius, color, glow, False, len(self._middles) - 1))

    def box(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        color: Color,
        *,
        top: Color | None = None,
        taper: float = 0.0,
    ) -> None:
        """Add an upright box with shaded sides; ``taper`` draws its top in by that much."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        t = taper
        bottom = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
        above = [
            (x0 + t, y0 + t / 3, z1),
            (x1 - t, y0 + t / 3, z1),
            (x1 - t, y1 - t / 3, z1),
            (x0 + t, y1 - t / 3, z1),
        ]
        shade = (0.72, 0.86, 0.95, 0.8)  # right, front, left, back: light from the front left
        for i in range(4):
            j = (i + 1) % 4
            face = np.array([bottom[i], bottom[j], above[j], above[i]])
            self.quad(face, _scaled(color, shade[i]), solid=True)
        self.quad(np.array(above), _scaled(top or color, 1.06), solid=True)

    def panel(
        self,
        x: float,
        y: tuple[float, float],
        z: tuple[float, float],
        color: Color,
        glow: float = 0.0,
    ) -> None:
        """Add a quad in the plane of constant x, seen from smaller x; ``y`` from left to right."""
        corners = np.array([(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])])
        self.quad(corners, color, glow, solid=True)

    def build(self) -> Shape:
        """All of it as arrays."""
        rows = self._rows
        return Shape(
            np.array(self._corners, dtype=np.float32).reshape(-1, 4, 3),
            np.array([r[0] for r in rows], dtype=np.float32),
            np.array([r[1] for r in rows], dtype=np.float32).reshape(-1, 3),
            np.array([r[2] for r in rows], dtype=np.float32),
            np.array([r[3] for r in rows], dtype=bool),
            np.array([r[4] for r in rows], dtype=np.int32),
            np.array(self._middles, dtype=np.float32).reshape(-1, 2),
        )


def joined(shapes: list[Shape]) -> Shape:
    """Several shapes as one; groups stay apart."""
    if not shapes:
        return ShapeBuilder().build()
    offsets = np.cumsum([0] + [len(s.middle) for s in shapes[:-1]])
    return Shape(
        np.concatenate([s.corners for s in shapes]),
        np.concatenate([s.radius for s in shapes]),
        np.concatenate([s.color for s in shapes]),
        np.concatenate([s.glow for s in shapes]),
        np.concatenate([s.solid for s in shapes]),
        np.concatenate([s.group + o for s, o in zip(shapes, offsets, strict=True)]).astype(
            np.int32
        ),
        np.concatenate([s.middle for s in shapes]),
    )


def _scaled(color: Color, factor: float) -> Color:
    return (color[0] * factor, color[1] * factor, color[2] * factor)
