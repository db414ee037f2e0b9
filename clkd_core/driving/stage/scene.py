"""A scripted scene around an ego vehicle that is where it was driven, not where the script had it.

Everybody else follows the script whatever the ego does: nobody brakes for it or waits for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.labels import route_command_from_pose
from clkd_core.data.world.frames import encode_jpeg
from clkd_core.data.world.render.cameras import CAMERA_STAMP_OFFSETS_NS
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.actors import Actor
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.drive import COMMAND_HORIZON_S, Drive
from clkd_core.data.world.scene.motion import relative_xy
from clkd_core.data.world.scene.script import DriveSpec
from clkd_core.driving.car.vehicle import VehicleState
from clkd_core.driving.config import DriveConfig
from clkd_core.driving.stage.route import Route
from clkd_core.types import (
    FUTURE_STEPS,
    STEP_S,
    CameraImage,
    EgoState,
    RouteCommand,
    SurroundFrame,
    Trajectory,
)

Image = NDArray[np.uint8]

_FIRST_NS = 1_700_000_000_000_000_000
"""Stamp of a drive's first frame; stamps say the time since then."""


@dataclass
class Place:
    """Where the ego vehicle has got to, and who has been taken off the scene."""

    pose: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """(3,) x, y [m], yaw [rad] in the layout frame."""
    gone: set[str] = field(default_factory=set)
    """Names of actors."""


@dataclass(frozen=True, kw_only=True)
class DrivenDrive(Drive):
    """A drive for the renderer: the script's scene, seen from ``place``."""

    place: Place

    def ego_pose(self, t_s: float) -> NDArray[np.float64]:
        """Where the vehicle is now, whatever the time."""
        return self.place.pose

    def near_actors(self, t_s: float) -> list[Actor]:
        """As in any drive, without those that are gone."""
        return [a for a in super().near_actors(t_s) if a.name not in self.place.gone]


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One frame and where the vehicle was when it was captured."""

    number: int
    """Counted from 0."""
    t_s: float
    """Since the drive began."""
    state: VehicleState
    frame: SurroundFrame
    views: Mapping[str, Image]
    """(H, W, 3) RGB before they were encoded; empty where nobody looks."""


class Stage:
    """One drive's scene; poses are in its layout frame."""

    def __init__(self, spec: DriveSpec, config: DriveConfig) -> None:
        """Build the script, and the scene around a vehicle at its beginning."""
        self.spec, self.config = spec, config
        self.script = build_drive(spec, config.world())
        self._place = Place()
        self._drive = DrivenDrive(
            **{knob.name: getattr(self.script, knob.name) for knob in fields(self.script)},
            place=self._place,
        )
        self._renderer: DriveRenderer | None = None
        self._states: dict[int, VehicleState] = {}
        begin_m, end_m = (self.script.motion.at(t)[0] for t in (0.0, config.route_s))
        self.route = Route(self.script.path, begin_m, end_m)

    def begin(self) -> VehicleState:
        """As the script begins: on its line, at its speed, wheels along the line."""
        return self.scripted_state(0.0)

    @property
    def renderer(self) -> DriveRenderer:
        """Made when first wanted."""
        if self._renderer is None:
            self._renderer = DriveRenderer(self._drive)
        return self._renderer

    def capture(self, number: int, t_s: float, state: VehicleState, *, look: bool) -> Captured:
        """The frame that the vehicle's cameras and odometry give now.

        Args:
            number: of the frame.
            t_s: since the drive began.
            state: of the vehicle.
            look: render the views; without, the frame has none.
        """
        stamp_ns = stamp_of(t_s)
        self._place.pose = _pose(state)
        self._states[stamp_ns] = state
        views = self.renderer.render(t_s) if look else {}
        quality = self.config.jpeg_quality
        frame = SurroundFrame(
            stamp_ns=stamp_ns,
            images={
                camera: CameraImage(
                    stamp_ns=stamp_ns + CAMERA_STAMP_OFFSETS_NS[camera],
                    encoded=encode_jpeg(view, quality),
                )
                for camera, view in views.items()
            },
            ego=EgoState(
                stamp_ns=stamp_ns,
                speed_mps=state.speed_mps,
                yaw_rate_radps=state.yaw_rate_radps(self.config.vehicle),
            ),
            command=self.command(state),
        )
        return Captured(number=number, t_s=t_s, state=state, frame=frame, views=views)

    def state_at(self, stamp_ns: int) -> VehicleState:
        """Where the vehicle was at the capture of a frame with this stamp."""
        return self._states[stamp_ns]

    def command(self, state: VehicleState) -> RouteCommand:
        """What a navigation system says: the world's rule from where the vehicle is.

        Call :meth:`Route.advance` for this state first.
        """
        goal_m = self.route.at_m + COMMAND_HORIZON_S * self.script.cruise_mps
        goal = self.script.path.pose_at(np.array(goal_m))[None, None, :2]
        forward, left = relative_xy(_pose(state)[None], goal)[0, 0].tolist()
        return route_command_from_pose(forward, left)

    def scripted_state(self, t_s: float) -> VehicleState:
        """Where the script has its ego vehicle, wheels along the line."""
        _, speed = self.script.motion.at(t_s)
        x, y, yaw = self.script.ego_pose(t_s).tolist()
        turn = self.script.ego_state(t_s, 0).yaw_rate_radps
        steer = math.atan2(self.config.vehicle.wheelbase_m * turn, speed) if speed > 0 else 0.0
        return VehicleState(x_m=x, y_m=y, yaw_rad=yaw, speed_mps=speed, steer_rad=steer)

    def scripted_future(self, t_s: float, state: VehicleState) -> Trajectory:
        """Where the script's ego vehicle is in the next 3 s, seen from where ours is."""
        times = t_s + STEP_S * np.arange(1, FUTURE_STEPS + 1)
        s_m = np.array([self.script.motion.at(float(t))[0] for t in times])
        places = self.script.path.pose_at(s_m)[None, :, :2]
        xy_m = relative_xy(_pose(state)[None], places)[0]
        return Trajectory(xy_m=xy_m.astype(np.float32))

    def signal_at(self, t_s: float) -> str:
        """State of the traffic light for the ego; empty where there is none."""
        return "" if self.script.signal is None else self.script.signal.state_at(t_s)

    def present_actors(self) -> list[Actor]:
        """Everybody but the ego and those that are gone."""
        return [a for a in self.script.actors if a.name not in self._place.gone]

    def remove(self, actor: Actor) -> None:
        """Take an actor off the scene: two bodies in one place are no picture of anything."""
        self._place.gone.add(actor.name)


def stamp_of(t_s: float) -> int:
    """Stamp of a time since the drive began [ns]."""
    return _FIRST_NS + round(t_s * 1e9)


def time_of(stamp_ns: int) -> float:
    """Inverse of :func:`stamp_of` [s]."""
    return (stamp_ns - _FIRST_NS) / 1e9


def _pose(state: VehicleState) -> NDArray[np.float64]:
    return np.array([state.x_m, state.y_m, state.yaw_rad])
