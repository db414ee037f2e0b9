"""nuScenes scenes as bags: six cameras with their sweeps, every ego pose, labels at keyframes.

A scene is a bag of its own, or several scenes follow each other in one. Images are at their
sensors' 12 Hz (2 Hz with keyframes only), odometry and transforms at every camera and LIDAR
measurement, the route command when it changes, labels where 3 s of future are known.
"""

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, Storage, write_bag
from clkd_core.data.bags.messages import (
    Label,
    camera_info_to_msg,
    image_to_msg,
    label_to_msgs,
    motion_to_msgs,
    route_command_to_msg,
    transform_to_msg,
    transforms_to_msg,
)
from clkd_core.data.bags.sources.nuscenes_scene import (
    BagScene,
    Row,
    SceneImage,
    is_there,
    list_images,
    read_bag_scene,
)
from clkd_core.data.keyframes import Keyframe
from clkd_core.errors import ConfigError, DataError
from clkd_core.progress import progress
from clkd_core.types import CameraImage, RouteCommand

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_log = logging.getLogger(__name__)

GAP_NS = 500_000_000
"""Between the last message of one scene and the first of the next in a bag of several."""

AHEAD_NS = 20_000_000
"""The first route command comes this long before the first image."""

_NAME = re.compile(r"\w[\w.-]*")  # becomes a folder name
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class NuScenesDrive:
    """A scene that is ready to be written."""

    scene: BagScene
    keyframes: tuple[Keyframe, ...]

    @property
    def spans_ns(self) -> dict[str, tuple[int, int]]:
        """Stamps of the first and the newest image of each keyframe, by sample token."""
        spans: dict[str, tuple[int, int]] = {}
        for image in self.scene.images:  # in the order of their stamps
            if image.is_keyframe:
                first_ns, _ = spans.get(image.sample_token, (image.stamp_ns, 0))
                spans[image.sample_token] = first_ns, image.stamp_ns
        return spans

    @property
    def labelled(self) -> list[tuple[Keyframe, int]]:
        """Keyframes that get a label, with its stamp: that of their newest image [ns]."""
        spans_ns = self.spans_ns
        return [
            (keyframe, spans_ns[keyframe.sample_token][1])
            for keyframe in self.keyframes
            if keyframe.action is not None and keyframe.sample_token in spans_ns
        ]


@dataclass(kw_only=True)
class NuScenesBagCounts:
    """What a bag of nuScenes holds."""

    scenes: int = 0
    images: int = 0
    labels: int = 0
    poses: int = 0
    from_can_bus: int = 0
    """Of the poses, those whose speed the CAN bus told; the others are differences of poses."""

    def add(self, drive: NuScenesDrive) -> None:
        """Count a scene that was written."""
        self.scenes += 1
        self.images += len(drive.scene.images)
        self.labels += len(drive.labelled)
        self.poses += len(drive.scene.motion.egos)
        self.from_can_bus += drive.scene.motion.from_can_bus

    @property
    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.scenes} scenes, {self.images} images, {self.labels} labelled keyframes, "
            f"{self.poses} poses, {self.from_can_bus} of them with speeds from the CAN bus"
        )


def choose_scenes(nusc: "NuScenes", names: Collection[str] | None = None) -> list[Row]:
    """Rows of the scenes of these names, all when None, in the order of the table.

    Raises:
        ConfigError: a scene is not in the tables; names all that are not.
        DataError: a scene's name cannot be that of a folder, or two have one name.
    """
    known = [str(scene["name"]) for scene in nusc.scene]
    if unknown := sorted(set(names or ()) - set(known)):
        raise ConfigError(f"no scene {', '.join(unknown)} in the tables, which have {_few(known)}")
    chosen = [scene for scene in nusc.scene if names is None or scene["name"] in names]
    for scene in chosen:
        if not _NAME.fullmatch(scene["name"]) or known.count(scene["name"]) > 1:
            raise DataError(
                f"scene {scene['name'][:60]!r}: expected a name of its own of letters and digits"
            )
    return chosen


