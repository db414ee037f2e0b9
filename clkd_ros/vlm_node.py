"""The slow system: camera frames in, meta-actions out. All thinking happens in the engine."""

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clkd_core.metrics.frames import DEADLINE_MS
from clkd_core.process import leave
from clkd_core.runtime.timely import HANG_S, Decider, NoAnswerError, TimelyDecider
from clkd_core.types import Decision
from clkd_ros import messages
from clkd_ros.convert import decision_to_msg
from clkd_ros.frame_node import FrameNode
from clkd_ros.inputs import TimedFrame
from clkd_ros.launcher import ExitCode
from clkd_ros.model_config import FrameNodeConfig
from clkd_ros.node_process import run_nodes
from clkd_ros.params import RANGE

_SPOKEN_S = 1.0
"""Publishing takes less than a millisecond; a late result waits no longer for it than this."""


@dataclass(frozen=True, kw_only=True)
class VlmNodeConfig(FrameNodeConfig):
    """Parameters of the VLM node; read when it is configured."""

    deadline_ms: float = field(default=DEADLINE_MS, metadata={RANGE: (0.0, 60000.0)})
    """A camera set is answered this long after it was complete [ms]: by its own decision, or by
    the last one, flagged stale; its own then follows, flagged late. 0: as long as it takes."""
    hang_s: float = field(default=HANG_S, metadata={RANGE: (0.0, 600.0)})
    """An engine that is at one frame for longer is lost, and the process ends, to be started again
    [s]; 0: never."""


def load_engine(config: VlmNodeConfig) -> Decider:
    """The student from its checkpoint folder. Imports torch, hence not at the top."""
    from clkd_core.runtime.engine import Engine

    return Engine.from_checkpoint(
        Path(config.checkpoint), device=config.device, threads=config.threads or None
    )


class VlmNode(FrameNode):
    """Answers the newest frame with a meta-action, by the deadline."""

    config_class = VlmNodeConfig

    def __init__(
        self, build_engine: Callable[[VlmNodeConfig], Decider] = load_engine, **options: Any
    ) -> None:
        """``options`` go to the middleware's node; tests pass a ``build_engine`` of a fake."""
        self._build_engine = build_engine
        self._engine: TimelyDecider | None = None
        super().__init__("vlm", self._build_timely, **options)

    def prepare(self, model: TimelyDecider) -> None:
        """Keep the engine, announce the decision."""
        self._engine = model
        self._decision_pub = self.advertise(messages.MetaAction, "~/output/meta_action")

    def start(self, undo: ExitStack) -> None:
        """What is in the making when the node falls silent is not published later."""
        undo.callback(self._engine.forget)

    def release(self) -> None:
        """Let the engine go."""
        if self._engine is not None:
            self._engine.close(0.0)
        self._engine = None

    def destroy_node(self) -> None:
        """End the engine's thread, too; one that hangs is left behind."""
        super().destroy_node()
        self.release()

    def answer(self, timed: TimedFrame) -> None:
        """Decide, publish, count: the frame's own decision, or a repeat in its place."""
        spoken = threading.Event()
        try:
            decision = self._engine.decide(
                timed.frame,
                spent_s=timed.elapsed_ms() / 1e3,
                on_late=partial(self._answer_late, timed, spoken),
            )
            self._publish(timed, decision)
        except NoAnswerError as err:
            self.refuse(str(err), err.reason)
        finally:
            spoken.set()

    def _answer_late(self, timed: TimedFrame, spoken: threading.Event, decision: Decision) -> None:
        """In the engine's thread: after the repeat that went before."""
        spoken.wait(_SPOKEN_S)
        self._publish(timed, decision)
        self.health.count_flag("late")

    def _publish(self, timed: TimedFrame, decision: Decision) -> None:
        response_ms = timed.elapsed_ms()
        self._decision_pub.publish(decision_to_msg(decision, node_response_ms=response_ms))
        if not decision.stale:  # a repeat is no answer to this frame, and is flagged
            self.health.count_answer(response_ms)
        for reason in decision.degraded:
            self.flag(reason, reason)

    def _build_timely(self, config: VlmNodeConfig) -> TimelyDecider:
        return TimelyDecider(
            self._build_engine(config),
            deadline_s=config.deadline_ms / 1e3 or math.inf,
            hang_s=config.hang_s or math.inf,
            on_lost=self._end_process,
        )

    def _end_process(self, reason: str) -> None:
        code = ExitCode.ENGINE_LOST
        self.get_logger().error(f"engine lost, the process ends with exit code {code}: {reason}")
        self.exit_code = code


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_nodes([VlmNode], args)


if __name__ == "__main__":
    leave(main())
