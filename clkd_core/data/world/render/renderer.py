"""Six views of a drive at any instant. NumPy and OpenCV only.

Order: panorama, ground (a homography is exact for a plane), then shapes from far to near,
then weather. Colours are RGB.
"""

from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.bodies import (
    animal_shape,
    barrier_shape,
    person_shape,
    signal_shape,
    vehicle_shape,
    works_truck_shape,
)
from clkd_core.data.world.render.cameras import Camera, build_cameras
from clkd_core.data.world.render.ground import draw_ground, raster_from_layout
from clkd_core.data.world.render.shapes import Shape, joined
from clkd_core.data.world.render.sky import COLUMNS, ROWS, draw_panorama
from clkd_core.data.world.render.surroundings import build_surroundings
from clkd_core.data.world.render.weather import (
    add_rain,
    add_sprite,
    add_sun,
    fog_share,
    headlight_factor,
    sample_weather,
)
from clkd_core.data.world.scene.actors import PEOPLE, VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive

NEAR_M = 0.25
"""Nothing nearer than this is drawn."""
FAR_M = 110.0
"""Shapes farther away are left to the panorama."""
_COARSE_M = 24.0  # the ground beyond this is taken from a raster of a quarter of the size
_SHIFT = 4
_SUB = 1 << _SHIFT

Image = NDArray[np.uint8]


class DriveRenderer:
    """Draws one drive; building it costs some 100 ms, a frame some 20 ms."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._cameras = build_cameras(drive.config.width_px, drive.config.height_px)
        self._weather = sample_weather(drive.spec.case_name, drive.spec.seed)
        self._ground, self._far = draw_ground(drive.layout)
        self._coarse = cv2.resize(
            self._ground, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA
        )
        self._still = build_surroundings(drive.layout, night=self._weather.headlights)
        self._signals: dict[str, Shape] = {}
        panorama = draw_panorama(drive.layout.texture_seed, self._weather.name)
        self._views = {
            name: _View(camera, panorama, self._weather) for name, camera in self._cameras.items()
        }

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by name."""
        return self._cameras

    def render(self, t_s: float) -> dict[str, Image]:
        """All six views at one instant: camera name to (H, W, 3) uint8 RGB."""
        ego = self._drive.ego_pose(t_s)
        prims = _Prims(self._shapes(t_s, ego), ego, self._weather)
        images = {}
        for number, (name, view) in enumerate(self._views.items()):
            image = view.background(ego)
            view.draw_ground(image, self._ground, self._coarse, self._far, ego)
            view.draw(image, prims)
            if self._weather.sun_yaw_rad is not None:
                view.draw_sun(image, self._weather.sun_yaw_rad - ego[2])
            if self._weather.rain:
                seed = [self._drive.spec.seed, round(t_s * 1000) + 100_000, number]
                add_rain(image, np.random.default_rng(seed))
            images[name] = image
        return images

    def _shapes(self, t_s: float, ego: NDArray[np.float64]) -> Shape:
        shapes = [self._still]
        if self._drive.signal is not None:
            state = self._drive.signal.state_at(t_s)
            if state not in self._signals:
                self._signals[state] = signal_shape(self._drive.signal, state)
            shapes.append(self._signals[state])
        night = self._weather.headlights
        shapes += [actor_shape(a, t_s, ego, night) for a in self._drive.near_actors(t_s)]
        return joined(shapes)


def actor_shape(actor: Actor, t_s: float, ego: NDArray[np.float64], night: bool) -> Shape:
    """An actor's shape where it stands; people are flat and face the ego."""
    x, y, yaw = actor.pose_at(t_s)
    if actor.kind in VEHICLES:
        if actor.name == "works-truck":
            return works_truck_shape(actor.color).placed(x, y, yaw)
        return vehicle_shape(actor.kind, actor.color, actor.is_on(t_s), night).placed(x, y, yaw)
    if actor.kind in PEOPLE:
        facing = float(np.arctan2(ego[1] - y, ego[0] - x))
        step = int(t_s * 4) % 4 if actor.speed_at(t_s) > 0.2 else 0
        return person_shape(actor.kind, actor.color, step, actor.is_on(t_s)).placed(x, y, facing)
    if actor.kind == "animal":
        return animal_shape(actor.color).placed(x, y, yaw)
    return barrier_shape().placed(x, y, yaw)


