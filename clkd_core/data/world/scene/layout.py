"""Road layouts: one place where something happens, with two to four arms.

Layout frame: the place is the origin, the ego vehicle comes from negative x and drives towards
positive x. Traffic keeps right. An exported drive is turned and moved as a whole (``world_from``).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.path import Path2D, fillet, path_through, polar_line

REACH_M = 125.0
"""Roads and ground exist this far from the origin."""
MANOEUVRES = ("straight", "left", "right")


@dataclass(frozen=True)
class Arm:
    """One road leading away from the origin: straight, then bent, then straight."""

    heading_rad: float
    straight_m: float
    bend_m: float
    curvature_pm: float

    def center_line(self) -> NDArray[np.float64]:
        """(N, 2) metres, from the origin outwards, beyond :data:`REACH_M`."""
        rest = max(20.0, REACH_M * 1.4 - self.straight_m - self.bend_m)
        return polar_line(
            self.heading_rad,
            [(self.straight_m, 0.0), (self.bend_m, self.curvature_pm), (rest, 0.0)],
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything that distinguishes one road layout from another."""

    lane_m: float
    """Width of a lane."""
    lanes: int
    """Lanes per direction."""
    corner_m: float
    """Radius of the kerb at the corners."""
    sidewalk_m: float
    crosswalk: bool
    arms: dict[str, Arm]
    """``back`` (where the ego comes from) and some of ``ahead``, ``left``, ``right``."""
    texture_seed: int
    """Buildings, trees, colours, sky."""
    world_from: tuple[float, float, float]
    """x, y [m], yaw [rad] of the layout frame in the world frame."""

    @property
    def half_m(self) -> float:
        """Half the width of a road."""
        return self.lanes * self.lane_m

    @property
    def box_m(self) -> float:
        """Distance from the origin where an arm's markings begin."""
        return self.half_m + self.corner_m if self.crossing else 0.0

    @property
    def crossing(self) -> bool:
        """Whether a side road meets here."""
        return "left" in self.arms or "right" in self.arms

    @property
    def stop_line_m(self) -> float:
        """Distance of the stop line from the origin, on every arm."""
        return self.box_m + (4.6 if self.crosswalk else 1.0)

    def lane_offset_m(self, manoeuvre: str) -> float:
        """How far right of the road's middle the ego drives for a manoeuvre."""
        return self.lane_m * (0.5 if manoeuvre == "left" else self.lanes - 0.5)

    def digest(self) -> str:
        """Identity of the geometry; equal layouts have equal digests."""
        arms = sorted((k, a.heading_rad, a.bend_m, a.curvature_pm) for k, a in self.arms.items())
        numbers = (self.lane_m, self.lanes, self.corner_m, self.sidewalk_m, self.crosswalk, arms)
        return hashlib.blake2b(repr(numbers).encode(), digest_size=12).hexdigest()


def sample_layout(
    rng: np.random.Generator,
    manoeuvre: str,
    *,
    crossing: bool,
    crosswalk: bool,
    lanes: int | None,
    oncoming: bool = False,
) -> Layout:
    """Draw a layout in which the manoeuvre is possible.

    Args:
        rng: source of all choices.
        manoeuvre: one of :data:`MANOEUVRES`.
        crossing: whether side roads meet at the origin; forced by a turn.
        crosswalk: whether pedestrians have stripes there.
        lanes: per direction; drawn when None.
        oncoming: whether somebody must be able to come from ahead.
    """
    names = ["back", "ahead"]
    if crossing or manoeuvre != "straight":
        names = _crossing_arms(rng, {manoeuvre} | ({"straight"} if oncoming else set()))
    return Layout(
        lane_m=float(rng.uniform(3.2, 3.8)),
        lanes=lanes or int(rng.integers(1, 3)),
        corner_m=float(rng.uniform(3.5, 6.0)),
        sidewalk_m=float(rng.uniform(2.0, 4.0)),
        crosswalk=crosswalk,
        arms={name: _sample_arm(rng, name) for name in names},
        texture_seed=int(rng.integers(2**31)),
        world_from=(
            float(rng.uniform(130.0, 140.0)),
            float(rng.uniform(130.0, 140.0)),
            float(rng.uniform(-np.pi, np.pi)),
        ),
    )