def check_images(
    root: Path,
    rows: Mapping[str, Sequence[Row]],
    *,
    keyframes_only: bool,
    skip_missing: bool,
) -> None:
    """Look for every image file before anything is written.

    Args:
        root: the data set's folder.
        rows: what :func:`group_rows` gave.
        keyframes_only: do not look for sweeps.
        skip_missing: only warn.

    Raises:
        DataError: files are missing or empty and must not be, or a row names a file outside of
            the set.
    """
    missing = [
        str(image.path)
        for scene in progress(rows.values(), total=len(rows), desc="looking", unit="scenes")
        for image in list_images(root, scene, keyframes_only=keyframes_only)
        if not is_there(image.path)
    ]
    what = f"{len(missing)} image files are missing or empty: {_few(missing)}"
    if missing and not skip_missing:
        raise DataError(f"{root}: {what}; --skip-missing goes on without them")
    if missing:
        _log.warning("%s: %s", root, what)


def read_drive(
    nusc: "NuScenes", scene: Row, rows: Sequence[Row], *, keyframes_only: bool
) -> NuScenesDrive:
    """A scene's images, motion and labels; images whose files are missing are left out.

    Args:
        nusc: the tables.
        scene: one row that :func:`choose_scenes` gave.
        rows: its own of what :func:`group_rows` gave.
        keyframes_only: leave sweeps out.

    Raises:
        DataError: the scene cannot be read.
    """
    from clkd_core.data.nuscenes.scenes import read_scene  # wants the devkit

    return NuScenesDrive(
        scene=read_bag_scene(nusc, scene, rows, keyframes_only=keyframes_only),
        keyframes=tuple(read_scene(nusc, scene)),
    )


def _few(words: Sequence[str]) -> str:
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def write_nuscenes_bag(
    path: Path, drives: Iterable[NuScenesDrive], *, storage: Storage = "mcap"
) -> NuScenesBagCounts:
    """Write one bag of one or more scenes.

    The first scene keeps nuScenes' own stamps. A further one is moved in time to follow
    ``GAP_NS`` after the one before: nobody wants to play the days between them.

    Raises:
        DataError: an image cannot be read, there is none, or the bag cannot be written.
    """
    counts = NuScenesBagCounts()
    end_ns: int | None = None
    with write_bag(path, storage=storage) as bag:
        for drive in drives:
            events = _plan(drive)
            if not events:
                _log.warning("scene %s has no image and is left out", drive.scene.name)
                continue
            shift_ns = 0 if end_ns is None else end_ns + GAP_NS - events[0].log_ns
            for event in events:
                event.write(bag, shift_ns)
            end_ns = events[-1].log_ns + shift_ns
            counts.add(drive)
        if not counts.images:
            raise DataError(f"{path}: no scene has an image, expected one at least")
    return counts


class _Event(NamedTuple):
    """Something to write at its time; images are read only then."""

    log_ns: int
    rank: int
    """Order of what is logged at one instant."""
    write: Callable[[BagWriter, int], None]
    """Takes the bag and what is added to every stamp [ns]."""


def _plan(drive: NuScenesDrive) -> list[_Event]:
    """All of a scene in the order of time."""
    if not drive.scene.images:
        return []
    events = [*_motion(drive.scene), *_routes(drive), *_images(drive.scene), *_labels(drive)]
    start_ns = min(event.log_ns for event in events) - 1
    events.append(_Event(start_ns, 0, _fixed(drive.scene, start_ns)))
    return sorted(events, key=lambda event: event[:2])


