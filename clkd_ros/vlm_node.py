"""The slow system: camera frames in, meta-actions out. All thinking happens in the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from clkd_core.errors import ClkdError, FrameError
from clkd_core.process import leave
from clkd_core.runtime.deadline import NewestOnly
from clkd_core.runtime.health import Health
from clkd_core.types import Decision, SurroundFrame
from clkd_ros import messages
from clkd_ros.convert import decision_to_msg
from clkd_ros.diagnostics import HealthPublisher
from clkd_ros.inputs import LOG_EVERY_S, FrameInputs, InputConfig, TimedFrame
from clkd_ros.middleware import LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.node_process import run_node
from clkd_ros.params import RANGE, declare_params


@dataclass(frozen=True, kw_only=True)
class VlmNodeConfig(InputConfig):
    """Parameters of the VLM node; read when it is configured."""

    checkpoint: str = "runs/demo/student"
    """Folder of the distilled student."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int = field(default=1, metadata={RANGE: (0, 256)})
    """CPU threads of the model; 0 leaves the choice to torch."""


class Decider(Protocol):
    """What the node needs of ``clkd_core.runtime.engine.Engine``."""

    def decide(self, frame: SurroundFrame) -> Decision:
        """Answer one frame; FrameError when it cannot be used."""

    def warm_up(self) -> None:
        """Make the first answer as fast as the later ones."""


def load_engine(config: VlmNodeConfig) -> Decider:
    """The student from its checkpoint folder. Imports torch, hence not at the top."""
    from clkd_core.runtime.engine import Engine

    return Engine.from_checkpoint(
        Path(config.checkpoint), device=config.device, threads=config.threads or None
    )


class VlmNode(LifecycleNode):
    """Configure loads and warms up the model, activate answers, the newest frame wins."""

    def __init__(
        self, build_engine: Callable[[VlmNodeConfig], Decider] = load_engine, **options: Any
    ) -> None:
        """``options`` go to the middleware's node; tests pass a ``build_engine`` of a fake."""
        super().__init__("vlm", **options)
        self._build_engine = build_engine

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load and warm up; FAILURE with one line in the log when that cannot be done."""
        try:
            self._config = declare_params(self, VlmNodeConfig)
            self._engine = self._build_engine(self._config)
            self._engine.warm_up()
        except ClkdError as err:
            self.get_logger().error(f"cannot be configured: {err}")
            return TransitionCallbackReturn.FAILURE
        self._decision_pub = self.create_lifecycle_publisher(
            messages.MetaAction, "~/output/meta_action", 1
        )
        self._health = Health()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start listening and answering."""
        self._worker = NewestOnly(self._answer, on_replaced=self._count_replaced, name="vlm")
        self._inputs = FrameInputs(self, self._config, self._worker.submit, self._health)
        self._health_pub = HealthPublisher(self, self._health, self._inputs.unused_images)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening; an answer in the making is finished but not published."""
        self._health_pub.close()
        self._inputs.close()
        self._worker.close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Let the model go."""
        self.destroy_lifecycle_publisher(self._decision_pub)
        del self._engine
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker before the publisher it uses."""
        if hasattr(self, "_worker"):
            self._worker.close()
        super().destroy_node()

    def _answer(self, timed: TimedFrame) -> None:
        try:
            decision = self._engine.decide(timed.frame)
        except FrameError as err:
            self._health.count_drop("unusable frame")
            self.get_logger().warning(str(err), throttle_duration_sec=LOG_EVERY_S)
            return
        response_ms = timed.elapsed_ms()
        self._decision_pub.publish(decision_to_msg(decision, node_response_ms=response_ms))
        self._health.count_answer(response_ms)
        for reason in decision.degraded:
            self._health.count_flag(reason)
            self.get_logger().warning(reason, throttle_duration_sec=LOG_EVERY_S)

    def _count_replaced(self, timed: TimedFrame) -> None:
        self._health.count_drop("replaced by a newer frame")


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_node(VlmNode, args)


if __name__ == "__main__":
    leave(main())
