"""Bags of nuScenes scenes: the world's tables with sweeps added, brought back frame by frame."""

import argparse
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes_sweeps import FRAMES, KEYFRAMES, LABELLED, VERSION, change, load_tables, write_set

from clkd_core.data.bags import command, topics
from clkd_core.data.bags.files import open_bag
from clkd_core.data.bags.frames import BagFrame, load_labels, read_frames
from clkd_core.data.bags.ros_types import stamp_from_msg
from clkd_core.data.bags.sources.nuscenes import choose_scenes, read_drive, write_nuscenes_bag
from clkd_core.data.bags.sources.nuscenes_scene import group_rows
from clkd_core.data.labels import lidar_from_ego
from clkd_core.data.nuscenes.devkit import open_nuscenes
from clkd_core.errors import ConfigError, DataError
from clkd_core.types import CAMERAS, RouteCommand

pytest.importorskip("nuscenes", reason="nuscenes-devkit is missing: the extra `nuscenes`")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives with sweeps."""
    root = tmp_path_factory.mktemp("nuscenes") / "set"
    write_set(root)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(pristine, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(scope="session")
def bags(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bags")
    run(pristine, out)
    return out


@pytest.fixture(scope="session")
def drives(bags: Path) -> dict[str, list[BagFrame]]:
    """Frames by scene."""
    return {path.name: frames_of(path) for path in bags.iterdir()}


def run(root: Path, out: Path, *words: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["from-nuscenes", str(root), str(out), "--version", VERSION, *words]
    assert command.run(parser.parse_args(given)) == 0


def scene_names(root: Path) -> list[str]:
    return [row["name"] for row in load_tables(root, "scene")["scene"]]


def frames_of(bag: Path) -> list[BagFrame]:
    return list(read_frames(bag))


def test_every_scene_is_a_bag_with_all_sweeps_at_12_hz(
    pristine: Path, drives: dict[str, list[BagFrame]]
) -> None:
    assert sorted(drives) == sorted(scene_names(pristine))
    for frames in drives.values():
        assert len(frames) == FRAMES
        assert all(set(frame.images) == set(CAMERAS) for frame, _ in frames)
        assert all(frame.degraded_reasons == () for frame, _ in frames)
        steps_ms = np.diff([frame.stamp_ns for frame, _ in frames]) / 1e6
        assert set(np.round(steps_ms)) == {50, 100} and np.mean(steps_ms) == pytest.approx(500 / 6)


def test_labels_stand_at_keyframes_with_a_full_future_and_their_newest_image(
    pristine: Path, bags: Path, drives: dict[str, list[BagFrame]]
) -> None:
    tables = load_tables(pristine, "sample", "sample_data")
    for name in scene_names(pristine):
        labels = load_labels(bags / name)
        assert len(labels) == LABELLED
        frames = {seen.label.stamp_ns: seen for seen in drives[name] if seen.label}
        assert sorted(frames) == [label.stamp_ns for label in labels]
        for label in labels:
            assert label.scene == name and label.future is not None
            assert frames[label.stamp_ns].frame.stamp_ns == label.stamp_ns
            newest = [
                max(row["timestamp"] for row in tables["sample_data"] if is_view(row, sample))
                for sample in tables["sample"]
            ]
            assert label.stamp_ns // 1000 in newest


def is_view(row: dict[str, Any], sample: dict[str, Any]) -> bool:
    mine = row["sample_token"] == sample["token"] and row["is_key_frame"]
    return mine and row["filename"].endswith(".jpg")


def test_odometry_and_transforms_are_every_ego_pose_in_order(pristine: Path, bags: Path) -> None:
    tables = load_tables(pristine, "ego_pose", "sample_data", "sample", "scene")
    for scene in tables["scene"]:
        samples = {s["token"] for s in tables["sample"] if s["scene_token"] == scene["token"]}
        used = {
            row["ego_pose_token"]
            for row in tables["sample_data"]
            if row["sample_token"] in samples
        }
        wanted = {p["timestamp"] * 1000: p for p in tables["ego_pose"] if p["token"] in used}
        with open_bag(bags / scene["name"]) as bag:
            odometry = [(log, msg) for _, log, msg in bag.messages({topics.ODOMETRY})]
            moving = [msg.transforms[0] for _, _, msg in bag.messages({topics.TF})]
        stamps = [stamp_from_msg(msg.header.stamp) for _, msg in odometry]
        assert stamps == sorted(wanted) == [log for log, _ in odometry]
        assert stamps == [stamp_from_msg(each.header.stamp) for each in moving]
        for stamp, (_, msg), each in zip(stamps, odometry, moving, strict=True):
            place, turn = wanted[stamp]["translation"], wanted[stamp]["rotation"]
            pose = msg.pose.pose
            assert [pose.position.x, pose.position.y, pose.position.z] == pytest.approx(place)
            assert [each.transform.translation.x, each.transform.translation.y] == place[:2]
            unit = np.array(turn) / np.linalg.norm(turn)
            read = pose.orientation
            assert np.allclose([read.w, read.x, read.y, read.z], unit)


def test_speeds_follow_from_the_poses_and_lead_to_the_labels(
    drives: dict[str, list[BagFrame]],
) -> None:
    for frames in drives.values():
        for frame, label in frames:
            if label is None or label.future is None:
                continue
            assert frame.ego is not None and frame.ego.stamp_ns <= frame.stamp_ns
            way_m = float(np.hypot(*label.future.xy_m[0]))
            assert frame.ego.speed_mps == pytest.approx(way_m / 0.5, abs=1.5)


def test_image_is_logged_after_the_odometry_of_its_instant(
    bags: Path, drives: dict[str, list[BagFrame]]
) -> None:
    for bag in bags.iterdir():
        with open_bag(bag) as read:
            for _, log_ns, msg in read.messages({topics.image_topic("CAM_FRONT")}):
                assert log_ns - stamp_from_msg(msg.header.stamp) == topics.IMAGE_DELAY_NS
        for frame, _ in drives[bag.name]:
            assert frame.ego is not None
            assert frame.stamp_ns - frame.ego.stamp_ns < 100_000_000


def test_can_bus_tells_the_speeds_where_it_is_there_and_fresh(root: Path, tmp_path: Path) -> None:
    name, other = scene_names(root)
    poses = load_tables(root, "ego_pose")["ego_pose"]
    first_us = min(pose["timestamp"] for pose in poses)
    messages = [
        {"utime": first_us + step * 20_000, "vel": [7.5, 0.1, 0], "rotation_rate": [0, 0, -0.25]}
        for step in range(20)  # 0.4 s of it
    ]
    (root / "can_bus").mkdir()
    (root / "can_bus" / f"{name}_pose.json").write_text(json.dumps(messages))
    run(root, tmp_path / "bags")
    frames = frames_of(tmp_path / "bags" / name)
    told = [f.ego.speed_mps == 7.5 and f.ego.yaw_rate_radps == -0.25 for f, _ in frames if f.ego]
    assert told[0] and told[4] and not told[-1]
    assert all(f.ego and f.ego.speed_mps != 7.5 for f, _ in frames_of(tmp_path / "bags" / other))


def test_damaged_can_bus_file_is_named(root: Path, tmp_path: Path) -> None:
    (root / "can_bus").mkdir()
    (root / "can_bus" / f"{scene_names(root)[0]}_pose.json").write_text('[{"utime": 1, "vel": [')
    with pytest.raises(DataError, match=r"_pose\.json: is no list of CAN bus poses"):
        run(root, tmp_path / "bags")


def test_cameras_are_calibrated_and_mounted_as_the_tables_say(pristine: Path, bags: Path) -> None:
    tables = load_tables(pristine, "sensor", "calibrated_sensor")
    channels = {row["token"]: row["channel"] for row in tables["sensor"]}
    wanted = {channels[row["sensor_token"]]: row for row in tables["calibrated_sensor"]}
    with open_bag(next(bags.iterdir())) as bag:
        infos = {topic: msg for topic, _, msg in bag.messages() if topic.endswith("camera_info")}
        (fixed,) = [msg.transforms for _, _, msg in bag.messages({topics.TF_STATIC})]
    assert [each.child_frame_id for each in fixed] == [camera.lower() for camera in CAMERAS]
    for camera, each in zip(CAMERAS, fixed, strict=True):
        info = infos[topics.camera_info_topic(camera)]
        assert (info.width, info.height) == (64, 36)
        assert info.k.reshape(3, 3).tolist() == wanted[camera]["camera_intrinsic"]
        place, turn = each.transform.translation, each.transform.rotation
        assert [place.x, place.y, place.z] == wanted[camera]["translation"]
        assert np.allclose([turn.w, turn.x, turn.y, turn.z], wanted[camera]["rotation"])


def test_keyframes_only_needs_no_sweeps_and_keeps_every_pose(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "sweeps")
    run(root, tmp_path / "bags", "--keyframes-only")
    for name in scene_names(root):
        frames = frames_of(tmp_path / "bags" / name)
        labelled = [seen.label is not None for seen in frames]
        assert labelled == [number < LABELLED for number in range(KEYFRAMES)]
        with open_bag(tmp_path / "bags" / name) as bag:
            assert bag.counts[topics.ODOMETRY] > KEYFRAMES * 6


def test_missing_and_empty_files_are_counted_before_anything_is_written(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((root / "sweeps" / "CAM_BACK").iterdir())
    files[0].unlink()
    files[1].write_bytes(b"")
    wanted = rf"2 image files are missing or empty: {files[0]}, {files[1]}; --skip-missing goes on"
    with pytest.raises(DataError, match=wanted):
        run(root, tmp_path / "bags")
    assert not (tmp_path / "bags").exists()
    run(root, tmp_path / "bags", "--skip-missing")
    assert "2 image files are missing or empty" in caplog.text
    frames = [f for name in scene_names(root) for f, _ in frames_of(tmp_path / "bags" / name)]
    assert Counter(len(frame.images) for frame in frames) == {6: 2 * FRAMES - 2, 5: 2}


def test_keyframe_without_its_newest_image_has_the_stamp_of_the_next_newest(
    root: Path, tmp_path: Path
) -> None:
    name = scene_names(root)[0]
    run(root, tmp_path / "whole", "--scenes", name)
    label = load_labels(tmp_path / "whole" / name)[0]
    views = [r for r in load_tables(root, "sample_data")["sample_data"] if r["is_key_frame"]]
    newest = [
        r for r in views if r["timestamp"] * 1000 == label.stamp_ns and name in r["filename"]
    ]
    for row in newest:
        (root / row["filename"]).unlink()
    run(root, tmp_path / "bags", "--scenes", name, "--skip-missing")
    moved = load_labels(tmp_path / "bags" / name)[0]
    assert label.stamp_ns - 45_000_000 < moved.stamp_ns < label.stamp_ns
    (seen,) = [s for s in read_frames(tmp_path / "bags" / name) if s.label]
    assert seen.frame.stamp_ns == moved.stamp_ns


def test_several_scenes_in_one_bag_follow_half_a_second_apart(
    pristine: Path, drives: dict[str, list[BagFrame]], tmp_path: Path
) -> None:
    run(pristine, tmp_path / "all", "--together")
    frames = frames_of(tmp_path / "all")
    assert len(frames) == 2 * FRAMES and all(f.degraded_reasons == () for f, _ in frames)
    steps_ms = np.diff([frame.stamp_ns for frame, _ in frames]) / 1e6
    assert (steps_ms > 49).all() and 500 < steps_ms.max() < 700
    assert [label.scene for label in load_labels(tmp_path / "all")] == [
        name for name in scene_names(pristine) for _ in range(LABELLED)
    ]
    alone = drives[scene_names(pristine)[1]]
    for (frame, label), (moved, same) in zip(alone, frames[FRAMES:], strict=True):
        assert {c: i.encoded for c, i in frame.images.items()} == {
            c: i.encoded for c, i in moved.images.items()
        }
        assert frame.command == moved.command and (label is None) == (same is None)


@pytest.mark.parametrize("keyframes_only", [False, True])
def test_route_command_changes_with_its_keyframe_and_is_there_from_the_first_frame(
    pristine: Path, tmp_path: Path, keyframes_only: bool
) -> None:
    nusc = open_nuscenes(pristine, VERSION)
    (scene,) = choose_scenes(nusc, [scene_names(pristine)[0]])
    rows = group_rows(nusc, [scene])[scene["token"]]
    drive = read_drive(nusc, scene, rows, keyframes_only=keyframes_only)
    left, right, none = RouteCommand.LEFT, RouteCommand.RIGHT, None
    commands = [none, left, left, right, none, left, right]
    changed = [replace(k, command=c) for k, c in zip(drive.keyframes, commands, strict=True)]
    write_nuscenes_bag(tmp_path / "bag", [replace(drive, keyframes=tuple(changed))])
    wanted = {k.stamp_ns: k.command for k in changed if k.command}
    now = left  # the first that is known
    for frame, _ in read_frames(tmp_path / "bag"):
        now = wanted.get(frame.stamp_ns, now)
        assert frame.command == now
    with open_bag(tmp_path / "bag") as bag:
        assert bag.counts[topics.ROUTE_COMMAND] == 4  # left, right, left, right


def test_sqlite3_bag_holds_what_the_mcap_bag_holds(
    pristine: Path, bags: Path, tmp_path: Path
) -> None:
    name = scene_names(pristine)[0]
    run(pristine, tmp_path, "--scenes", name, "--storage", "sqlite3")
    with open_bag(bags / name) as one, open_bag(tmp_path / name) as two:
        assert list(one.raw_messages()) == list(two.raw_messages())
        for topic in one.types:
            assert one.qos_profiles(topic) == two.qos_profiles(topic)


def test_chosen_scenes_alone_are_written_and_unknown_ones_named(
    pristine: Path, tmp_path: Path
) -> None:
    name = scene_names(pristine)[1]
    run(pristine, tmp_path / "bags", "--scenes", name)
    assert [path.name for path in (tmp_path / "bags").iterdir()] == [name]
    with pytest.raises(ConfigError, match=r"no scene scene-9998, scene-9999 in the tables"):
        run(pristine, tmp_path / "bags", "--scenes", "scene-9999", name, "scene-9998")


def test_resumed_run_leaves_finished_bags_alone(pristine: Path, tmp_path: Path) -> None:
    one, two = scene_names(pristine)
    run(pristine, tmp_path / "bags", "--scenes", one)
    mark = (tmp_path / "bags" / one / "metadata.yaml").stat().st_mtime_ns
    run(pristine, tmp_path / "bags", "--resume")
    assert (tmp_path / "bags" / one / "metadata.yaml").stat().st_mtime_ns == mark
    assert len(frames_of(tmp_path / "bags" / two)) == FRAMES


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        ("sample_data", "filename", "../../etc/passwd.jpg", "below the root"),
        ("sample_data", "filename", "/etc/passwd.jpg", "below the root"),
        ("sample_data", "width", "wide", "width is 'wide', expected pixels"),
        ("ego_pose", "timestamp", -5, "timestamp is -5, expected microseconds"),
        ("ego_pose", "timestamp", None, "timestamp is None, expected microseconds"),
        ("calibrated_sensor", "camera_intrinsic", [[1, 2], [3, 4]], "no finite .* array"),
        ("scene", "name", "../up", "expected a name of its own"),
        ("scene", "name", "same", "expected a name of its own"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    root: Path, tmp_path: Path, table: str, column: str, value: object, words: str
) -> None:
    def damage(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if "LIDAR" not in str(row.get("filename")) and row.get("camera_intrinsic") != []:
                row[column] = value

    change(root, table, damage)
    with pytest.raises(DataError, match=words):
        run(root, tmp_path / "bags")


def test_labels_are_what_the_vehicle_did(bags: Path) -> None:
    for bag in bags.iterdir():
        for label in load_labels(bag):
            assert label.future is not None
            right_m, forward_m = lidar_from_ego(label.future.xy_m[-1])
            assert forward_m >= -0.1
            if label.action.path.name == "STRAIGHT":
                assert abs(right_m) < 30.0
