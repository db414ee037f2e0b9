"""Six views of a drive at any instant. NumPy and OpenCV only.

Order: panorama, ground (a homography is exact for a plane), then shapes from far to near,
then weather. Colours are RGB.
"""

from collections.abc import Mapping

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
from clkd_core.data.world.render.ground import draw_ground
from clkd_core.data.world.render.shapes import Shape, joined
from clkd_core.data.world.render.surroundings import Walls, build_surroundings, walls_of
from clkd_core.data.world.render.view import View, sorted_primitives
from clkd_core.data.world.render.weather import (
    Image,
    Weather,
    add_rain,
    draw_panorama,
    sample_weather,
)
from clkd_core.data.world.scene.actors import PEOPLE, VEHICLES, Actor
from clkd_core.data.world.scene.drive import Drive


class DriveRenderer:
    """Draws one drive; building it costs some 100 ms, a frame some 15 ms at 512 x 288."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._cameras = build_cameras(drive.config.width_px, drive.config.height_px)
        self._weather = sample_weather(drive.spec.case_name, drive.spec.seed)
        self._ground = draw_ground(drive.layout)
        self._still = build_surroundings(drive.layout, night=self._weather.headlights)
        self._walls = walls_of(self._still)
        self._signals: dict[str, Shape] = {}
        panorama = draw_panorama(drive.layout.texture_seed, self._weather.name)
        self._views = {n: View(c, panorama, self._weather) for n, c in self._cameras.items()}

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras by name."""
        return self._cameras

    @property
    def walls(self) -> Walls:
        """Of the buildings along the roads."""
        return self._walls

    @property
    def weather(self) -> Weather:
        """Light and air of the drive."""
        return self._weather

    def render(self, t_s: float) -> dict[str, Image]:
        """All six views at one instant: camera name to (H, W, 3) uint8 RGB."""
        ego = self._drive.ego_pose(t_s)
        prims = sorted_primitives(self._shapes(t_s, ego), ego, self._weather)
        images = {}
        for number, (name, view) in enumerate(self._views.items()):
            image = view.background(ego)
            view.draw_ground(image, self._ground, ego)
            view.draw(image, prims)
            if self._weather.sun_yaw_rad is not None:
                view.draw_sun(image, self._weather.sun_yaw_rad - float(ego[2]))
            if self._weather.rain:
                seed = [self._drive.spec.seed, round(t_s * 1000), number]
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
    x, y, yaw = (float(value) for value in actor.pose_at(t_s))
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
