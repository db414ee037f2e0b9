"""clkd_core.data.language.merge: one set of DriveLM and CODA-LM, whole or not at all."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_files import (
    coda_content,
    drivelm_content,
    flat_content,
    region,
    write_coda,
    write_drivelm,
    write_image,
)

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.language.merge import MergeConfig, Merged, merge
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import sha256_of
from clkd_core.types import EgoState, RouteCommand, Trajectory


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Two scenes of DriveLM with 20 questions; three of CODA-LM, of which one to judge on."""
    write_drivelm(tmp_path / "drivelm")
    write_coda(tmp_path / "coda", ["Train/val_0001", "Train/val_0002", "Val/test_0001"])
    return tmp_path


def merged(root: Path, **changes: Any) -> Merged:
    values: dict[str, Any] = {
        "out": root / "set",
        "drivelm": (root / "drivelm",),
        "coda_lm": (root / "coda" / "CODA-LM",),
    }
    return merge(MergeConfig(**{**values, **changes}))


def written(root: Path, version: str = "v1.0") -> dict[str, list[Keyframe]]:
    return {s: list(load_keyframes(root / "set", version, s)) for s in ("train", "val")}


def test_merged_set_is_read_like_any_other_and_its_images_are_found(annotations: Path) -> None:
    result = merged(annotations)
    assert result.folder == annotations / "set" / "v1.0"
    keyframes = written(annotations)
    assert [k.case_name for k in keyframes["train"]] == [
        "regular", "regular", "coda_lm", "cone", "coda_lm", "cone",
    ]  # fmt: skip
    assert [k.case_name for k in keyframes["val"]] == ["regular", "regular", "coda_lm", "cone"]
    for keyframe in (*keyframes["train"], *keyframes["val"]):
        frame = surround_frame(keyframe)
        assert len(frame.images) == (1 if keyframe.is_corner else 6)
    real = {p.resolve().parent for k in keyframes["train"] for p in k.image_paths.values()}
    assert annotations / "coda" / "val" / "images" in real
    assert annotations / "drivelm" / "nuscenes" / "samples" / "CAM_BACK" in real


def test_no_scene_is_in_two_splits(annotations: Path) -> None:
    merged(annotations)
    keyframes = written(annotations)
    scenes = {split: {k.scene for k in found} for split, found in keyframes.items()}
    assert not scenes["train"] & scenes["val"]
    assert {s for s in scenes["val"] if s.startswith("coda")} == {"coda_lm-test_0001"}


def test_manifest_counts_what_the_set_holds(annotations: Path) -> None:
    manifest = merged(annotations).manifest
    assert json.loads((annotations / "set" / "v1.0" / "manifest.json").read_text()) == manifest
    keyframes = written(annotations)
    for name, corner in (("drivelm", False), ("coda_lm", True)):
        for split, found in keyframes.items():
            ours = [k for k in found if k.is_corner is corner]
            kinds = Counter(q.kind for k in ours for q in k.questions)
            cases = Counter(k.case_name for k in ours)
            counted = manifest["sources"][name]
            assert counted["keyframes"][split] == len(ours)
            assert counted["questions"][split] == kinds
            assert counted["cases"][split] == cases
    assert manifest["ratio"]["train"] == {
        "regular": {"keyframes": 2, "questions": 10},
        "corner": {"keyframes": 4, "questions": 6},
        "regular_per_corner": {"keyframes": 0.5, "questions": 1.6667},
    }
    assert manifest["split"]["scenes"] == {"train": 3, "val": 2}
    assert manifest["sidecar"]["records"] == 10
    assert manifest["sources"]["drivelm"]["object_tags"] == {
        "mentioned": 4,
        "outside": 0,
        "malformed": 0,
    }


