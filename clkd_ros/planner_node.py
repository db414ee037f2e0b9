"""The fast system: every camera set in, a trajectory out, following the newest decision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from clkd_core.errors import ClkdError, FrameError
from clkd_core.process import leave
from clkd_core.runtime.deadline import FreshDecision, NewestOnly
from clkd_core.runtime.health import Health
from clkd_core.types import Decision, Plan, SurroundFrame
from clkd_ros import messages
from clkd_ros.convert import decision_from_msg, path_to_msg, plan_to_msg
from clkd_ros.diagnostics import HealthPublisher
from clkd_ros.inputs import LOG_EVERY_S, FrameInputs, InputConfig, TimedFrame
from clkd_ros.middleware import LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.node_process import run_node
from clkd_ros.params import RANGE, declare_params


@dataclass(frozen=True, kw_only=True)
class PlannerNodeConfig(InputConfig):
    """Parameters of the planner node; read when it is configured."""

    checkpoint: str = "runs/demo/student"
    """Folder of the student whose vision the planner shares; the planner lies inside."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int = field(default=1, metadata={RANGE: (0, 256)})
    """CPU threads of the model; 0 leaves the choice to torch."""
    max_decision_age_s: float = field(default=1.0, metadata={RANGE: (0.0, 60.0)})
    """A decision whose images are older than the frame by more than this is not followed [s]."""


class Planner(Protocol):
    """What the node needs of ``clkd_core.runtime.planning.PlannerEngine``."""

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """Plan from one frame; FrameError when it cannot be used."""

    def warm_up(self) -> None:
        """Make the first plan as fast as the later ones."""


def load_planner(config: PlannerNodeConfig) -> Planner:
    """The planner inside the student's folder. Imports torch, hence not at the top."""
    from clkd_core.runtime.planning import PlannerEngine

    return PlannerEngine.from_checkpoint(
        Path(config.checkpoint), device=config.device, threads=config.threads or None
    )


class PlannerNode(LifecycleNode):
    """Plans from every frame; says so in its message when no fresh decision was there."""

    def __init__(
        self, build_planner: Callable[[PlannerNodeConfig], Planner] = load_planner, **options: Any
    ) -> None:
        """``options`` go to the middleware's node; tests pass a ``build_planner`` of a fake."""
        super().__init__("planner", **options)
        self._build_planner = build_planner

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load and warm up; FAILURE with one line in the log when that cannot be done."""
        try:
            self._config = declare_params(self, PlannerNodeConfig)
            self._planner = self._build_planner(self._config)
            self._planner.warm_up()
        except ClkdError as err:
            self.get_logger().error(f"cannot be configured: {err}")
            return TransitionCallbackReturn.FAILURE
        self._plan_pub = self.create_lifecycle_publisher(
            messages.PlannedTrajectory, "~/output/trajectory", 1
        )
        self._path_pub = self.create_lifecycle_publisher(messages.Path, "~/output/path", 1)
        self._health = Health()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start listening and planning."""
        self._decisions = FreshDecision(self._config.max_decision_age_s)
        self._worker = NewestOnly(self._answer, on_replaced=self._count_replaced, name="planner")
        self._decision_sub = self.create_subscription(
            messages.MetaAction, "~/input/meta_action", self._on_decision, 1
        )
        self._inputs = FrameInputs(self, self._config, self._worker.submit, self._health)
        self._health_pub = HealthPublisher(self, self._health, self._inputs.unused_images)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening; a plan in the making is finished but not published."""
        self._health_pub.close()
        self._inputs.close()
        self.destroy_subscription(self._decision_sub)
        self._worker.close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Let the model go."""
        self.destroy_lifecycle_publisher(self._plan_pub)
        self.destroy_lifecycle_publisher(self._path_pub)
        del self._planner
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker before the publishers it uses."""
        if hasattr(self, "_worker"):
            self._worker.close()
        super().destroy_node()

    def _on_decision(self, msg: messages.MetaAction) -> None:
        try:
            self._decisions.push(decision_from_msg(msg))
        except FrameError as err:
            self._refuse(str(err), "unusable decision")

    def _answer(self, timed: TimedFrame) -> None:
        decision, reasons = self._decisions.at(timed.frame.stamp_ns)
        try:
            plan = self._planner.plan(timed.frame, decision)
        except FrameError as err:
            self._refuse(str(err), "unusable frame")
            return
        plan = replace(plan, degraded=plan.degraded + reasons)
        self._plan_pub.publish(plan_to_msg(plan))
        self._path_pub.publish(path_to_msg(plan))
        self._health.count_answer(timed.elapsed_ms())
        for reason in reasons:
            self._health.count_flag("no fresh decision")
            self.get_logger().warning(reason, throttle_duration_sec=LOG_EVERY_S)

    def _count_replaced(self, timed: TimedFrame) -> None:
        self._health.count_drop("replaced by a newer frame")

    def _refuse(self, text: str, reason: str) -> None:
        self._health.count_drop(reason)
        self.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_node(PlannerNode, args)


if __name__ == "__main__":
    leave(main())
