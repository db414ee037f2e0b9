"""Executors: wait for messages and timers, run callbacks.

One thread waits on a DDS wait set. Cyclone's listeners deadlocked under stress, so none are
used; wait sets did not. The wait is cut short at ``LONGEST_WAIT_S``, because Python runs signal
handlers only between byte codes of the main thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from cyclonedds.core import GuardCondition, WaitSet

from clkd_ros.embedded.callback_groups import CallbackGroup, ReentrantCallbackGroup
from clkd_ros.embedded.clock import NS_PER_S
from clkd_ros.embedded.context import Context, ExternalShutdownException, get_default_context
from clkd_ros.embedded.endpoints import Subscription, Timer, Work

LONGEST_WAIT_S = 0.1
"""Bounds how late a signal is noticed."""

LONGEST_RUN = 32
"""Callbacks that a pool thread runs for one group before others get their turn."""

MISMATCH_PERIOD_S = 1.0
"""How often incompatible peers are looked for."""


class _Task:
    """A function handed in by ``create_task``."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.future: Future[Any] = Future()

    def run(self) -> None:
        """Call it; its exception goes to whoever asks the future."""
        try:
            self.future.set_result(self.function(*self.arguments))
        except Exception as err:
            self.future.set_exception(err)


class SingleThreadedExecutor:
    """Runs every callback in the thread that spins."""

    def __init__(self, *, context: Context | None = None) -> None:
        self.context = context or get_default_context()
        self.spinning = False
        self._nodes: list[Any] = []
        self._tasks: deque[_Task] = deque()
        self._attached: dict[int, Any] = {}
        self._task_group = ReentrantCallbackGroup()
        self._stopped = False
        self._next_check_s = 0.0
        participant = self.context.wire.participant
        self._wait_set: Any = WaitSet(participant)
        self._guard: Any = GuardCondition(participant)
        self._wait_set.attach(self._guard)
        self.context.add_executor(self)

    def add_node(self, node: Any) -> bool:
        """Serve a node's callbacks; False when it is served already."""
        if node in self._nodes:
            return False
        self._nodes.append(node)
        node.executor = self
        self.wake()
        return True

    def remove_node(self, node: Any) -> None:
        """Stop serving a node."""
        if node in self._nodes:
            self._nodes.remove(node)
            node.executor = None
        self.wake()

    def get_nodes(self) -> list[Any]:
        """The nodes served."""
        return list(self._nodes)

    def create_task(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a function from the spinning thread; the result comes in the future."""
        task = _Task(function, arguments)
        self._tasks.append(task)
        self.wake()
        return task.future

    def wake(self) -> None:
        """End the present wait; callable from anywhere, signal handlers included."""
        guard = self._guard
        if guard is not None:
            guard.set(True)

    def spin(self) -> None:
        """Serve until ``shutdown``.

        Raises:
            ExternalShutdownException: the context ended, by a signal or by another thread.
        """
        self.spinning = True
        try:
            while not self._stopped:
                self._check_context()
                self._serve(LONGEST_WAIT_S)
        finally:
            self._end_spinning()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for something to do and do it; None waits for ever, like rclpy."""
        until_s = time.monotonic() + (float("inf") if timeout_sec is None else timeout_sec)
        self.spinning = True
        try:
            while not self._stopped:
                self._check_context()
                left_s = until_s - time.monotonic()
                if self._serve(min(LONGEST_WAIT_S, max(0.0, left_s))) or left_s <= 0:
                    return
        finally:
            self._end_spinning()

    def spin_until_future_complete(self, future: Any, timeout_sec: float | None = None) -> None:
        """Serve until the future is done or the time is over."""
        until_s = time.monotonic() + (float("inf") if timeout_sec is None else timeout_sec)
        while not future.done() and time.monotonic() < until_s and not self._stopped:
            self.spin_once(timeout_sec=0.01)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop serving and let go of the nodes; twice is harmless."""
        self._stopped = True
        self.wake()
        for node in list(self._nodes):
            self.remove_node(node)
        if not self.spinning:
            self._release()
        return True

    def _end_spinning(self) -> None:
        self.spinning = False
        if self._stopped:
            self._release()

    def _release(self) -> None:
        for condition in self._attached.values():
            self._wait_set.detach(condition)
        self._attached.clear()
        if self._wait_set is not None:
            self._wait_set.detach(self._guard)
        self._wait_set = self._guard = None

    def _check_context(self) -> None:
        if not self.context.ok():
            raise ExternalShutdownException("the context was shut down")

    def _serve(self, longest_s: float) -> int:
        """One turn: wait, then start all that is ready. Returns how many were started."""
        if self._wait_set is None:
            return 0
        self._attach_ready_groups()
        self._wait_set.wait(int(self._wait_s(longest_s) * NS_PER_S))
        self._guard.set(False)
        self._report_mismatches()
        return self._start_tasks() + sum(
            self._start_ready(endpoint)
            for node in list(self._nodes)
            for endpoint in (*node.timers, *node.subscriptions)
        )

    def _wait_s(self, longest_s: float) -> float:
        if self._tasks and self._has_room():
            return 0.0
        waits = [longest_s]
        for node in list(self._nodes):
            for timer in node.timers:
                left_ns = timer.time_until_next_call()
                if left_ns is not None and timer.callback_group.free:
                    waits.append(max(0.0, left_ns / NS_PER_S))
        return min(waits)

    def _attach_ready_groups(self) -> None:
        """Keep only conditions whose callback may run: a busy one would wake us in vain."""
        wanted = {
            id(subscription.condition): subscription.condition
            for node in list(self._nodes)
            for subscription in node.subscriptions
            if subscription.condition is not None and subscription.callback_group.free
        }
        for key in self._attached.keys() - wanted.keys():
            self._wait_set.detach(self._attached.pop(key))
        for key in wanted.keys() - self._attached.keys():
            self._wait_set.attach(wanted[key])
            self._attached[key] = wanted[key]

    def _start_ready(self, endpoint: Timer | Subscription) -> int:
        group = endpoint.callback_group
        if self._stopped or not self._has_room() or not group.begin():
            return 0
        work = endpoint.take()
        if work is None:
            group.end()
            return 0
        self._run(work, group)
        return 1

    def _start_tasks(self) -> int:
        started = 0
        while self._tasks and self._has_room():
            self._run(self._tasks.popleft().run, self._task_group)
            started += 1
        return started

    def _has_room(self) -> bool:
        return True

    def _run(self, work: Work, group: CallbackGroup) -> None:
        try:
            work()
        finally:
            group.end()

    def _report_mismatches(self) -> None:
        if time.monotonic() >= self._next_check_s:
            self._next_check_s = time.monotonic() + MISMATCH_PERIOD_S
            for node in list(self._nodes):
                node.report_mismatches()
            for topic, types in self.context.graph.new_conflicts():
                text = f"{topic} carries {' and '.join(types)}: these cannot talk to each other"
                self._nodes[0].get_logger().warning(text)


class MultiThreadedExecutor(SingleThreadedExecutor):
    """Runs callbacks in a pool; one group's callbacks never overlap."""

    def __init__(self, num_threads: int | None = None, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._threads = max(2, num_threads or 2)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="callback")
        self._room = threading.Semaphore(self._threads)
        self._failure: BaseException | None = None

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """As the base, and wait for running callbacks; False when one is still running then."""
        super().shutdown(timeout_sec)
        self._pool.shutdown(wait=False, cancel_futures=True)
        until_s = time.monotonic() + (timeout_sec if timeout_sec is not None else float("inf"))
        workers = list(getattr(self._pool, "_threads", ()))
        for worker in workers:
            if worker is not threading.current_thread():
                worker.join(max(0.0, min(until_s - time.monotonic(), 3600.0)))
        return not any(worker.is_alive() for worker in workers)

    def _serve(self, longest_s: float) -> int:
        started = super()._serve(longest_s)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return started

    def _has_room(self) -> bool:
        if self._room.acquire(blocking=False):
            self._room.release()
            return True
        return False

    def _run(self, work: Work, group: CallbackGroup) -> None:
        self._room.acquire()
        self._pool.submit(partial(self._run_in_pool, work, group))

    def _run_in_pool(self, work: Work, group: CallbackGroup) -> None:
        """Run the work and what else waits for the same group: a thread's hop costs more."""
        left = LONGEST_RUN
        more: Work | None = work
        try:
            while more is not None:
                more()
                left -= 1
                more = self._next_of(group) if left and not self._stopped else None
        except BaseException as err:  # the spinning thread raises it, as in rclpy
            self._failure = err
        finally:
            group.end()
            self._room.release()
            self.wake()

    def _next_of(self, group: CallbackGroup) -> Work | None:
        """Work of a group that is held; nobody else takes from its endpoints meanwhile."""
        if isinstance(group, ReentrantCallbackGroup):
            return None
        for node in list(self._nodes):
            for endpoint in (*node.timers, *node.subscriptions):
                if endpoint.callback_group is group and (work := endpoint.take()) is not None:
                    return work
        return None


def spin(node: Any, executor: SingleThreadedExecutor | None = None) -> None:
    """Serve a node until the context ends."""
    chosen = executor or SingleThreadedExecutor(context=node.context)
    chosen.add_node(node)
    try:
        chosen.spin()
    finally:
        chosen.remove_node(node)
        if executor is None:
            chosen.shutdown()


def spin_once(node: Any, *, executor: Any = None, timeout_sec: float | None = None) -> None:
    """Serve a node for one turn."""
    chosen = executor or _own_executor(node)
    chosen.add_node(node)
    chosen.spin_once(timeout_sec=timeout_sec)


def spin_until_future_complete(
    node: Any, future: Any, executor: Any = None, timeout_sec: float | None = None
) -> None:
    """Serve a node until the future is done or the time is over."""
    chosen = executor or _own_executor(node)
    chosen.add_node(node)
    chosen.spin_until_future_complete(future, timeout_sec)


def _own_executor(node: Any) -> SingleThreadedExecutor:
    return node.executor or SingleThreadedExecutor(context=node.context)
