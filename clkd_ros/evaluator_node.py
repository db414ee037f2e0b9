"""The referee: matches answers to labelled keyframes and leaves the table, numbers and page.

It measures with its own clock and looks at no pixel: of an image only the stamp is read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clkd_core.errors import ClkdError
from clkd_core.process import leave
from clkd_ros import convert, messages, sightings
from clkd_ros.evaluation import Evaluation, EvaluationConfig, load_played
from clkd_ros.inputs import LATCHED, camera_topic
from clkd_ros.middleware import GIVES_MESSAGE_INFO, LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.node_process import run_nodes
from clkd_ros.params import RANGE, declare_params

_CHECK_PERIOD_S = 0.25


@dataclass(frozen=True, kw_only=True)
class EvaluatorNodeConfig(EvaluationConfig):
    """Parameters of the evaluator node; read when it is configured."""

    expected_keyframes: int = field(default=0, metadata={RANGE: (0, 10_000_000)})
    """The node ends when so many labelled keyframes are answered and planned; 0: not by count."""
    idle_timeout_s: float = field(default=0.0, metadata={RANGE: (0.0, 86400.0)})
    """The node ends when no image, odometry or label came for so long after the first one [s]; 0:
    never. What the nodes under test say does not count."""


class EvaluatorNode(LifecycleNode):
    """Listens to everything, publishes verdicts, writes the report at the end."""

    def __init__(self, **options: Any) -> None:
        """``options`` go to the middleware's node."""
        super().__init__("evaluator", **options)
        self.finished = False
        """True once the run is over by count or silence and its files are written."""
        self._run: Evaluation | None = None
        self._configured = False

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Read parameters and bag; FAILURE when it cannot be read, or the folder not be made."""
        try:
            self._config = declare_params(
                self, EvaluatorNodeConfig, fixed=lambda: self._configured
            )
            Path(self._config.output_dir).mkdir(parents=True, exist_ok=True)
            self._played = load_played(self._config)
        except (ClkdError, OSError) as err:
            self.get_logger().error(f"cannot be configured: {err}")
            return TransitionCallbackReturn.FAILURE
        publish = self.create_lifecycle_publisher
        self._result_pub = publish(messages.FrameResult, "~/output/frame_result", 10)
        self._configured = True
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Begin a new run and listen."""
        config, qos = self._config, self._config.sensor_qos
        self.finished = False
        self._run = Evaluation(config, self._played, self.get_logger())
        self._listening: list[Any] = []
        self._listen(messages.Odometry, "odometry", sightings.note_odometry, qos)
        self._listen(messages.String, "route_command", sightings.note_command, LATCHED)
        for camera in config.sync.cameras:
            on_image = partial(self._on_image, camera)
            callback = on_image if GIVES_MESSAGE_INFO else partial(on_image, info={})
            self._subscribe(config.image_class, camera_topic(camera), callback, qos, raw=True)
        self._listen(messages.MetaAction, "label", sightings.note_label)
        self._listen(messages.PlannedTrajectory, "true_trajectory", sightings.note_truth)
        self._listen(messages.MetaAction, "meta_action", sightings.note_decision)
        self._listen(messages.PlannedTrajectory, "trajectory", sightings.note_plan)
        on_health = partial(self._note, "diagnostics", sightings.note_diagnostics)
        self._subscribe(messages.DiagnosticArray, "/diagnostics", on_health, 50)
        self._timer = self.create_timer(_CHECK_PERIOD_S, self._check)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening and write what there is."""
        self.destroy_timer(self._timer)
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        if self._run is not None:
            self._run.finish()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Say nothing any more."""
        self.destroy_lifecycle_publisher(self._result_pub)
        self._configured = False
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Write what there is, however the node ends."""
        try:
            if self._run is not None:
                self._run.finish()
        finally:
            super().destroy_node()

    def _listen(self, message_class: Any, name: str, note: sightings.Note, qos: Any = 50) -> None:
        self._subscribe(message_class, f"~/input/{name}", partial(self._note, name, note), qos)

    def _subscribe(self, *args: Any, **options: Any) -> None:
        self._listening.append(self.create_subscription(*args, **options))

    def _on_image(self, camera: str, cdr: bytes, info: Mapping[str, int]) -> None:
        note = partial(sightings.note_image, camera, info.get("source_timestamp"))
        self._note("image", note, cdr)

    def _note(self, name: str, note: sightings.Note, msg: Any) -> None:
        """Read the clock first, then the message."""
        seen_ns = time.time_ns()
        if self._run is not None:
            self._run.note(name, note, msg, seen_ns)

    def _check(self) -> None:
        """Publish verdicts, and end when the run is over."""
        now_ns, config = time.time_ns(), self._config
        if self._run is None or self.finished:
            return
        for row in self._run.take_verdicts(now_ns):
            self._result_pub.publish(convert.frame_result_to_msg(row))
        if self._run.ledger.is_over(now_ns, config.expected_keyframes, config.idle_timeout_s):
            self._run.finish()
            self.finished = True


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop or its run is over."""
    return run_nodes([EvaluatorNode], args, until=lambda node: node.finished)


if __name__ == "__main__":
    leave(main())
