"""Bags from images that nobody here rendered: DriveLM's scenes and a KITTI drive."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clkd_core.data.bags.files import open_bag
from clkd_core.data.bags.frames import read_frames
from clkd_core.data.bags.sources.drivelm import load_drivelm_scenes, write_drivelm_bag
from clkd_core.data.bags.sources.kitti import (
    compute_ego_state,
    compute_label,
    load_kitti_sequence,
    write_kitti_bag,
)
from clkd_core.errors import DataError
from clkd_core.report.bag_pictures import load_front_camera
from clkd_core.runtime.decode import decode_views
from clkd_core.types import CAMERAS

SHARED = Path(
    os.environ.get("CLKD_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
DRIVELM = SHARED / "drivelm"
KITTI = SHARED / "kitti" / "sequence_1"

needs_drivelm = pytest.mark.skipif(not DRIVELM.is_dir(), reason=f"no DriveLM in {DRIVELM}")
needs_kitti = pytest.mark.skipif(not KITTI.is_dir(), reason=f"no KITTI sequence in {KITTI}")


@needs_drivelm
def test_drivelm_scenes_become_bags_with_six_views_per_keyframe(tmp_path: Path) -> None:
    counts = {}
    for token, images in load_drivelm_scenes(DRIVELM).items():
        counts[token] = write_drivelm_bag(tmp_path / token, images, storage="mcap")
        frames = [one.frame for one in read_frames(tmp_path / token)]
        assert len(frames) * 6 == counts[token]
        assert all(set(frame.images) == set(CAMERAS) for frame in frames)
        assert frames[0].degraded_reasons == ("no odometry", "no route command")
        views, present = decode_views(frames[0], (72, 128))
        assert present.all() and all(view.std() > 10 for view in views)
    assert sorted(counts.values()) == [24, 30]


@needs_drivelm
def test_drivelm_stamps_are_those_of_the_file_names() -> None:
    first = load_drivelm_scenes(DRIVELM)["54cdaaae372d421fa4734d66f51a8c48"][0]
    assert (first.camera, first.stamp_ns) == ("CAM_FRONT_LEFT", 1533280036154844000)


@needs_kitti
def test_kitti_bag_has_one_grey_camera_poses_and_labels_where_3_s_follow(tmp_path: Path) -> None:
    sequence = load_kitti_sequence(KITTI)
    assert list(write_kitti_bag(sequence, tmp_path / "kitti")) == list(range(51))
    frames = list(read_frames(tmp_path / "kitti"))
    assert [one.label is not None for one in frames] == [True] * 21 + [False] * 30
    assert Counter(one.label.action.text for one in frames if one.label) == {"KEEP, STRAIGHT": 21}
    frame = frames[10].frame
    assert set(frame.images) == {"CAM_FRONT"} and "no route command" in frame.degraded_reasons
    assert frame.ego is not None and 10 < frame.ego.speed_mps < 14
    views, _ = decode_views(frame, (72, 128))
    assert views[0].std() > 10 and np.ptp(views[0], axis=0).max() == 0


@needs_kitti
def test_kitti_odometry_is_in_ego_axes_and_agrees_with_the_future(tmp_path: Path) -> None:
    sequence = load_kitti_sequence(KITTI)
    list(write_kitti_bag(sequence, tmp_path / "kitti"))
    with open_bag(tmp_path / "kitti") as bag:
        places = [msg.pose.pose.position for _, _, msg in bag.messages({"/odometry"})]
    assert places[50].x > 50 and abs(places[50].y) < 10 and abs(places[50].z) < 2
    label = compute_label(sequence, 0)
    assert label is not None and label.future is not None
    assert np.allclose(label.future.xy_m[-1], [places[30].x, places[30].y], atol=1e-3)


def write_small_kitti(root: Path, poses: str, images: int = 3) -> Path:
    import cv2

    (root / "image_0").mkdir(parents=True)
    for number in range(images):
        cv2.imwrite(str(root / "image_0" / f"{number:06}.png"), np.zeros((9, 16), np.uint8))
    (root / "poses.txt").write_text(poses)
    (root / "calib.txt").write_text("P0: 7 0 8 0 0 7 4 0 0 0 1 0\n")
    return root


IDENTITY = "1 0 0 0 0 1 0 0 0 0 1 0\n"


@pytest.mark.parametrize(
    ("poses", "words"),
    [
        (IDENTITY * 2, "3 images but 2 poses"),
        (IDENTITY * 2 + IDENTITY.replace("1", "nan", 1), "poses.txt:3: a NaN or infinite value"),
        (IDENTITY * 2 + "1 2 3\n", "poses.txt:3: 3 numbers, expected 12 finite numbers"),
        (IDENTITY * 2 + "north\n", "poses.txt:3: could not convert"),
        ("", "no numbers"),
    ],
)
def test_kitti_files_that_cannot_be_used_are_named(tmp_path: Path, poses: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_kitti_sequence(write_small_kitti(tmp_path / "seq", poses))


def test_kitti_left_curve_turns_left_in_ego_axes(tmp_path: Path) -> None:
    rows = []
    for yaw in np.deg2rad(np.arange(0, 93, 3)):  # 30 deg/s to the left at 5 m/s, y is down
        turn = [[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]]
        radius = 5.0 / np.deg2rad(30)
        place = np.array([[-radius * (1 - np.cos(yaw))], [0], [radius * np.sin(yaw)]])
        rows.append(" ".join(f"{value:.9f}" for value in np.hstack([turn, place]).ravel()))
    root = write_small_kitti(tmp_path / "seq", "\n".join(rows), images=len(rows))
    sequence = load_kitti_sequence(root)
    ego = compute_ego_state(sequence, 5)
    assert ego.yaw_rate_radps == pytest.approx(np.deg2rad(30), abs=1e-6)
    assert ego.speed_mps == pytest.approx(5.0, abs=0.05)
    label = compute_label(sequence, 0)
    assert label is not None and label.action.path.name == "LEFT_TURN"
    assert compute_label(sequence, 1) is None


def test_kitti_road_ahead_lies_below_the_horizon(tmp_path: Path) -> None:
    sequence = load_kitti_sequence(write_small_kitti(tmp_path / "seq", IDENTITY * 3))
    list(write_kitti_bag(sequence, tmp_path / "bag"))
    camera = load_front_camera(tmp_path / "bag")
    assert camera is not None
    ten_metres_ahead = camera.project(np.array([[10.0, 0.0, 0.0]]), camera.width_px)
    np.testing.assert_allclose(ten_metres_ahead, [[8.0, 4.0 + 7.0 * 1.65 / 10.0]])


def test_kitti_folder_of_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image_l/\*\.png or image_0"):
        load_kitti_sequence(tmp_path)


def test_kitti_calibration_with_names_is_read(tmp_path: Path) -> None:
    sequence = load_kitti_sequence(write_small_kitti(tmp_path / "seq", IDENTITY * 3))
    assert sequence.k.tolist() == [[7, 0, 8], [0, 7, 4], [0, 0, 1]]


def drivelm(root: Path, content: object) -> Path:
    root.mkdir(exist_ok=True)
    (root / "train.json").write_text(json.dumps(content))
    return root


NAME = "../nuscenes/samples/CAM_BACK/n__CAM_BACK__1537291002287558.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "is no DriveLM file"),
        ({"../up": {}}, "scene '../up', expected a token"),
        ({"a": {}}, "scene a has no key_frames"),
        ({"a": {"key_frames": {"k": {}}}}, "keyframe k: no image_paths"),
        ({"a": {"key_frames": {"k": {"image_paths": {"CAM_UP": NAME}}}}}, "camera 'CAM_UP'"),
        ({"a": {"key_frames": {"k": {"image_paths": {"CAM_BACK": "x.jpg"}}}}}, "has no stamp"),
        (
            {"a": {"key_frames": {"k": {"image_paths": {"CAM_BACK": NAME}}}}},
            "1 image files are missing, first .*1537291002287558.jpg",
        ),
    ],
)
def test_drivelm_files_that_cannot_be_used_are_named(
    tmp_path: Path, content: object, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        load_drivelm_scenes(drivelm(tmp_path, content))


def test_drivelm_truncated_or_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 JSON files"):
        load_drivelm_scenes(tmp_path)
    (tmp_path / "train.json").write_text('{"a": {"key_')
    with pytest.raises(DataError, match=r"train.json: cannot be read as JSON"):
        load_drivelm_scenes(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_drivelm_scenes(tmp_path)