def test_manifest_holds_the_hashes_of_all_files(annotations: Path) -> None:
    manifest = merged(annotations).manifest
    paths = [Path(entry["path"]) for entry in manifest["inputs"]]
    assert [path.name for path in paths] == [
        "train.json", "val_0001.json", "val_0002.json", "test_0001.json",
    ]  # fmt: skip
    assert [e["sha256"] for e in manifest["inputs"]] == [sha256_of(path) for path in paths]
    sidecar = annotations / "set" / "v1.0" / SIDECAR
    assert manifest["sidecar"]["sha256"] == sha256_of(sidecar)


def test_same_inputs_and_seed_give_the_same_bytes(annotations: Path) -> None:
    def content(**changes: Any) -> tuple[bytes, bytes]:
        folder = merged(annotations, regular_per_corner=1.0, **changes).folder
        return (folder / SIDECAR).read_bytes(), (folder / "manifest.json").read_bytes()

    first = content()
    assert content() == first
    assert content(seed=2)[0] != first[0]


def test_images_outlive_the_set_that_links_to_them(annotations: Path) -> None:
    merged(annotations)
    merged(annotations, drivelm=())
    assert len(list((annotations / "drivelm").rglob("*.jpg"))) == 24
    assert [k.is_corner for k in written(annotations)["train"]] == [True] * 4


def test_another_version_stands_beside_the_first(annotations: Path) -> None:
    merged(annotations)
    merged(annotations, version="v1.1", coda_lm=())
    assert len(written(annotations)["train"]) == 6
    assert len(written(annotations, "v1.1")["train"]) == 2


def test_ratio_is_reached_in_train_and_told(annotations: Path) -> None:
    manifest = merged(annotations, regular_per_corner=5.0).manifest
    ratio = manifest["ratio"]
    assert ratio["train"]["regular_per_corner"]["questions"] == 5.0
    assert manifest["left_out_for_ratio"] == {"regular": 0, "corner": 4}
    assert ratio["val"]["corner"]["questions"] == 3
    assert sum(len(k.questions) for k in written(annotations)["train"]) == 12


def test_questions_are_dealt_to_train_alone(annotations: Path) -> None:
    result = merged(annotations, questions_per_keyframe=2)
    keyframes = written(annotations)
    regular = [k for k in keyframes["train"] if not k.is_corner]
    assert [len(k.questions) for k in regular] == [2, 2, 1, 2, 2, 1]
    assert [len(k.questions) for k in keyframes["val"] if not k.is_corner] == [5, 5]
    assert result.manifest["sources"]["drivelm"]["keyframes"] == {"train": 2, "val": 2}
    assert result.manifest["sidecar"]["records"] == len(keyframes["train"] + keyframes["val"])


def spoil(root: Path) -> tuple[Path, Path]:
    missing = next((root / "drivelm" / "nuscenes" / "samples" / "CAM_BACK").glob("*.jpg"))
    missing.unlink()
    empty = root / "coda" / "val" / "images" / "0002.jpg"
    empty.write_bytes(b"")
    return missing, empty


def test_missing_images_are_counted_and_named_before_anything_is_written(
    annotations: Path,
) -> None:
    missing, empty = spoil(annotations)
    with pytest.raises(
        DataError, match=f"drivelm: 1 image files .*{re.escape(missing.name)} is missing"
    ):
        merged(annotations)
    with pytest.raises(DataError, match=f"coda_lm: 1 image files .*{empty.name} is empty"):
        merged(annotations, drivelm=())
    assert not (annotations / "set").exists()


def test_skip_missing_goes_on_without_and_counts(annotations: Path) -> None:
    spoil(annotations)
    sources = merged(annotations, skip_missing=True).manifest["sources"]
    assert sources["drivelm"]["left_out"] == {
        "image is missing": 1,
        "keyframe has an unusable image": 1,
    }
    assert sources["coda_lm"]["left_out"] == {"image is empty": 1}
    assert sum(sources["drivelm"]["keyframes"].values()) == 3
    assert sources["coda_lm"]["keyframes"] == {"train": 2, "val": 2}


