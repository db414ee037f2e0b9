"""DriveLM's keyframes as bags: six images each, no poses, no labels, one bag per scene.

Layout: ``v1_x_train_nus.json`` (scene -> key_frames -> image_paths) beside ``nuscenes/samples``;
the stamp of an image is the microseconds in its nuScenes file name.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import Storage, write_bag
from clkd_core.data.bags.messages import image_to_msg
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, CameraImage

_STAMP = re.compile(r"__(\d{16})\.jpg$")
_TOKEN = re.compile(r"[\w-]+")  # becomes a folder name


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
    scenes = {
        token: sorted(
            _scene_images(root, f"{path}: scene {token}", scene),
            key=lambda image: (image.stamp_ns, image.camera),
        )
        for token, scene in _read_json(path).items()
    }
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


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(f"{path}: cannot be read as JSON: {err}") from err
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: is no DriveLM file, expected an object of scenes")
    for token in content:
        if not _TOKEN.fullmatch(token):
            raise DataError(f"{path}: scene {token!r}, expected a token of letters and digits")
    return content


def _scene_images(root: Path, where: str, scene: Any) -> Iterator[ImageFile]:
    keyframes = scene.get("key_frames") if isinstance(scene, dict) else None
    if not isinstance(keyframes, dict) or not keyframes:
        raise DataError(f"{where} has no key_frames, expected DriveLM's layout")
    for token, keyframe in keyframes.items():
        paths = keyframe.get("image_paths") if isinstance(keyframe, dict) else None
        if not isinstance(paths, dict):
            raise DataError(f"{where}, keyframe {token}: no image_paths")
        for camera, name in paths.items():
            yield _image_file(root, f"{where}, keyframe {token}", camera, str(name))


def _image_file(root: Path, where: str, camera: str, name: str) -> ImageFile:
    if camera not in CAMERAS:
        raise DataError(f"{where}: camera {camera!r}, expected one of {', '.join(CAMERAS)}")
    stamp = _STAMP.search(name)
    if stamp is None:
        raise DataError(f"{where}: {name!r} has no stamp, expected ..__{camera}__<16 digits>.jpg")
    # DriveLM writes paths relative to its own challenge folder: ../nuscenes/samples/CAM/FILE.
    tail = Path(*Path(name).parts[-3:])
    places = [root / "nuscenes" / tail, root / tail]
    path = next((place for place in places if place.is_file()), places[0])
    return ImageFile(camera=camera, stamp_ns=int(stamp[1]) * 1000, path=path)
