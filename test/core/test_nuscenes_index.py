"""A whole version: from tables to a set that training opens, in one go or in several."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyframe_makers import tokens
from tiny_nuscenes import (
    VERSION,
    Tables,
    add_scene,
    can_pose,
    circle,
    fixed_tables,
    straight,
    write_can,
    write_tables,
)

from clkd_core.data.nuscenes import index as index_module
from clkd_core.data.nuscenes.index import index_nuscenes
from clkd_core.data.sidecar import SIDECAR, load_keyframes
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit (extra `nuscenes`)")


def three_scenes() -> Tables:
    tables = fixed_tables()
    add_scene(tables, "train-a", 8, circle(8.0, 25.0), agents=[lambda t: (9.0, 3.0, 0.0)])
    add_scene(tables, "val-b", 7, straight(8.0), sweeps=1)
    add_scene(tables, "train-c", 1, straight(2.0))
    return tables


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tables(tmp_path / "set", three_scenes())
    return tmp_path / "set"


def lines(root: Path) -> list[Any]:
    return [json.loads(line) for line in (root / VERSION / SIDECAR).read_text().splitlines()]


def test_every_scene_is_in_its_split_in_the_order_of_the_tables(root: Path) -> None:
    counts = index_nuscenes(root, VERSION, workers=1)
    train = load_keyframes(root, VERSION, "train")
    assert tokens(train) == [*(f"train-a-0{i}" for i in range(8)), "train-c-00"]
    assert tokens(load_keyframes(root, VERSION, "val")) == [f"val-b-0{i}" for i in range(7)]
    assert (counts.scenes, counts.keyframes, counts.train, counts.val) == (3, 16, 9, 7)
    assert (counts.labelled, counts.from_can, counts.gaps) == (3, 0, 0)
    assert counts.missing_images == counts.without_image == 0
    assert "3 scenes, 16 keyframes (9 train, 7 val), 3 with a label" in counts.describe()
    assert sorted(p.name for p in (root / VERSION).iterdir() if "clkd" in p.name) == [
        "clkd_keyframes.index.npz",
        SIDECAR,
    ]
    agents = train[0].agents
    assert len(agents) == 1 and agents[0].poses.shape == (7, 3)


def test_processes_make_no_difference(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "two")
    index_nuscenes(root, VERSION, workers=1)
    index_nuscenes(tmp_path / "two", VERSION, workers=2)
    assert lines(root) == lines(tmp_path / "two")


def test_can_bus_is_used_where_it_is_there(root: Path) -> None:
    first_us = three_scenes()["sample"][0]["timestamp"]
    write_can(root, "train-a", [can_pose(first_us - 2000, 7.25, 0.0)])
    counts = index_nuscenes(root, VERSION, workers=1)
    assert counts.from_can == 1 and "1 speeds from the CAN bus" in counts.describe()
    ego = load_keyframes(root, VERSION, "train")[0].ego
    assert ego is not None and ego.speed_mps == 7.25


def test_interrupted_run_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, done = index_module._write_scene, []

    def fails_at_the_third(task: Any) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.rows.name)
        return real(task)

    monkeypatch.setattr(index_module, "_write_scene", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        index_nuscenes(root, VERSION, workers=1)
    assert not (root / VERSION / SIDECAR).exists()
    again: list[str] = []
    monkeypatch.setattr(
        index_module, "_write_scene", lambda task: (again.append(task.rows.name), real(task))[1]
    )
    counts = index_nuscenes(root, VERSION, workers=1)
    assert (done, again) == (["train-a", "val-b"], ["train-c"])
    assert counts.keyframes == 16 and counts.labelled == 3
    assert tokens(load_keyframes(root, VERSION, "train"))[-1] == "train-c-00"
    assert not list((root / VERSION).glob(".*"))


@pytest.mark.parametrize("what", ["table", "option", "images", "can bus"])
def test_unfinished_work_of_other_tables_or_options_is_not_used(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real, done = index_module._write_scene, []

    def write(task: Any) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.rows.name)
        return real(task)

    monkeypatch.setattr(index_module, "_write_scene", write)
    with pytest.raises(KeyboardInterrupt):
        index_nuscenes(root, VERSION, workers=1)
    done.clear()
    monkeypatch.setattr(
        index_module, "_write_scene", lambda task: (done.append(task.rows.name), real(task))[1]
    )
    if what == "table":
        scenes = json.loads((root / VERSION / "scene.json").read_text())
        (root / VERSION / "scene.json").write_text(json.dumps(scenes, indent=1))
    if what == "images":
        (root / "samples/CAM_FRONT/train-a-00-CAM_FRONT-0.jpg").unlink()
    if what == "can bus":
        write_can(root, "train-a", [])
    index_nuscenes(root, VERSION, workers=1, skip_missing=True, senna_questions=what == "option")
    assert done == ["train-a", "val-b", "train-c"]


def test_missing_images_are_named_before_anything_is_computed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((root / "samples/CAM_FRONT").iterdir())
    for path in images[:12]:
        path.unlink()
    monkeypatch.setattr(index_module, "collect_scene", None)
    with pytest.raises(
        DataError, match=r"12 of 96 image files are missing .* and 2 more"
    ) as caught:
        index_nuscenes(root, VERSION, workers=1)
    assert str(caught.value).count(".jpg") == 10
    assert not list((root / VERSION).glob("*clkd*")) + list((root / VERSION).glob(".*"))


def test_missing_images_may_be_left_out(root: Path) -> None:
    (root / "samples/CAM_FRONT/train-a-00-CAM_FRONT-0.jpg").write_bytes(b"")
    for camera in CAMERAS:
        (root / f"samples/{camera}/train-a-01-{camera}-0.jpg").unlink()
    counts = index_nuscenes(root, VERSION, workers=1, skip_missing=True)
    assert (counts.missing_images, counts.without_image, counts.keyframes) == (7, 1, 15)
    assert "7 missing images left out and with them 1 keyframes" in counts.describe()
    train = load_keyframes(root, VERSION, "train")
    assert tokens(train)[:2] == ["train-a-00", "train-a-02"]
    assert set(train[0].image_paths) == set(CAMERAS) - {"CAM_FRONT"}
    assert train[0].future is not None  # the keyframe without images was driven all the same


def test_set_without_any_image_is_refused(root: Path) -> None:
    shutil.rmtree(root / "samples")
    with pytest.raises(DataError, match="96 of 96 image files are missing"):
        index_nuscenes(root, VERSION, workers=1, skip_missing=True)


def test_set_that_cannot_be_written_goes_elsewhere_with_links(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = index_nuscenes(root, VERSION, out=out, workers=1)
    assert counts.sidecar == out / VERSION / SIDECAR
    assert not (root / VERSION / SIDECAR).exists()
    for keyframe in load_keyframes(out, VERSION, "val"):
        assert all(path.read_bytes() == b"jpeg" for path in keyframe.image_paths.values())
        assert all(out in path.parents for path in keyframe.image_paths.values())
    index_nuscenes(root, VERSION, out=out, workers=1)  # its own links are no obstacle
    index_nuscenes(root, VERSION, workers=1)
    assert lines(root) == lines(out)


def test_links_never_replace_what_is_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "samples").mkdir(parents=True)
    with pytest.raises(DataError, match=r"out/samples is there and is not .*set/samples"):
        index_nuscenes(root, VERSION, out=tmp_path / "out", workers=1)


def test_place_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (root / VERSION / f".{SIDECAR}.growing").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*--out. writes elsewhere"):
        index_nuscenes(root, VERSION, workers=1)


def test_damaged_scene_is_named_and_nothing_is_written(root: Path) -> None:
    tables = three_scenes()
    tables["sample"][2]["prev"] = ""
    write_tables(root, tables)
    for workers in (1, 2):
        with pytest.raises(DataError, match="scene train-a: sample train-a-02"):
            index_nuscenes(root, VERSION, workers=workers)
    assert not (root / VERSION / SIDECAR).exists()


def test_agents_are_asked_about_only_where_somebody_annotated_them(root: Path) -> None:
    index_nuscenes(root, VERSION, workers=1, senna_questions=True)
    first = load_keyframes(root, VERSION, "train")[0]
    kinds = [question.kind for question in first.questions]
    assert kinds[0] == "planning" and len(kinds) > 1
    assert first.action is not None and first.questions[0].answer == first.action.text
    tables = three_scenes()
    tables["sample_annotation"], tables["instance"] = [], []
    write_tables(root, tables)
    index_nuscenes(root, VERSION, workers=1, senna_questions=True)
    first = load_keyframes(root, VERSION, "train")[0]
    assert [question.kind for question in first.questions] == ["planning"]


def test_our_worlds_tables_give_its_own_labels_back(tmp_path: Path) -> None:
    """Two programs wrote the same drives down: the world's and the devkit's reader."""
    from clkd_core.data.world.config import WorldConfig
    from clkd_core.data.world.generate import write_world

    config = WorldConfig(
        train_drives=3, val_drives=2, val_on_disk=True, drive_s=7.0, width_px=64, height_px=36,
        workers=1,
    )  # fmt: skip
    root, out = tmp_path / "world", tmp_path / "out"
    write_world(config, root)
    counts = index_nuscenes(root, config.version, out=out, workers=1)
    assert counts.labelled == 5 * (14 - 6)
    speeds = []
    for split in ("train", "val"):
        worlds = {k.sample_token: k for k in load_keyframes(root, config.version, split)}
        ours = load_keyframes(out, config.version, split)
        assert len(ours) == 14 * (3 if split == "train" else 2)
        for keyframe in ours:
            world = worlds[keyframe.sample_token]
            assert keyframe.scene == world.scene and keyframe.stamp_ns == world.stamp_ns
            assert keyframe.image_stamps_ns == world.image_stamps_ns
            compare_images(keyframe, world, out, root)
            compare_futures(keyframe, world)
            compare_agents(keyframe, world)
            speeds.append(abs(keyframe.ego.speed_mps - world.ego.speed_mps))
    assert np.mean(speeds) < 0.3 and max(speeds) < 1.5  # over 0.5 s: there are no sweeps


def compare_images(ours: Any, world: Any, out: Path, root: Path) -> None:
    assert {c: p.relative_to(out) for c, p in ours.image_paths.items()} == {
        c: p.relative_to(root) for c, p in world.image_paths.items()
    }


def compare_futures(ours: Any, world: Any) -> None:
    """The world's labels are those of the ego frame; within a hand's breadth of a threshold the
    LIDAR's may be others."""
    if ours.future is None:
        return
    assert np.abs(ours.future.xy_m - world.future.xy_m).max() < 2e-3
    side = abs(float(ours.lidar_future[-1, 0]))
    if abs(side - 4.0) > 1.0:
        assert ours.action == world.action


def compare_agents(ours: Any, world: Any) -> None:
    assert len(ours.agents) == len(world.agents)

    def key(agent: Any) -> Any:
        return (agent.category, *np.round(agent.poses[0], 1).tolist())

    for mine, theirs in zip(
        sorted(ours.agents, key=key), sorted(world.agents, key=key), strict=True
    ):
        assert (mine.category, mine.size_m) == (theirs.category, pytest.approx(theirs.size_m))
        assert np.abs(mine.poses[:, :2] - theirs.poses[: len(mine.poses), :2]).max() < 2e-3
        turn = mine.poses[:, 2] - theirs.poses[: len(mine.poses), 2]
        assert np.cos(turn).min() > 1 - 1e-5
