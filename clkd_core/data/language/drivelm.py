"""DriveLM's JSON, v1.0 and v1.1: keyframes of nuScenes with questions and answers.

Layouts read here, as the public repository and its challenge have them:

- scene token -> ``key_frames`` -> frame token -> ``QA`` and ``image_paths``; ``QA`` holds lists by
  kind (``perception``, ``prediction``, ``planning``, ``behavior``), or is one list without kinds;
- the list that the challenge trains its baseline on: ``id`` is ``scene_frame_number``, ``image``
  has the six paths, ``conversations`` a question (after ``<image>``) and its answer.

Fields beside ``Q`` and ``A`` (``C``, ``con_up``, ``con_down``, ``cluster``, ``layer``, ``tag``)
and ``key_object_infos`` are not used. The stamp of an image is the microseconds in its file name.
Objects stay tags in the text, ``<c1,CAM_BACK,1088.3,497.5>`` in pixels of 1600 x 900 images.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import QuestionAnswer
from clkd_core.data.language.files.annotations import TOKEN, Skips, build_pair, read_json, shown
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

UNSORTED = "unsorted"
"""The kind of questions that come in one list, which does not say of what kind each is."""

IMAGE_WIDTH_PX, IMAGE_HEIGHT_PX = 1600, 900
"""Of nuScenes' images, in which the tags count."""

MAX_SPREAD_NS = 500_000_000
"""Images of one keyframe lie within this; nuScenes' six are about 50 ms apart."""

