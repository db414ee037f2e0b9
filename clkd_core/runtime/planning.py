"""One frame and the newest decision in, one trajectory out: what planner_node and replay call."""

import math
import time
from pathlib import Path

import numpy as np
import torch

from clkd_core.errors import FrameError
from clkd_core.models.planner import Planner, build_inputs
from clkd_core.models.planner_checkpoint import load_planner
from clkd_core.runtime.braking import MAX_SPEED_MPS
from clkd_core.runtime.devices import set_torch_threads
from clkd_core.runtime.engine import EncodedFrame, Engine, made_up_frames
from clkd_core.types import Decision, EgoState, Plan, SurroundFrame, Trajectory


class PlannerEngine:
    """A planner with the student whose features it reads; not for several threads at once."""

    def __init__(self, planner: Planner, engine: Engine) -> None:
        """Both on one device; in one process the engine may be the one that decides.

        Torch takes as many threads as the engine has.
        """
        set_torch_threads(engine.threads)
        self._planner = planner
        self._engine = engine

    @classmethod
    def from_checkpoint(
        cls, student_folder: Path, *, device: str = "auto", threads: int | None = None
    ) -> "PlannerEngine":
        """Load a student and the planner inside its folder.

        Args:
            student_folder: as written by the distillation, with ``planner/`` in it.
            device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda[:N]``.
            threads: see :meth:`clkd_core.runtime.engine.Engine.from_checkpoint`.

        Raises:
            CheckpointError: one of the two is missing, damaged, or made for another student.
            ConfigError: the device is unknown or absent.
        """
        engine = Engine.from_checkpoint(Path(student_folder), device=device, threads=threads)
        return cls(load_planner(Path(student_folder), device=engine.device), engine)

    def warm_up(self) -> None:
        """Plan made-up frames, so that the first real one finds all prepared."""
        for frame in made_up_frames():
            self.plan(frame, None)

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """Decode, encode and plan.

        Args:
            frame: missing views are masked and named in the plan's reasons.
            decision: the newest one, fresh enough to be followed; None plans without.

        Raises:
            FrameError: no view is usable, or the output is not finite.
        """
        start_s = time.perf_counter()
        encoded = self._engine.encode(frame)
        return self.plan_from_features(frame, decision, encoded, start_s=start_s)

    @torch.inference_mode()
    def plan_from_features(
        self,
        frame: SurroundFrame,
        decision: Decision | None,
        encoded: EncodedFrame,
        *,
        start_s: float | None = None,
    ) -> Plan:
        """Plan on what ``Engine.encode`` made of the frame's images already, for this student.

        Args:
            frame: what is known beside the images, and what is missing.
            decision: see :meth:`plan`.
            encoded: of the same images.
            start_s: reading of ``time.perf_counter`` that ``inference_ms`` counts from; None
                counts only what happens here.

        Raises:
            FrameError: the output is not finite.
        """
        start_s = time.perf_counter() if start_s is None else start_s
        ego, fault = _believable(frame.ego)
        action = None if decision is None else decision.action
        features, present = encoded.tensors()
        inputs = build_inputs(features.float(), present, [ego], [frame.command], [action])
        xy_m = self._planner.best(inputs, self._planner(inputs))[0].cpu().numpy()
        if not np.isfinite(xy_m).all():
            raise FrameError(
                f"the plan for frame {frame.stamp_ns} is NaN or infinite, expected metres"
            )
        return Plan(
            stamp_ns=frame.stamp_ns,
            trajectory=Trajectory(xy_m=xy_m),
            inference_ms=(time.perf_counter() - start_s) * 1e3,
            decision_stamp_ns=None if decision is None else decision.stamp_ns,
            degraded=(*frame.degraded_reasons, *encoded.failures, *fault),
        )


def _believable(ego: EgoState | None) -> tuple[EgoState | None, tuple[str, ...]]:
    """The ego state, or None and the reason why it is not believed."""
    if ego is None or math.fabs(ego.speed_mps) <= MAX_SPEED_MPS:
        return ego, ()
    return None, (f"ego speed {ego.speed_mps:.1f} m/s is beyond {MAX_SPEED_MPS:.0f}, ignored",)
