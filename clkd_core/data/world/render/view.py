"""One camera's view: panorama, ground, shapes from far to near. Colours are RGB."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.cameras import Camera
from clkd_core.data.world.render.ground import Ground, raster_from_layout
from clkd_core.data.world.render.shapes import Shape
from clkd_core.data.world.render.weather import (
    COLUMNS,
    Image,
    Weather,
    add_sprite,
    add_sun,
    fog_share,
    headlight_factor,
)

NEAR_M = 0.25
"""Nothing nearer than this is drawn."""
FAR_M = 110.0
"""Shapes farther away are left to the panorama."""
_COARSE_M = 24.0  # the ground beyond this is taken from a raster of a quarter of the size
_WIDEST_M = 18.0  # no primitive is larger
_HEADLIGHT = 0.85  # added to the ambient light where the ego's headlights shine fully
_SMALLEST_PX2 = 0.6
_SHIFT = 4
_SUB = 1 << _SHIFT

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]


@dataclass(frozen=True)
class Primitives:
    """All primitives of an instant in the ego frame, far ones first, coloured by the light."""

    corners: Array32
    """(N, 4, 3)."""
    radius: Array32
    glow: Array32
    solid: NDArray[np.bool_]
    color: Array32
    """(N, 3) RGB 0..255."""

    def subset(self, chosen: NDArray[np.intp]) -> "Primitives":
        """Some of the primitives, in the same order."""
        return Primitives(
            self.corners[chosen],
            self.radius[chosen],
            self.glow[chosen],
            self.solid[chosen],
            self.color[chosen],
        )


def sorted_primitives(shape: Shape, ego: Array64, weather: Weather) -> Primitives:
    """Painter's order: groups by the distance of their middle, each in its own drawing order."""
    distance = np.hypot(shape.middle[:, 0] - ego[0], shape.middle[:, 1] - ego[1])
    order = np.lexsort((np.arange(len(shape.group)), -distance[shape.group]))
    order = order[distance[shape.group[order]] < FAR_M]
    c, s = np.cos(ego[2]), np.sin(ego[2])
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    shift = np.array([ego[0], ego[1], 0.0], dtype=np.float32)
    corners = (shape.corners[order] - shift) @ turn
    glow = shape.glow[order]
    depth = distance[shape.group[order]].astype(np.float64)
    color = _lit(shape.color[order], glow, corners[:, 0], depth, weather)
    return Primitives(corners, shape.radius[order], glow, shape.solid[order], color)


def _lit(
    color: Array32, glow: Array32, place: Array32, depth: Array64, weather: Weather
) -> Array32:
    """Colours after light and fog, (N, 3)."""
    light = np.broadcast_to(np.array(weather.ambient), color.shape)
    if weather.headlights:
        x, y = place[:, 0].astype(np.float64), place[:, 1].astype(np.float64)
        light = light + _HEADLIGHT * headlight_factor(x, y)[:, None]
    shine = np.clip(glow, 0.0, 1.0)[:, None]
    seen = color * (shine + (1 - shine) * light)
    share = fog_share(depth, weather.fog_m)[:, None] * (1.0 - 0.55 * shine)
    mixed = seen * (1 - share) + share * np.array(weather.fog_rgb)
    return np.asarray(np.clip(mixed, 0, 255), dtype=np.float32)


