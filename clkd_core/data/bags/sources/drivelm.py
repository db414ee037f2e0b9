"""DriveLM's keyframes as bags: six images each, no poses, no labels, one bag per scene.

Layout: ``v1_x_train_nus.json`` (:mod:`clkd_core.data.language.drivelm`) beside
``nuscenes/samples``.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import Storage, write_bag
from clkd_core.data.bags.messages import image_to_msg
from clkd_core.data.language.drivelm import read_drivelm
from clkd_core.data.language.files.annotations import Skips
from clkd_core.data.language.files.images import find_nuscenes_image
from clkd_core.errors import DataError
from clkd_core.types import CameraImage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One view on disk."""

    camera: str
    stamp_ns: int
    path: Path


def load_drivelm_scenes(root: Path) -> dict[str, list[ImageFile]]:
    """Images of every scene in the order of their stamps.

    Args:
        root: folder with one DriveLM JSON and ``nuscenes/samples``.

    Raises:
        DataError: no DriveLM JSON there, its structure is another, or image files are missing.
    """
    path = _find_json(root)
    skips = Skips()
    scenes: dict[str, list[ImageFile]] = {}
    for frame in read_drivelm(path, skips):
        for image in frame.images:
            place = find_nuscenes_image([root], image.camera, image.name)
            file = ImageFile(camera=image.camera, stamp_ns=image.stamp_ns, path=place)
            scenes.setdefault(frame.scene, []).append(file)
    for line in skips.lines("keyframe"):  # the rest are questions, which no bag holds
        log.warning("%s", line)
    if not scenes:
        raise DataError(f"{path}: no keyframe can be used, {'; '.join(skips.lines('keyframe'))}")
    for images in scenes.values():
        images.sort(key=lambda image: (image.stamp_ns, image.camera))
    missing = [i.path for images in scenes.values() for i in images if not i.path.is_file()]
    if missing:
        raise DataError(f"{path}: {len(missing)} image files are missing, first {missing[0]}")
    return scenes


def write_drivelm_bag(path: Path, images: Iterable[ImageFile], *, storage: Storage) -> int:
    """Write one scene; returns the number of images.

    Raises:
        DataError: an image cannot be read or the bag cannot be written.
    """
    count = 0
    with write_bag(path, storage=storage) as bag:
        for image in images:
            try:
                encoded = image.path.read_bytes()
            except OSError as err:
                raise DataError(f"{image.path}: cannot be read: {err.strerror}") from err
            msg = image_to_msg(image.camera, CameraImage(stamp_ns=image.stamp_ns, encoded=encoded))
            topic = topics.image_topic(image.camera)
            bag.write(topic, topics.COMPRESSED_IMAGE, image.stamp_ns, msg)
            count += 1
    return count


def _find_json(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root} does not exist, expected a folder with DriveLM's JSON")
    found = sorted(root.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root} has {len(found)} JSON files ({names}), expected DriveLM's one")
    return found[0]