def _crossing_arms(rng: np.random.Generator, needed: set[str]) -> list[str]:
    names = ["back", "ahead", "left", "right"]
    kept = {"ahead" if manoeuvre == "straight" else manoeuvre for manoeuvre in needed}
    droppable = [n for n in names[1:] if n not in kept]
    if rng.random() < 0.35:
        names.remove(str(rng.choice(droppable)))
    return names


def _sample_arm(rng: np.random.Generator, name: str) -> Arm:
    heading = {"back": np.pi, "ahead": 0.0, "left": np.pi / 2, "right": -np.pi / 2}[name]
    skew = rng.uniform(-0.16, 0.16) if name in ("left", "right") else 0.0
    curvature = 0.0 if rng.random() < 0.4 else rng.uniform(-1.0, 1.0) / 55.0
    return Arm(
        heading_rad=float(heading + skew),
        straight_m=float(rng.uniform(24.0, 40.0)),
        bend_m=float(rng.uniform(15.0, 40.0)),
        curvature_pm=float(curvature),
    )


def lane_path(layout: Layout, arm: str, *, inwards: bool, offset_m: float) -> Path2D:
    """The line of a lane along one arm, in driving direction.

    Args:
        layout: the roads.
        arm: name of the arm.
        inwards: towards the origin, or away from it.
        offset_m: distance to the right of the road's middle, seen in driving direction.
    """
    line = layout.arms[arm].center_line()
    return path_through(line[::-1] if inwards else line).shifted(-offset_m)


def crossing_path(
    layout: Layout, start: str, end: str, manoeuvre: str
) -> tuple[Path2D, float, float]:
    """From one arm through the origin to another one.

    Returns:
        path; arc lengths at which the turn (or the box, going straight) begins and ends.
    """
    offset = layout.lane_offset_m(manoeuvre)
    before = lane_path(layout, start, inwards=True, offset_m=offset).xy_m
    after = lane_path(layout, end, inwards=False, offset_m=offset).xy_m
    if manoeuvre == "straight":
        path = path_through(np.concatenate([before[:-1], after[1:]]))
        middle = path_through(before).length_m
        return path, middle - layout.box_m, middle + layout.box_m
    corner = _meet(before[-1], before[-2] - before[-1], after[0], after[1] - after[0])
    tangent = layout.half_m + layout.corner_m - 0.5
    tangent += offset if manoeuvre == "left" else -offset
    tangent = min(tangent, 13.0)
    arc = fillet(before[-30], corner, after[30], tangent)
    before = before[_along(before, corner, before[-30] - corner) > tangent]
    after = after[_along(after, corner, after[30] - corner) > tangent]
    begin = path_through(np.concatenate([before, arc[:1]])).length_m
    path = path_through(np.concatenate([before, arc, after]))
    return path, begin, begin + path_through(arc).length_m


def _meet(
    a: NDArray[np.float64],
    da: NDArray[np.float64],
    b: NDArray[np.float64],
    db: NDArray[np.float64],
) -> NDArray[np.float64]:
    t = np.linalg.solve(np.stack([da, -db], axis=1), b - a)
    met: NDArray[np.float64] = a + t[0] * da
    return met


def _along(
    points: NDArray[np.float64], origin: NDArray[np.float64], direction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance of points from the origin, negative on the far side of it."""
    unit = direction / np.linalg.norm(direction)
    along = (points - origin) @ unit
    far = np.linalg.norm(points - origin, axis=1)
    signed: NDArray[np.float64] = np.where(along > 0, far, -far)
    return signed
