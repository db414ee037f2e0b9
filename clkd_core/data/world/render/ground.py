"""The ground seen from above: one raster per drive, warped into every view."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.layout import REACH_M, Layout, lane_path

PX_PER_M = 8.0
"""Resolution of the raster."""
_SIDE_PX = int(2 * REACH_M * PX_PER_M)
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_SUB = 1 << _SHIFT
_GRAIN_PLAY_PX = 256

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Ground:
    """The raster of a drive at two resolutions, and the colour beyond it."""

    fine: Image
    """(S, S, 3) uint8 RGB."""
    coarse: Image
    """(S / 4, S / 4, 3), for far away."""
    far_rgb: tuple[int, int, int]


def raster_from_layout() -> NDArray[np.float64]:
    """(3, 3) from layout metres to raster pixels (column, row)."""
    return np.array(
        [
            [PX_PER_M, 0.0, REACH_M * PX_PER_M - 0.5],
            [0.0, -PX_PER_M, REACH_M * PX_PER_M - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def draw_ground(layout: Layout) -> Ground:
    """Roads, pavements and markings."""
    rng = np.random.default_rng([layout.texture_seed, 1])
    greens = ((96, 122, 72), (128, 132, 88), (142, 134, 112), (84, 110, 66), (150, 150, 146))
    far = greens[int(rng.integers(len(greens)))]
    asphalt = np.array([1.0, 1.0, 1.04]) * rng.uniform(62, 104)
    pave = np.array([1.0, 0.98, 0.94]) * rng.uniform(140, 178)
    image = np.empty((_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    cv2.rectangle(image, (0, 0), (_SIDE_PX, _SIDE_PX), far, -1)
    kerb = layout.half_m + 2.3
    for width, color in (
        (kerb + layout.sidewalk_m, pave),
        (kerb + 0.15, pave * 0.75),
        (kerb, asphalt * 1.08),
        (layout.half_m, asphalt),
    ):
        for arm in layout.arms.values():
            _line(image, arm.center_line(), 2.0 * width, color)
        if layout.crossing:
            _junction(image, layout, width - layout.half_m, color)
    _add_grain(image, rng)
    for arm_name in layout.arms:
        _markings(image, layout, arm_name, rng.random() < 0.5)
    coarse = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return Ground(image, np.asarray(coarse, np.uint8), far)


def draw_map_mask(layout: Layout) -> Image:
    """(H, W) uint8, 255 where one may drive, 0.1 m per pixel: nuScenes' semantic prior map.

    Its lower left corner is the origin of the exported world frame.
    """
    side = 2 * int(max(layout.world_from[:2]) * 10)
    mask = np.zeros((side, side), dtype=np.uint8)
    x0, y0, turn = layout.world_from
    c, s = np.cos(turn), np.sin(turn)
    for arm in layout.arms.values():
        line = arm.center_line() @ np.array([[c, s], [-s, c]]) + [x0, y0]
        pixels = np.stack([line[:, 0] * 10, side - line[:, 1] * 10], axis=-1)
        width = round(20 * layout.half_m)
        points = np.round(pixels * _SUB).astype(np.int32)
        cv2.polylines(mask, [points], False, [255.0], width, cv2.LINE_8, _SHIFT)
    return mask


def _pixels(xy_m: NDArray[np.float64]) -> NDArray[np.int32]:
    to = raster_from_layout()
    px = xy_m @ to[:2, :2].T + to[:2, 2]
    pixels: NDArray[np.int32] = np.round(px * _SUB).astype(np.int32)
    return pixels


def _line(
    image: Image, xy_m: NDArray[np.float64], width_m: float, color: NDArray[np.float64]
) -> None:
    width = max(1, round(width_m * PX_PER_M))
    rgb = [float(c) for c in np.clip(color, 0, 255)]
    cv2.polylines(image, [_pixels(xy_m)], False, rgb, width, cv2.LINE_8, _SHIFT)


def _fill(image: Image, xy_m: NDArray[np.float64], color: NDArray[np.float64]) -> None:
    rgb = [float(c) for c in np.clip(color, 0, 255)]
    cv2.fillPoly(image, [_pixels(xy_m)], rgb, cv2.LINE_8, _SHIFT)


def _junction(image: Image, layout: Layout, grow_m: float, color: NDArray[np.float64]) -> None:
    """Fill the corners between arms that meet, bevelled."""
    near, far = layout.half_m + grow_m, layout.half_m + grow_m + layout.corner_m
    ahead = {"ahead": (1, 0), "left": (0, 1), "back": (-1, 0), "right": (0, -1)}
    names = list(ahead)
    for first, second in zip(names, names[1:] + names[:1], strict=True):
        if first in layout.arms and second in layout.arms:
            u, v = np.array(ahead[first]), np.array(ahead[second])
            _fill(
                image, np.array([0 * u, u * far + v * near * 0.9, u * near * 0.9 + v * far]), color
            )


@lru_cache(maxsize=1)
def _grain() -> tuple[Image, Image]:
    """What to add and what to take away, larger than a raster; made once per process."""
    side = _SIDE_PX + _GRAIN_PLAY_PX
    rng = np.random.default_rng(0)
    field = np.zeros((side, side), dtype=np.float32)
    for cell, size in ((3, 5.0), (24, 5.0), (160, 7.0)):
        coarse = rng.normal(0.0, size, (side // cell + 2,) * 2).astype(np.float32)
        field += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    bright = np.clip(field, 0, 255).astype(np.uint8)
    dark = np.clip(-field, 0, 255).astype(np.uint8)
    return np.repeat(bright[..., None], 3, axis=2), np.repeat(dark[..., None], 3, axis=2)


def _add_grain(image: Image, rng: np.random.Generator) -> None:
    bright, dark = _grain()
    y, x = (int(i) for i in rng.integers(0, _GRAIN_PLAY_PX, 2))
    part = np.s_[y : y + _SIDE_PX, x : x + _SIDE_PX]
    cv2.add(image, bright[part], dst=image)
    cv2.subtract(image, dark[part], dst=image)


def _markings(image: Image, layout: Layout, arm: str, double: bool) -> None:
    white, yellow = np.array([228.0, 228.0, 222.0]), np.array([226.0, 186.0, 60.0])
    begin = layout.stop_line_m if layout.crossing or layout.crosswalk else 0.0
    for shift in (-0.14, 0.14) if double else (0.0,):
        _dashes(image, layout, arm, shift, yellow if double else white, begin, dashed=not double)
    for lane in range(1, layout.lanes):
        for side in (-1.0, 1.0):
            _dashes(image, layout, arm, side * lane * layout.lane_m, white, begin, dashed=True)
    for side in (-1.0, 1.0):
        _dashes(image, layout, arm, side * (layout.half_m - 0.15), white, begin, dashed=False)
    if layout.crosswalk:
        _crosswalk(image, layout, arm, white)
    if begin > 0.0:
        _stop_line(image, layout, arm, white)


def _dashes(
    image: Image,
    layout: Layout,
    arm: str,
    offset: float,
    color: NDArray[np.float64],
    begin: float,
    *,
    dashed: bool,
) -> None:
    line = lane_path(layout, arm, inwards=False, offset_m=offset)
    if not dashed:
        _line(image, line.pose_at(np.arange(begin, REACH_M * 1.3, 1.0))[:, :2], 0.16, color)
        return
    for at in np.arange(begin, REACH_M * 1.2, 9.0):
        _line(image, line.pose_at(np.array([at, at + 1.5, at + 3.5]))[:, :2], 0.18, color)


def _crosswalk(image: Image, layout: Layout, arm: str, color: NDArray[np.float64]) -> None:
    """Zebra stripes from 0.8 to 3.8 m beyond the box."""
    for right in np.arange(-layout.half_m + 0.4, layout.half_m - 0.3, 1.1):
        line = lane_path(layout, arm, inwards=False, offset_m=float(right) + 0.25)
        ends = np.array([layout.box_m + 0.8, layout.box_m + 3.8])
        _line(image, line.pose_at(ends)[:, :2], 0.55, color)


def _stop_line(image: Image, layout: Layout, arm: str, color: NDArray[np.float64]) -> None:
    """Across the lanes that lead inwards (left of the middle, seen from the origin)."""
    line = lane_path(layout, arm, inwards=False, offset_m=0.0)
    x, y, yaw = line.pose_at(np.array(layout.stop_line_m))
    left = np.array([-np.sin(yaw), np.cos(yaw)])
    ends = np.array([[x, y] + 0.2 * left, [x, y] + (layout.half_m - 0.2) * left])
    _line(image, ends, 0.45, color)
