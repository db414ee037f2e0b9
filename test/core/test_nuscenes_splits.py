"""Which scenes are learnt from: by file, by the devkit, by name, by checksum."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clkd_core.data.nuscenes.splits import VAL_EVERY, split_scenes
from clkd_core.errors import DataError


def split_of(root: Path, version: str, name: str) -> str:
    return split_scenes(root, version, [name])[name]


def test_published_versions_are_split_as_published(tmp_path: Path) -> None:
    splits = pytest.importorskip("nuscenes.utils.splits", reason="needs nuscenes-devkit")
    for version, theirs in {
        "v1.0-trainval": {"train": splits.train, "val": splits.val},
        "v1.0-mini": {"train": splits.mini_train, "val": splits.mini_val},
        "v1.0-test": {"val": splits.test},
    }.items():
        wanted = {name: split for split, names in theirs.items() for name in names}
        assert split_scenes(tmp_path, version, wanted) == wanted
    assert split_of(tmp_path, "v1.0-mini", "scene-0103") == "val"
    assert split_of(tmp_path, "v1.0-trainval", "scene-0103") == "val"
    assert split_of(tmp_path, "v1.0-trainval", "scene-0061") == "train"


def test_our_worlds_scenes_say_it_themselves(tmp_path: Path) -> None:
    names = ["train-0003", "val-0001"]
    assert split_scenes(tmp_path, "v1.0-clkd", names) == {"train-0003": "train", "val-0001": "val"}


def test_other_scenes_are_split_by_a_checksum(tmp_path: Path) -> None:
    names = [f"drive-{i}" for i in range(2000)]
    found = split_scenes(tmp_path, "v1.0-mine", names)
    share = Counter(found.values())["val"] / len(names)
    assert share == pytest.approx(1 / VAL_EVERY, abs=0.03)
    assert found == split_scenes(tmp_path, "v2.0-mine", reversed(names))
    assert split_of(tmp_path, "v", "\ud800") in ("train", "val")


def write(root: Path, content: Any) -> None:
    (root / "v").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "v" / "splits.json").write_text(text)


def test_file_of_splits_goes_first(tmp_path: Path) -> None:
    write(tmp_path, {"train": ["val-0001"], "val": ["x", "train-0001"], "test": ["y"]})
    assert split_of(tmp_path, "v", "val-0001") == "train"
    assert split_of(tmp_path, "v", "train-0001") == split_of(tmp_path, "v", "x") == "val"
    assert split_of(tmp_path, "v", "train-0002") == "train"


@pytest.mark.parametrize(
    "content", ["", "[1]", "7", {"train": 5}, {"train": [["a"]], "val": ["['a']"]}, "[" * 100_000]
)
def test_file_of_another_shape_is_named(tmp_path: Path, content: Any) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=r"splits\.json: "):
        split_of(tmp_path, "v", "a")


def test_scene_in_both_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train": ["a", "b"], "val": ["b"]})
    with pytest.raises(DataError, match="a scene is there twice"):
        split_of(tmp_path, "v", "a")
