"""CODA-LM: what matters in corner cases of driving, asked about one image ahead.

Layouts read here, a JSON file per image:

- present: ``general_perception`` with seven lists of objects and their summary
  ``description and explanation``, ``region_perception`` {index: ``description and explanation``,
  ``box`` x, y, width, height in pixels, ``category_name``}, ``driving_suggestion``. Files lie in
  ``Train``, ``Val``, ``Test`` or ``Mini``; ``val_0001.json`` is about ``val/images/0001.jpg`` of
  CODA 2022, whose ``val`` is CODA-LM's ``Train``;
- older, flat: the seven lists and ``suggestions``, a list of texts, at the top. There is no
  summary, so the general answer is the objects' texts one after another.

The set ships answers only; the three questions here are our own wording.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import Keyframe, QuestionAnswer, Region
from clkd_core.data.language.files.annotations import TOKEN, Skips, build_pair, read_json, shown
from clkd_core.data.language.files.images import READERS, find_coda_image, read_image_size
from clkd_core.data.regions import Box, clip_box
from clkd_core.errors import DataError
from clkd_core.progress import progress
from clkd_core.runtime.decode import ImageHeader

SOURCE = "coda_lm"
CAMERA = "CAM_FRONT"
"""CODA's images look ahead; the other views do not exist."""

SPLITS: Mapping[str, str] = {"Train": "train", "Val": "val", "Test": "val", "Mini": "val"}
"""CODA-LM's folders, and which of our splits each belongs to: ours judge on ``val``."""

QUESTIONS: Mapping[str, str] = {
    "general": "Which objects ahead matter most for driving, and why?",
    "region": "What is the object in the red box, and why does it matter for driving?",
    "suggestion": "What should the driver do now?",
}
"""The one wording of each kind of question."""

OBJECT_LISTS = (
    "vehicles",
    "vulnerable_road_users",
    "traffic signs",
    "traffic lights",
    "traffic cones",
    "barriers",
    "other objects",
)
"""The seven groups of objects, in CODA-LM's order."""