class _Prims:
    """All primitives of an instant in the ego frame, far ones first, coloured by the light."""

    def __init__(self, shape: Shape, ego: NDArray[np.float64], weather) -> None:  # type: ignore[no-untyped-def]
        distance = np.hypot(shape.middle[:, 0] - ego[0], shape.middle[:, 1] - ego[1])
        order = np.lexsort((np.arange(len(shape.group)), -distance[shape.group]))
        order = order[distance[shape.group[order]] < FAR_M]
        c, s = np.cos(ego[2]), np.sin(ego[2])
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        shift = np.array([ego[0], ego[1], 0.0], dtype=np.float32)
        self.corners = (shape.corners[order] - shift) @ turn
        self.radius = shape.radius[order]
        self.glow = shape.glow[order]
        self.solid = shape.solid[order]
        self.depth = distance[shape.group[order]]
        self.color = _lit(shape.color[order], self.glow, self.corners[:, 0], self.depth, weather)


def _lit(color, glow, place, depth, weather):  # type: ignore[no-untyped-def]
    """Colours after light and fog, (N, 3) float."""
    light = np.array(weather.ambient)[None].repeat(len(color), 0)
    if weather.headlights:
        light = light + 0.85 * headlight_factor(place[:, 0], place[:, 1])[:, None]
    shine = np.clip(glow, 0.0, 1.0)[:, None]
    seen = color * (shine + (1 - shine) * light)
    share = fog_share(depth, weather.fog_m)[:, None] * (1.0 - 0.55 * shine)
    return np.clip(seen * (1 - share) + share * np.array(weather.fog_rgb), 0, 255)