def test_keyframe_without_any_question_is_left_out(annotations: Path) -> None:
    content = drivelm_content()
    content["scene0"]["key_frames"]["frame1"]["QA"] = {"planning": [{"Q": "What?", "A": ""}]}
    write_drivelm(annotations / "drivelm", content)
    counted = merged(annotations).manifest["sources"]["drivelm"]
    assert counted["left_out"] == {
        "answer is missing": 1,
        "keyframe has neither question nor action": 1,
    }
    assert sum(counted["keyframes"].values()) == 3


def test_nothing_left_is_an_error_and_leaves_no_folder(annotations: Path) -> None:
    write_coda(annotations / "coda", ["Val/test_0001"], {"driving_suggestion": ""})
    folder = annotations / "coda" / "CODA-LM" / "Val"
    with pytest.raises(DataError, match="no keyframe is left"):
        merged(annotations, drivelm=(), coda_lm=(folder,))
    assert not (annotations / "set").exists()


def test_images_are_looked_for_where_the_user_says(annotations: Path, tmp_path: Path) -> None:
    (annotations / "coda" / "val").rename(tmp_path / "val")
    (annotations / "flat").mkdir()
    (annotations / "flat" / "0007.json").write_text(json.dumps(flat_content()))
    write_image(tmp_path / "elsewhere" / "0007.jpg")
    merged(
        annotations,
        coda_lm=(annotations / "coda" / "CODA-LM", annotations / "flat"),
        images=(tmp_path, tmp_path / "elsewhere"),
    )
    scenes = {k.scene for k in written(annotations)["train"] if k.is_corner}
    assert scenes == {"coda_lm-val_0001", "coda_lm-val_0002", "coda_lm-0007"}


def test_regions_keep_their_boxes(annotations: Path) -> None:
    content = coda_content({"1": region((1.5, 2, 8, 6)), "2": region((90, 2, 8, 6))})
    write_coda(annotations / "coda", ["Train/val_0001"], content)
    counted = merged(annotations).manifest["sources"]["coda_lm"]
    assert counted["left_out"] == {"region has no pixel in its image": 1}
    boxes = [k.region.box_xywh_px for k in written(annotations)["train"] if k.region]
    assert boxes == [(1.5, 2, 8, 6), (4, 5, 8, 6)]


def nuscenes_set(root: Path, *, shift_ns: int = 0) -> tuple[Path, str]:
    """Our form of nuScenes with plans for three of DriveLM's four keyframes."""
    records = []
    for keyframe in [k for found in written(root).values() for k in found if not k.is_corner]:
        if keyframe.sample_token == "frame3":
            continue
        xy = np.stack([np.arange(1, 7) * 4.0, np.zeros(6)], axis=1).astype(np.float32)
        labelled = replace(
            keyframe,
            scene="scene-0001",
            image_paths={c: root / "set" / p.name for c, p in keyframe.image_paths.items()},
            image_stamps_ns={c: s + shift_ns for c, s in keyframe.image_stamps_ns.items()},
            ego=EgoState(stamp_ns=1, speed_mps=8.0),
            command=RouteCommand.LEFT,
            future=Trajectory(xy_m=xy),
            action=meta_action_from_future(lidar_from_ego(xy)),
            questions=(),
            history=np.zeros((4, 2), np.float32),
        )
        records.append(keyframe_to_json(labelled, split="train", root=root / "set"))
    write_sidecar(root / "nuscenes" / "v1.0-mini" / SIDECAR, records)
    return root / "nuscenes", "v1.0-mini"


