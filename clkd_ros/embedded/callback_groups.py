"""Which callbacks may run at the same time, as in rclpy."""

import threading


class CallbackGroup:
    """Base; an executor asks before it runs a callback and tells when it has ended."""

    def begin(self) -> bool:
        """True when a callback of the group may start now; it then counts as running."""
        raise NotImplementedError

    def end(self) -> None:
        """A callback of the group has ended."""

    @property
    def free(self) -> bool:
        """True when :meth:`begin` would succeed."""
        return True


class ReentrantCallbackGroup(CallbackGroup):
    """Any number at once."""

    def begin(self) -> bool:
        """Always."""
        return True


class MutuallyExclusiveCallbackGroup(CallbackGroup):
    """One at a time; a node's default group is of this kind."""

    def __init__(self) -> None:
        self._running = threading.Lock()

    def begin(self) -> bool:
        """True when none of the group runs."""
        return self._running.acquire(blocking=False)

    def end(self) -> None:
        """The next one may start."""
        self._running.release()

    @property
    def free(self) -> bool:
        """True when none of the group runs."""
        return not self._running.locked()
