"""What the nodes that look at the road have in common: lifecycle, inputs, newest frame, health."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

from clkd_core.errors import ClkdError, FrameError
from clkd_core.runtime.deadline import NewestOnly
from clkd_core.runtime.health import Health
from clkd_ros.diagnostics import HealthPublisher
from clkd_ros.inputs import LOG_EVERY_S, FrameInputs, TimedFrame
from clkd_ros.launcher import ExitCode, engine_loss_noted
from clkd_ros.middleware import LifecycleNode, State, TransitionCallbackReturn
from clkd_ros.model_config import FrameNodeConfig
from clkd_ros.params import declare_params


class FrameNode(LifecycleNode):
    """Configure loads and warms up, activate listens and answers, the newest frame wins.

    Callbacks only convert and hand over: the model holds up its own thread, no executor's.
    """

    config_class: ClassVar[type[FrameNodeConfig]] = FrameNodeConfig

    def __init__(self, name: str, build: Callable[[Any], Any], **options: Any) -> None:
        """``build`` makes the model from the config; ``options`` go to the middleware's node."""
        self.exit_code: ExitCode | None = None  # once set, the process ends with it
        super().__init__(name, **options)
        self._build = build
        self._announced: list[Any] = []
        self._configured = False
        self._at_work = ExitStack()  # what ends with the active state
        self._worker: NewestOnly[TimedFrame] | None = None
        self._patience_s = 2.0

    @abstractmethod
    def prepare(self, model: Any) -> None:
        """Take the model that was built and make the publishers, see :meth:`advertise`."""

    @abstractmethod
    def answer(self, timed: TimedFrame) -> None:
        """Answer one frame and publish; FrameError when it cannot be used."""

    def start(self, undo: ExitStack) -> None:
        """Listen to more than frames, before the first one; ``undo`` takes what ends it."""

    @abstractmethod
    def release(self) -> None:
        """Let the model go; also where it was never taken."""

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load and warm up; FAILURE with one line in the log when that cannot be done."""
        try:
            self.config = declare_params(self, self.config_class, fixed=lambda: self._configured)
            with engine_loss_noted(self):
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
        """Start listening and answering; FAILURE while an answer of before is in the making."""
        if self._worker is not None and not self._worker.close(0.0):
            self.get_logger().error("cannot be activated: the last answer is still in the making")
            return TransitionCallbackReturn.FAILURE
        with ExitStack() as undo:
            self.start(undo)
            self._worker = NewestOnly(self._answer, on_replaced=self._drop, name=self.get_name())
            undo.callback(self._close_worker)
            inputs = FrameInputs(self, self.config, self._worker.submit, self.health)
            undo.callback(inputs.close)
            health_pub = HealthPublisher(self, self.health, inputs.unused_images)
            undo.callback(health_pub.close)
            self._at_work = undo.pop_all()
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Fall silent and stop listening; an answer in the making is finished, not published."""
        result = super().on_deactivate(state)
        self._at_work.close()
        return result

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Let the model go."""
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Do nothing any more, from whatever state."""
        self._clean_up()
        return super().on_shutdown(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Back to unconfigured, with nothing left of what was begun."""
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def _clean_up(self) -> None:
        self._at_work.close()
        for publisher in self._announced:
            self.destroy_lifecycle_publisher(publisher)
        self._announced.clear()
        self.release()
        self._configured = False

    def destroy_node(self) -> None:
        """End the worker before the publishers it uses; a slow model is not waited for."""
        self._patience_s = 0.3
        self._at_work.close()
        super().destroy_node()

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close(self._patience_s)

    def advertise(self, message_class: Any, topic: str) -> Any:
        """A publisher that is silent unless the node is active, and goes with the model."""
        made = self.create_lifecycle_publisher(message_class, topic, 1)
        self._announced.append(made)
        return made

    def refuse(self, text: str, reason: str) -> None:
        """Count an input that got no answer, and log it now and then."""
        self.health.count_drop(reason)
        self.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)

    def flag(self, text: str, reason: str) -> None:
        """Count an answer that was given although something was wrong, and log it now and then."""
        self.health.count_flag(reason)
        self.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)

    def _answer(self, timed: TimedFrame) -> None:
        try:
            with engine_loss_noted(self):
                self.answer(timed)
        except FrameError as err:
            self.refuse(str(err), "unusable frame")
        except Exception:
            self.health.count_drop("failed")
            raise  # logged with its traceback by the worker, which goes on

    def _drop(self, timed: TimedFrame) -> None:
        self.health.count_drop("replaced by a newer frame")
