"""The VLM node as a process of its own, with an engine that loads nothing."""

import os
from collections.abc import Callable
from pathlib import Path

from fakes import FakeEngine

from clkd_core.process import leave
from clkd_core.types import META_ACTIONS, Decision, SurroundFrame
from clkd_ros.node_process import run_nodes
from clkd_ros.vlm_node import VlmNode

ANSWER = META_ACTIONS[6]

POISON_FILE = "CLKD_TEST_POISON"
"""Environment variable that names a file: once it is there, CUDA fails, and takes it away."""


class PoisonedEngine(FakeEngine):
    """Answers until the file is there."""

    def __init__(self, poison: Path) -> None:
        super().__init__(ANSWER)
        self._poison = poison

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        if self._poison.exists():
            self._poison.unlink()
            self.errors.append(RuntimeError("CUDA error: device-side assert triggered\nMore."))
        return super().decide(frame, blank=blank)


def engine_builder() -> Callable[[object], FakeEngine]:
    poison = os.environ.get(POISON_FILE)
    return lambda config: PoisonedEngine(Path(poison)) if poison else FakeEngine(ANSWER)


if __name__ == "__main__":
    leave(run_nodes([lambda: VlmNode(build_engine=engine_builder())]))
