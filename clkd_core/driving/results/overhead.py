"""A bird's-eye view of a drive: forward is up. Colours are RGB."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.render.ground import draw_ground, raster_from_layout
from clkd_core.data.world.scene.actors import PEOPLE, Actor
from clkd_core.driving.car.vehicle import VehicleState
from clkd_core.driving.stage.scene import Stage
from clkd_core.metrics.plans.collision import EgoBox

Image = NDArray[np.uint8]

PX_PER_M = 5.0
PLAN_RGB = (0, 225, 200)
EGO_RGB = (255, 220, 60)
_ROUTE_RGB = (150, 150, 255)
_OTHER_RGB = (235, 120, 60)
_LEAST_M = 0.9
"""People are drawn at least so large."""
_AHEAD_FRAC = 0.72
"""The vehicle's place, from the top."""
_LIGHTS_RGB = {
    "green": (40, 220, 90),
    "amber": (255, 190, 0),
    "red": (240, 40, 40),
    "red_amber": (255, 110, 0),
}


class Overhead:
    """Draws one drive from above; making it costs some 100 ms."""

    def __init__(self, stage: Stage, side_px: int) -> None:
        """Squares of ``side_px``."""
        self._stage = stage
        self._side_px = side_px
        self._ground = draw_ground(stage.script.layout)
        self._box = EgoBox()

    def draw(
        self,
        t_s: float,
        state: VehicleState,
        plan_xy_m: NDArray[np.float64],
    ) -> Image:
        """The scene at a time.

        Args:
            t_s: since the drive began.
            state: of the vehicle.
            plan_xy_m: (N, 2) of the plan, in the layout frame.

        Returns:
            (S, S, 3) uint8.
        """
        image = self._draw_ground(state)
        self._draw_line(image, state, self._route(), _ROUTE_RGB)
        for actor in self._stage.present_actors():
            self._draw_actor(image, state, actor, t_s)
        ahead = self._box.center_ahead_m
        x = state.x_m + ahead * math.cos(state.yaw_rad)
        y = state.y_m + ahead * math.sin(state.yaw_rad)
        size = (self._box.length_m, self._box.width_m)
        self._draw_box(image, state, (x, y, state.yaw_rad), size, EGO_RGB)
        if len(plan_xy_m):
            self._draw_line(image, state, plan_xy_m, PLAN_RGB)
        self._draw_signal(image, state, t_s)
        return image

    def _draw_ground(self, state: VehicleState) -> Image:
        cos, sin = math.cos(state.yaw_rad), math.sin(state.yaw_rad)
        layout_from_ego = np.array([[cos, -sin, state.x_m], [sin, cos, state.y_m], [0, 0, 1.0]])
        left, top = self._side_px / 2.0 / PX_PER_M, _AHEAD_FRAC * self._side_px / PX_PER_M
        ego_from_pixel = np.array(
            [[0.0, -1 / PX_PER_M, top], [-1 / PX_PER_M, 0.0, left], [0.0, 0.0, 1.0]]
        )
        matrix = raster_from_layout() @ layout_from_ego @ ego_from_pixel
        image = cv2.warpPerspective(
            self._ground.fine,
            matrix,
            (self._side_px, self._side_px),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=self._ground.far_rgb,
        )
        return np.asarray(image, dtype=np.uint8)

    def _pixels(self, state: VehicleState, xy_m: NDArray[np.float64]) -> NDArray[np.int32]:
        """(N, 2) column and row of points of the layout frame."""
        cos, sin = math.cos(state.yaw_rad), math.sin(state.yaw_rad)
        gap = xy_m - (state.x_m, state.y_m)
        forward, left = cos * gap[:, 0] + sin * gap[:, 1], -sin * gap[:, 0] + cos * gap[:, 1]
        column = self._side_px / 2.0 - left * PX_PER_M
        row = _AHEAD_FRAC * self._side_px - forward * PX_PER_M
        places = np.clip(np.round(np.stack([column, row], axis=1)), -9999, 9999)
        return np.asarray(places, dtype=np.int32)

    def _route(self) -> NDArray[np.float64]:
        route = self._stage.route
        s_m = np.arange(route.begin_m, route.end_m, 1.0)
        places: NDArray[np.float64] = route.path.pose_at(s_m)[:, :2]
        return places

    def _draw_line(
        self,
        image: Image,
        state: VehicleState,
        xy_m: NDArray[np.float64],
        color: tuple[int, int, int],
    ) -> None:
        cv2.polylines(image, [self._pixels(state, xy_m)], False, color, 2, cv2.LINE_AA)

    def _draw_actor(self, image: Image, state: VehicleState, actor: Actor, t_s: float) -> None:
        x, y, yaw = actor.pose_at(t_s).tolist()
        size = (max(actor.size_m[0], _LEAST_M), max(actor.size_m[1], _LEAST_M))
        marked = actor.role != "background" or actor.kind in PEOPLE
        color = _OTHER_RGB if marked else actor.color
        self._draw_box(image, state, (x, y, yaw), size, color)

    def _draw_box(
        self,
        image: Image,
        state: VehicleState,
        pose: tuple[float, float, float],
        size_m: tuple[float, float],
        color: tuple[int, int, int],
    ) -> None:
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        turn = np.array([[cos, -sin], [sin, cos]])
        corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array(size_m) / 2.0
        points = self._pixels(state, corners @ turn.T + pose[:2])
        cv2.fillConvexPoly(image, points, color, cv2.LINE_AA)
        cv2.polylines(image, [points], True, (20, 20, 20), 1, cv2.LINE_AA)

    def _draw_signal(self, image: Image, state: VehicleState, t_s: float) -> None:
        light = self._stage.signal_at(t_s)
        if not light:
            return
        layout = self._stage.script.layout
        x = -layout.stop_line_m
        ends = np.array([[x, 0.0], [x, -layout.half_m]])
        color = _LIGHTS_RGB[light]
        cv2.polylines(image, [self._pixels(state, ends)], False, color, 4, cv2.LINE_AA)
