"""rclpy's lifecycle node; ``trigger_*`` or the launcher's control channel start transitions."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from clkd_ros.embedded.endpoints import Publisher
from clkd_ros.embedded.node import Node
from clkd_ros.embedded.wire.dds import RawWriter, dds_topic_name, dds_type_name
from clkd_ros.embedded.wire.message_types import Message
from clkd_ros.embedded.wire.qos import QoSProfile, profile_from


class TransitionCallbackReturn(Enum):
    """What a transition callback says."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


@dataclass(frozen=True)
class LifecycleState:
    """A primary state, with lifecycle_msgs/State's number."""

    label: str
    state_id: int


_STATES = {
    label: LifecycleState(label, number)
    for label, number in (
        ("unconfigured", 1),
        ("inactive", 2),
        ("active", 3),
        ("finalized", 4),
    )
}

_TRANSITIONS = {
    "configure": (("unconfigured",), "inactive"),
    "activate": (("inactive",), "active"),
    "deactivate": (("active",), "inactive"),
    "cleanup": (("inactive",), "unconfigured"),
    "shutdown": (("unconfigured", "inactive", "active"), "finalized"),
}


class InvalidTransitionError(RuntimeError):
    """The transition does not start from the present state."""


class LifecyclePublisher(Publisher):
    """Publishes only while its node is active; what comes before is dropped."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._active = False

    @property
    def is_activated(self) -> bool:
        """True while messages go out."""
        return self._active

    def on_activate(self, _state: LifecycleState | None = None) -> None:
        """Messages go out from now on."""
        self._active = True

    def on_deactivate(self, _state: LifecycleState | None = None) -> None:
        """Messages are dropped from now on."""
        self._active = False

    def publish(self, msg: Message | bytes) -> None:
        """Send while active."""
        if self._active:
            super().publish(msg)


class LifecycleNode(Node):
    """A node that is configured, then activated; subclasses override the ``on_*`` callbacks."""

    def __init__(self, node_name: str, **keywords: Any) -> None:
        self._managed: list[LifecyclePublisher] = []
        self._state = _STATES["unconfigured"]
        super().__init__(node_name, **keywords)

    @property
    def current_state(self) -> LifecycleState:
        """The primary state the node is in (embedded only; rclpy tells by service)."""
        return self._state

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load what is needed."""
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start; an override calls this to activate the lifecycle publishers."""
        for publisher in self._managed:
            publisher.on_activate(state)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop; an override calls this to silence the lifecycle publishers."""
        for publisher in self._managed:
            publisher.on_deactivate(state)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo ``on_configure``."""
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The last transition."""
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed badly; SUCCESS returns to unconfigured, else the node is done."""
        return TransitionCallbackReturn.SUCCESS

    def create_lifecycle_publisher(
        self,
        msg_type: type[Message],
        topic: str,
        qos_profile: QoSProfile | int,
        **_ignored: Any,
    ) -> LifecyclePublisher:
        """A publisher that is silent unless the node is active."""
        full, qos = self.resolve_topic_name(topic), profile_from(qos_profile)
        dds_type = dds_type_name(msg_type.__msgtype__)
        writer = RawWriter(self._wire, dds_topic_name(full), dds_type, qos)
        made = LifecyclePublisher(writer, msg_type, full, qos, self._logger)
        self._managed.append(made)
        self._added(self._publishers, made)
        return made

    def destroy_lifecycle_publisher(self, publisher: LifecyclePublisher) -> bool:
        """Withdraw it; False when it is none of this node's."""
        if publisher in self._managed:
            self._managed.remove(publisher)
        return self.destroy_publisher(publisher)

    def trigger_configure(self) -> TransitionCallbackReturn:
        """unconfigured -> inactive."""
        return self._change("configure", self.on_configure)

    def trigger_activate(self) -> TransitionCallbackReturn:
        """inactive -> active."""
        return self._change("activate", self.on_activate)

    def trigger_deactivate(self) -> TransitionCallbackReturn:
        """active -> inactive."""
        return self._change("deactivate", self.on_deactivate)

    def trigger_cleanup(self) -> TransitionCallbackReturn:
        """inactive -> unconfigured."""
        return self._change("cleanup", self.on_cleanup)

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """Any -> finalized."""
        return self._change("shutdown", self.on_shutdown)

    def _change(
        self, transition: str, callback: Callable[[LifecycleState], TransitionCallbackReturn]
    ) -> TransitionCallbackReturn:
        starts, goal = _TRANSITIONS[transition]
        before = self._state
        if before.label not in starts:
            raise InvalidTransitionError(
                f"{self.get_name()} is {before.label}, {transition} starts from {starts}"
            )
        result = self._guarded(callback, before)
        done = result == TransitionCallbackReturn.SUCCESS
        if done or (transition == "shutdown" and result == TransitionCallbackReturn.FAILURE):
            self._state = _STATES[goal]
        elif result == TransitionCallbackReturn.ERROR:
            recovered = self._guarded(self.on_error, before)
            fine = recovered == TransitionCallbackReturn.SUCCESS
            self._state = _STATES["unconfigured" if fine else "finalized"]
        return result

    def _guarded(
        self,
        callback: Callable[[LifecycleState], TransitionCallbackReturn],
        before: LifecycleState,
    ) -> TransitionCallbackReturn:
        try:
            return callback(before)
        except Exception:
            self._logger.error(f"{callback.__name__} failed:\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
