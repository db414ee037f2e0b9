"""Senna's published JSON layout: one long list, one record per question about a sample.

Facts from the public converter and trainer: ``images`` holds six paths in the order
:data:`IMAGE_ORDER`, while the text before a question names the views in the order of the prompt
(``types.CAMERAS``), so that names and pictures disagree. The trainer opens ``images`` as they
stand and puts them in the place of the six ``<image>``; the evaluation reads ``token``,
``image``, ``images`` and ``conversations``. ``ego_fut_trajs`` is the way of LIDAR_TOP in the next
3 s (x right, y forward) as a printed list, complete where ``fut_valid_flag`` says ``True``.

We write two fields more, ``kind`` and ``case_name``, which nobody else's tools look at.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import REGULAR
from clkd_core.data.senna.json_list import read_objects
from clkd_core.data.senna.questions import PLAN_WORDS
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, FUTURE_STEPS

IMAGE_ORDER: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""Order of ``images`` in a record."""

OTHER_KIND = "general"
"""Kind of a question that is none of the converter's."""

_MAX_NAME = 4096
_FAR_M = 1e9
_CAMERA = re.compile(
    r"(?<![A-Za-z0-9])CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?(?![A-Za-z0-9]|_[A-Za-z])"
)
_VIEW_LINE = re.compile(r"\A\s*<[A-Z ]{1,20} VIEW>:\s*<image>")
_NUMPY_2 = re.compile(r"np\.float(?:32|64)\(([^()]*)\)")
_KINDS: tuple[tuple[str, str], ...] = (
    (PLAN_WORDS, "planning"),
    ("vulnerable road users", "perception"),
    ("explain", "planning"),
    ("predict", "prediction"),
    ("description", "description"),
    ("traffic light", "perception"),
)
"""Words that only one of the converter's questions has, tried in this order."""


@dataclass(frozen=True, kw_only=True)
class SennaRecord:
    """One record: questions, mostly a single one, with answers about one sample."""

    token: str
    """Of the nuScenes sample."""
    scene: str
    """Token of its scene."""
    images: Mapping[str, str]
    """Path as written, by camera, in our order of cameras."""
    turns: tuple[tuple[str, str], ...]
    """Questions without the lines that name the views, and their answers."""
    kind: str | None = None
    """As the record says; None where it does not, see :func:`kind_of`."""
    case_name: str = REGULAR
    before: str = ""
    """Token of the sample before this one in the scene; empty at the beginning."""
    after: str = ""
    lidar_future: NDArray[np.float64] | None = field(default=None, compare=False)
    """(T, 2) x right, y forward [m], the way of LIDAR_TOP in its own frame of now; None where
    less than 3 s follow or the record does not say."""


def read_records(path: Path) -> Iterator[tuple[str, SennaRecord]]:
    """Read a file of any size record by record; each comes with its place, for messages.

    Raises:
        DataError: the file cannot be read, is no JSON list of objects, ends early, or a record
            lacks something, says something impossible, or does not say which of its pictures is
            from which camera; names the record.
    """
    for number, fields in enumerate(read_objects(path), 1):
        where = f"{path}: record {number}"
        try:
            yield where, record_from_json(fields)
        except KeyError as err:
            raise DataError(f"{where}: field {err} is missing") from err
        except (TypeError, ValueError, RecursionError) as err:
            raise DataError(f"{where}: {err}") from err


def record_from_json(fields: Mapping[str, Any]) -> SennaRecord:
    """One record.

    Raises:
        KeyError: a field is missing.
        ValueError: a field cannot be what it should.
    """
    kind = fields.get("kind")
    return SennaRecord(
        token=_filled(fields["token"], "token"),
        scene=_filled(fields["scene_token"], "scene_token"),
        images=_images(fields["images"], fields.get("image")),
        turns=_turns(fields["conversations"]),
        kind=None if kind is None else _filled(kind, "kind"),
        case_name=_filled(fields.get("case_name", REGULAR), "case_name"),
        before=_text(fields.get("prev", ""), "prev"),
        after=_text(fields.get("next", ""), "next"),
        lidar_future=_lidar_future(fields),
    )


def record_to_json(record: SennaRecord, *, names_follow_images: bool = True) -> dict[str, Any]:
    """The record as Senna's trainer and evaluation read it.

    Args:
        record: with all six views.
        names_follow_images: name the views before a question in the order of the pictures. False
            names them as the public converter does: right for the released weights, which were
            trained with four views under the wrong name.
    """
    views = _view_lines(IMAGE_ORDER if names_follow_images else CAMERAS)
    images = [record.images[camera] for camera in IMAGE_ORDER]
    said = [
        {"from": who, "value": value}
        for question, answer in record.turns
        for who, value in (("human", views + question.replace("<image>", "")), ("gpt", answer))
    ]
    future = record.lidar_future
    return {
        "token": record.token,
        "image": images[0],
        "images": images,
        "prev": record.before,
        "next": record.after,
        "scene_token": record.scene,
        "fut_valid_flag": str(future is not None),
        "ego_fut_trajs": str([] if future is None else future.reshape(-1).tolist()),
        "conversations": said,
        "kind": record.kind,
        "case_name": record.case_name,
    }


