"""One frame and the newest decision in, one trajectory out: what planner_node and replay call."""

import math
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.errors import FrameError
from clkd_core.models.checkpoint import load_vlm
from clkd_core.models.planner import Planner, build_inputs
from clkd_core.models.planner_checkpoint import load_planner
from clkd_core.models.vlm import DrivingVlm
from clkd_core.runtime.decode import decode_frame
from clkd_core.types import (
    CAMERAS,
    CameraImage,
    Decision,
    EgoState,
    Plan,
    SurroundFrame,
    Trajectory,
)

MAX_SPEED_MPS = 70.0
"""Beyond 252 km/h either way an ego speed is taken for a fault of the odometry."""


class PlannerEngine:
    """A planner with the student whose features it reads."""

    def __init__(self, planner: Planner, vlm: DrivingVlm, *, device: torch.device) -> None:
        """Both models in evaluation mode and on ``device`` already."""
        self._planner = planner
        self._vlm = vlm
        self._device = device
        self._pool: Executor = ThreadPoolExecutor(
            max_workers=len(CAMERAS), thread_name_prefix="decode"
        )

    @classmethod
    def from_checkpoint(
        cls, student_folder: Path, *, device: str = "auto", threads: int | None = None
    ) -> "PlannerEngine":
        """Load a student and the planner inside its folder.

        Args:
            student_folder: as written by the distillation, with ``planner/`` in it.
            device: ``cpu``, ``cuda``, or ``auto``: CUDA where there is one.
            threads: of torch on the CPU, for the whole process; None leaves them alone.

        Raises:
            CheckpointError: one of the two is missing, damaged, or made for another student.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = torch.device(device)
        planner = load_planner(Path(student_folder), device=place)
        return cls(planner, load_vlm(Path(student_folder), place), device=place)

    def warm_up(self) -> None:
        """Plan a grey frame twice, so that the first real one is not the slow one."""
        grey = np.full((*self._vlm.image_size, 3), 128, np.uint8)
        frame = SurroundFrame(
            stamp_ns=0, images={c: CameraImage(stamp_ns=0, pixels=grey) for c in CAMERAS}
        )
        for _ in range(2):
            self.plan(frame, None)

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """Decode, encode and plan.

        Args:
            frame: missing views are masked and named in the plan's reasons.
            decision: the newest fresh enough to be followed; None plans without one.

        Raises:
            FrameError: no view is usable, or the output is not finite.
        """
        start_s = time.perf_counter()
        decoded = decode_frame(frame, self._vlm.image_size, pool=self._pool)
        with torch.inference_mode():
            present = torch.from_numpy(decoded.present)[None].to(self._device)
            views = torch.from_numpy(decoded.views)[None].to(self._device)
            features = self._vlm.encode_views(views, present)
        return self._finish(frame, decision, features, present, decoded.failures, start_s)

    def plan_from_features(
        self,
        frame: SurroundFrame,
        decision: Decision | None,
        features: Tensor,
        present: NDArray[np.bool_],
        *,
        failures: tuple[str, ...] = (),
    ) -> Plan:
        """Plan on features the student has computed already; nothing is decoded.

        Args:
            frame: the frame that the features come from.
            decision: as in :meth:`plan`.
            features: (C, P, D) of this student's vision tower.
            present: (C,) bool, True where a view was used.
            failures: what ``decode_frame`` said about the views that were not.

        Returns:
            A plan whose ``inference_ms`` counts only what happened here.

        Raises:
            FrameError: the output is not finite.
        """
        start_s = time.perf_counter()
        rows = torch.from_numpy(np.asarray(present, np.bool_))[None].to(self._device)
        return self._finish(
            frame, decision, features[None].to(self._device), rows, failures, start_s
        )

    def _finish(
        self,
        frame: SurroundFrame,
        decision: Decision | None,
        features: Tensor,
        present: Tensor,
        failures: tuple[str, ...],
        start_s: float,
    ) -> Plan:
        ego, fault = _believable(frame.ego)
        action = None if decision is None else decision.action
        with torch.inference_mode():
            inputs = build_inputs(features.float(), present, [ego], [frame.command], [action])
            xy_m = self._planner.best(self._planner(inputs))[0].cpu().numpy()
        if not np.isfinite(xy_m).all():
            raise FrameError("the planner's output is NaN or infinite, expected metres")
        return Plan(
            stamp_ns=frame.stamp_ns,
            trajectory=Trajectory(xy_m=xy_m),
            inference_ms=1000 * (time.perf_counter() - start_s),
            decision_stamp_ns=None if decision is None else decision.stamp_ns,
            degraded=(*frame.degraded_reasons, *failures, *fault),
        )


def _believable(ego: EgoState | None) -> tuple[EgoState | None, tuple[str, ...]]:
    """The ego state, or None and the reason why it is not believed."""
    if ego is None or math.fabs(ego.speed_mps) <= MAX_SPEED_MPS:
        return ego, ()
    return None, (f"ego speed {ego.speed_mps:.1f} m/s is beyond {MAX_SPEED_MPS:.0f}, ignored",)
