"""The slow system: camera frames in, meta-actions out. All thinking happens in the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clkd_core.process import leave
from clkd_core.types import Decision, SurroundFrame
from clkd_ros import messages
from clkd_ros.convert import decision_to_msg
from clkd_ros.frame_node import FrameNode
from clkd_ros.inputs import TimedFrame
from clkd_ros.model_config import FrameNodeConfig
from clkd_ros.node_process import run_nodes


@dataclass(frozen=True, kw_only=True)
class VlmNodeConfig(FrameNodeConfig):
    """Parameters of the VLM node; read when it is configured."""


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


class VlmNode(FrameNode):
    """Answers the newest frame with a meta-action."""

    config_class = VlmNodeConfig

    def __init__(
        self, build_engine: Callable[[VlmNodeConfig], Decider] = load_engine, **options: Any
    ) -> None:
        """``options`` go to the middleware's node; tests pass a ``build_engine`` of a fake."""
        super().__init__("vlm", build_engine, **options)

    def prepare(self, model: Decider) -> None:
        """Keep the engine, announce the decision."""
        self._engine = model
        self._decision_pub = self.advertise(messages.MetaAction, "~/output/meta_action")

    def release(self) -> None:
        """Let the engine go."""
        self._engine: Decider | None = None

    def answer(self, timed: TimedFrame) -> None:
        """Decide, publish, count."""
        decision = self._engine.decide(timed.frame)
        response_ms = timed.elapsed_ms()
        self._decision_pub.publish(decision_to_msg(decision, node_response_ms=response_ms))
        self.health.count_answer(response_ms)
        for reason in decision.degraded:
            self.flag(reason, reason)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_nodes([VlmNode], args)


if __name__ == "__main__":
    leave(main())
