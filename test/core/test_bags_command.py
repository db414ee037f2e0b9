"""clkd_core.data.bags.command: the words of ``clkd bag`` and what they leave."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import jpeg_bytes
from rosbags.interfaces import QosDurability

from clkd_core.data.bags import command, topics
from clkd_core.data.bags.files import LATCHED_TOPICS, find_bags, open_bag
from clkd_core.data.bags.frames import count_image_sets, load_labels, read_frames
from clkd_core.data.bags.ros_types import stamp_from_msg
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def kitti(root: Path, images: int) -> Path:
    """Straight ahead at 10 m/s."""
    (root / "image_0").mkdir(parents=True)
    for number in range(images):
        cv2.imwrite(str(root / "image_0" / f"{number:06}.png"), np.zeros((9, 16), np.uint8))
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {number}.0\n" for number in range(images)]
    (root / "poses.txt").write_text("".join(rows))
    (root / "calib.txt").write_text("7 0 8 0 0 7 4 0 0 0 1 0\n")
    return root


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_from_kitti_writes_a_bag_and_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    source = kitti(tmp_path / "drive", 33)
    assert run("from-kitti", source, tmp_path / "bag", "--storage", storage) == 0
    said = capsys.readouterr().out
    assert "33 images, 3 labelled, route unknown" in said
    assert count_image_sets(tmp_path / "bag") == 33
    labels = load_labels(tmp_path / "bag")
    assert [label.action.text for label in labels] == ["KEEP, STRAIGHT"] * 3
    suffixes = {path.suffix for path in (tmp_path / "bag").iterdir()}
    assert suffixes == {".yaml", ".mcap" if storage == "mcap" else ".db3"}


def world(root: Path) -> Path:
    """One drive of 2 s."""
    root.mkdir()
    (root / "world.yaml").write_text(
        "{train_drives: 1, val_drives: 1, drive_s: 2, width_px: 64, height_px: 36, workers: 1}"
    )
    return root


def drivelm(root: Path) -> Path:
    """One scene of two keyframes."""
    keyframes = {}
    for number in range(2):
        paths = {}
        for camera in CAMERAS:
            name = f"n__{camera}__{1537291002000000 + number * 500_000}.jpg"
            place = root / "nuscenes" / "samples" / camera / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(jpeg_bytes(value=100 + number))
            paths[camera] = f"../nuscenes/samples/{camera}/{name}"
        questions = {"planning": [{"Q": "What now?", "A": "Go on."}]}
        keyframes[f"frame{number}"] = {"image_paths": paths, "QA": questions}
    scenes = {"scene1": {"key_frames": keyframes}}
    (root / "v1_1_train_nus.json").write_text(json.dumps(scenes))
    return root


SOURCES: dict[str, Callable[[Path], Path]] = {
    "from-kitti": lambda root: kitti(root, 33),
    "from-world": world,
    "from-drivelm": drivelm,
}
"""Those of nuScenes are in test_bags_nuscenes.py."""


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_bag_as_mcap_and_as_sqlite3(
    tmp_path: Path, source: str
) -> None:
    folder = SOURCES[source](tmp_path / "data")
    for storage in ("mcap", "sqlite3"):
        run(source, folder, tmp_path / storage, "--storage", storage)
    (mcap,), (sqlite3,) = find_bags(tmp_path / "mcap"), find_bags(tmp_path / "sqlite3")
    with open_bag(mcap) as one, open_bag(sqlite3) as two:
        assert list(one.raw_messages()) == list(two.raw_messages())
        assert one.counts == two.counts
        for bag in (one, two):
            for topic in bag.types:
                (qos,) = bag.qos_profiles(topic)
                latched = qos.durability is QosDurability.TRANSIENT_LOCAL
                assert latched == (topic in LATCHED_TOPICS)
                assert latched == topic.endswith(("camera_info", "/tf_static", "/route_command"))


def test_from_world_draws_the_validation_drives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("from-world", world(tmp_path / "world"), tmp_path / "bag") == 0
    assert "1 validation drives, 2 s, 20 image sets, 4 labelled" in capsys.readouterr().out
    assert len(load_labels(tmp_path / "bag")) == 4


def test_world_keyframes_only_are_the_labelled_frames_of_the_whole_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world(tmp_path / "world")
    run("from-world", folder, tmp_path / "bag")
    run("from-world", folder, tmp_path / "keys", "--keyframes-only")
    assert "2 s, 4 image sets, 4 labelled" in capsys.readouterr().out
    whole, keys = (list(read_frames(tmp_path / name)) for name in ("bag", "keys"))
    labelled = [seen.frame for seen in whole if seen.label]
    assert [seen.frame for seen in keys] == labelled and all(seen.label for seen in keys)
    with open_bag(tmp_path / "bag") as one, open_bag(tmp_path / "keys") as two:
        for topic in (topics.ODOMETRY, topics.TF):
            assert list(one.raw_messages({topic})) == list(two.raw_messages({topic}))


def test_kitti_keyframes_only_are_2_hz_and_the_poses_stay(tmp_path: Path) -> None:
    run("from-kitti", kitti(tmp_path / "drive", 33), tmp_path / "bag", "--keyframes-only")
    frames = list(read_frames(tmp_path / "bag"))
    assert np.diff([seen.frame.stamp_ns for seen in frames]).tolist() == [500_000_000] * 6
    assert [seen.label is not None for seen in frames] == [True] + [False] * 6
    with open_bag(tmp_path / "bag") as bag:
        assert bag.counts[topics.ODOMETRY] == 33


def test_kitti_frame_has_the_odometry_of_its_very_stamp(tmp_path: Path) -> None:
    run("from-kitti", kitti(tmp_path / "drive", 5), tmp_path / "bag")
    frames = [seen.frame for seen in read_frames(tmp_path / "bag")]
    assert [frame.ego.stamp_ns for frame in frames if frame.ego] == [f.stamp_ns for f in frames]
    with open_bag(tmp_path / "bag") as bag:
        for _, log_ns, msg in bag.messages({topics.image_topic("CAM_FRONT")}):
            assert log_ns == stamp_from_msg(msg.header.stamp) + topics.IMAGE_DELAY_NS


def test_drivelm_is_keyframes_only_and_a_resumed_run_leaves_its_bags_alone(
    tmp_path: Path,
) -> None:
    folder = drivelm(tmp_path / "data")
    run("from-drivelm", folder, tmp_path / "bags", "--keyframes-only")
    mark = (tmp_path / "bags" / "scene1" / "metadata.yaml").stat().st_mtime_ns
    run("from-drivelm", folder, tmp_path / "bags", "--resume")
    assert (tmp_path / "bags" / "scene1" / "metadata.yaml").stat().st_mtime_ns == mark
    run("from-drivelm", folder, tmp_path / "bags")
    assert (tmp_path / "bags" / "scene1" / "metadata.yaml").stat().st_mtime_ns != mark
    assert len(list(read_frames(tmp_path / "bags" / "scene1"))) == 2


@pytest.mark.parametrize("source", ["from-world", "from-drivelm", "from-kitti"])
def test_wrong_input_is_a_data_error_and_leaves_the_old_bag(tmp_path: Path, source: str) -> None:
    run("from-kitti", kitti(tmp_path / "drive", 2), tmp_path / "bag")
    with pytest.raises(DataError, match="nothing"):
        run(source, tmp_path / "nothing", tmp_path / "bag")
    assert count_image_sets(tmp_path / "bag") == 2
