"""One student for a slow and a fast node in one process: a frame's images are encoded once.

Each node puts its frames together itself, so two frames may have the same images and differ in
ego state, route command and faults. What the vision tower makes of the images is kept by the
images alone. Whoever asks first encodes them, the other waits for that very encoding. Three kinds
of work have a lock each and none in common: encoding, the language pass, planning. A language
pass however slow holds up neither the next frame's encoding nor its plan; what it can take from
them is a share of the processor.

``inference_ms`` of decisions and plans counts from the call, waiting for the other's encoding
included. Whoever comes when it is finished is the faster for it: the sum of the two figures is
less than that of two engines, and neither says what its part would take alone.

With ``threads=1``, as the nodes have it, a decision and a plan in the making keep two cores busy,
one each; with N, as many as 2 N; decoding takes what there is. Torch's threads wait for each
other busily: more of them than cores make both workers many times slower (docs/design.md, "The
network").
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import torch

from clkd_core.errors import CheckpointError, FrameError
from clkd_core.models.planner import Planner
from clkd_core.models.planner_checkpoint import load_planner
from clkd_core.runtime.engine import EncodedFrame, Engine, made_up_frames
from clkd_core.runtime.planning import PlannerEngine
from clkd_core.types import CAMERAS, CameraImage, Decision, Plan, SurroundFrame

KEPT_SETS = 4
"""Encodings that are remembered, the newest. The two nodes are never further apart than the set
one is at work on, the set the other is at work on, and the newest, which waits for both."""

_PIXEL_STRIDE = 16
"""Raw images of one stamp are told apart by every 16th pixel of every 16th row: 1/256 of 26 MB a
frame."""

SetKey = tuple[tuple[str, int, tuple[int, ...], bytes], ...]


class SharedEngine:
    """A student, and its planner where there is one, for several threads at once."""

    def __init__(self, engine: Engine, planner: Planner | CheckpointError) -> None:
        """Take over models that nobody else uses.

        Args:
            engine: of the student.
            planner: made for this student, on its device; or why there is none.
        """
        self._engine = engine
        self._planner = planner
        self._vision = Lane(engine.device, urgent=True)
        self._language = Lane(engine.device, urgent=False)
        self._planning = Lane(engine.device, urgent=True)
        self._encodings = Encodings(self._encode)
        if engine.device.startswith("cuda"):
            torch.cuda.synchronize(engine.device)  # weights on their way, on no lane's stream

    @classmethod
    def from_checkpoint(
        cls, folder: Path, *, device: str = "auto", threads: int | None = None
    ) -> "SharedEngine":
        """Load a student, and the planner inside its folder.

        Both now: a folder that is written anew later must not give this student another's planner.

        Args:
            folder: as written by the distillation; without a usable ``planner/`` it decides only.
            device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda[:N]``.
            threads: see :meth:`clkd_core.runtime.engine.Engine.from_checkpoint`.

        Raises:
            CheckpointError: the folder is no whole checkpoint of ours.
            ConfigError: the device is unknown or absent.
        """
        engine = Engine.from_checkpoint(folder, device=device, threads=threads)
        try:
            return cls(engine, load_planner(folder, device=engine.device))
        except CheckpointError as err:
            return cls(engine, err)

    @property
    def device(self) -> str:
        """Where both compute."""
        return self._engine.device

    def decider(self) -> "SharedDecider":
        """What the slow node asks."""
        return SharedDecider(self._engine, self._encodings, self._language)

    def planner(self) -> "SharedPlanner":
        """What the fast node asks.

        Raises:
            CheckpointError: the folder had no planner, a damaged one, or another student's.
        """
        if isinstance(self._planner, CheckpointError):
            raise CheckpointError(str(self._planner)) from self._planner
        engine = PlannerEngine(self._planner, self._engine)
        return SharedPlanner(engine, self._encodings, self._planning)

    def _encode(self, frame: SurroundFrame) -> EncodedFrame:
        with self._vision.entered():
            return self._engine.encode(frame)


class SharedDecider:
    """Decides as :class:`clkd_core.runtime.engine.Engine` does, on encodings that are shared."""

    def __init__(self, engine: Engine, encodings: "Encodings", lane: "Lane") -> None:
        self._engine = engine
        self._encodings = encodings
        self._lane = lane

    def decide(self, frame: SurroundFrame) -> Decision:
        """Choose one of the 20 meta-actions.

        Raises:
            FrameError: no view is usable, or the model's scores are NaN.
        """
        start_s = time.perf_counter()
        encoded = self._encodings.of(frame)
        with self._lane.entered():
            return self._engine.decide_from_features(frame, encoded, start_s=start_s)

    def warm_up(self) -> None:
        """Answer made-up frames, so that the first real one finds all prepared."""
        for frame in made_up_frames():
            self.decide(frame)


class SharedPlanner:
    """Plans as :class:`clkd_core.runtime.planning.PlannerEngine`, on encodings that are shared."""

    def __init__(self, engine: PlannerEngine, encodings: "Encodings", lane: "Lane") -> None:
        self._engine = engine
        self._encodings = encodings
        self._lane = lane

    def plan(self, frame: SurroundFrame, decision: Decision | None) -> Plan:
        """One trajectory; ``decision`` is the newest one, None plans without.

        Raises:
            FrameError: no view is usable, or the output is not finite.
        """
        start_s = time.perf_counter()
        encoded = self._encodings.of(frame)
        with self._lane.entered():
            return self._engine.plan_from_features(frame, decision, encoded, start_s=start_s)

    def warm_up(self) -> None:
        """Plan made-up frames, so that the first real one finds all prepared."""
        for frame in made_up_frames():
            self.plan(frame, None)


class Lane:
    """One kind of work: one piece of it at a time, and beside the other kinds.

    On a CUDA device each lane has a stream of its own. On the one stream that all threads have by
    default, a plan would stand in line behind the language pass that another thread put there.
    """

    def __init__(self, device: str, *, urgent: bool) -> None:
        """``urgent``: the device prefers it to what is not."""
        self._lock = threading.Lock()
        self._stream: torch.cuda.Stream | None = None
        if device.startswith("cuda"):
            stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)  # type: ignore[no-untyped-call]
            self._stream = stream

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Wait for the lane; what was computed in it is there when it is left."""
        with self._lock:
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                try:
                    yield
                finally:
                    self._stream.synchronize()