def kind_of(question: str) -> str:
    """What the public converter's question is about, by the words that only it has."""
    return next((kind for words, kind in _KINDS if words in question), OTHER_KIND)


def camera_of(name: str) -> str:
    """The camera that a picture's path names, in a folder's or the file's name.

    Raises:
        ValueError: it names none, or several.
    """
    named: list[str] = sorted(set(_CAMERA.findall(name)))
    if len(named) != 1:
        raise ValueError(
            f"picture {name[:120]!r} names {' and '.join(named) or 'no camera'}, expected one "
            "camera in its path; the order of pictures is not trusted"
        )
    return named[0]


def _view_lines(cameras: Sequence[str]) -> str:
    names = (camera.removeprefix("CAM_").replace("_", " ") for camera in cameras)
    return "".join(f"<{name} VIEW>:\n<image>\n" for name in names)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is a {type(value).__name__}, expected text")
    text: str = value
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ValueError(f"{what} holds half of a surrogate pair, expected text") from err
    return text


def _filled(value: Any, what: str) -> str:
    text = _text(value, what)
    if not text:
        raise ValueError(f"{what} is empty")
    return text


def _images(names: Any, front: Any) -> dict[str, str]:
    """The pictures by camera; what place they have in the list does not matter."""
    if not isinstance(names, list) or not names:
        raise ValueError(f"images is {str(names)[:60]!r}, expected a list of paths")
    by_camera: dict[str, str] = {}
    for name in names:
        if len(_filled(name, "a picture's path")) > _MAX_NAME:
            raise ValueError(f"a picture's path has {len(name)} letters, expected a path")
        camera = camera_of(name)
        if camera in by_camera:
            raise ValueError(f"images has two pictures of {camera}, expected one per camera")
        by_camera[camera] = name
    if front is not None and front not in names:
        raise ValueError(f"image is {str(front)[:120]!r}, which is none of images")
    return {camera: by_camera[camera] for camera in CAMERAS if camera in by_camera}


def _turns(said: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(said, list) or not said:
        raise ValueError(f"conversations is {str(said)[:60]!r}, expected question and answer")
    if len(said) % 2:
        raise ValueError("conversations ends with a question that nobody answers")
    values = [_said(line, ("human", "gpt")[i % 2]) for i, line in enumerate(said)]
    return tuple(zip(map(_without_views, values[::2]), values[1::2], strict=True))


def _said(line: Any, who: str) -> str:
    if not isinstance(line, dict) or line.get("from") != who:
        speaker = line.get("from") if isinstance(line, dict) else line
        raise ValueError(f"conversations: {str(speaker)[:60]!r} speaks, expected {who!r}")
    return _text(line["value"], "value")


def _without_views(question: str) -> str:
    """The question alone: no lines naming views, no place left for a picture."""
    start = 0
    while lines := _VIEW_LINE.match(question[start : start + 80]):
        start += lines.end()
    return question[start:].replace("<image>", "").strip()


def _lidar_future(fields: Mapping[str, Any]) -> NDArray[np.float64] | None:
    flag = str(fields.get("fut_valid_flag", "False"))
    if flag not in ("True", "False"):
        raise ValueError(f"fut_valid_flag is {flag[:60]!r}, expected 'True' or 'False'")
    printed = fields.get("ego_fut_trajs")
    if flag == "False" or printed is None:
        return None
    numbers = _printed_list(printed) if isinstance(printed, str) else printed
    wanted = f"ego_fut_trajs is {str(printed)[:60]!r}, expected {2 * FUTURE_STEPS} metres"
    if not isinstance(numbers, list) or len(numbers) != 2 * FUTURE_STEPS:
        raise ValueError(wanted)
    if not all(type(v) in (int, float) and abs(v) < _FAR_M for v in numbers):  # False for NaN
        raise ValueError(wanted)
    return np.array(numbers, np.float64).reshape(FUTURE_STEPS, 2)


def _printed_list(printed: str) -> Any:
    """What ``str(list(numbers))`` printed, by numpy 1 or by numpy 2 with its type names."""
    try:
        return json.loads(_NUMPY_2.sub(r"\1", printed))
    except (ValueError, RecursionError):
        return None
