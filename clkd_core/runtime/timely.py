"""A decision by its deadline, whatever becomes of the engine: slow, failing, poisoned or hung."""

import logging
import math
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from clkd_core.errors import FrameError, ScoresError
from clkd_core.runtime.deadline import NewestOnly
from clkd_core.types import Decision, SurroundFrame

HANG_S = 5.0
"""An engine that is at one frame for longer is lost: sixty times the budget of 80 ms."""

_LOG_EVERY_S = 5.0
_LONGEST_WAIT_S = 3600.0
"""Between two looks at an engine that has no deadline; locks take no infinity."""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|failed to allocate|bad_alloc|_ALLOC_FAILED", re.I
)
"""What torch (CUDA, CPU), cuBLAS, cuDNN and ONNX Runtime say. The process is none the worse."""
_POISON = re.compile(
    r"^CUDA (driver )?(error|failure)|device-side assert|illegal memory access|"
    r"unspecified launch failure|misaligned address|^Triton Error \[CUDA\]|"
    r"CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)|^CUDNN failure|"
    r"CUBLAS_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
)
"""Of torch before 2.8, whose CUDA errors are plain RuntimeErrors, of its libraries, and of ONNX
Runtime: whatever the device failed at while it ran leaves the process unable to use it."""


class Decider(Protocol):
    """What is made timely; ``clkd_core.runtime.engine.Engine`` is one."""

    def decide(self, frame: SurroundFrame) -> Decision:
        """Answer one frame; FrameError when it cannot be used."""

    def warm_up(self) -> None:
        """Make the first answer as fast as the later ones."""


class NoAnswerError(FrameError):
    """The deadline passed or the engine failed, and there is no earlier answer to repeat."""

    def __init__(self, frame: SurroundFrame, reason: str) -> None:
        """``reason`` is one of a few, to be counted by."""
        super().__init__(f"frame {frame.stamp_ns}: {reason}, and no earlier answer to repeat")
        self.reason = reason


@dataclass(kw_only=True, eq=False)
class _Asked:
    """One frame, its caller, and what came of it; guarded by the decider's lock."""

    frame: SurroundFrame
    called_s: float
    due_s: float
    on_late: Callable[[Decision], None]
    drive: int = 0
    left: bool = False
    """The caller has gone."""
    decision: Decision | None = None
    refused: FrameError | None = None
    failure: str = ""

    @property
    def done(self) -> bool:
        return bool(self.decision or self.refused or self.failure)


