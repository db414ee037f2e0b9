"""Writing a set: complete or not there, resumable, and what the devkit reads is what we drew."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from clkd_core.data.keyframes import surround_frame
from clkd_core.data.labels import meta_action_from_future
from clkd_core.data.sidecar import load_keyframes
from clkd_core.data.world import generate
from clkd_core.data.world.command import add_arguments, run
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.generate import work_folder, write_world
from clkd_core.data.world.overview import whole_scenes
from clkd_core.data.world.render.cameras import build_cameras
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.script import plan_drives
from clkd_core.data.world.tables import TABLE_NAMES
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

CONFIG = WorldConfig(
    train_drives=2,
    val_drives=1,
    val_on_disk=True,
    drive_s=4.0,
    width_px=160,
    height_px=90,
    workers=1,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "set"
    write_world(CONFIG, out)
    return out


@pytest.fixture(scope="module")
def devkit(root):
    module = pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit")
    return module.NuScenes(version=CONFIG.version, dataroot=str(root), verbose=False)


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_set_holds_thirteen_tables_images_and_the_sidecar(root):
    for name in TABLE_NAMES:
        assert json.loads((root / CONFIG.version / f"{name}.json").read_text()), name
    train = load_keyframes(root, CONFIG.version, "train")
    val = load_keyframes(root, CONFIG.version, "val")
    assert [len(whole_scenes(keyframes)) for keyframes in (train, val)] == [16, 8]
    frame = surround_frame(train[0])
    assert list(frame.images) == list(CAMERAS)
    for image in frame.images.values():
        pixels = cv2.imdecode(np.frombuffer(image.encoded, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (90, 160, 3)
    assert not work_folder(root).exists()


def test_workers_make_no_difference(root, tmp_path):
    config = WorldConfig(**{**CONFIG.__dict__, "workers": 2})
    write_world(config, tmp_path / "two")
    one, two = files_of(root), files_of(tmp_path / "two")
    assert one.pop("world.yaml") != two.pop("world.yaml")
    assert one == two


def test_devkit_loads_the_set_and_walks_its_scenes(devkit):
    assert len(devkit.scene) == 3
    for scene in devkit.scene:
        token, count = scene["first_sample_token"], 0
        while token:
            sample = devkit.get("sample", token)
            assert set(sample["data"]) == {*CAMERAS, "LIDAR_TOP"}
            for data in sample["data"].values():
                assert os.path.exists(devkit.get_sample_data_path(data))
            token, count = sample["next"], count + 1
        assert count == scene["nbr_samples"] == 8
    assert all(record["mask"] for record in devkit.map)


def test_devkit_projects_boxes_where_we_drew_them(devkit):
    from nuscenes.utils.geometry_utils import view_points

    drives = {
        s.name: build_drive(s, CONFIG) for k in ("train", "val") for s in plan_drives(CONFIG, k)
    }
    cameras = build_cameras(CONFIG.width_px, CONFIG.height_px)
    compared = 0
    for scene in devkit.scene:
        drive = drives[scene["name"]]
        sample = devkit.get("sample", scene["first_sample_token"])
        places = {a.name: a for a in drive.near_actors(0.0)}
        for camera in CAMERAS:
            _, boxes, intrinsic = devkit.get_sample_data(sample["data"][camera])
            for box in boxes:
                theirs = view_points(box.corners(), intrinsic, normalize=True)[:2].T
                ours = [_our_corners(drive, a, cameras[camera]) for a in places.values()]
                assert min(_farthest(theirs, corners) for corners in ours) < 1.0
                compared += 1
    assert compared > 10


def _our_corners(drive, actor, camera):
    """(8, 2) pixels of an actor's box, straight from the drive's own frame."""
    length, width, height = actor.size_m
    x, y, yaw = actor.pose_at(0.0)
    ego = drive.ego_pose(0.0)
    corners = np.array(
        [[a * length / 2, b * width / 2, c] for a in (-1, 1) for b in (-1, 1) for c in (0, height)]
    )

    def turn(angle):
        return np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )

    placed = corners @ turn(yaw).T + [x, y, 0]
    return camera.project((placed - [ego[0], ego[1], 0]) @ turn(ego[2]))[:, :2]


def _farthest(theirs, ours):
    """Largest distance of one of their corners from the nearest of ours [px]."""
    return np.linalg.norm(theirs[:, None] - ours[None], axis=-1).min(axis=1).max()


def test_futures_agree_with_the_devkits_lidar_poses(devkit, root):
    from nuscenes.eval.common.utils import quaternion_yaw
    from pyquaternion import Quaternion

    poses = {}
    for sample in devkit.sample:
        data = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        pose = devkit.get("ego_pose", data["ego_pose_token"])
        mount = devkit.get("calibrated_sensor", data["calibrated_sensor_token"])
        lidar_yaw = quaternion_yaw(Quaternion(pose["rotation"]) * Quaternion(mount["rotation"]))
        scene = devkit.get("scene", sample["scene_token"])["name"]
        poses.setdefault(scene, []).append((*pose["translation"][:2], lidar_yaw))
    checked = 0
    for split in ("train", "val"):
        by_scene = {}
        for keyframe in whole_scenes(load_keyframes(root, CONFIG.version, split)):
            by_scene.setdefault(keyframe.scene, []).append(keyframe)
        for scene, keyframes in by_scene.items():
            for i in range(len(keyframes) - 6):
                x, y, yaw = poses[scene][i]
                ahead = np.array([p[:2] for p in poses[scene][i + 1 : i + 7]]) - [x, y]
                right = ahead @ [np.cos(yaw), np.sin(yaw)]
                forward = ahead @ [-np.sin(yaw), np.cos(yaw)]
                ours = keyframes[i].future.xy_m
                assert np.abs(ours[:, 0] - forward).max() < 1e-3
                assert np.abs(ours[:, 1] + right).max() < 1e-3
                lidar = np.stack([right, forward], axis=1)
                assert keyframes[i].action == meta_action_from_future(lidar)
                checked += 1
    assert checked == 6


def test_interrupted_run_keeps_finished_drives_and_leaves_the_old_set(tmp_path, monkeypatch):
    out = tmp_path / "set"
    (out / "v").mkdir(parents=True)
    (out / "v" / "clkd_keyframes.jsonl").write_text("old")
    real, rendered = generate.write_drive, []

    def fails_at_the_second(spec, config, work):
        if rendered:
            raise KeyboardInterrupt
        rendered.append(spec.name)
        return real(spec, config, work)

    def notes_who_is_left(spec, config, work):
        again.append(spec.name)
        return real(spec, config, work)

    monkeypatch.setattr(generate, "write_drive", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_world(CONFIG, out)
    assert files_of(out) == {"v/clkd_keyframes.jsonl": b"old"}
    again = []
    monkeypatch.setattr(generate, "write_drive", notes_who_is_left)
    written = write_world(CONFIG, out)
    assert (len(written.drives), written.rendered.keyframes) == (3, 2 * 8)
    assert rendered[0] not in again
    assert len(again) == 2
    assert not (out / "v").exists()


def test_unfinished_work_of_another_config_is_not_used(tmp_path):
    out = tmp_path / "set"
    work = generate.prepare_work_folder(CONFIG, out)
    (work / "drives" / "train-0000.json").write_text("{}")
    assert generate.prepare_work_folder(CONFIG, out).joinpath("drives/train-0000.json").exists()
    other = WorldConfig(**{**CONFIG.__dict__, "seed": 9})
    assert not generate.prepare_work_folder(other, out).joinpath("drives/train-0000.json").exists()


def test_folder_that_is_no_set_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(DataError, match="holds files but no world set"):
        write_world(CONFIG, tmp_path)
    with pytest.raises(DataError, match="is a file"):
        write_world(CONFIG, tmp_path / "thesis.txt")


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_world(CONFIG, tmp_path / "file" / "set")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["ctrl-c", "killed parent"])
def test_interrupt_ends_all_processes_within_three_seconds(tmp_path, how):
    code = (
        "from pathlib import Path\n"
        "from clkd_core.data.world.config import WorldConfig\n"
        "from clkd_core.data.world.generate import write_world\n"
        "if __name__ == '__main__':\n"
        "    config = WorldConfig(train_drives=300, workers=2, width_px=160, height_px=90)\n"
        f"    write_world(config, Path({str(tmp_path / 'set')!r}))\n"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": str(Path(generate.__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=env, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 30
    drives = work_folder(tmp_path / "set") / "drives"
    while not (drives.is_dir() and any(drives.iterdir())):
        assert time.monotonic() < deadline, "no drive was written within 30 s"
        time.sleep(0.05)
    if how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    deadline = time.monotonic() + 3
    process.wait(timeout=3)
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "a process of the pool outlived the interrupt"
        time.sleep(0.05)
    assert not (tmp_path / "set").exists()


def test_command_writes_set_and_overview_and_prints_shares(tmp_path, capsys):
    import argparse

    config = tmp_path / "w.yaml"
    config.write_text("train_drives: 2\nval_drives: 1\ndrive_s: 3.0\n")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--config", str(config), "--out", str(tmp_path / "set")]
    size = ["width_px=128", "height_px=72", "workers=1"]
    assert run(parser.parse_args([*words, *size])) == 0
    assert cv2.imread(str(tmp_path / "set" / "overview.jpg")).shape[1] == 1440
    printed = capsys.readouterr().out
    assert "speed:" in printed
    assert "standing:" in printed
    assert re.search(
        r"rate: \d+\.\d keyframes per second of six views 128 x 72 with workers=1", printed
    )
    assert re.search(r"; \d+\.\d per second of one core\n", printed)
    assert multiprocessing.active_children() == []
