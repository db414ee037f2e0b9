"""What became of a drive: contacts and whose fault they are, red lights run, how it ended.

Others follow their script and cannot give way, so a contact is not the driver's by itself. After
nuPlan's "no at-fault collisions" metric (Caesar et al. 2021, arXiv 2106.11810) it is not where the
vehicle stood, or where somebody who moves came from behind; nuPlan also excuses most contacts at
the side, ours are all counted. Boxes are tested exactly, the vehicle's is that of the open-loop
metrics (:class:`clkd_core.metrics.plans.collision.EgoBox`).
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.world.scene.actors import Actor
from clkd_core.driving.car.vehicle import VehicleState
from clkd_core.driving.stage.scene import Stage
from clkd_core.metrics.plans.collision import EgoBox, boxes_overlap

STANDING_MPS = 0.1
"""Slower than this somebody stands."""


class Ending(Enum):
    """Why a drive was over."""

    COMPLETED = "completed"
    COLLISION = "collision"
    """One at fault; the drive ends with it."""
    LEFT_ROUTE = "left route"
    OUT_OF_TIME = "out of time"


@dataclass(frozen=True, kw_only=True)
class Contact:
    """The vehicle touched somebody or something."""

    t_s: float
    name: str
    """Of the actor."""
    kind: str
    """What it is: ``car``, ``pedestrian``, ``barrier``, ..."""
    how: str
    """``ran into``, ``hit while standing`` or ``hit from behind``."""
    speed_mps: float
    """Of the vehicle."""

    @property
    def at_fault(self) -> bool:
        """Whether the driver is to blame."""
        return self.how == "ran into"


class Judge:
    """Looks at a drive twenty times a second."""

    def __init__(self, stage: Stage, box: EgoBox | None = None) -> None:
        """Of one drive; ``box`` is the vehicle, :class:`EgoBox` where None."""
        self._stage = stage
        self._box = box or EgoBox()
        self._front_m: float | None = None
        self.contacts: list[Contact] = []
        """In order; an actor once."""
        self.red_run_s: list[float] = []
        """When the front bumper crossed the stop line on red, or red and amber."""
        self.ending: Ending | None = None
        """None as long as the drive goes on."""
        self._events: list[str] = []

    def events(self) -> list[str]:
        """What happened, in words and in order."""
        return list(self._events)

    def look(self, t_s: float, state: VehicleState) -> None:
        """Judge one instant; the route's place is advanced."""
        route = self._stage.route
        route.advance(state)
        self._watch_signal(t_s, state)
        self._watch_contacts(t_s, state)
        if any(contact.at_fault for contact in self.contacts):
            self.ending = Ending.COLLISION
        elif abs(route.offset_m) > self._stage.config.left_route_m:
            self.ending = Ending.LEFT_ROUTE
        elif route.is_completed:
            self.ending = Ending.COMPLETED
        elif t_s >= self._stage.config.limit_s - 1e-9:
            self.ending = Ending.OUT_OF_TIME

    def _watch_signal(self, t_s: float, state: VehicleState) -> None:
        if self._stage.script.signal is None:
            return
        layout = self._stage.script.layout
        ahead = self._box.center_ahead_m + self._box.length_m / 2.0
        front_m = state.x_m + ahead * math.cos(state.yaw_rad)
        before_m, self._front_m = self._front_m, front_m
        aside_m = layout.half_m + self._stage.config.left_route_m
        on_road = abs(state.y_m + ahead * math.sin(state.yaw_rad)) <= aside_m
        if before_m is None or not before_m < -layout.stop_line_m <= front_m or not on_road:
            return
        if self._stage.signal_at(t_s).startswith("red"):
            self.red_run_s.append(t_s)
            self._events.append("ran a red light")

    def _watch_contacts(self, t_s: float, state: VehicleState) -> None:
        actors = self._stage.present_actors()
        if not actors:
            return
        boxes = np.array([_box_of(actor, t_s) for actor in actors])
        ego = self._ego_box(state)
        for actor, touches, box in zip(actors, boxes_overlap(ego, boxes), boxes, strict=True):
            if touches:
                contact = self._contact(t_s, state, actor, box)
                self.contacts.append(contact)
                self._events.append(f"{contact.how}: {contact.kind}")
                self._stage.remove(actor)

    def _contact(
        self, t_s: float, state: VehicleState, actor: Actor, box: NDArray[np.float64]
    ) -> Contact:
        gap = box[:2] - self._ego_box(state)[:2]
        forward_m = gap[0] * math.cos(state.yaw_rad) + gap[1] * math.sin(state.yaw_rad)
        moves = actor.speed_at(t_s) >= STANDING_MPS
        how = "ran into"
        if state.speed_mps < STANDING_MPS:
            how = "hit while standing"
        elif moves and forward_m < -self._box.length_m / 2.0:
            how = "hit from behind"
        return Contact(
            t_s=t_s, name=actor.name, kind=actor.kind, how=how, speed_mps=state.speed_mps
        )

    def _ego_box(self, state: VehicleState) -> NDArray[np.float64]:
        box, cos, sin = self._box, math.cos(state.yaw_rad), math.sin(state.yaw_rad)
        x, y = state.x_m + box.center_ahead_m * cos, state.y_m + box.center_ahead_m * sin
        return np.array([x, y, box.length_m, box.width_m, state.yaw_rad])


def _box_of(actor: Actor, t_s: float) -> list[float]:
    x, y, yaw = actor.pose_at(t_s).tolist()
    return [x, y, actor.size_m[0], actor.size_m[1], yaw]
