"""From a bag to the frames that decisions are made on, and to what was right at each."""

import logging
import operator
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from clkd_core.data.bags.files import BagReader, open_bag
from clkd_core.data.bags.messages import (
    Label,
    ego_from_msg,
    future_from_msg,
    image_from_msg,
    label_from_msg,
    route_command_from_msg,
)
from clkd_core.data.bags.ros_types import stamp_from_msg
from clkd_core.data.bags.topics import BagTopics
from clkd_core.errors import DataError, FrameError
from clkd_core.runtime.sync import (
    LABEL_TOLERANCE_NS,
    FrameAssembler,
    SyncConfig,
    match_stamps,
)
from clkd_core.types import CAMERAS, SurroundFrame, Trajectory

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

_HELD = 64
"""Frames that wait at most until the labels near them are settled. One is usual; more only where
labels are as dense as the frames of a camera faster than 12 Hz."""

_LISTED = 12
"""Topics and reasons that a message names before it counts the rest."""


class BagFrame(NamedTuple):
    """One camera set of a bag with its label, if it is a labelled keyframe."""

    frame: SurroundFrame
    label: Label | None


def load_labels(path: Path, names: BagTopics | None = None) -> list[Label]:
    """All labels of a bag in the order of their stamps; empty where it has none.

    Args:
        path: a bag.
        names: which topic is what; ours when None.

    Raises:
        DataError: the bag cannot be read or lacks a topic of the mapping, a label is none, or two
            of one stamp disagree.
    """
    names = names or BagTopics()
    labels: dict[int, Label] = {}
    futures: dict[int, Trajectory] = {}
    with open_bag(path) as bag:
        check_topics(bag, names)
        for topic, _, msg in bag.messages({names.true_meta_action, names.true_trajectory}):
            try:
                if topic == names.true_meta_action:
                    label = label_from_msg(msg)
                    _keep(labels, label.stamp_ns, label, operator.eq)
                else:
                    stamp_ns, future = future_from_msg(msg)
                    _keep(futures, stamp_ns, future, _same_points)
            except DataError as err:
                raise DataError(f"{path}: {topic}: {err}") from err
    if lonely := len(futures.keys() - labels.keys()):
        _log.warning("%s: %d true trajectories without a label are not used", path, lonely)
    return [replace(labels[stamp], future=futures.get(stamp)) for stamp in sorted(labels)]


def _keep(
    known: dict[int, Item], stamp_ns: int, item: Item, same: Callable[[Item, Item], bool]
) -> None:
    """A second one of the same stamp must say the same."""
    if not same(known.setdefault(stamp_ns, item), item):
        raise DataError(f"two messages of stamp {stamp_ns} disagree, expected one for a keyframe")


def _same_points(one: Trajectory, other: Trajectory) -> bool:
    return np.array_equal(one.xy_m, other.xy_m)


def count_image_sets(path: Path, names: BagTopics | None = None) -> int:
    """About how many frames a bag will give: the messages of its fullest camera.

    Args:
        path: a bag.
        names: which topic is what; ours when None.

    Raises:
        DataError: the bag cannot be read, lacks a topic of the mapping, or none of its topics is
            a camera's.
    """
    names = names or BagTopics()
    with open_bag(path) as bag:
        check_topics(bag, names)
        cameras = find_cameras(bag, names)
        return max(bag.counts[names.images[camera]] for camera in cameras)


def check_topics(bag: BagReader, names: BagTopics) -> None:
    """See that a bag has what a mapping names, and of the types that we read.

    Raises:
        DataError: a topic with another name than ours is not there, or one has another type.
    """
    bag.check_types(names.wanted_types)
    if missing := sorted(names.foreign - bag.types.keys()):
        raise DataError(
            f"{bag.path} has no {', '.join(missing)}, which the topic mapping names; "
            f"it has {_listed(sorted(bag.types))}"
        )


def find_cameras(bag: BagReader, names: BagTopics) -> list[str]:
    """Cameras whose topics hold images, in the order of ``CAMERAS``.

    Raises:
        DataError: none does; says what the bag has.
    """
    counts = bag.counts
    found = [camera for camera in CAMERAS if counts.get(names.images.get(camera, ""))]
    if not found:
        wanted = ", ".join(sorted(names.images.values())[:2])
        have = _listed(sorted(bag.types)) or "nothing"
        raise DataError(f"{bag.path} has no camera images: topics {have}; expected {wanted}, ...")
    return found


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _LISTED} more" if len(words) > _LISTED else ""
    return ", ".join(words[:_LISTED]) + more