def _fixed(scene: BagScene, now_ns: int) -> Callable[[BagWriter, int], None]:
    """Camera calibrations and mountings: latched, once."""

    def write(bag: BagWriter, shift_ns: int) -> None:
        log_ns = now_ns + shift_ns
        fixed = []
        for camera, mounting in scene.mountings.items():
            info = camera_info_to_msg(
                camera, log_ns, mounting.k, mounting.width_px, mounting.height_px
            )
            bag.write(topics.camera_info_topic(camera), topics.CAMERA_INFO, log_ns, info)
            frame, pose = topics.camera_frame(camera), mounting.ego_from_camera
            fixed.append(transform_to_msg(log_ns, topics.EGO_FRAME, frame, pose))
        bag.write(topics.TF_STATIC, topics.TF_MESSAGE, log_ns, transforms_to_msg(fixed))

    return write


def _motion(scene: BagScene) -> Iterator[_Event]:
    for number, ego in enumerate(scene.motion.egos):

        def write(bag: BagWriter, shift_ns: int, number: int = number) -> None:
            pose, ego = scene.motion.poses[number], scene.motion.egos[number]
            now_ns = ego.stamp_ns + shift_ns
            for topic, msgtype, msg in motion_to_msgs(replace(ego, stamp_ns=now_ns), pose):
                bag.write(topic, msgtype, now_ns, msg)

        yield _Event(ego.stamp_ns, 1, write)


def _images(scene: BagScene) -> Iterator[_Event]:
    for image in scene.images:

        def write(bag: BagWriter, shift_ns: int, image: SceneImage = image) -> None:
            now_ns = image.stamp_ns + shift_ns
            encoded = _read_bytes(image.path)
            msg = image_to_msg(image.camera, CameraImage(stamp_ns=now_ns, encoded=encoded))
            topic = topics.image_topic(image.camera)
            bag.write(topic, topics.COMPRESSED_IMAGE, now_ns + topics.IMAGE_DELAY_NS, msg)

        yield _Event(image.stamp_ns + topics.IMAGE_DELAY_NS, 2, write)


def _routes(drive: NuScenesDrive) -> Iterator[_Event]:
    """Commands that differ from the one before; the first holds from the bag's beginning.

    A command comes in the middle between the newest image before its keyframe and the newest of
    it: as far as can be from either, because the two rounds of the cameras may be 50 ms apart.
    Where the route is not known any more, at the end of a scene, the last command holds.
    """
    stamps_ns = [image.stamp_ns for image in drive.scene.images]
    spans_ns = drive.spans_ns
    last: RouteCommand | None = None
    for keyframe in drive.keyframes:
        if keyframe.command in (None, last) or keyframe.sample_token not in spans_ns:
            continue
        first_ns, newest_ns = spans_ns[keyframe.sample_token]
        before = bisect_left(stamps_ns, first_ns)
        at_ns = stamps_ns[0] - AHEAD_NS
        if last is not None and before:
            at_ns = (stamps_ns[before - 1] + newest_ns) // 2
        last = keyframe.command
        yield _route(at_ns + topics.IMAGE_DELAY_NS, last)


def _route(log_ns: int, command: RouteCommand) -> _Event:
    def write(bag: BagWriter, shift_ns: int) -> None:
        msg = route_command_to_msg(command)
        bag.write(topics.ROUTE_COMMAND, topics.STRING, log_ns + shift_ns, msg)

    return _Event(log_ns, 0, write)


def _labels(drive: NuScenesDrive) -> Iterator[_Event]:
    for keyframe, stamp_ns in drive.labelled:

        def write(
            bag: BagWriter, shift_ns: int, keyframe: Keyframe = keyframe, stamp_ns: int = stamp_ns
        ) -> None:
            assert keyframe.action is not None
            now_ns, log_ns = stamp_ns + shift_ns, stamp_ns + shift_ns + topics.IMAGE_DELAY_NS
            label = Label(
                stamp_ns=now_ns,
                scene=keyframe.scene,
                case_name=keyframe.case_name,
                action=keyframe.action,
                future=keyframe.future,
            )
            for topic, msgtype, msg in label_to_msgs(label):
                bag.write(topic, msgtype, log_ns, msg)

        yield _Event(stamp_ns + topics.IMAGE_DELAY_NS, 3, write)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise DataError(f"{path}: cannot be read: {err.strerror}") from err
