"""A domain of its own for each test of the embedded middleware."""

import itertools
import os
import threading
from contextlib import suppress
from typing import Any

from clkd_ros.embedded import context as contexts
from clkd_ros.embedded.executor import SingleThreadedExecutor
from clkd_ros.embedded.node import Node

DOMAINS = itertools.count(60 + os.getpid() % 30)


class EmbeddedGraph:
    """A context whose nodes are served until the test ends."""

    def __init__(self) -> None:
        self.context = contexts.Context()
        self.threads: list[threading.Thread] = []

    def start(self, *args: str) -> None:
        """Initialise with the given words behind ``--ros-args``."""
        self.context.init(["--ros-args", *args])

    def node(self, name: str = "tester", **options: Any) -> Node:
        """A node of this graph."""
        return Node(name, context=self.context, **options)

    def serve(self, *nodes: Node, executor: SingleThreadedExecutor | None = None) -> None:
        """Spin in a thread."""
        chosen = executor or SingleThreadedExecutor(context=self.context)
        for node in nodes:
            chosen.add_node(node)

        def spin() -> None:
            with suppress(contexts.ExternalShutdownException):
                chosen.spin()

        self.threads.append(threading.Thread(target=spin, daemon=True))
        self.threads[-1].start()

    def end(self) -> None:
        """Stop spinning and leave the domain."""
        self.context.interrupt()
        for thread in self.threads:
            thread.join(timeout=5.0)
        self.context.shutdown()