_ANSWER = "description and explanation"
_NAME = re.compile(r"(?:(?P<split>train|val|test)_)?(?P<id>[\w-]{1,48})", re.ASCII)
_CATEGORY = re.compile(r"[\w -]{1,48}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class CodaRegion:
    """One object of an image."""

    index: str
    box_xywh_px: Box
    category: str | None
    question: QuestionAnswer


@dataclass(frozen=True, kw_only=True)
class CodaScene:
    """One image, as its file has it."""

    path: Path
    """The JSON file."""
    name: str
    """Its stem: ``val_0001``, ``0001`` in the flat layout."""
    image_split: str | None
    """CODA's folder of the image; None where the name does not say."""
    image_name: str
    split: str | None
    """Ours, by CODA-LM's folder; None outside of one."""
    questions: tuple[QuestionAnswer, ...]
    """About the whole scene."""
    regions: tuple[CodaRegion, ...]

    @property
    def token(self) -> str:
        """Names the scene among those of other data sets."""
        return f"{SOURCE}-{self.name}"


def find_coda_files(folder: Path) -> list[tuple[Path, str | None]]:
    """The JSON files of CODA-LM's folders and of ``folder`` itself, each with our split.

    Raises:
        DataError: there is none.
    """
    places: list[tuple[Path, str | None]] = [(folder / n, split) for n, split in SPLITS.items()]
    places.append((folder, SPLITS.get(folder.resolve().name)))
    found = [(path, split) for place, split in places for path in sorted(place.glob("*.json"))]
    if not found:
        raise DataError(
            f"{folder} has no *.json and no {', '.join(SPLITS)} with any, expected CODA-LM's files"
        )
    return found


def read_coda_lm(files: Iterable[tuple[Path, str | None]], skips: Skips) -> list[CodaScene]:
    """All scenes in the order of their files; of files about one image the first counts.

    Args:
        files: JSON files, each with the split it belongs to or None.
        skips: counts questions, regions and files that are left out.

    Raises:
        DataError: a file is no JSON, or its structure is another; names the place.
    """
    scenes: dict[str, CodaScene] = {}
    for path, split in files:
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise DataError(f"{shown(str(path))}: expected a name like val_0001.json or 0001.json")
        if path.stem in scenes:  # Mini is a part of Val
            skips.add("scene comes a second time", f"{path}, after {scenes[path.stem].path}")
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: is {shown(content)}, expected an object")
        scenes[path.stem] = CodaScene(
            path=path,
            name=path.stem,
            image_split=name["split"],
            image_name=name["id"],
            split=split,
            questions=tuple(_scene_questions(path, content, skips)),
            regions=tuple(_regions(path, content, skips)),
        )
    return list(scenes.values())


def coda_keyframes(
    scenes: Sequence[CodaScene], roots: Sequence[Path], skips: Skips
) -> tuple[list[Keyframe], dict[Path, str]]:
    """One keyframe per scene with its questions, and one per region; in the order of scenes.

    CODA's images carry no time, so all stamps are 0.

    Args:
        scenes: N of them.
        roots: folders that may hold CODA's images, see
            :func:`~clkd_core.data.language.files.images.find_coda_image`.
        skips: counts regions that have no pixel in their image.

    Returns:
        the keyframes of scenes with a usable image, and what is wrong with the other images.
    """
    asked = [scene for scene in scenes if scene.questions or scene.regions]
    paths = [find_coda_image(roots, scene.image_split, scene.image_name) for scene in asked]
    keyframes: list[Keyframe] = []
    faults: dict[Path, str] = {}
    with ThreadPoolExecutor(READERS) as pool:
        sizes = pool.map(read_image_size, paths)
        shown_sizes = progress(sizes, total=len(paths), desc="CODA images", unit="images")
        for scene, path, size in zip(asked, paths, shown_sizes, strict=True):
            if isinstance(size, str):
                faults[path] = size
            else:
                keyframes += _scene_keyframes(scene, path, size, skips)
    return keyframes, faults


def _scene_keyframes(
    scene: CodaScene, path: Path, size: ImageHeader, skips: Skips
) -> Iterator[Keyframe]:
    if scene.questions:
        yield _keyframe(scene, path, scene.token, SOURCE, scene.questions, None)
    for region in scene.regions:
        box = clip_box(region.box_xywh_px, size.height, size.width)
        if box is None:
            where = f"{scene.path}: region {region.index}"
            skips.add("region has no pixel in its image", where)
            continue
        token = f"{scene.token}-region-{region.index}"
        marked = Region(camera=CAMERA, box_xywh_px=box)
        yield _keyframe(scene, path, token, region.category or SOURCE, (region.question,), marked)


def _keyframe(
    scene: CodaScene,
    path: Path,
    token: str,
    case_name: str,
    questions: tuple[QuestionAnswer, ...],
    region: Region | None,
) -> Keyframe:
    return Keyframe(
        sample_token=token,
        scene=scene.token,
        case_name=case_name,
        stamp_ns=0,
        image_paths={CAMERA: path},
        image_stamps_ns={CAMERA: 0},
        ego=None,
        command=None,
        future=None,
        action=None,
        agents=(),
        questions=questions,
        region=region,
    )


def _scene_questions(
    path: Path, content: Mapping[str, Any], skips: Skips
) -> Iterator[QuestionAnswer]:
    if "general_perception" in content or "driving_suggestion" in content:
        general = content.get("general_perception")
        answers = {
            "general": general.get(_ANSWER) if isinstance(general, dict) else general,
            "suggestion": content.get("driving_suggestion"),
        }
    elif any(name in content for name in (*OBJECT_LISTS, "suggestions")):
        answers = {
            "general": _object_texts(path, content),
            "suggestion": _joined(content.get("suggestions")),
        }
    elif "region_perception" in content:
        return
    else:
        raise DataError(f"{path}: has none of CODA-LM's fields, expected general_perception")
    for kind, answer in answers.items():
        pair = build_pair(kind, QUESTIONS[kind], answer, skips, f"{path}: {kind}")
        if pair is not None:
            yield pair


def _object_texts(path: Path, content: Mapping[str, Any]) -> str:
    """Descriptions and explanations of all objects as one text; empty where there is none."""
    texts: list[str] = []
    for name in OBJECT_LISTS:
        entries = content.get(name) or []
        if not isinstance(entries, list):
            raise DataError(f"{path}: {name} is {shown(entries)}, expected a list")
        for number, entry in enumerate(entries, 1):
            parts = (
                [entry.get(key) for key in ("description", "explanation")]
                if isinstance(entry, dict)
                else []
            )
            if not parts or not all(part is None or isinstance(part, str) for part in parts):
                raise DataError(
                    f"{path}: {name} {number} is {shown(entry)}, expected an object with texts"
                )
            texts += [_sentence(part) for part in parts if part and part.strip()]
    return " ".join(texts)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text[-1] in ".!?" else f"{text}."


def _joined(texts: object) -> object:
    """A list of texts as one; what is no such list comes back as it is."""
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return " ".join(text.strip() for text in texts)
    return texts


def _regions(path: Path, content: Mapping[str, Any], skips: Skips) -> Iterator[CodaRegion]:
    entries = content.get("region_perception") or {}
    if not isinstance(entries, dict):
        raise DataError(f"{path}: region_perception is {shown(entries)}, expected an object")
    for index, entry in entries.items():
        if not TOKEN.fullmatch(index) or not isinstance(entry, dict):
            raise DataError(f"{path}: region {shown(index)}, expected a number and an object")
        where = f"{path}: region {index}"
        box = _box(entry.get("box"))
        if box is None:
            skips.add("region has no box x, y, width, height", where)
            continue
        answer = entry.get(_ANSWER)
        pair = build_pair("region", QUESTIONS["region"], answer, skips, where)
        if pair is not None:
            category = _category(entry.get("category_name"))
            yield CodaRegion(index=index, box_xywh_px=box, category=category, question=pair)


def _box(values: object) -> Box | None:
    if not isinstance(values, list) or len(values) != 4:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return None
    try:
        left, top, width, height = (float(value) for value in values)
    except OverflowError:
        return None
    if not all(map(math.isfinite, (left, top, width, height))) or min(width, height) <= 0:
        return None
    return left, top, width, height


def _category(name: object) -> str | None:
    """The object's category as the name of a corner case, which ``regular`` must not become."""
    if not isinstance(name, str) or not _CATEGORY.fullmatch(name.strip()):
        return None
    return None if name.strip().lower() == "regular" else name.strip()
