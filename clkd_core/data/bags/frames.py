"""From a bag to the frames that decisions are made on, and to what was right at each."""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

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
from clkd_core.runtime.sync import NS_PER_MS, FrameAssembler, SyncConfig
from clkd_core.types import SurroundFrame

_log = logging.getLogger(__name__)

LABEL_TOLERANCE_NS = 40 * NS_PER_MS
"""A frame that lost its newest image is still its keyframe; less than half a frame at 12 Hz."""


class BagFrame(NamedTuple):
    """One camera set of a bag with its label, if it is a labelled keyframe."""

    frame: SurroundFrame
    label: Label | None


def load_labels(path: Path, names: BagTopics | None = None) -> list[Label]:
    """All labels of a bag in the order of their stamps; empty where it has none.

    Raises:
        DataError: the bag cannot be read, or a label is none.
    """
    names = names or BagTopics()
    labels: dict[int, Label] = {}
    futures = {}
    with open_bag(path) as bag:
        bag.check_types(names.wanted_types)
        for topic, _, msg in bag.messages({names.true_meta_action, names.true_trajectory}):
            if topic == names.true_meta_action:
                label = label_from_msg(msg)
                labels[label.stamp_ns] = label
            else:
                stamp_ns, future = future_from_msg(msg)
                futures[stamp_ns] = future
    return [replace(labels[stamp], future=futures.get(stamp)) for stamp in sorted(labels)]


def count_image_sets(path: Path, names: BagTopics | None = None) -> int:
    """About how many frames a bag will give: the messages of its fullest camera.

    Raises:
        DataError: the bag cannot be read, or none of its topics is a camera's.
    """
    names = names or BagTopics()
    with open_bag(path) as bag:
        counts = bag.counts
        found = [counts[topic] for topic in names.images.values() if counts.get(topic)]
        if not found:
            have = ", ".join(sorted(bag.types)[:8]) or "nothing"
            wanted = ", ".join(sorted(names.images.values())[:2])
            raise DataError(f"{path} has no camera images: topics {have}; expected {wanted}, ...")
        return max(found)


def read_frames(
    path: Path,
    names: BagTopics | None = None,
    *,
    sync: SyncConfig | None = None,
    labels: Sequence[Label] | None = None,
) -> Iterator[BagFrame]:
    """Assemble a bag's frames in the order of time, by the same rule as the nodes.

    Args:
        path: a bag.
        names: which topic is what; ours when None.
        sync: how images are gathered.
        labels: what :func:`load_labels` gave; read from the bag when None.

    Raises:
        DataError: the bag cannot be read.
    """
    names = names or BagTopics()
    finder = _LabelFinder(load_labels(path, names) if labels is None else labels)
    feeder = _Feeder(names, sync or SyncConfig())
    with open_bag(path) as bag:
        bag.check_types(names.wanted_types)
        for frame in feeder.frames(bag):
            yield BagFrame(frame, finder.take(frame.stamp_ns))
    feeder.log_summary(path)


class _LabelFinder:
    """Gives each label to the first frame within the tolerance, and to one only."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self._labels = sorted(labels, key=lambda label: label.stamp_ns)
        self._stamps = [label.stamp_ns for label in self._labels]
        self._used: set[int] = set()

    def take(self, stamp_ns: int) -> Label | None:
        at = bisect_left(self._stamps, stamp_ns)
        near = [i for i in (at - 1, at) if 0 <= i < len(self._stamps) and i not in self._used]
        best = min(near, key=lambda i: abs(self._stamps[i] - stamp_ns), default=None)
        if best is None or abs(self._stamps[best] - stamp_ns) > LABEL_TOLERANCE_NS:
            return None
        self._used.add(best)
        return self._labels[best]


class _Feeder:
    """Hands a bag's messages to the assembler and counts what cannot be used."""

    def __init__(self, names: BagTopics, sync: SyncConfig) -> None:
        self._names = names
        self._cameras = {topic: camera for camera, topic in names.images.items()}
        self._assembler = FrameAssembler(sync)
        self._unusable: Counter[str] = Counter()

    def frames(self, bag: BagReader) -> Iterator[SurroundFrame]:
        wanted = {*self._cameras, self._names.odometry, self._names.route_command}
        for log_ns, group in groupby(bag.messages(wanted), key=lambda entry: entry[1]):
            # What was logged at one instant has no order of its own: images go last.
            for topic, _, msg in sorted(group, key=lambda entry: entry[0] in self._cameras):
                if topic in self._cameras:
                    yield from self._image(self._cameras[topic], log_ns, msg)
                elif topic == self._names.odometry:
                    self._odometry(log_ns, msg)
                else:
                    self._route_command(log_ns, msg)
        yield from self._assembler.flush()

    def _image(self, camera: str, log_ns: int, msg: Any) -> list[SurroundFrame]:
        try:
            return self._assembler.push_image(camera, image_from_msg(msg, log_ns))
        except FrameError as err:
            self._unusable[f"{camera}: {err}"] += 1
            return []

    def _odometry(self, log_ns: int, msg: Any) -> None:
        try:
            self._assembler.push_ego(ego_from_msg(msg, log_ns))
        except FrameError as err:
            self._unusable[str(err)] += 1
            self._assembler.push_ego_fault(stamp_from_msg(msg.header.stamp) or log_ns, str(err))

    def _route_command(self, log_ns: int, msg: Any) -> None:
        try:
            self._assembler.push_command(log_ns, route_command_from_msg(msg))
        except FrameError as err:
            self._unusable[str(err)] += 1
            self._assembler.push_command_fault(log_ns, str(err))

    def log_summary(self, path: Path) -> None:
        for reason, count in self._unusable.items():
            _log.warning("%s: %d messages not usable: %s", path, count, reason)
        for reason, count in self._assembler.dropped.items():
            _log.warning("%s: %d images in no set: %s", path, count, reason)
