"""One table of the nuScenes schema: read, and held against what others refer to.

The devkit believes its tables: a second row with the same token hides the first, a token that
nothing answers to is a bare KeyError, half a file a JSONDecodeError. Here each is named.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError

Row = dict[str, Any]

REFERENCES: Mapping[str, Mapping[str, str]] = {
    "calibrated_sensor": {"sensor_token": "sensor"},
    "instance": {
        "category_token": "category",
        "first_annotation_token": "sample_annotation",
        "last_annotation_token": "sample_annotation",
    },
    "map": {"log_tokens": "log"},
    "sample": {"scene_token": "scene", "prev": "sample", "next": "sample"},
    "sample_annotation": {
        "sample_token": "sample",
        "instance_token": "instance",
        "prev": "sample_annotation",
        "next": "sample_annotation",
    },
    "sample_data": {
        "sample_token": "sample",
        "ego_pose_token": "ego_pose",
        "calibrated_sensor_token": "calibrated_sensor",
        "prev": "sample_data",
        "next": "sample_data",
    },
    "scene": {
        "log_token": "log",
        "first_sample_token": "sample",
        "last_sample_token": "sample",
    },
}
"""Column -> table it points into, by table; attributes and visibility are read by nobody here."""

_ENDS = ("prev", "next")
"""Columns that are empty at the ends of a chain."""
_LISTS = ("log_tokens",)
"""Columns that hold a list of tokens."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_stamp(value: Any) -> bool:
    """Microseconds whose nanoseconds still fit in 64 bits."""
    return type(value) is int and 0 <= value < 2**63 // 1000


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_vector(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(v) in (int, float) and abs(v) < 1e15 for v in value)  # False for NaN
    )


def _is_place(value: Any) -> bool:
    return _is_vector(value, 3)


def _is_size(value: Any) -> bool:
    return _is_vector(value, 3) and min(value) >= 0


def _is_rotation(value: Any) -> bool:
    return _is_vector(value, 4) and 0.5 < math.sqrt(sum(v * v for v in value)) < 2.0


_POSE = {"translation": (_is_place, "three metres"), "rotation": (_is_rotation, "a quaternion")}
_STAMP = {"timestamp": (_is_stamp, "microseconds")}

_COLUMNS: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "calibrated_sensor": _POSE,
    "category": {"name": (_is_text, "text")},
    "ego_pose": _POSE,
    "map": {"filename": (_is_text, "text")},
    "sample": _STAMP,
    "sample_annotation": {**_POSE, "size": (_is_size, "width, length, height in metres")},
    "sample_data": {
        **_STAMP,
        "filename": (_is_text, "text"),
        "is_key_frame": (_is_flag, "true or false"),
    },
    "scene": {"name": (_is_text, "text"), "nbr_samples": (_is_count, "a count")},
    "sensor": {"channel": (_is_text, "text"), "modality": (_is_text, "text")},
}
"""What the devkit and we read of each row, apart from tokens."""


def load_table(folder: Path, name: str) -> list[Row]:
    """Read ``<folder>/<name>.json``.

    Raises:
        DataError: the file is missing, is no JSON list of rows, or a row has no token, one that
            came before, or a column that cannot be what it should.
    """
    path = folder / f"{name}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file, expected a table of nuScenes") from err
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read: {err}") from err
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path}: not JSON, the file may be truncated: {err}") from err
    if not isinstance(rows, list):
        raise DataError(f"{path}: is a {type(rows).__name__}, expected a list of rows")
    _check_rows(rows, path, name)
    return rows


def _check_rows(rows: Sequence[Any], path: Path, name: str) -> None:
    seen: set[str] = set()
    columns = _COLUMNS.get(name, {})
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("token"), str):
            raise DataError(f"{path}: row {number} has no token, expected an object with one")
        token = row["token"]
        if token in seen:
            raise DataError(f"{path}: token {token[:60]!r} is there twice")
        seen.add(token)
        for column, (is_right, wanted) in columns.items():
            if not is_right(row.get(column)):
                raise DataError(
                    f"{path}: row {token[:60]!r}: {column} is {str(row.get(column))[:60]!r}, "
                    f"expected {wanted}"
                )


def check_references(tables: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Check that every token that a row names is there.

    Raises:
        DataError: names table, row, column and token.
    """
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    for name, columns in REFERENCES.items():
        for column, target in columns.items():
            known, may_end = tokens[target], column in _ENDS
            for row in tables[name]:
                _check_reference(row, column, known, may_end, f"{folder / name}.json", target)
    _check_keyframes(tables["sample_data"], folder)
    _check_maps(tables, folder)


def _check_reference(
    row: Row, column: str, known: set[str], may_end: bool, path: str, target: str
) -> None:
    value = row.get(column)
    if isinstance(value, str) and (value in known or (may_end and not value)):
        return
    for token in value if column in _LISTS and isinstance(value, list) else [value]:
        if not isinstance(token, str) or token not in known:
            raise DataError(
                f"{path}: row {row['token'][:60]!r}: {column} is {str(token)[:60]!r}, "
                f"which is no token in the table {target}"
            )


def _check_keyframes(rows: Sequence[Row], folder: Path) -> None:
    """Of two images of a keyframe the devkit takes the last; nobody says which is right."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if row["is_key_frame"]:
            key = (row["sample_token"], row["calibrated_sensor_token"])
            if key in seen:
                raise DataError(
                    f"{folder / 'sample_data.json'}: row {row['token'][:60]!r}: its sensor has "
                    f"another row for the keyframe {key[0][:60]!r}, expected one"
                )
            seen.add(key)


def _check_maps(tables: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """The devkit wants a map for every log, and each map's picture on disk."""
    mapped = {token for row in tables["map"] for token in row["log_tokens"]}
    for row in tables["log"]:
        if row["token"] not in mapped:
            raise DataError(f"{folder / 'map.json'}: no map of log {row['token'][:60]!r}")
    for row in tables["map"]:
        picture = folder.parent / row["filename"]
        if not picture.is_file():
            raise DataError(f"{picture}: no such file; the maps come with the set's metadata")