def test_plans_are_taken_from_nuscenes_by_token(annotations: Path) -> None:
    merged(annotations)
    result = merged(annotations, nuscenes=nuscenes_set(annotations))
    assert result.manifest["sources"]["drivelm"]["joined_with_nuscenes"] == 3
    assert "nuscenes/v1.0-mini/clkd_keyframes.jsonl" in str(result.manifest["inputs"])
    regular = [k for found in written(annotations).values() for k in found if not k.is_corner]
    by_token = {k.sample_token: k for k in regular}
    assert by_token["frame3"].action is None and by_token["frame3"].ego is None
    joined = by_token["frame0"]
    assert joined.action is not None and joined.action.text == "KEEP, STRAIGHT"
    assert joined.ego is not None and joined.ego.speed_mps == 8.0
    assert joined.command is RouteCommand.LEFT and joined.history is not None
    assert joined.scene == "scene0" and len(joined.questions) == 5
    assert surround_frame(joined).images.keys() == joined.image_paths.keys()


def test_nuscenes_with_other_images_is_refused(annotations: Path) -> None:
    merged(annotations)
    other = nuscenes_set(annotations, shift_ns=1_000_000)
    with pytest.raises(DataError, match=r"keyframe frame\d: its CAM_FRONT image is of"):
        merged(annotations, nuscenes=other)


def test_nuscenes_that_is_not_there_or_damaged_is_an_error(annotations: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        merged(annotations, nuscenes=(annotations / "nothing", "v1.0"))
    merged(annotations)
    root, version = nuscenes_set(annotations)
    sidecar = root / version / SIDECAR
    sidecar.write_text(sidecar.read_text()[:-20])
    with pytest.raises(DataError, match="truncated"):
        merged(annotations, nuscenes=(root, version))


def test_folder_of_something_else_is_not_replaced(annotations: Path) -> None:
    write_image(annotations / "set" / "v1.0" / "mine.jpg")
    with pytest.raises(DataError, match=r"holds files but no manifest\.json"):
        merged(annotations)
    assert (annotations / "set" / "v1.0" / "mine.jpg").is_file()


def test_images_inside_of_the_set_are_not_replaced_with_it(annotations: Path) -> None:
    folder = merged(annotations).folder
    (annotations / "coda" / "val").rename(folder / "val")
    with pytest.raises(DataError, match="which is about to be replaced"):
        merged(annotations, images=(folder,))
    assert (folder / "val" / "images" / "0001.jpg").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"drivelm": (), "coda_lm": ()}, "neither DriveLM nor CODA-LM"),
        ({"version": "../up"}, "version is '../up'"),
        ({"version": ""}, "version is ''"),
        ({"val_frac": 1.0}, "val_frac is 1.0"),
        ({"val_frac": float("nan")}, "val_frac is nan"),
        ({"regular_per_corner": 0.0}, "regular_per_corner is 0.0"),
        ({"regular_per_corner": float("inf")}, "regular_per_corner is inf"),
        ({"questions_per_keyframe": 0}, "questions_per_keyframe is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"val_scenes": ("nowhere",)}, "val names scene nowhere"),
    ],
)
def test_wrong_values_are_config_errors(
    annotations: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        merged(annotations, **changes)
    assert not (annotations / "set").exists()


def test_real_pieces_become_one_set(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "codalm" / "flat").glob("*.json"):
        write_image(tmp_path / "images" / f"{path.stem}.jpg")
    write_image(tmp_path / "test" / "images" / "0353.jpg", height=1020, width=1920)
    manifest = merge(
        MergeConfig(
            out=tmp_path / "set",
            drivelm=(shared_data / "drivelm",),
            coda_lm=(shared_data / "codalm" / "flat", shared_data / "codalm" / "official"),
            images=(tmp_path,),
        )
    ).manifest
    regular, corner = (manifest["sources"][name] for name in ("drivelm", "coda_lm"))
    assert regular["left_out"] == corner["left_out"] == {}
    assert sum(regular["keyframes"].values()) == 9
    assert sum(sum(kinds.values()) for kinds in regular["questions"].values()) == 790
    assert corner["keyframes"] == {"train": 36, "val": 6}
    assert corner["questions"] == {
        "train": {"general": 36, "suggestion": 36},
        "val": {"general": 5, "region": 1, "suggestion": 5},
    }
    assert len(manifest["inputs"]) == 42