class TimelyDecider:
    """Asks an engine in a thread of its own, and answers in time without it if need be.

    :meth:`decide` gives the engine's decision if it is there by the deadline. Else, and where the
    engine fails, the newest one it made is repeated under the new stamp, flagged ``stale`` and
    with the reason. One thread at a time may ask.

    A frame that comes while the engine is at an older one waits for it until its own deadline.
    Whether it is worth working on is settled when the engine is free: one whose deadline has
    passed by then is passed over, because its answer could only be late and a newer frame is about
    to come. One thread works, in the order of asking: when a late result is there, no newer frame
    can have been answered from its own images yet, and whoever hears it hears it before the next.

    An engine is lost when CUDA fails (other than for want of memory: the process cannot use the
    device again) or when it is at one frame for longer than ``hang_s``. From then on nothing but
    repeats is answered; who built this has to replace the process.
    """

    def __init__(
        self,
        decider: Decider,
        *,
        deadline_s: float = math.inf,
        hang_s: float = HANG_S,
        on_lost: Callable[[str], None] = lambda reason: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            decider: asked from that thread only, its warming up included.
            deadline_s: the longest that :meth:`decide` may take [s]; infinite: as long as it
                takes.
            hang_s: an engine that works on one frame for longer is lost [s]; infinite: never.
                Found out while somebody waits for an answer.
            on_lost: told once why the engine is lost, from whichever thread finds out.
            clock_s: seconds of a clock that never jumps back.
        """
        self._decider = decider
        self._deadline_s, self._hang_s = deadline_s, hang_s
        self._on_lost, self._clock_s = on_lost, clock_s
        self._changed = threading.Condition()
        self._speaking = threading.RLock()  # a late result is handed over, or forgotten
        self._last: Decision | None = None
        self._begun_s = math.inf
        self._lost = ""
        self._drive = 0  # counts how often all was forgotten
        self._logged_s = -math.inf
        self._worker = NewestOnly(self._run, name="engine")

    def warm_up(self) -> None:
        """Warm the engine up in the thread that will use it; what it raises is raised here."""
        if self._lost:
            raise ValueError(f"nothing to warm up: {self._lost}")
        raised: list[BaseException] = []
        done = threading.Event()

        def warm() -> None:
            try:
                self._decider.warm_up()
            except BaseException as err:
                raised.append(err)
            finally:
                done.set()

        self._worker.submit(warm)
        done.wait()
        if raised:
            raise raised.pop()

    def decide(
        self,
        frame: SurroundFrame,
        *,
        spent_s: float = 0.0,
        on_late: Callable[[Decision], None] = lambda decision: None,
    ) -> Decision:
        """Answer one frame by the deadline.

        ``inference_ms`` of the frame's own answer counts from this call, waiting for the engine to
        be done with an older frame included; of a repeat it is NaN.

        Args:
            frame: what is seen.
            spent_s: how much of the deadline is over already [s].
            on_late: called with the frame's own answer, flagged ``late``, if that comes after
                this call has returned or raised; at most once, in the engine's thread, maybe
                before the caller has used what it got here.

        Raises:
            NoAnswerError: nothing came in time, or the engine failed, and there is no earlier
                answer to repeat.
            FrameError: the frame cannot be used, as the engine says.
        """
        now_s = self._clock_s()
        due_s = now_s + self._deadline_s - spent_s
        asked = _Asked(frame=frame, called_s=now_s, due_s=due_s, on_late=on_late)
        with self._changed:
            asked.drive = self._drive
        self._worker.submit(lambda: self._work(asked))
        with self._changed:
            hung = self._wait(asked)
            asked.left = True  # what comes from now on is late
            own, refused, failure, last = asked.decision, asked.refused, asked.failure, self._last
        if hung:
            self._lose(hung)
        if refused is not None:
            raise refused
        return own or self._repeated(last, frame, self._lost or failure or self._too_late)

    def forget(self) -> None:
        """Repeat nothing from before, and hand nothing over that is still in the making.

        When this returns no ``on_late`` of before runs or will, unless it is called from one.
        """
        with self._speaking, self._changed:
            self._last = None
            self._drive += 1

    def close(self, timeout_s: float = 2.0) -> bool:
        """Forget, and end the thread; False when it did not end within the time [s]."""
        self.forget()
        with self._changed:
            self._lost = self._lost or "engine closed"
            self._changed.notify_all()
        return self._worker.close(timeout_s)

    def _repeated(self, last: Decision | None, frame: SurroundFrame, reason: str) -> Decision:
        if last is None:
            raise NoAnswerError(frame, reason)
        return replace(
            last,
            stamp_ns=frame.stamp_ns,
            inference_ms=math.nan,
            degraded=(reason,),
            stale=True,
        )

    @property
    def _too_late(self) -> str:
        return f"no answer within {self._deadline_s * 1e3:g} ms"

    def _wait(self, asked: _Asked) -> str:
        """Wait for this answer, its deadline, or the loss of the engine; why it hangs, if so."""
        while not (asked.done or self._lost):
            now_s, hung_s = self._clock_s(), self._begun_s + self._hang_s
            if now_s >= hung_s:
                return f"hangs: no result within {self._hang_s:g} s"
            if now_s >= asked.due_s:
                break
            self._changed.wait(min(asked.due_s - now_s, hung_s - now_s, _LONGEST_WAIT_S))
        return ""

    def _run(self, job: Callable[[], None]) -> None:
        job()

    def _work(self, asked: _Asked) -> None:
        with self._changed:
            if asked.left or self._lost or self._clock_s() >= asked.due_s:
                return
            self._begun_s = self._clock_s()
            self._changed.notify_all()  # the wait ends when it hangs
        decision, refused, failure, poison = self._ask(asked)
        if poison:
            self._lose(poison)
        with self._speaking:
            with self._changed:
                self._begun_s = math.inf
                asked.decision, asked.refused, asked.failure = decision, refused, failure
                wanted = decision is not None and asked.drive == self._drive
                if wanted:
                    self._last = decision
                late = asked.left
                self._changed.notify_all()
            if wanted and late and decision is not None:
                asked.on_late(replace(decision, late=True))

    def _ask(self, asked: _Asked) -> tuple[Decision | None, FrameError | None, str, str]:
        """(decision, the frame's own fault, what failed, why the engine is lost): one is set, or
        the last two.

        No exception is kept: it would hold the tensors of what ran out of memory.
        """
        try:
            decision = self._decider.decide(asked.frame)
        except Exception as err:
            if isinstance(err, FrameError) and not isinstance(err, ScoresError):
                return None, FrameError(str(err)), "", ""
            reason, poison = describe_failure(err), _first_line(err) if is_poison(err) else ""
            self._log(asked.frame, reason)
            return None, None, reason, poison
        waited_ms = (self._clock_s() - asked.called_s) * 1e3
        return replace(decision, inference_ms=waited_ms), None, "", ""

    def _log(self, frame: SurroundFrame, reason: str) -> None:
        """Now and then with the traceback: every failure is counted by whoever asks."""
        now_s = self._clock_s()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            told = (
                traceback.format_exc()
            )  # as text: a record with the exception would hold tensors
            _log.error("frame %d: %s\n%s", frame.stamp_ns, reason, told)

    def _lose(self, reason: str) -> None:
        with self._changed:
            if self._lost:
                return
            self._lost = f"engine lost: {reason}"
            self._changed.notify_all()
        self._on_lost(reason)


def describe_failure(err: BaseException) -> str:
    """What an engine's failure is called in a message and counted as: one of a few."""
    if is_out_of_memory(err):
        return "engine failed: out of memory"
    if isinstance(err, ScoresError):
        return "engine failed: its scores are no finite probabilities"
    return f"engine failed: {'CUDA error' if is_poison(err) else type(err).__name__}"


def is_out_of_memory(err: BaseException) -> bool:
    """Whether memory was wanting, of the host or the device; the next frame may fare better."""
    named = isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError"
    return named or bool(_OUT_OF_MEMORY.search(_first_line(err)))


def is_poison(err: BaseException) -> bool:
    """Whether the process cannot use its CUDA device any more.

    After an error of a kernel every later CUDA call of the process fails, and only another process
    helps (CUDA Runtime API, ``cudaErrorAssert`` and others). Milder ones that torch raises as
    ``AcceleratorError`` (since 2.8; a plain RuntimeError before) are not told apart from these.
    Known by name and text, so that nothing loads torch.
    """
    named = any(kind.__name__ == "AcceleratorError" for kind in type(err).__mro__)
    return (named or bool(_POISON.search(str(err)))) and not is_out_of_memory(err)


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:200]


_log = logging.getLogger(__name__)
