"""Small DriveLM and CODA-LM files of our own making, with images of plain noise."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

from clkd_core.types import CAMERAS

FIRST_US = 1_600_000_000_000_000
"""Microseconds of the first keyframe; the next ones come half a second later each."""

TEXTS = st.text(st.characters(codec=None), max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Any JSON document, half characters and NaN included."""


def write_image(path: Path, *, height: int = 18, width: int = 32) -> Path:
    """A grey image with some structure, JPEG or PNG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(0).integers(60, 190, (height, width)).astype(np.uint8)
    assert cv2.imwrite(str(path), grey)
    return path


def pair(question: str, answer: Any) -> dict[str, Any]:
    """A question as DriveLM writes it."""
    return {"Q": question, "A": answer, "C": None, "con_up": None, "con_down": [1], "tag": [2]}


def qa_by_kind() -> dict[str, list[dict[str, Any]]]:
    """Five questions of the four kinds."""
    return {
        "perception": [pair("What is ahead?", "A bus."), pair("Is it dark?", "No.")],
        "prediction": [pair("Will <c1,CAM_BACK,1088.3,497.5> stop?", "Yes.")],
        "planning": [pair("What is safe?", "Keep going.")],
        "behavior": [pair("Where to? A. Left. B. Right.", "B")],
    }


def image_name(camera: str, number: int) -> str:
    """Like nuScenes names its files; the six cameras fire a millisecond apart."""
    stamp_us = FIRST_US + 500_000 * number + 1000 * CAMERAS.index(camera)
    return f"n001-2020-09-13-12-26-40+0800__{camera}__{stamp_us}.jpg"


def drivelm_frame(number: int, qa: Any = None) -> dict[str, Any]:
    """One keyframe."""
    paths = {c: f"../nuscenes/samples/{c}/{image_name(c, number)}" for c in CAMERAS}
    return {
        "key_object_infos": {"<c1,CAM_BACK,1088.3,497.5>": {"Category": "Vehicle"}},
        "QA": qa_by_kind() if qa is None else qa,
        "image_paths": paths,
    }


def drivelm_content(scenes: int = 2, frames: int = 2) -> dict[str, Any]:
    """Scenes ``scene0``, ... of frames ``frame0``, ...; numbers go on from scene to scene."""
    return {
        f"scene{s}": {
            "scene_description": "Somewhere.",
            "key_frames": {
                f"frame{n}": drivelm_frame(n) for n in range(s * frames, (s + 1) * frames)
            },
        }
        for s in range(scenes)
    }


def write_drivelm(root: Path, content: Any = None, *, images: int = 4) -> Path:
    """``train.json`` and ``nuscenes/samples`` with the images of so many keyframes."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "train.json"
    path.write_text(json.dumps(drivelm_content() if content is None else content))
    for number in range(images):
        for camera in CAMERAS:
            write_image(root / "nuscenes" / "samples" / camera / image_name(camera, number))
    return path


def region(box: Any = (4, 5, 8, 6), answer: Any = "A cone.", name: Any = "cone") -> dict[str, Any]:
    """One entry of ``region_perception``."""
    box = list(box) if isinstance(box, tuple) else box
    return {"description and explanation": answer, "box": box, "category_name": name}


def coda_content(regions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A file of the present layout with one region."""
    return {
        "general_perception": {
            "vehicles": [{"description": "A lorry", "explanation": "It is slow."}],
            "barriers": [],
            "description and explanation": "A lorry ahead is slow.",
        },
        "region_perception": {"1": region()} if regions is None else dict(regions),
        "driving_suggestion": "Slow down.",
    }


def flat_content(suggestions: Any = ("Slow down.", "Look out.")) -> dict[str, Any]:
    """A file of the flat layout."""
    return {
        "vehicles": [{"description": "A lorry", "explanation": "It is slow."}],
        "vulnerable_road_users": [],
        "traffic cones": [{"description": "A cone.", "explanation": " "}],
        "suggestions": list(suggestions) if isinstance(suggestions, tuple) else suggestions,
    }


def write_coda(
    root: Path, names: Sequence[str] = ("Train/val_0001", "Val/test_0002"), content: Any = None
) -> Path:
    """``CODA-LM/<name>.json`` and the image of each, as CODA 2022 is unpacked."""
    for name in names:
        path = root / "CODA-LM" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coda_content() if content is None else content))
        split, _, number = path.stem.rpartition("_")
        write_image(root / split / "images" / f"{number}.jpg")
    return root / "CODA-LM"


def walk(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    places = [path]
    if isinstance(content, dict):
        places += [p for key, value in content.items() for p in walk(value, (*path, key))]
    if isinstance(content, list):
        places += [p for n, value in enumerate(content) for p in walk(value, (*path, n))]
    return places


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with one place replaced."""
    if not path:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content
