"""The referee: matches answers to labelled keyframes and writes one row for each of them.

It measures with its own clock and looks at no pixel: of an image only the stamp is read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from clkd_core.errors import ClkdError, FrameError
from clkd_core.metrics.frames import DEADLINE_MS, write_frames
from clkd_core.process import leave
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_ros import convert, messages, sightings
from clkd_ros.inputs import LATCHED, LOG_EVERY_S, InputConfig, camera_topic
from clkd_ros.middleware import GIVES_MESSAGE_INFO, LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.node_process import run_nodes
from clkd_ros.params import RANGE, declare_params

_CHECK_PERIOD_S = 0.25
_SETTLE_NS = 1_000_000_000
"""A keyframe's verdict is published this long after its label came."""


@dataclass(frozen=True, kw_only=True)
class EvaluatorNodeConfig(InputConfig):
    """Parameters of the evaluator node; read when it is configured."""

    output_dir: str = "runs/live"
    """Folder of ``frames.csv``, created when missing."""
    deadline_ms: float = field(default=DEADLINE_MS, metadata={RANGE: (0.0, 60000.0)})
    """A decision seen later than this after its last image is late [ms]."""
    expected_keyframes: int = field(default=0, metadata={RANGE: (0, 10_000_000)})
    """The node ends when so many labelled keyframes are answered and planned; 0: not by count."""
    idle_timeout_s: float = field(default=0.0, metadata={RANGE: (0.0, 86400.0)})
    """The node ends when no message came for so long after the first one [s]; 0: never."""


class EvaluatorNode(LifecycleNode):
    """Listens to everything, publishes verdicts, writes ``frames.csv`` at the end."""

    def __init__(self, **options: Any) -> None:
        """``options`` go to the middleware's node."""
        super().__init__("evaluator", **options)
        self.finished = False
        """True once the run is over by count or silence and the table is written."""
        self._ledger: KeyframeLedger | None = None

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Read the parameters; FAILURE when the output folder cannot be made."""
        try:
            self._config = declare_params(self, EvaluatorNodeConfig)
            Path(self._config.output_dir).mkdir(parents=True, exist_ok=True)
        except (ClkdError, OSError) as err:
            self.get_logger().error(f"cannot be configured: {err}")
            return TransitionCallbackReturn.FAILURE
        publish = self.create_lifecycle_publisher
        self._result_pub = publish(messages.FrameResult, "~/output/frame_result", 10)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Open a new ledger and listen."""
        config, qos = self._config, self._config.sensor_qos
        self._ledger = KeyframeLedger(
            tolerance_ns=round(config.sync.tolerance_ms * 1e6),
            ego_max_age_ms=config.sync.ego_max_age_ms,
            deadline_ms=config.deadline_ms,
        )
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
        self._timer = self.create_timer(_CHECK_PERIOD_S, self._check)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening and write what there is."""
        self.destroy_timer(self._timer)
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._save()
        return super().on_deactivate(state)

    def destroy_node(self) -> None:
        """Write what there is, however the node ends."""
        self._save()
        super().destroy_node()

    def _listen(self, message_class: Any, name: str, note: sightings.Note, qos: Any = 50) -> None:
        self._subscribe(message_class, f"~/input/{name}", partial(self._note, note), qos)

    def _subscribe(self, *args: Any, **options: Any) -> None:
        self._listening.append(self.create_subscription(*args, **options))

    def _on_image(self, camera: str, cdr: bytes, info: Mapping[str, int]) -> None:
        self._note(partial(sightings.note_image, camera, info.get("source_timestamp")), cdr)

    def _note(self, note: sightings.Note, msg: Any) -> None:
        """Read the clock first, then the message."""
        seen_ns = time.time_ns()
        assert self._ledger is not None  # on_activate makes it before it subscribes
        self._ledger.heard(seen_ns)
        try:
            note(self._ledger, msg, seen_ns)
        except FrameError as err:
            self.get_logger().warning(str(err), throttle_duration_sec=LOG_EVERY_S)

    def _check(self) -> None:
        """Publish verdicts, and end when the run is over."""
        if self._ledger is None or self.finished:
            return
        now_ns = time.time_ns()
        for row in self._ledger.take_finished(seen_before_ns=now_ns - _SETTLE_NS):
            self._result_pub.publish(convert.frame_result_to_msg(row))
        config = self._config
        if self._ledger.is_over(now_ns, config.expected_keyframes, config.idle_timeout_s):
            self._save()
            self.finished = True

    def _save(self) -> None:
        rows = [] if self._ledger is None or self.finished else self._ledger.rows()
        if not rows:
            return  # an older table is worth more than an empty one
        path = Path(self._config.output_dir) / "frames.csv"
        try:
            write_frames(path, rows)
        except (ClkdError, OSError) as err:
            self.get_logger().error(f"{path} cannot be written: {err}")
            return
        answered = sum(row.answered for row in rows)
        self.get_logger().info(f"{path}: {len(rows)} keyframes, {answered} answered")


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop or its run is over."""
    return run_nodes([EvaluatorNode], args, until=lambda node: node.finished)


if __name__ == "__main__":
    leave(main())