_FILE = re.compile(r"[\w.+-]{1,128}__(?P<camera>CAM_[A-Z_]+)__(?P<stamp_us>\d{16})\.jpg", re.ASCII)
_ID = re.compile(r"(?P<scene>[\w-]{1,64})_(?P<frame>[a-zA-Z0-9-]{1,64})_\d{1,9}", re.ASCII)
_KIND = re.compile(r"\w{1,32}", re.ASCII)
_NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
_TAG = re.compile(rf"<c\d+,(?P<camera>\w+),(?P<x>{_NUMBER}),(?P<y>{_NUMBER})>", re.ASCII)
_TAG_LIKE = re.compile(r"<c\d+,[^<>]*>", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class DriveLmImage:
    """One view of a keyframe, as the file names it."""

    camera: str
    stamp_ns: int
    name: str
    """Of the image file; it lies in ``samples/<camera>/`` of nuScenes."""


@dataclass(frozen=True, kw_only=True)
class DriveLmFrame:
    """One keyframe, as the file has it."""

    token: str
    """nuScenes' sample token."""
    scene: str
    """nuScenes' scene token."""
    images: tuple[DriveLmImage, ...]
    """In the order of ``CAMERAS``."""
    questions: tuple[QuestionAnswer, ...]

    @property
    def stamp_ns(self) -> int:
        """Capture time of the newest image."""
        return max(image.stamp_ns for image in self.images)


@dataclass
class TagCount:
    """Objects that texts name by a tag."""

    mentioned: int = 0
    outside: int = 0
    """Point lies outside of the image, or the camera is none of the six."""
    malformed: int = 0
    """Begins like a tag and has other fields."""

    def add(self, text: str) -> None:
        """Count the tags of one text."""
        well_formed = 0
        for tag in _TAG.finditer(text):
            well_formed += 1
            self.outside += not _is_inside(tag)
        found = len(_TAG_LIKE.findall(text))
        self.mentioned += found
        self.malformed += found - well_formed


def read_drivelm(path: Path, skips: Skips) -> list[DriveLmFrame]:
    """All keyframes of one file: scenes as they stand there, each in the order of time.

    Args:
        path: the JSON file.
        skips: counts questions and keyframes that are left out.

    Raises:
        DataError: the file is no JSON, or its structure is another; names the place.
    """
    content = read_json(path)
    if isinstance(content, dict) and content:
        frames = _frames_of_scenes(path, content, skips)
    elif isinstance(content, list) and content:
        frames = _frames_of_conversations(path, content, skips)
    else:
        raise DataError(f"{path}: is no DriveLM file, expected an object of scenes")
    scenes: dict[str, list[DriveLmFrame]] = {}
    for frame in _each_once(path, frames, skips):
        scenes.setdefault(frame.scene, []).append(frame)
    return [f for scene in scenes.values() for f in sorted(scene, key=lambda f: f.stamp_ns)]


def mirrored_tags(text: str) -> str:
    """The same text about the mirror image: every tag's point moves to the other side.

    The names of cameras are words like others and change by
    :func:`clkd_core.data.prompts.mirrored_text`.
    """
    return _TAG.sub(_mirrored_tag, text)


def _mirrored_tag(tag: "re.Match[str]") -> str:
    digits = len(tag["x"].partition(".")[2])
    x = f"{IMAGE_WIDTH_PX - float(tag['x']):.{digits}f}"
    start, end = tag.start("x") - tag.start(), tag.end("x") - tag.start()
    return f"{tag[0][:start]}{x}{tag[0][end:]}"


def _is_inside(tag: "re.Match[str]") -> bool:
    x, y = float(tag["x"]), float(tag["y"])
    return tag["camera"] in CAMERAS and 0 <= x <= IMAGE_WIDTH_PX and 0 <= y <= IMAGE_HEIGHT_PX


def _each_once(path: Path, frames: Iterable[DriveLmFrame], skips: Skips) -> Iterator[DriveLmFrame]:
    seen: set[str] = set()
    for frame in frames:
        where = f"{path}: scene {frame.scene}, keyframe {frame.token}"
        stamps = [image.stamp_ns for image in frame.images]
        if frame.token in seen:
            skips.add("keyframe comes a second time", where)
        elif max(stamps) - min(stamps) > MAX_SPREAD_NS:
            skips.add("keyframe has images of different instants", where)
        else:
            seen.add(frame.token)
            yield frame


def _frames_of_scenes(
    path: Path, content: Mapping[str, Any], skips: Skips
) -> Iterator[DriveLmFrame]:
    for scene_token, scene in content.items():
        if not TOKEN.fullmatch(scene_token):
            raise DataError(
                f"{path}: scene {shown(scene_token)}, expected a token of letters and digits"
            )
        where = f"{path}: scene {scene_token}"
        frames = scene.get("key_frames") if isinstance(scene, dict) else None
        if not isinstance(frames, dict) or not frames:
            raise DataError(f"{where} has no key_frames, expected DriveLM's layout")
        for token, frame in frames.items():
            if not TOKEN.fullmatch(token):
                raise DataError(f"{where}: keyframe {shown(token)}, expected a token")
            yield _frame(f"{where}, keyframe {token}", scene_token, token, frame, skips)


def _frame(where: str, scene: str, token: str, frame: Any, skips: Skips) -> DriveLmFrame:
    paths = frame.get("image_paths") if isinstance(frame, dict) else None
    if not isinstance(paths, dict) or not paths:
        raise DataError(f"{where}: no image_paths")
    images = {camera: _image(where, camera, name) for camera, name in paths.items()}
    return DriveLmFrame(
        token=token,
        scene=scene,
        images=tuple(images[camera] for camera in CAMERAS if camera in images),
        questions=_questions(where, frame.get("QA"), skips),
    )


def _image(where: str, camera: str, path: object) -> DriveLmImage:
    """From a path like ``../nuscenes/samples/CAM_BACK/FILE``, of which only the file counts."""
    if camera not in CAMERAS:
        raise DataError(f"{where}: camera {shown(camera)}, expected one of {', '.join(CAMERAS)}")
    name = path.rpartition("/")[2] if isinstance(path, str) else ""
    file = _FILE.fullmatch(name)
    if file is None or file["camera"] != camera:
        raise DataError(
            f"{where}: {shown(path)} has no stamp, expected ..__{camera}__<16 digits>.jpg"
        )
    return DriveLmImage(camera=camera, stamp_ns=int(file["stamp_us"]) * 1000, name=name)


def _questions(where: str, groups: Any, skips: Skips) -> tuple[QuestionAnswer, ...]:
    """Of all kinds; a keyframe without any QA has none."""
    if groups is None:
        return ()
    if isinstance(groups, list):
        groups = {UNSORTED: groups}
    if not isinstance(groups, dict):
        raise DataError(f"{where}: QA is {shown(groups)}, expected lists by kind")
    pairs: list[QuestionAnswer] = []
    for kind, entries in groups.items():
        if not _KIND.fullmatch(kind) or not isinstance(entries, list):
            raise DataError(f"{where}: QA {shown(kind)} is no list of a kind of questions")
        for number, entry in enumerate(entries, 1):
            place = f"{where}, {kind} {number}"
            if not isinstance(entry, dict):
                raise DataError(f"{place}: is {shown(entry)}, expected an object with Q and A")
            pair = build_pair(kind, entry.get("Q"), entry.get("A"), skips, place)
            pairs += [] if pair is None else [pair]
    return tuple(pairs)


def _frames_of_conversations(
    path: Path, entries: list[Any], skips: Skips
) -> Iterator[DriveLmFrame]:
    """Entries of one keyframe become one; each must name the same images."""
    frames: dict[tuple[str, str], tuple[str, tuple[DriveLmImage, ...], list[QuestionAnswer]]] = {}
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        name = entry.get("id") if isinstance(entry, dict) else None
        parts = _ID.fullmatch(name) if isinstance(name, str) else None
        if parts is None:
            raise DataError(f"{where}: id is {shown(name)}, expected like scene_frame_0")
        if parts[0] in seen:
            skips.add("entry comes a second time", where)
            continue
        seen.add(parts[0])
        images = _conversation_images(where, entry.get("image"))
        key = (parts["scene"], parts["frame"])
        frame = frames.setdefault(key, (where, images, []))
        if frame[1] != images:
            raise DataError(f"{where}: other images than {frame[0]} of the same keyframe")
        frame[2].extend(_conversation_pairs(where, entry.get("conversations"), skips))
    for (scene, token), (_, images, pairs) in frames.items():
        yield DriveLmFrame(token=token, scene=scene, images=images, questions=tuple(pairs))


def _conversation_images(where: str, paths: Any) -> tuple[DriveLmImage, ...]:
    if not isinstance(paths, list) or not paths:
        raise DataError(f"{where}: image is {shown(paths)}, expected a list of paths")
    images: dict[str, DriveLmImage] = {}
    for path in paths:
        camera = path.split("__")[-2] if isinstance(path, str) and path.count("__") > 1 else ""
        image = _image(where, camera, path)
        if camera in images:
            raise DataError(f"{where}: two images of {camera}, expected one")
        images[camera] = image
    return tuple(images[camera] for camera in CAMERAS if camera in images)


def _conversation_pairs(where: str, turns: Any, skips: Skips) -> Iterator[QuestionAnswer]:
    wanted = f"{where}: conversations, expected pairs of human and gpt"
    if not isinstance(turns, list) or len(turns) % 2 or not turns:
        raise DataError(wanted)
    if not all(isinstance(turn, dict) for turn in turns):
        raise DataError(wanted)
    for asked, told in zip(turns[::2], turns[1::2], strict=True):
        if (asked.get("from"), told.get("from")) != ("human", "gpt"):
            raise DataError(wanted)
        question = asked.get("value")
        if isinstance(question, str):
            question = question.removeprefix("<image>")
        pair = build_pair(UNSORTED, question, told.get("value"), skips, where)
        if pair is not None:
            yield pair