def read_frames(
    path: Path,
    names: BagTopics | None = None,
    *,
    sync: SyncConfig | None = None,
    labels: Sequence[Label] | None = None,
) -> Iterator[BagFrame]:
    """Assemble a bag's frames in the order of time, by the same rule as the nodes.

    Only cameras that the bag holds are waited for, as in a live replay.

    Args:
        path: a bag.
        names: which topic is what; ours when None.
        sync: how images are gathered.
        labels: what :func:`load_labels` gave; read from the bag when None.

    Raises:
        DataError: the bag cannot be read, lacks a topic of the mapping, or has no camera.
    """
    names, sync = names or BagTopics(), sync or SyncConfig()
    matcher = _LabelMatcher(load_labels(path, names) if labels is None else labels)
    with open_bag(path) as bag:
        check_topics(bag, names)
        there = find_cameras(bag, names)
        cameras = tuple(camera for camera in sync.cameras if camera in there)
        feeder = _Feeder(names, replace(sync, cameras=cameras or sync.cameras))
        for frame in feeder.frames(bag):
            yield from matcher.push(frame)
    yield from matcher.flush()
    feeder.log_summary(path)


class _LabelMatcher:
    """Gives each label to its nearest frame, by the rule of ``match_stamps``, as frames go by.

    A frame waits until no later one can compete for a label near it; most do not wait at all.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = {label.stamp_ns: label for label in labels}
        self._stamps = sorted(self._labels)
        self._held: list[SurroundFrame] = []

    def push(self, frame: SurroundFrame) -> Iterator[BagFrame]:
        """Take the next frame; give those whose labels are settled."""
        first_ns, last_ns = (frame.stamp_ns + s * LABEL_TOLERANCE_NS for s in (-1, 1))
        if self._held:
            held_ns = self._held[-1].stamp_ns
            rivals = held_ns < frame.stamp_ns and self._has_label(
                first_ns, held_ns + LABEL_TOLERANCE_NS
            )
            if not rivals or len(self._held) >= _HELD:
                yield from self.flush()
        self._held.append(frame)
        if not self._has_label(first_ns, last_ns):
            yield from self.flush()

    def flush(self) -> Iterator[BagFrame]:
        """Settle the frames that wait: the source has ended, or no rival can come."""
        held, self._held = self._held, []
        matched = match_stamps([frame.stamp_ns for frame in held], self._stamps_near(held))
        label_ns = {frame_ns: label_ns for label_ns, frame_ns in matched.items()}
        for taken_ns in matched:
            self._stamps.remove(taken_ns)
        for frame in held:
            found = label_ns.pop(frame.stamp_ns, None)
            yield BagFrame(frame, None if found is None else self._labels[found])

    def _has_label(self, first_ns: int, last_ns: int) -> bool:
        return bisect_left(self._stamps, first_ns) < bisect_right(self._stamps, last_ns)

    def _stamps_near(self, held: Sequence[SurroundFrame]) -> list[int]:
        if not held:
            return []
        first_ns = held[0].stamp_ns - LABEL_TOLERANCE_NS
        last_ns = held[-1].stamp_ns + LABEL_TOLERANCE_NS
        at = slice(bisect_left(self._stamps, first_ns), bisect_right(self._stamps, last_ns))
        return self._stamps[at]


class _Feeder:
    """Hands a bag's messages to the assembler and counts what cannot be used."""

    def __init__(self, names: BagTopics, sync: SyncConfig) -> None:
        self._names = names
        self._cameras = {topic: camera for camera, topic in names.images.items()}
        self._assembler = FrameAssembler(sync)
        self._unusable: Counter[str] = Counter()

    def frames(self, bag: BagReader) -> Iterator[SurroundFrame]:
        wanted = {*self._cameras, self._names.odometry, self._names.route_command}
        for log_ns, group in groupby(bag.messages(wanted), key=operator.itemgetter(1)):
            # What was logged at one instant has no order of its own: images go last.
            for topic, _, msg in sorted(group, key=lambda entry: entry[0] in self._cameras):
                if topic in self._cameras:
                    yield from self._image(self._cameras[topic], log_ns, msg)
                elif topic == self._names.odometry:
                    self._odometry(log_ns, msg)
                else:
                    self._route_command(msg)
        yield from self._assembler.flush()

    def _image(self, camera: str, log_ns: int, msg: Any) -> list[SurroundFrame]:
        try:
            return self._assembler.push_image(camera, image_from_msg(msg, log_ns))
        except FrameError as err:
            self._unusable[f"{camera}: {err}"] += 1
            return []

    def _odometry(self, log_ns: int, msg: Any) -> None:
        context = self._assembler.context
        try:
            context.push_ego(ego_from_msg(msg, log_ns))
        except FrameError as err:
            self._unusable[str(err)] += 1
            context.push_ego_fault(stamp_from_msg(msg.header.stamp) or log_ns, str(err))

    def _route_command(self, msg: Any) -> None:
        try:
            self._assembler.context.push_command(route_command_from_msg(msg))
        except FrameError as err:
            self._unusable[str(err)] += 1
            self._assembler.context.push_command_fault(str(err))

    def log_summary(self, path: Path) -> None:
        for reason, count in self._unusable.most_common(_LISTED):
            _log.warning("%s: %d messages not usable: %s", path, count, reason)
        rest = sum(count for _, count in self._unusable.most_common()[_LISTED:])
        if rest:
            _log.warning("%s: %d more messages not usable for other reasons", path, rest)
        for reason, count in self._assembler.dropped.items():
            _log.warning("%s: %d images in no set: %s", path, count, reason)