class View:
    """One camera with everything that can be prepared for it."""

    def __init__(self, camera: Camera, panorama: Image, weather: Weather) -> None:
        self._camera = camera
        self._weather = weather
        k = camera.intrinsic
        self._focal = float(k[0, 0])
        self._horizon = int(np.ceil(k[1, 2]))
        self._rotation = camera.camera_from_ego
        self._rotation32 = self._rotation.astype(np.float32)
        self._sky = self._prepare_sky(panorama)
        self._column_yaw = camera.yaw_rad - np.arctan(
            (np.arange(camera.width_px) - k[0, 2]) / self._focal
        )
        rows = np.arange(self._horizon, camera.height_px) + 0.5 - k[1, 2]
        self._row_depth = self._focal * camera.translation_m[2] / np.maximum(rows, 0.3)
        self._coarse_rows = int(np.searchsorted(-self._row_depth, -_COARSE_M))
        self._gain, self._offset = self._prepare_light()

    def _prepare_sky(self, panorama: Image) -> Image:
        """The panorama's rows at this lens's scale, down to the horizon, with fog."""
        full = round(self._focal * 0.41)  # rows of a view that looks up 22 degrees
        size = (COLUMNS, max(self._horizon, full))
        sky = cv2.resize(panorama, size, interpolation=cv2.INTER_LINEAR)[-self._horizon :]
        if self._weather.name == "fog":
            share = np.linspace(0.75, 0.97, self._horizon, dtype=np.float32)[:, None, None]
            sky = (sky * (1 - share) + share * np.array(self._weather.fog_rgb)).astype(np.uint8)
        elif self._weather.name == "clear":
            levels = np.arange(256)[None, :, None] * np.array(self._weather.ambient)
            sky = cv2.LUT(sky, np.clip(levels, 0, 255).astype(np.uint8))
        return np.ascontiguousarray(sky, dtype=np.uint8)

    def _prepare_light(self) -> tuple[Array32, Array32]:
        """Factor and summand of the ground's pixels for ambient light, headlights and fog."""
        camera, weather = self._camera, self._weather
        columns = (np.arange(camera.width_px) - camera.intrinsic[0, 2]) / self._focal
        depth = np.repeat(self._row_depth[:, None], camera.width_px, axis=1)
        side = depth * columns
        light = np.broadcast_to(np.array(weather.ambient, np.float32), (*depth.shape, 3))
        if weather.headlights:
            right, _, ahead = self._rotation  # the camera's axes in the ego frame
            x = camera.translation_m[0] + ahead[0] * depth + right[0] * side
            y = camera.translation_m[1] + ahead[1] * depth + right[1] * side
            light = light + _HEADLIGHT * headlight_factor(x, y)[..., None]
        share = fog_share(np.hypot(depth, side), weather.fog_m)[..., None]
        offset = share * np.array(weather.fog_rgb)
        return (light * (1 - share)).astype(np.float32), offset.astype(np.float32)

    def background(self, ego: Array64) -> Image:
        """A new (H, W, 3) image with the panorama above the horizon."""
        image = np.empty((self._camera.height_px, self._camera.width_px, 3), np.uint8)
        turn = np.mod(-(self._column_yaw + ego[2]) / (2 * np.pi), 1.0)
        columns = (turn * COLUMNS).astype(np.intp) % COLUMNS
        image[: self._horizon] = np.take(self._sky, columns, axis=1)
        return image

    def draw_ground(self, image: Image, ground: Ground, ego: Array64) -> None:
        """Warp the raster into the rows below the horizon, near rows from the fine one."""
        raster = raster_from_layout() @ self._layout_from_pixel(ego)
        quarter = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375], [0, 0, 1.0]]) @ raster
        split = self._horizon + self._coarse_rows
        for source, matrix, top, bottom in (
            (ground.coarse, quarter, self._horizon, split),
            (ground.fine, raster, split, image.shape[0]),
        ):
            if bottom > top:
                cv2.warpPerspective(
                    source,
                    matrix @ np.array([[1.0, 0, 0], [0, 1, top], [0, 0, 1]]),
                    (image.shape[1], bottom - top),
                    dst=image[top:bottom],
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=ground.far_rgb,
                )
        below = image[self._horizon :]
        lit = cv2.multiply(below, self._gain, dtype=cv2.CV_32F)
        cv2.add(lit, self._offset, dst=below, dtype=cv2.CV_8U)

    def _layout_from_pixel(self, ego: Array64) -> Array64:
        """(3, 3) homography from pixels to the ground plane of the layout."""
        c, s = np.cos(ego[2]), np.sin(ego[2])
        ego_from_layout = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        place = ego_from_layout @ np.array([ego[0], ego[1], 0.0]) + self._camera.translation_m
        camera_from_layout = self._rotation @ ego_from_layout
        columns = np.column_stack([camera_from_layout[:, :2], -self._rotation @ place])
        # cv2 and not np.linalg: its inverse of a 3 x 3 matrix wakes all of BLAS's threads
        _, inverse = cv2.invert(self._camera.intrinsic @ columns)
        return np.asarray(inverse, dtype=np.float64)

    def draw(self, image: Image, prims: Primitives) -> None:
        """Draw the primitives that this camera sees, in their order."""
        prims = prims.subset(self._roughly_ahead(prims.corners[:, 0]))
        cam = (prims.corners - self._camera.translation_m.astype(np.float32)) @ self._rotation32.T
        depth = np.maximum(cam[..., 2], NEAR_M)
        uv = cam[..., :2] / depth[..., None] * self._focal
        uv += self._camera.intrinsic[:2, 2].astype(np.float32)
        reach = prims.radius * self._focal / depth[:, 0]
        behind = cam[..., 2] < NEAR_M
        chosen = np.flatnonzero(_visible(uv, reach, behind, prims.solid, image.shape))
        points = np.round(np.clip(uv[chosen], -4000, 4000) * _SUB).astype(np.int32)
        colors = prims.color[chosen].tolist()
        for i, n in enumerate(chosen):
            if reach[n] > 0:
                self._disc(image, points[i, 0], float(reach[n]), colors[i], float(prims.glow[n]))
            elif behind[n].any():
                self._clipped(image, cam[n], colors[i], solid=bool(prims.solid[n]))
            else:
                cv2.fillConvexPoly(image, points[i], colors[i], cv2.LINE_AA, _SHIFT)

    def _roughly_ahead(self, first: Array32) -> NDArray[np.intp]:
        """Indices of primitives that may be in view, by their first corner."""
        x, z = first @ self._rotation32[0], first @ self._rotation32[2]
        wide = self._camera.width_px / 2.0 / self._focal * 1.05
        beside = wide * np.maximum(z, 0.0) + _WIDEST_M
        return np.flatnonzero((z > -_WIDEST_M) & (np.abs(x) < beside))

    def _disc(
        self,
        image: Image,
        at: NDArray[np.int32],
        radius_px: float,
        color: list[float],
        glow: float,
    ) -> None:
        center = (int(at[0]), int(at[1]))
        size = int(radius_px * 2.2 * glow) + 1
        if glow > 1.0 and size >= 2:
            size = min(size, 200)
            red, green, blue = (int(c) for c in color)
            halo = _halo(size, (red, green, blue))
            add_sprite(image, halo, center[0] // _SUB - size, center[1] // _SUB - size)
        radius = max(1, int(radius_px * _SUB))
        cv2.circle(image, center, radius, color, -1, cv2.LINE_AA, _SHIFT)

    def _clipped(self, image: Image, cam: Array32, color: list[float], *, solid: bool) -> None:
        """Draw a quad that reaches behind the camera: cut it at the near plane."""
        kept = []
        for a, b in zip(cam, np.roll(cam, -1, axis=0), strict=True):
            if a[2] >= NEAR_M:
                kept.append(a)
            if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
                kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
        if len(kept) < 3:
            return
        points = np.array(kept, dtype=np.float32)
        uv = points[:, :2] / points[:, 2:] * self._focal + self._camera.intrinsic[:2, 2]
        if solid and cv2.contourArea(uv.astype(np.float32), oriented=True) > 0:
            return
        pixels = np.round(np.clip(uv, -20000, 20000) * _SUB).astype(np.int32)
        cv2.fillConvexPoly(image, pixels, color, cv2.LINE_AA, _SHIFT)

    def draw_sun(self, image: Image, yaw_rad: float) -> None:
        """Glare of a low sun at a direction of the ego frame."""
        off = np.mod(yaw_rad - self._camera.yaw_rad + np.pi, 2 * np.pi) - np.pi
        if abs(off) < 0.9:
            cx, cy = self._camera.intrinsic[:2, 2]
            add_sun(image, float(cx - np.tan(off) * self._focal), float(cy - 0.2 * self._focal))


def _visible(
    uv: Array32,
    reach: Array32,
    behind: NDArray[np.bool_],
    solid: NDArray[np.bool_],
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """(N,) which primitives touch the image, look towards the camera and are not too small."""
    cut, disc = behind.any(1), reach > 0
    low, high = uv.min(1) - reach[:, None], uv.max(1) + reach[:, None]
    inside = (high > 0).all(1) & (low[:, 0] < shape[1]) & (low[:, 1] < shape[0])
    across, down = uv[:, 2] - uv[:, 0], uv[:, 3] - uv[:, 1]
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    faces = ~solid | cut | (area < 0)  # rows grow downwards: counter-clockwise is negative
    large = (np.abs(area) > _SMALLEST_PX2) | disc | cut
    seen: NDArray[np.bool_] = inside & faces & large & ~behind.all(1) & ~(disc & cut)
    return seen


@lru_cache(maxsize=512)
def _halo(size: int, color: tuple[int, int, int]) -> Image:
    """(2 size + 1,) squared sprite that fades outwards."""
    grid = np.mgrid[-size : size + 1, -size : size + 1].astype(np.float32) / size
    fall = np.clip(1.0 - np.hypot(grid[0], grid[1]), 0.0, 1.0) ** 2
    halo: Image = (fall[..., None] * 0.75 * np.array(color, np.float32)).astype(np.uint8)
    return halo
