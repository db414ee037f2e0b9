"""Which scenes are learnt from and which are judged on."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clkd_core.errors import DataError

VAL_EVERY = 5
"""Of scenes that nobody has put into a split, about one in so many is judged on."""

_DEVKIT_SPLITS: Mapping[str, Mapping[str, str]] = {
    "v1.0-trainval": {"train": "train", "val": "val"},
    "v1.0-mini": {"mini_train": "train", "mini_val": "val"},
    "v1.0-test": {"test": "val"},
}
"""Name in ``nuscenes.utils.splits`` -> ours, by version. Nothing is learnt from the test set."""


def split_scenes(root: Path, version: str, names: Iterable[str]) -> dict[str, str]:
    """``train`` or ``val`` for every scene, by the first of these that knows it.

    1. ``<root>/<version>/splits.json``, the devkit's own form of custom splits: an object
       ``{"train": [...], "val": [...]}`` of scenes' names;
    2. ``nuscenes.utils.splits`` for the versions v1.0-trainval, v1.0-mini and v1.0-test;
    3. the name itself where it begins with ``train`` or ``val``, as our own world's do;
    4. a checksum of the name: about one in :data:`VAL_EVERY` is ``val``.

    Raises:
        DataError: ``splits.json`` is something else, or has a scene in both.
    """
    known = {**_devkit_splits(version), **_custom_splits(root / version / "splits.json")}
    return {name: known.get(name) or _split_of_unknown(name) for name in names}


def _split_of_unknown(name: str) -> str:
    for split in ("train", "val"):
        if name.startswith(split):
            return split
    return "train" if zlib.crc32(name.encode(errors="replace")) % VAL_EVERY else "val"


def _devkit_splits(version: str) -> dict[str, str]:
    if version not in _DEVKIT_SPLITS:
        return {}
    from nuscenes.utils.splits import create_splits_scenes

    scenes = create_splits_scenes()
    return {
        name: ours for theirs, ours in _DEVKIT_SPLITS[version].items() for name in scenes[theirs]
    }


def _custom_splits(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        lists: Any = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(name, split) for split in ("train", "val") for name in lists.get(split, ())]
        found = {str(name): split for name, split in pairs}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as err:
        raise DataError(f"{path}: expected an object of lists train and val: {err}") from err
    if len(found) < len(pairs):
        raise DataError(f"{path}: a scene is there twice, expected every scene in one split")
    return found