class _View:
    """One camera with everything that can be prepared for it."""

    def __init__(self, camera: Camera, panorama: Image, weather) -> None:  # type: ignore[no-untyped-def]
        self._camera = camera
        self._weather = weather
        k = camera.intrinsic
        self._horizon = int(np.ceil(k[1, 2]))
        self._rotation = camera.camera_from_ego
        self._sky = self._prepare_sky(panorama)
        columns = (np.arange(camera.width_px) - k[0, 2]) / k[0, 0]
        self._column_yaw = camera.yaw_rad - np.arctan(columns)
        rows = np.arange(self._horizon, camera.height_px) + 0.5 - k[1, 2]
        self._row_depth = k[0, 0] * camera.translation_m[2] / np.maximum(rows, 0.3)
        self._coarse_rows = int(np.searchsorted(-self._row_depth, -_COARSE_M))
        self._gain, self._offset = self._prepare_light()

    def _prepare_sky(self, panorama: Image) -> Image:
        """The panorama's rows at this lens's scale, down to the horizon, with fog."""
        full = self._camera.intrinsic[0, 0] * 0.41  # rows of a view that looks up 22 degrees
        rows = cv2.resize(
            panorama, (COLUMNS, max(self._horizon, round(full))), interpolation=cv2.INTER_AREA
        )
        sky = rows[-self._horizon :].astype(np.float32)
        if self._weather.name == "fog":
            share = np.linspace(0.75, 0.97, self._horizon, dtype=np.float32)[:, None, None]
            sky = sky * (1 - share) + share * np.array(self._weather.fog_rgb, np.float32)
        elif self._weather.name == "clear":
            sky = sky * np.array(self._weather.ambient, np.float32)
        return np.clip(sky, 0, 255).astype(np.uint8)

    def _prepare_light(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factor and summand of the ground's pixels for ambient light, headlights and fog."""
        width = self._camera.width_px
        depth = np.repeat(self._row_depth[:, None], width, axis=1)
        k = self._camera.intrinsic
        side = depth * (np.arange(width)[None] - k[0, 2]) / k[0, 0]
        light = np.array(self._weather.ambient)[None, None].repeat(len(depth), 0).repeat(width, 1)
        if self._weather.headlights:
            axis = self._rotation  # rows: camera axes in the ego frame
            x = self._camera.translation_m[0] + axis[2, 0] * depth + axis[0, 0] * side
            y = self._camera.translation_m[1] + axis[2, 1] * depth + axis[0, 1] * side
            light = light + 0.85 * headlight_factor(x, y)[..., None]
        share = fog_share(np.hypot(depth, side), self._weather.fog_m)[..., None]
        gain = light * (1 - share)
        offset = share * np.array(self._weather.fog_rgb)
        return gain.astype(np.float32), offset.astype(np.float32)

    def background(self, ego: NDArray[np.float64]) -> Image:
        """A new image with the panorama above the horizon."""
        image = np.empty((self._camera.height_px, self._camera.width_px, 3), np.uint8)
        turn = np.mod(-(self._column_yaw + ego[2]) / (2 * np.pi), 1.0)
        image[: self._horizon] = np.take(
            self._sky, (turn * COLUMNS).astype(np.intp) % COLUMNS, axis=1
        )
        return image

    def draw_ground(
        self,
        image: Image,
        fine: Image,
        coarse: Image,
        far: tuple[int, int, int],
        ego: NDArray[np.float64],
    ) -> None:
        """Warp the raster into the rows below the horizon."""
        layout_from_pixel = self._layout_from_pixel(ego)
        raster = raster_from_layout() @ layout_from_pixel
        quarter = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375], [0, 0, 1.0]]) @ raster
        split = self._horizon + self._coarse_rows
        for source, matrix, top, bottom in (
            (coarse, quarter, self._horizon, split),
            (fine, raster, split, image.shape[0]),
        ):
            if bottom > top:
                shift = np.array([[1.0, 0, 0], [0, 1, top], [0, 0, 1]])
                cv2.warpPerspective(
                    source,
                    matrix @ shift,
                    (image.shape[1], bottom - top),
                    dst=image[top:bottom],
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_CONSTANT,
                    borderValue=far,
                )
        below = image[self._horizon :]
        lit = cv2.multiply(below, self._gain, dtype=cv2.CV_32F)
        cv2.add(lit, self._offset, dst=below, dtype=cv2.CV_8U)

    def _layout_from_pixel(self, ego: NDArray[np.float64]) -> NDArray[np.float64]:
        """(3, 3) homography from pixels to the ground plane of the layout."""
        c, s = np.cos(ego[2]), np.sin(ego[2])
        columns = np.stack(
            [
                self._rotation @ [c, -s, 0.0],  # the layout's x axis in camera axes
                self._rotation @ [s, c, 0.0],
                -self._rotation @ (self._camera.translation_m + _in_ego(ego)),
            ],
            axis=1,
        )
        inverse: NDArray[np.float64] = np.linalg.inv(self._camera.intrinsic @ columns)
        return inverse

    def draw(self, image: Image, prims: _Prims) -> None:
        """Draw the primitives that this camera sees, in their order."""
        rotation = self._rotation.astype(np.float32)
        cam = (prims.corners - self._camera.translation_m.astype(np.float32)) @ rotation.T
        k = self._camera.intrinsic
        z = cam[..., 2]
        safe = np.maximum(z, NEAR_M)
        u = cam[..., 0] / safe * k[0, 0] + k[0, 2]
        v = cam[..., 1] / safe * k[0, 0] + k[1, 2]
        reach = prims.radius[:, None] * k[0, 0] / safe
        behind = z < NEAR_M
        keep = ~behind.all(1)
        keep &= (u + reach).max(1) > 0
        keep &= (u - reach).min(1) < image.shape[1]
        keep &= ((v + reach).max(1) > 0) & ((v - reach).min(1) < image.shape[0])
        cut = behind.any(1)
        keep &= (prims.radius == 0) | ~cut
        area = (u[:, 2] - u[:, 0]) * (v[:, 3] - v[:, 1]) - (v[:, 2] - v[:, 0]) * (
            u[:, 3] - u[:, 1]
        )
        keep &= ~prims.solid | cut | (area < 0)
        keep &= (np.abs(area) > 0.6) | (prims.radius > 0) | cut
        chosen = np.flatnonzero(keep)
        points = np.round(
            np.clip(np.stack([u[chosen], v[chosen]], -1), -4000, 4000) * _SUB
        ).astype(np.int32)
        radii = (reach[chosen, 0] * _SUB).astype(np.int32)
        colors = prims.color[chosen].tolist()
        for i, n in enumerate(chosen):
            if radii[i] > 0:
                self._disc(image, points[i, 0], int(radii[i]), colors[i], float(prims.glow[n]))
            elif cut[n]:
                self._clipped(image, cam[n], colors[i], bool(prims.solid[n]))
            else:
                cv2.fillConvexPoly(image, points[i], colors[i], cv2.LINE_AA, _SHIFT)

    def _disc(
        self, image: Image, at: NDArray[np.int32], radius: int, color: list[float], glow: float
    ) -> None:
        center = (int(at[0]), int(at[1]))
        if glow > 1.0:
            size = int(radius / _SUB * 2.2 * glow) + 1
            if size >= 2:
                halo = _halo(min(size, 200), tuple(int(c) for c in color))
                add_sprite(image, halo, center[0] // _SUB - size, center[1] // _SUB - size)
        cv2.circle(image, center, radius, color, -1, cv2.LINE_AA, _SHIFT)

    def _clipped(
        self, image: Image, cam: NDArray[np.float32], color: list[float], solid: bool
    ) -> None:
        """Draw a quad that reaches behind the camera: cut it at the near plane."""
        kept = []
        for i in range(4):
            a, b = cam[i], cam[(i + 1) % 4]
            if a[2] >= NEAR_M:
                kept.append(a)
            if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
                kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
        if len(kept) < 3:
            return
        k = self._camera.intrinsic
        points = np.array(kept)
        uv = points[:, :2] / points[:, 2:] * k[0, 0] + k[:2, 2]
        if solid and cv2.contourArea(uv.astype(np.float32), oriented=True) > 0:
            return
        px = np.round(np.clip(uv, -20000, 20000) * _SUB).astype(np.int32)
        cv2.fillConvexPoly(image, px, color, cv2.LINE_AA, _SHIFT)

    def draw_sun(self, image: Image, yaw_rad: float) -> None:
        """Glare of a low sun at a direction of the ego frame."""
        off = np.mod(yaw_rad - self._camera.yaw_rad + np.pi, 2 * np.pi) - np.pi
        if abs(off) < 0.9:
            k = self._camera.intrinsic
            add_sun(image, k[0, 2] - np.tan(off) * k[0, 0], k[1, 2] - 0.2 * k[0, 0])


def _in_ego(ego: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ego's own position in its own axes."""
    c, s = np.cos(ego[2]), np.sin(ego[2])
    return np.array([c * ego[0] + s * ego[1], -s * ego[0] + c * ego[1], 0.0])


@lru_cache(maxsize=512)
def _halo(size: int, color: tuple[int, int, int]) -> Image:
    """(2 size + 1,) squared sprite that fades outwards."""
    grid = np.mgrid[-size : size + 1, -size : size + 1].astype(np.float32) / size
    fall = np.clip(1.0 - np.hypot(grid[0], grid[1]), 0.0, 1.0) ** 2
    return (fall[..., None] * 0.75 * np.array(color, np.float32)).astype(np.uint8)
