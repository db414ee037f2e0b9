"""Which images belong together, and what was known when they were taken.

Used by the nodes, by direct replay and by the evaluator, so that all three speak of the same
frames. Everything follows from the stamps and the order of arrival: no clock is read here.
Knows no torch.

A frame takes the last odometry at or before its stamp among all that has arrived when it is
complete. Nobody waits for odometry that is still on its way: that would cost every frame up to a
period of it. What arrives later counts for later frames only, on the road as in a bag, where the
order of arrival is that of the log. One difference is left: messages that were logged closer to
each other than the transport's jitter (1 to 10 ms) may overtake each other live. So our own bags
log an image 10 ms after odometry of the same stamp.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

from clkd_core.errors import ConfigError
from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

Item = TypeVar("Item")

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

JUMP_NS = NS_PER_S
"""A stamp this far before an earlier one means that time began again (a bag that loops)."""

LABEL_TOLERANCE_NS = 40 * NS_PER_MS
"""A frame or an answer this far from a label's stamp is still that keyframe's: it may have lost
its newest image. Less than half a frame at 12 Hz, so that the neighbour is out of reach."""


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """How images are gathered into sets.

    Raises:
        ConfigError: a camera is unknown, or a time is not positive.
    """

    cameras: tuple[str, ...] = CAMERAS
    """Cameras that are waited for."""
    tolerance_ms: float = field(default=50.0, metadata={"range": (0.0, 10_000.0)})
    """Largest difference between the stamps of one set [ms], > 0; nuScenes' keyframes span 43."""
    silent_after_ms: float = field(default=250.0, metadata={"range": (0.0, 60_000.0)})
    """A camera that lags behind the others by this much is masked, not waited for [ms], > 0."""
    ego_max_age_ms: float = field(default=500.0, metadata={"range": (0.0, 60_000.0)})
    """Odometry older than this at the frame's stamp counts as missing [ms], > 0."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.cameras) - set(CAMERAS))
        if unknown or not self.cameras:
            raise ConfigError(f"sync cameras {unknown or '()'}, expected some of {list(CAMERAS)}")
        for name in ("tolerance_ms", "silent_after_ms", "ego_max_age_ms"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"sync {name} is {getattr(self, name)}, expected more than 0")


@dataclass(eq=False)  # two sets are the same only when they are one object
class ImageSet(Generic[Item]):
    """Images taken at nearly the same time, at most one per camera."""

    items: dict[str, Item] = field(default_factory=dict)
    """By camera."""
    first_ns: int = 0
    """Oldest stamp."""
    stamp_ns: int = 0
    """Newest stamp."""

    def span_with(self, stamp_ns: int) -> int:
        """Difference between the oldest and the newest stamp if this one joined [ns]."""
        return max(self.stamp_ns, stamp_ns) - min(self.first_ns, stamp_ns)

    def add(self, camera: str, stamp_ns: int, item: Item) -> None:
        """Take an image in."""
        if not self.items:
            self.first_ns = self.stamp_ns = stamp_ns
        self.items[camera] = item
        self.first_ns = min(self.first_ns, stamp_ns)
        self.stamp_ns = max(self.stamp_ns, stamp_ns)


class SetMatcher(Generic[Item]):
    """Gathers images by stamp; sets come out in the order of their stamps, each once.

    A set is complete when every camera that is not silent is in it. A camera is passed over when
    it has sent a newer image already (its own was lost), and becomes silent when it is missing
    while the others are ``silent_after`` ahead; a silent camera is waited for again from its next
    image on. A set of fewer than half of the cameras that do send is not worth a decision: its
    images count as unmatched.
    """

    def __init__(self, config: SyncConfig | None = None) -> None:
        self._config = config or SyncConfig()
        self._tolerance_ns = round(self._config.tolerance_ms * NS_PER_MS)
        self._silent_after_ns = round(self._config.silent_after_ms * NS_PER_MS)
        self.dropped: Counter[str] = Counter()
        """Images that went into no set, by reason: duplicate, late, unmatched, time jumped."""
        self._start_over()

    def _start_over(self) -> None:
        self._pending: list[ImageSet[Item]] = []
        self._last_ns: dict[str, int] = {}
        self._silent: set[str] = set()
        self._closed: ImageSet[Item] | None = None

    @property
    def silent_cameras(self) -> tuple[str, ...]:
        """Cameras that are not waited for at present."""
        return tuple(camera for camera in self._config.cameras if camera in self._silent)

    def push(self, camera: str, stamp_ns: int, item: Item) -> list[ImageSet[Item]]:
        """Take one image; return the sets that it completes, oldest first, mostly none or one."""
        if camera not in self._config.cameras:
            self.dropped["unexpected camera"] += 1
            return []
        last_ns = self._last_ns.get(camera)
        if self._last_ns and stamp_ns <= max(self._last_ns.values()) - JUMP_NS:
            for one in self._pending:
                self.dropped["time jumped"] += len(one.items)
            self._start_over()
        elif last_ns is not None and stamp_ns <= last_ns:
            self.dropped["duplicate" if stamp_ns == last_ns else "late"] += 1
            return []
        self._last_ns[camera] = stamp_ns
        self._silent.discard(camera)
        if self._fits_closed(camera, stamp_ns):
            self.dropped["late"] += 1
        else:
            self._set_for(camera, stamp_ns).add(camera, stamp_ns, item)
        return self._pop_ready()

    def flush(self) -> list[ImageSet[Item]]:
        """Close what is pending: the source has ended; who never came is not waited for."""
        self._silent.update(set(self._config.cameras) - set(self._last_ns))
        ordered = sorted(self._pending, key=lambda one: one.stamp_ns)
        self._pending = []
        return [one for one in ordered if self._close(one)]

    def _fits_closed(self, camera: str, stamp_ns: int) -> bool:
        """Did the image miss its set? One whose camera is in there already is the next one."""
        closed = self._closed
        if closed is None or camera in closed.items:
            return False
        return stamp_ns <= closed.stamp_ns or closed.span_with(stamp_ns) <= self._tolerance_ns

    def _set_for(self, camera: str, stamp_ns: int) -> ImageSet[Item]:
        """The pending set that this image fits best, or a new one."""
        fitting = [
            one
            for one in self._pending
            if camera not in one.items and one.span_with(stamp_ns) <= self._tolerance_ns
        ]
        if fitting:
            return min(fitting, key=lambda one: one.span_with(stamp_ns))
        new: ImageSet[Item] = ImageSet(first_ns=stamp_ns, stamp_ns=stamp_ns)
        self._pending.append(new)
        return new

    def _oldest(self) -> ImageSet[Item]:
        return min(self._pending, key=lambda one: one.stamp_ns)

    def _pop_ready(self) -> list[ImageSet[Item]]:
        ready: list[ImageSet[Item]] = []
        while self._pending and self._is_ready(one := self._oldest()):
            self._pending.remove(one)
            if self._close(one):
                ready.append(one)
        return ready

    def _is_ready(self, one: ImageSet[Item]) -> bool:
        waiting = [
            camera
            for camera in self._config.cameras
            if camera not in one.items
            and camera not in self._silent
            and self._last_ns.get(camera, one.first_ns) <= one.stamp_ns
        ]
        if waiting and max(self._last_ns.values()) - one.stamp_ns >= self._silent_after_ns:
            self._silent.update(waiting)
            waiting = []
        return not waiting

    def _close(self, one: ImageSet[Item]) -> bool:
        """Note that the set is done; False when it holds too little to be used."""
        overtaken = self._closed is not None and one.stamp_ns <= self._closed.stamp_ns
        enough = 2 * len(one.items) >= len(self._config.cameras) - len(self._silent)
        if enough and not overtaken:
            self._closed = one
            return True
        self.dropped["unmatched"] += len(one.items)
        return False


class LatestBefore(Generic[Item]):
    """Remembers stamped values and gives the last one at or before a stamp.

    What counts is the stamp, not the arrival: a value that comes late takes its place among the
    others. Of several with one stamp the last that came counts.
    """

    def __init__(self, keep: int = 1024) -> None:
        """``keep``: so many of the newest values are remembered."""
        self._keep = keep
        self._values: list[tuple[int, Item]] = []

    def push(self, stamp_ns: int, value: Item) -> None:
        """Take a value; one that is ``JUMP_NS`` before the newest makes all others forgotten."""
        if self._values and stamp_ns <= self._values[-1][0] - JUMP_NS:
            self._values.clear()
        self._values.insert(self._end(stamp_ns), (stamp_ns, value))
        del self._values[: -self._keep]

    def at(self, stamp_ns: int) -> tuple[int, Item] | None:
        """(stamp, value) of the last one at or before the stamp, or None."""
        end = self._end(stamp_ns)
        return self._values[end - 1] if end else None

    def newest(self) -> tuple[int, Item] | None:
        """(stamp, value) of the newest one, or None."""
        return self._values[-1] if self._values else None

    def _end(self, stamp_ns: int) -> int:
        """How many values are at or before the stamp."""
        return bisect_right(self._values, stamp_ns, key=itemgetter(0))


@dataclass(frozen=True)
class _Fault:
    """A value came and could not be used."""

    reason: str


class Known(NamedTuple):
    """What was known of the vehicle at a frame."""

    ego: EgoState | None = None
    command: RouteCommand | None = None
    faults: tuple[str, ...] = ()
    """Why one of them is missing although it came."""


class FrameContext:
    """Odometry and route commands as they arrive; what is known of both at a frame's stamp.

    A route command is a std_msgs/String and has no stamp: its time is that of its arrival (of the
    log, in a bag). It holds for every frame whose newest image arrives after it, until the next
    command; measured by images, because arrival and capture may be read from two clocks.
    """

    _BEFORE_ALL_NS = -(1 << 63)

    def __init__(self, ego_max_age_ms: float) -> None:
        """Odometry older than ``ego_max_age_ms`` at a frame counts as missing."""
        self._ego_max_age_ms = ego_max_age_ms
        self._egos: LatestBefore[EgoState | _Fault] = LatestBefore()
        self._commands: LatestBefore[RouteCommand | _Fault] = LatestBefore()
        self._newest_image_ns = self._BEFORE_ALL_NS

    def push_image_stamp(self, stamp_ns: int) -> None:
        """An image arrived: commands that come from now on are later than it."""
        if stamp_ns <= self._newest_image_ns - JUMP_NS:
            last = self._commands.newest()
            self._commands = LatestBefore()
            if last is not None:  # time began again, and the last command still holds
                self._commands.push(self._BEFORE_ALL_NS, last[1])
            self._newest_image_ns = stamp_ns
        self._newest_image_ns = max(self._newest_image_ns, stamp_ns)

    def push_ego(self, ego: EgoState) -> None:
        """Take one odometry sample."""
        self._egos.push(ego.stamp_ns, ego)

    def push_ego_fault(self, stamp_ns: int, reason: str) -> None:
        """Odometry came that cannot be used; frames are degraded until a good one follows."""
        self._egos.push(stamp_ns, _Fault(reason))

    def push_command(self, command: RouteCommand) -> None:
        """Take a route command; it holds until the next one."""
        self._commands.push(self._newest_image_ns, command)

    def push_command_fault(self, reason: str) -> None:
        """A route command came that is none of the five phrases."""
        self._commands.push(self._newest_image_ns, _Fault(reason))

    def at(self, stamp_ns: int) -> Known:
        """What is known at a frame with this stamp."""
        ego, faults = self._ego_at(stamp_ns)
        entry = self._commands.at(stamp_ns - 1)  # came before an image of this stamp did
        command = entry[1] if entry else None
        if isinstance(command, _Fault):
            return Known(ego, None, (*faults, command.reason))
        return Known(ego, command, faults)

    def _ego_at(self, stamp_ns: int) -> tuple[EgoState | None, tuple[str, ...]]:
        entry = self._egos.at(stamp_ns)
        if entry is None:
            return None, ()
        if isinstance(entry[1], _Fault):
            return None, (entry[1].reason,)
        age_ms = (stamp_ns - entry[0]) / NS_PER_MS
        if age_ms > self._ego_max_age_ms:
            return None, (f"odometry is {age_ms / 1000:.1f} s old",)
        return entry[1], ()


class FrameAssembler:
    """Images, odometry and route commands in; complete frames out.

    The one place where a frame is put together: live by the nodes, from a bag by the reader.
    """

    def __init__(self, config: SyncConfig | None = None) -> None:
        config = config or SyncConfig()
        self._matcher: SetMatcher[CameraImage] = SetMatcher(config)
        self.context = FrameContext(config.ego_max_age_ms)
        """Takes odometry and route commands."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Images that went into no frame, by reason."""
        return self._matcher.dropped

    @property
    def silent_cameras(self) -> tuple[str, ...]:
        """Cameras that are not waited for at present."""
        return self._matcher.silent_cameras

    def push_image(self, camera: str, image: CameraImage) -> list[SurroundFrame]:
        """Take one view; return the frames it completes, oldest first, mostly none or one."""
        self.context.push_image_stamp(image.stamp_ns)
        return self._frames(self._matcher.push(camera, image.stamp_ns, image))

    def flush(self) -> list[SurroundFrame]:
        """The frames still waiting for a camera: the source has ended."""
        return self._frames(self._matcher.flush())

    def _frames(self, sets: Sequence[ImageSet[CameraImage]]) -> list[SurroundFrame]:
        return [self._frame(one) for one in sets]

    def _frame(self, images: ImageSet[CameraImage]) -> SurroundFrame:
        known = self.context.at(images.stamp_ns)
        return SurroundFrame(
            stamp_ns=images.stamp_ns,
            images=dict(images.items),
            ego=known.ego,
            command=known.command,
            faults=known.faults,
        )


def match_stamps(
    stamps_ns: Sequence[int], wanted_ns: Sequence[int], tolerance_ns: int = LABEL_TOLERANCE_NS
) -> dict[int, int]:
    """For each wanted stamp the nearest given one within the tolerance; each is used once.

    The one rule by which frames and answers belong to labels, live and direct.

    Args:
        stamps_ns: frames' or answers' stamps.
        wanted_ns: labels' stamps.
        tolerance_ns: largest difference [ns].

    Returns:
        Frame stamp by label stamp; labels without a frame are absent.
    """
    ordered = sorted(set(stamps_ns))
    pairs = sorted(
        (abs(stamp - wanted), wanted, stamp)
        for wanted in set(wanted_ns)
        for stamp in ordered[
            bisect_left(ordered, wanted - tolerance_ns) : bisect_right(
                ordered, wanted + tolerance_ns
            )
        ]
    )
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for _, wanted, stamp in pairs:
        if wanted not in matched and stamp not in taken:
            matched[wanted] = stamp
            taken.add(stamp)
    return matched
