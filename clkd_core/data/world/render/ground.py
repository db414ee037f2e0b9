"""The ground seen from above: one raster per drive, warped into every view."""

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

Image = NDArray[np.uint8]


def raster_from_layout() -> NDArray[np.float64]:
    """(3, 3) from layout metres to raster pixels (column, row)."""
    return np.array(
        [
            [PX_PER_M, 0.0, REACH_M * PX_PER_M - 0.5],
            [0.0, -PX_PER_M, REACH_M * PX_PER_M - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def draw_ground(layout: Layout) -> tuple[Image, tuple[int, int, int]]:
    """Roads, pavements and markings.

    Returns:
        (S, S, 3) uint8 RGB, and the colour of the ground beyond it.
    """
    rng = np.random.default_rng([layout.texture_seed, 1])
    greens = ((96, 122, 72), (128, 132, 88), (142, 134, 112), (84, 110, 66), (150, 150, 146))
    far = greens[int(rng.integers(len(greens)))]
    asphalt = np.array([1.0, 1.0, 1.04]) * rng.uniform(62, 104)
    pave = np.array([1.0, 0.98, 0.94]) * rng.uniform(140, 178)
    image = np.full((_SIDE_PX, _SIDE_PX, 3), far, dtype=np.uint8)
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
    return image, far


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
        cv2.polylines(
            mask, [np.round(pixels * _SUB).astype(np.int32)], False, 255, width, cv2.LINE_8, _SHIFT
        )
    return mask


def _pixels(xy_m: NDArray[np.float64]) -> NDArray[np.int32]:
    to = raster_from_layout()
    px = xy_m @ to[:2, :2].T + to[:2, 2]
    return np.round(px * _SUB).astype(np.int32)


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
def _grain() -> NDArray[np.int16]:
    """(S, S) noise at three scales, made once per process."""
    rng = np.random.default_rng(0)
    out = np.zeros((_SIDE_PX, _SIDE_PX), dtype=np.float32)
    for cell, size in ((3, 5.0), (24, 5.0), (160, 7.0)):
        coarse = rng.normal(0.0, size, (_SIDE_PX // cell + 2,) * 2).astype(np.float32)
        out += cv2.resize(coarse, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_LINEAR)
    return out.astype(np.int16)


def _add_grain(image: Image, rng: np.random.Generator) -> None:
    grain = _grain()
    if rng.random() < 0.5:
        grain = grain[::-1]
    if rng.random() < 0.5:
        grain = grain[:, ::-1]
    grain = np.ascontiguousarray(
        np.roll(grain, int(rng.integers(_SIDE_PX)), axis=int(rng.integers(2)))
    )
    bright = cv2.merge([np.clip(grain, 0, 255).astype(np.uint8)] * 3)
    dark = cv2.merge([np.clip(-grain, 0, 255).astype(np.uint8)] * 3)
    cv2.add(image, bright, dst=image)
    cv2.subtract(image, dark, dst=image)


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