class Encodings:
    """What was made of the newest image sets; safe to use from several threads."""

    def __init__(self, encode: Callable[[SurroundFrame], EncodedFrame]) -> None:
        """``encode`` is called once a set, in the thread of whoever asks for it first."""
        self._encode = encode
        self._lock = threading.Lock()  # of the list; nothing is computed under it
        self._newest: deque[tuple[SetKey, Future[EncodedFrame]]] = deque(maxlen=KEPT_SETS)

    def of(self, frame: SurroundFrame) -> EncodedFrame:
        """The encoding of the frame's images, made here or waited for.

        Raises:
            FrameError: no view is usable; each who asks for this set is told so.
            Exception: whatever else went wrong, out of memory for one, for all who wait by then.
                Who asks later tries again.
        """
        key = set_key(frame)
        with self._lock:
            found = next((future for known, future in self._newest if known == key), None)
            future = Future[EncodedFrame]() if found is None else found
            if found is None:
                self._newest.append((key, future))
        try:
            if found is None:
                self._fulfil(future, frame)
            return future.result()
        finally:
            # An error holds this call's variables, they hold the future, the future the error:
            # what ran out of memory would keep its tensors until the next garbage collection.
            del future, found

    def _fulfil(self, future: "Future[EncodedFrame]", frame: SurroundFrame) -> None:
        try:
            future.set_result(self._encode(frame))
        except BaseException as err:
            if not isinstance(err, FrameError):  # the same images may fare better next time
                self._forget(future)
            future.set_exception(err)
        finally:
            del future

    def _forget(self, future: "Future[EncodedFrame]") -> None:
        with self._lock:
            kept = [entry for entry in self._newest if entry[1] is not future]
            self._newest.clear()
            self._newest.extend(kept)


def set_key(frame: SurroundFrame) -> SetKey:
    """What two frames have in common exactly when they have the same images.

    The stamps say which images are meant, the content that they are: a bag that loops, or another
    one with stamps like it, comes with the stamps of other images. Bytes of files are compared
    whole, in 0.1 ms a frame, raw pixels in part. Images that look alike and were taken at
    different times are different: a figure for the time that an answer took would mean nothing
    otherwise. Hence a driver that sets no stamps has every set encoded by both nodes, each of
    which takes its own time of arrival for the stamp.
    """
    return tuple(
        (camera, frame.images[camera].stamp_ns, *_content(frame.images[camera]))
        for camera in CAMERAS
        if camera in frame.images
    )


def _content(image: CameraImage) -> tuple[tuple[int, ...], bytes]:
    if image.pixels is None:
        assert image.encoded is not None  # CameraImage holds exactly one of the two
        return (), image.encoded
    return image.pixels.shape, image.pixels[::_PIXEL_STRIDE, ::_PIXEL_STRIDE].tobytes()
