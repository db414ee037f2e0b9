"""The fast system: every camera set in, a trajectory out, following the newest decision."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clkd_core.errors import FrameError
from clkd_core.process import leave
from clkd_core.runtime.failsafe import FailSafeConfig, FailSafePlanner, Planner
from clkd_core.types import Decision, Plan, PlanMode
from clkd_ros import messages
from clkd_ros.convert import decision_from_msg, path_to_msg, plan_to_msg
from clkd_ros.frame_node import FrameNode
from clkd_ros.inputs import TimedFrame
from clkd_ros.model_config import FrameNodeConfig
from clkd_ros.node_process import run_nodes
from clkd_ros.visuals import autoware_trajectory_to_msg, markers_to_msg

_DECISIONS = 32
"""Decisions remembered to show which one a plan follows: more than a second of them."""

_WATCH_PERIOD_S = 0.1
"""How often the node asks whether it has become blind: the rate of the cameras."""


@dataclass(frozen=True, kw_only=True)
class PlannerNodeConfig(FrameNodeConfig):
    """Parameters of the planner node; read when it is configured."""

    fail_safe: FailSafeConfig = field(default_factory=FailSafeConfig)
    """When it stops trusting, and how it brakes then."""
    frame_age_from: Literal["arrival", "stamp"] = "arrival"
    """What the age of a frame is counted from. arrival: when its set was complete in the node;
    stamp: its capture, for cameras that stamp on the node's clock."""


def load_planner(config: PlannerNodeConfig) -> Planner:
    """The planner inside the student's folder. Imports torch, hence not at the top."""
    from clkd_core.runtime.planning import PlannerEngine

    return PlannerEngine.from_checkpoint(
        Path(config.checkpoint), device=config.device, threads=config.threads or None
    )


class PlannerNode(FrameNode):
    """Plans from every frame, and says in its message when it had to do without something."""

    config_class = PlannerNodeConfig

    def __init__(
        self, build_planner: Callable[[PlannerNodeConfig], Planner] = load_planner, **options: Any
    ) -> None:
        """``options`` go to the middleware's node; tests pass a ``build_planner`` of a fake."""
        super().__init__("planner", build_planner, **options)
        self._speaking = threading.Lock()  # a plan in the making and a blind stop take turns

    def prepare(self, model: Planner) -> None:
        """Keep the planner, announce the trajectory in all its forms."""
        self._model = model
        self._plan_pub = self.advertise(messages.PlannedTrajectory, "~/output/trajectory")
        self._path_pub = self.advertise(messages.Path, "~/output/path")
        self._marker_pub = self.advertise(messages.MarkerArray, "~/output/markers")
        autoware = messages.autoware_trajectory_class()
        self._autoware_pub = autoware and self.advertise(autoware, "~/output/autoware_trajectory")

    def start(self, undo: ExitStack) -> None:
        """Remember nothing of before; hear decisions and watch out for blindness."""
        # A step of the machine's clock must not look like blindness, a slow replay neither.
        simulated = self.get_parameter("use_sim_time").value
        clock_s = (lambda: self._now_ns() / 1e9) if simulated else time.monotonic
        self._planner = FailSafePlanner(self._model, self.config.fail_safe, clock_s=clock_s)
        undo.callback(setattr, self, "_planner", None)
        self._decisions: deque[Decision] = deque(maxlen=_DECISIONS)
        heard = self.create_subscription(
            messages.MetaAction, "~/input/meta_action", self._on_decision, 1
        )
        undo.callback(self.destroy_subscription, heard)
        undo.callback(self.destroy_timer, self.create_timer(_WATCH_PERIOD_S, self._watch))

    def release(self) -> None:
        """Let the planner go."""
        self._model: Planner | None = None

    def answer(self, timed: TimedFrame) -> None:
        """Plan, publish, count."""
        plan = self._planner.plan(timed.frame, age_s=self._age_s(timed))
        with self._speaking:
            self._publish(plan)
        self.health.count_answer(timed.elapsed_ms())

    def _watch(self) -> None:
        with self._speaking:
            plan = self._planner and self._planner.plan_blind(self._now_ns())
            if plan is not None:
                self._publish(plan)

    def _publish(self, plan: Plan) -> None:
        followed = [one for one in self._decisions if one.stamp_ns == plan.decision_stamp_ns]
        self._plan_pub.publish(plan_to_msg(plan))
        self._path_pub.publish(path_to_msg(plan))
        self._marker_pub.publish(markers_to_msg(plan, followed[-1] if followed else None))
        if self._autoware_pub:
            self._autoware_pub.publish(autoware_trajectory_to_msg(plan))
        if plan.mode is not PlanMode.FOLLOWING:
            self.flag("; ".join(plan.degraded), plan.mode.name.lower().replace("_", " "))

    def _on_decision(self, msg: messages.MetaAction) -> None:
        try:
            decision = decision_from_msg(msg)
        except FrameError as err:
            self.refuse(str(err), "unusable decision")
            return
        if not decision.stale:  # it repeats one that was heard
            self._decisions.append(decision)
        self._planner.push_decision(decision)

    def _age_s(self, timed: TimedFrame) -> float:
        if self.config.frame_age_from == "arrival":
            return timed.elapsed_ms() / 1e3
        return (self._now_ns() - timed.frame.stamp_ns) / 1e9

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_nodes([PlannerNode], args)


if __name__ == "__main__":
    leave(main())
