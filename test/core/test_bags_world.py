"""The world as a bag: validation drives become one that replays as they were driven."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import open_bag
from clkd_core.data.bags.frames import BagFrame, load_labels, read_frames
from clkd_core.data.bags.sources.world import (
    FRAME_NS,
    GAP_NS,
    ODOMETRY_LEAD_NS,
    load_world,
    write_world_bag,
)
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import drive_frames
from clkd_core.data.world.scene.script import plan_drives
from clkd_core.errors import ConfigError, DataError
from clkd_core.types import CAMERAS

CONFIG = WorldConfig(
    train_drives=1, val_drives=2, drive_s=2.0, width_px=64, height_px=36, workers=1
)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "world"
    counts = write_world_bag(CONFIG, path)
    assert (counts.drives, counts.image_sets, counts.keyframes) == (2, 40, 8)
    return path


@pytest.fixture(scope="module")
def frames(bag: Path) -> Iterator[list[BagFrame]]:
    yield list(read_frames(bag))


def test_every_frame_is_complete_and_nothing_is_degraded(frames: list[BagFrame]) -> None:
    assert len(frames) == 40
    for seen in frames:
        assert set(seen.frame.images) == set(CAMERAS)
        assert seen.frame.degraded_reasons == ()


def test_drives_follow_each_other_with_half_a_second_between(frames: list[BagFrame]) -> None:
    steps = Counter(np.diff([seen.frame.stamp_ns for seen in frames]).tolist())
    assert steps == {FRAME_NS: 38, FRAME_NS + GAP_NS: 1}


def test_frames_are_those_of_the_drives(frames: list[BagFrame]) -> None:
    drawn = [f for spec in plan_drives(CONFIG, "val") for f in drive_frames(spec, CONFIG, hz=10)]
    for seen, wanted in zip(frames, drawn, strict=True):
        assert seen.frame.command == wanted.command
        assert seen.frame.ego is not None
        assert seen.frame.ego.stamp_ns == seen.frame.stamp_ns - ODOMETRY_LEAD_NS
        assert seen.frame.ego.speed_mps == pytest.approx(wanted.ego.speed_mps, abs=0.1)
        assert {c: i.encoded for c, i in seen.frame.images.items()} == dict(wanted.images)
        assert (seen.label is not None) == wanted.is_keyframe
        if seen.label:
            assert seen.label.action == wanted.action
            assert (seen.label.scene, seen.label.case_name) == (wanted.scene, wanted.case_name)


def test_labels_follow_from_the_recorded_future(bag: Path) -> None:
    labels = load_labels(bag)
    assert len(labels) == 8
    for label in labels:
        assert label.future is not None
        assert meta_action_from_future(lidar_from_ego(label.future.xy_m)) == label.action


def test_recorded_odometry_moves_as_the_labels_say(bag: Path) -> None:
    with open_bag(bag) as reader:
        poses = {
            m.header.stamp.sec * 10**9 + m.header.stamp.nanosec: m.pose.pose
            for _, _, m in reader.messages({topics.ODOMETRY})
        }
    for label in load_labels(bag):
        at_ns = label.stamp_ns - ODOMETRY_LEAD_NS
        now, later = poses[at_ns], poses.get(at_ns + 500_000_000)
        if later is None or label.future is None:
            continue
        yaw = 2 * np.arctan2(now.orientation.z, now.orientation.w)
        dx, dy = later.position.x - now.position.x, later.position.y - now.position.y
        forward = np.cos(yaw) * dx + np.sin(yaw) * dy
        left = -np.sin(yaw) * dx + np.cos(yaw) * dy
        assert np.allclose(label.future.xy_m[0], [forward, left], atol=0.1)


def test_bag_holds_the_topics_and_rates_we_document(bag: Path) -> None:
    with open_bag(bag) as reader:
        counts = reader.counts
    images = {topics.image_topic(camera): 40 for camera in CAMERAS}
    infos = {topics.camera_info_topic(camera): 1 for camera in CAMERAS}
    steady = {topics.ODOMETRY: 200, topics.TF: 200, topics.TF_STATIC: 1}
    labels = {topics.TRUE_META_ACTION: 8, topics.TRUE_TRAJECTORY: 8}
    routes = counts.pop(topics.ROUTE_COMMAND)
    assert counts == images | infos | steady | labels
    assert 2 <= routes <= 40


def test_two_processes_write_the_same_bag_as_one(bag: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    write_world_bag(replace(CONFIG, workers=2), tmp_path / "world")
    with open_bag(bag) as one, open_bag(tmp_path / "world") as two:
        for left, right in zip(one.raw_messages(), two.raw_messages(), strict=True):
            assert left == right


def test_world_is_found_by_file_or_folder_and_missing_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text("val_drives: 5\n")
    assert load_world(tmp_path).val_drives == load_world(tmp_path / "world.yaml").val_drives == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no world.yaml"):
        load_world(tmp_path / "empty")
    with pytest.raises(DataError, match="nothing does not exist"):
        load_world(tmp_path / "nothing")
    (tmp_path / "bad.yaml").write_text("val_drive: 5\n")
    with pytest.raises(ConfigError, match="did you mean 'val_drives'"):
        load_world(tmp_path / "bad.yaml")
