"""What the nodes that look at the road have in common: lifecycle, inputs, newest frame, health."""

import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clkd_core.errors import ClkdError, ConfigError, FrameError
from clkd_core.files import shipped_student
from clkd_core.runtime.deadline import NewestOnly
from clkd_core.runtime.health import Health
from clkd_ros.diagnostics import HealthPublisher
from clkd_ros.inputs import LOG_EVERY_S, FrameInputs, InputConfig, TimedFrame
from clkd_ros.middleware import LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.params import RANGE, declare_params

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class FrameNodeConfig(InputConfig):
    """Parameters of a node with a model; read when it is configured.

    Raises:
        ConfigError: the device is none.
    """

    checkpoint: str = field(default_factory=lambda: str(shipped_student()))
    """Folder of the distilled student, its planner inside; the shipped one when not given."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int = field(default=1, metadata={RANGE: (0, 256)})
    """CPU threads of the model; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu, cuda or cuda:N")


class FrameNode(LifecycleNode):
    """Configure loads and warms up, activate listens and answers, the newest frame wins.

    Callbacks only convert and hand over; the model runs in a thread of the node's own, so that
    an executor is never held up by it.
    """

    config_class: ClassVar[type[FrameNodeConfig]] = FrameNodeConfig

    def __init__(self, name: str, build: Callable[[Any], Any], **options: Any) -> None:
        """``build`` makes the model from the config; ``options`` go to the middleware's node."""
        super().__init__(name, **options)
        self._build = build
        self._publishers_by_topic: dict[str, Any] = {}
        self._configured = False

    @abstractmethod
    def prepare(self, model: Any) -> None:
        """Take the model that was built and make the publishers, see :meth:`advertise`."""

    @abstractmethod
    def answer(self, timed: TimedFrame) -> None:
        """Answer one frame and publish; FrameError when it cannot be used."""

    def start(self) -> None:
        """Listen to more than frames; called by activate, before the first frame."""

    def stop(self) -> None:
        """Undo :meth:`start`; called by deactivate."""

    def release(self) -> None:
        """Let the model go; called by cleanup."""

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load and warm up; FAILURE with one line in the log when that cannot be done."""
        try:
            self.config = declare_params(self, self.config_class, fixed=self._is_configured)
            model = self._build(self.config)
            model.warm_up()
        except ClkdError as err:
            self.get_logger().error(f"cannot be configured: {err}")
            return TransitionCallbackReturn.FAILURE
        self.health = Health()
        self.prepare(model)
        self._configured = True
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start listening and answering."""
        self._worker = NewestOnly(self._answer, on_replaced=self._replaced, name=self.get_name())
        self.start()
        self._inputs = FrameInputs(self, self.config, self._worker.submit, self.health)
        self._health_pub = HealthPublisher(self, self.health, self._inputs.unused_images)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening; an answer in the making is finished but not published."""
        self._health_pub.close()
        self._inputs.close()
        self.stop()
        self._worker.close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Let the model go."""
        for publisher in self._publishers_by_topic.values():
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_by_topic.clear()
        self.release()
        self._configured = False
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker before the publishers it uses."""
        if hasattr(self, "_worker"):
            self._worker.close()
        super().destroy_node()

    def advertise(self, message_class: Any, topic: str) -> Any:
        """A publisher that is silent unless the node is active, and goes with the model."""
        made = self.create_lifecycle_publisher(message_class, topic, 1)
        self._publishers_by_topic[topic] = made
        return made

    def refuse(self, text: str, reason: str) -> None:
        """Count an input that got no answer, and log it now and then."""
        self.health.count_drop(reason)
        self.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)

    def flag(self, text: str, reason: str) -> None:
        """Count an answer that was given although something was wrong, and log it now and then."""
        self.health.count_flag(reason)
        self.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)

    def _is_configured(self) -> bool:
        return self._configured

    def _answer(self, timed: TimedFrame) -> None:
        try:
            self.answer(timed)
        except FrameError as err:
            self.refuse(str(err), "unusable frame")

    def _replaced(self, timed: TimedFrame) -> None:
        self.health.count_drop("replaced by a newer frame")
