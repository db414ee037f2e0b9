"""Both systems in one process: the six images of a frame are encoded once for both.

The nodes are the same as in processes of their own. Each has its own subscriptions and its own
worker thread; what they share is the student, which encodes a set for whoever asks first
(:mod:`clkd_core.runtime.shared`). Planning never waits for the language pass.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from clkd_core.process import leave
from clkd_ros.model_config import FrameNodeConfig
from clkd_ros.node_process import run_nodes
from clkd_ros.planner_node import PlannerNode
from clkd_ros.vlm_node import VlmNode

if TYPE_CHECKING:  # torch takes seconds, and nodes that are not configured do without
    from clkd_core.runtime.shared import SharedEngine


class SharedStudents:
    """One engine for all nodes that name the same checkpoint, device and threads.

    It is loaded for the first that is configured and goes when the last is cleaned up. Nodes
    that name different ones get different ones.
    """

    def __init__(self) -> None:
        """Load nothing yet."""
        self._lock = threading.Lock()
        self._engines: WeakValueDictionary[tuple[str, str, int], SharedEngine]
        self._engines = WeakValueDictionary()

    def decider(self, config: FrameNodeConfig) -> Any:
        """What a VlmNode needs."""
        return self._engine(config).decider()

    def planner(self, config: FrameNodeConfig) -> Any:
        """What a PlannerNode needs; CheckpointError when the student has no planner."""
        return self._engine(config).planner()

    def _engine(self, config: FrameNodeConfig) -> "SharedEngine":
        from clkd_core.runtime.shared import SharedEngine

        key = (config.checkpoint, config.device, config.threads)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = SharedEngine.from_checkpoint(
                    Path(config.checkpoint), device=config.device, threads=config.threads or None
                )
                self._engines[key] = engine
        return engine


def main(args: Sequence[str] | None = None) -> int:
    """Run both nodes until they are told to stop."""
    students = SharedStudents()
    builders = [partial(VlmNode, students.decider), partial(PlannerNode, students.planner)]
    return run_nodes(builders, args)


if __name__ == "__main__":
    leave(main())
