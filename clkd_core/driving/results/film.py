"""A film of a drive: front view and bird's-eye view, and below them who decided what, and when."""

import math
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.driving.results.overhead import PLAN_RGB, Overhead
from clkd_core.driving.results.steps import FRAME_S, Step
from clkd_core.driving.stage.scene import Captured, Stage, stamp_of
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

FILM_FILE = "drive.mp4"
_CODEC = "mp4v"  # MPEG-4 part 2: the wheels of opencv-python-headless write it on every platform
_STRIP_PX = 66
_LINE_PX = 20
_TEXT_RGB = (240, 240, 240)
_ALARM_RGB = (255, 150, 110)

Image = NDArray[np.uint8]


class Film:
    """Writes a film frame by frame; a context manager, because a film that is not closed is none.

    The codec wants even sides, so an odd row or column is cut off.
    """

    def __init__(self, path: Path, stage: Stage, title: str) -> None:
        """Open the file.

        Raises:
            DataError: this OpenCV cannot write it there.
        """
        self._path, self._stage, self._title = path, stage, title
        height = stage.config.height_px
        self._overhead = Overhead(stage, height)
        self._size = (
            (stage.config.width_px + height) // 2 * 2,
            (height + _STRIP_PX) // 2 * 2,
        )
        self._writer = cv2.VideoWriter(
            str(path), cv2.VideoWriter.fourcc(*_CODEC), 1.0 / FRAME_S, self._size
        )
        if not self._writer.isOpened():
            raise DataError(f"{path}: OpenCV {cv2.__version__} cannot write {_CODEC} films here")

    def __enter__(self) -> "Film":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.release()

    def add(self, seen: Captured, step: Step) -> None:
        """One frame; the views must have been rendered."""
        plan = self._plan_on_ground(step)
        front = seen.views[CAMERAS[0]].copy()
        self._draw_plan(front, seen, plan)
        above = self._overhead.draw(seen.t_s, seen.state, plan)
        picture = np.vstack([np.hstack([front, above]), self._strip(step, front, above)])
        width, height = self._size
        self._writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))

    def _plan_on_ground(self, step: Step) -> NDArray[np.float64]:
        """(N, 2) in the layout frame; empty before the first plan."""
        if step.plan_age_s is None:
            return np.zeros((0, 2))
        origin = self._stage.state_at(stamp_of(step.t_s - step.plan_age_s))
        cos, sin = math.cos(origin.yaw_rad), math.sin(origin.yaw_rad)
        points = np.array([(0.0, 0.0), *step.plan_xy_m])
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + np.array([origin.x_m, origin.y_m]), dtype=np.float64)

    def _draw_plan(self, image: Image, seen: Captured, plan: NDArray[np.float64]) -> None:
        state = seen.state
        cos, sin = math.cos(state.yaw_rad), math.sin(state.yaw_rad)
        in_ego = (plan - (state.x_m, state.y_m)) @ np.array([[cos, -sin], [sin, cos]])
        in_ego = in_ego[in_ego[:, 0] > 2.8]  # a metre and more before the lens
        if len(in_ego) < 2:
            return
        camera = self._stage.renderer.cameras[CAMERAS[0]]
        pixels = camera.project(np.column_stack([in_ego, np.zeros(len(in_ego))]))[:, :2]
        points = np.clip(np.round(pixels), -9999, 9999).astype(np.int32)
        cv2.polylines(image, [points], False, PLAN_RGB, 3, cv2.LINE_AA)

    def _strip(self, step: Step, front: Image, above: Image) -> Image:
        strip = np.full((_STRIP_PX, front.shape[1] + above.shape[1], 3), 18, np.uint8)
        for number, (text, color) in enumerate(strip_lines(step, self._title)):
            at = (8, 17 + _LINE_PX * number)
            cv2.putText(strip, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.43, color, 1, cv2.LINE_AA)
        return strip


def strip_lines(step: Step, title: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Three lines below the pictures: where and when, what was decided, what is driven."""
    light = f", light {step.signal}" if step.signal else ""
    about = f"{title} | {step.t_s:.1f} s, {step.speed_mps:.1f} m/s{light}, route: {step.command}"
    decided = "decision: none"
    if step.decision_age_s is not None:
        decided = (
            f"decision: {step.decision}, took {step.decision_ms:.0f} ms, "
            f"seen {step.decision_age_s:.1f} s ago"
        )
    planned = "plan: none yet"
    if step.plan_age_s is not None:
        took = "" if step.plan_ms is None else f", took {step.plan_ms:.0f} ms"
        follows = f" {step.plan_follows}" if step.plan_follows else ""
        planned = f"plan: {step.plan_mode}{follows}{took}"
    if step.events:
        return [(about, _TEXT_RGB), (decided, _TEXT_RGB), ("; ".join(step.events), _ALARM_RGB)]
    return [(about, _TEXT_RGB), (decided, _TEXT_RGB), (planned + " | others by script", PLAN_RGB)]


def count_frames(path: Path) -> int:
    """Read a film back.

    Raises:
        DataError: it cannot be read.
    """
    reader = cv2.VideoCapture(str(path))
    try:
        if not reader.isOpened():
            raise DataError(f"{path}: cannot be read as a film")
        count = 0
        while reader.grab():
            count += 1
        return count
    finally:
        reader.release()
