"""From tables to keyframes: each number against a slow obvious version, and at its edges."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_nuscenes import (
    FIRST_US,
    KEY_US,
    LIDAR_M,
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

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.nuscenes.devkit import open_nuscenes
from clkd_core.data.nuscenes.motion import open_can_bus
from clkd_core.data.nuscenes.scenes import AGENT_RADIUS_M, read_scene
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, EgoState, RouteCommand

pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit (extra `nuscenes`)")


def read(root: Path, tables: Tables, *, scene: int = 0) -> list[Keyframe]:
    write_tables(root, tables)
    nusc = open_nuscenes(root, VERSION)
    return read_scene(nusc, nusc.scene[scene], can_bus=open_can_bus(root))


def drive(root: Path, count: int, pose_at: Callable[[float], Any], **words: Any) -> list[Keyframe]:
    tables = fixed_tables()
    add_scene(tables, "drive", count, pose_at, **words)
    return read(root, tables)


def seen_from(pose: Any, place: Any) -> tuple[float, float]:
    """x forward, y left of a place as seen from a pose; the obvious way."""
    dx, dy = place[0] - pose[0], place[1] - pose[1]
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    return (cos * dx + sin * dy, -sin * dx + cos * dy)


def lidar_of(pose: Any) -> tuple[float, float, float]:
    """Where the LIDAR is, its yaw being that of the ego frame."""
    x, y, yaw = pose
    ahead, left, _ = LIDAR_M
    cos, sin = math.cos(yaw), math.sin(yaw)
    return (x + cos * ahead - sin * left, y + sin * ahead + cos * left, yaw)


TURN = circle(8.0, 25.0, yaw=0.7)


def test_images_are_those_of_the_samples_with_their_stamps(tmp_path: Path) -> None:
    keyframes = drive(tmp_path, 2, TURN)
    assert [k.sample_token for k in keyframes] == ["drive-00", "drive-01"]
    first = keyframes[0]
    assert tuple(first.image_paths) == CAMERAS
    assert first.image_paths["CAM_BACK"] == (tmp_path / "samples/CAM_BACK/drive-00-CAM_BACK-0.jpg")
    for number, camera in enumerate(CAMERAS):
        taken_us = FIRST_US - 1000 * (number + 1)
        assert first.image_stamps_ns[camera] == taken_us * 1000
    assert first.stamp_ns == (FIRST_US - 1000) * 1000
    assert keyframes[1].stamp_ns - first.stamp_ns == KEY_US * 1000
    assert not first.is_corner and first.scene == "drive"


def test_future_and_history_are_where_the_ego_frame_goes_and_was(tmp_path: Path) -> None:
    keyframes = drive(tmp_path, 12, TURN)
    for i, keyframe in enumerate(keyframes):
        now = TURN(0.5 * i)
        if i + 6 < 12:
            wanted = [seen_from(now, TURN(0.5 * (i + k))) for k in range(1, 7)]
            assert keyframe.future is not None
            assert np.abs(keyframe.future.xy_m - wanted).max() < 1e-4
        else:
            assert keyframe.future is keyframe.action is keyframe.lidar_future is None
        if i >= 4:
            wanted = [seen_from(now, TURN(0.5 * (i - k))) for k in (4, 3, 2, 1)]
            assert keyframe.history is not None
            assert np.abs(keyframe.history - wanted).max() < 1e-4
        else:
            assert keyframe.history is None


def test_lidar_future_is_the_sensors_own_way(tmp_path: Path) -> None:
    first = drive(tmp_path, 7, TURN)[0]
    now = lidar_of(TURN(0.0))
    wanted = [seen_from(now, lidar_of(TURN(0.5 * k))) for k in range(1, 7)]
    assert first.lidar_future is not None and first.future is not None
    right_forward = [(-left, forward) for forward, left in wanted]
    assert np.abs(first.lidar_future - right_forward).max() < 1e-6
    ego = first.future.xy_m
    assert np.abs(first.lidar_future - np.stack([-ego[:, 1], ego[:, 0]], 1)).max() > 0.5


def test_label_is_that_of_the_lidar_where_the_ego_frame_says_otherwise(tmp_path: Path) -> None:
    """3.5 m to the left for the ego frame in 3 s, some 4.1 m for the sensor: a turn."""
    first = drive(tmp_path, 7, circle(4.0, 19.6))[0]
    assert first.future is not None and first.lidar_future is not None
    assert 3.4 < first.future.xy_m[-1, 1] < 4.0 < -first.lidar_future[-1, 0]
    assert first.action is not None and first.action.text == "KEEP, LEFT_TURN"


@pytest.mark.parametrize(
    ("pose_at", "text"),
    [
        (straight(8.0), "KEEP, STRAIGHT"),
        (straight(0.1), "STOP, STRAIGHT"),
        (lambda t: (4.0 * t + 1.0 * t * t, 0.0, 0.0), "ACCELERATE, STRAIGHT"),
        (lambda t: (12.0 * t - 1.0 * t * t, 0.0, 0.0), "DECELERATE, STRAIGHT"),
        (circle(8.0, -25.0, yaw=3.0), "KEEP, RIGHT_TURN"),
        (lambda t: (20.0 * t, 1.5 * t, 0.0), "KEEP, LEFT_CHANGE"),
    ],
)
def test_labels_follow_sennas_rule(tmp_path: Path, pose_at: Any, text: str) -> None:
    first = drive(tmp_path, 7, pose_at)[0]
    assert first.action is not None and first.action.text == text


def test_command_is_from_the_pose_six_seconds_ahead_or_the_last(tmp_path: Path) -> None:
    """Straight for 5 s, then to the left: 12 keyframes ahead sees it, 6 do not."""

    def pose_at(t: float) -> Any:
        turn = circle(8.0, 8.0)(max(t - 5.0, 0.0))
        return (8.0 * min(t, 5.0) + turn[0], turn[1], turn[2])

    keyframes = drive(tmp_path, 16, pose_at)
    for i, keyframe in enumerate(keyframes):
        forward, left = seen_from(pose_at(0.5 * i), pose_at(0.5 * min(i + 12, 15)))
        wanted = RouteCommand.STRAIGHT
        if left >= 10.0:
            wanted = RouteCommand.STRAIGHT_LEFT if forward >= 20.0 else RouteCommand.LEFT
        assert keyframe.command == wanted
    assert {k.command for k in keyframes} == {
        RouteCommand.STRAIGHT,
        RouteCommand.STRAIGHT_LEFT,
        RouteCommand.LEFT,
    }
    assert keyframes[-1].command == RouteCommand.STRAIGHT


def test_speed_comes_from_sweeps_where_there_are_some(tmp_path: Path) -> None:
    """With v = 2 t a difference over 0.1 s says v - 0.1, over 0.5 s v - 0.5."""
    keyframes = drive(tmp_path, 3, lambda t: (t * t, 0.0, 0.3), sweeps=9)
    assert [k.ego.speed_mps for k in keyframes[1:] if k.ego] == pytest.approx([0.9, 1.9])
    keyframes = drive(tmp_path, 3, lambda t: (t * t, 0.0, 0.3))
    assert [k.ego.speed_mps for k in keyframes[1:] if k.ego] == pytest.approx([0.5, 1.5])
    assert [k.ego.stamp_ns for k in keyframes if k.ego] == [
        (FIRST_US + i * KEY_US) * 1000 for i in range(3)
    ]


def test_speed_comes_from_the_can_bus_first(tmp_path: Path) -> None:
    """The last message before the newest image; the second keyframe has none that is fresh."""
    fresh, late = FIRST_US - 15_000, FIRST_US - 500
    write_can(tmp_path, "drive", [can_pose(fresh, 7.5, 0.1), can_pose(late, 99.0, 0.0)])
    first, second = drive(tmp_path, 2, straight(8.0))
    assert first.ego == EgoState(stamp_ns=fresh * 1000, speed_mps=7.5, yaw_rate_radps=0.1)
    assert second.ego is not None and second.ego.speed_mps == pytest.approx(8.0)
    assert second.ego.stamp_ns == (FIRST_US + KEY_US) * 1000


def test_agents_are_seen_from_the_ego_frame_of_now(tmp_path: Path) -> None:
    def agent(t: float) -> Any:
        return (12.0 + 3.0 * t, 5.0 - t, 1.0 + 0.2 * t)

    keyframes = drive(tmp_path, 9, TURN, agents=[agent])
    for i, keyframe in enumerate(keyframes):
        (found,) = keyframe.agents
        now = TURN(0.5 * i)
        assert (found.category, found.size_m) == ("vehicle.car", (4.6, 1.9))
        assert found.poses.shape == (min(7, 9 - i), 3)
        for k, (x, y, yaw) in enumerate(found.poses.tolist()):
            place = agent(0.5 * (i + k))
            assert (x, y) == pytest.approx(seen_from(now, place), abs=1e-4)
            assert math.cos(yaw - place[2] + now[2]) == pytest.approx(1.0)


def test_future_of_an_agent_ends_where_it_is_not_annotated(tmp_path: Path) -> None:
    """Gone at the fourth keyframe and back at the fifth: what follows a gap does not count."""

    def agent(t: float) -> Any:
        return None if t == 1.5 else (10.0, 0.0, 0.0)

    keyframes = drive(tmp_path, 9, straight(1.0), agents=[agent])
    lengths = [[len(a.poses) for a in k.agents] for k in keyframes]
    assert lengths == [[3], [2], [1], [], [5], [4], [3], [2], [1]]


def test_agents_far_away_are_left_out(tmp_path: Path) -> None:
    near, far = AGENT_RADIUS_M - 0.1, AGENT_RADIUS_M + 0.1
    agents = [lambda t, r=r: (r * 0.6, r * 0.8, 0.0) for r in (near, far)]
    (first, *_) = drive(tmp_path, 2, lambda t: (0.0, 0.0, 0.0), agents=agents)
    (found,) = first.agents
    assert np.hypot(*found.poses[0, :2]) == pytest.approx(near, abs=1e-4)


def test_poses_with_roll_and_pitch_are_turned_in_space(tmp_path: Path) -> None:
    """Against the devkit's own boxes and matrices."""
    from nuscenes.utils.geometry_utils import transform_matrix
    from pyquaternion import Quaternion

    tables = fixed_tables()
    add_scene(tables, "drive", 7, TURN, agents=[lambda t: (12.0, 5.0, 1.0)])
    rng = np.random.default_rng(3)
    for row in [*tables["ego_pose"], *tables["calibrated_sensor"]]:
        tilt = Quaternion(axis=rng.normal(size=3), degrees=float(rng.normal(0, 5)))
        row["rotation"] = (Quaternion(row["rotation"]) * tilt).elements.tolist()
    first = read(tmp_path, tables)[0]
    nusc = open_nuscenes(tmp_path, VERSION)

    def matrices(i: int) -> tuple[Any, Any]:
        data = nusc.get("sample_data", nusc.get("sample", f"drive-0{i}")["data"]["LIDAR_TOP"])
        both = []
        for table in ("ego_pose", "calibrated_sensor"):
            row = nusc.get(table, data[f"{table}_token"])
            both.append(transform_matrix(row["translation"], Quaternion(row["rotation"])))
        return both[0], both[0] @ both[1]

    (ego, lidar), (ego_then, lidar_then) = matrices(0), matrices(6)
    assert first.future is not None and first.lidar_future is not None
    assert first.future.xy_m[-1] == pytest.approx((np.linalg.inv(ego) @ ego_then)[:2, 3], abs=1e-4)
    assert first.lidar_future[-1] == pytest.approx(
        (np.linalg.inv(lidar) @ lidar_then)[:2, 3], abs=1e-6
    )
    box = nusc.get_box(nusc.get("sample", "drive-00")["anns"][0])
    box.translate(-ego[:3, 3])
    box.rotate(Quaternion(matrix=ego, rtol=1e-4, atol=1e-6).inverse)
    x, y, yaw = first.agents[0].poses[0].tolist()
    assert (x, y) == pytest.approx(tuple(box.center[:2]), abs=1e-4)
    ahead = box.rotation_matrix[:2, 0]
    assert yaw == pytest.approx(math.atan2(ahead[1], ahead[0]), abs=1e-4)


def test_scene_of_one_keyframe_has_neither_motion_nor_future(tmp_path: Path) -> None:
    (only,) = drive(tmp_path, 1, TURN)
    assert only.ego is only.future is only.action is only.history is None
    assert only.command == RouteCommand.STRAIGHT


def test_no_trajectory_goes_across_a_gap(tmp_path: Path) -> None:
    tables = fixed_tables()
    add_scene(tables, "drive", 16, straight(8.0))
    for table in ("sample", "sample_data", "ego_pose"):
        for row in tables[table]:
            number = int(row["token"].removeprefix("pose-")[6:8])
            row["timestamp"] += 400_000 * (number >= 8)
    keyframes = read(tmp_path, tables)
    with_future = [i for i, k in enumerate(keyframes) if k.future is not None]
    assert with_future == [0, 1, 8, 9]
    assert [i for i, k in enumerate(keyframes) if k.history is not None] == [
        4,
        5,
        6,
        7,
        *range(12, 16),
    ]


def test_keyframe_lacks_the_views_that_the_tables_lack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = fixed_tables()
    add_scene(tables, "drive", 3, straight(8.0))
    gone = {"drive-00-CAM_FRONT-0", *(f"drive-02-{camera}-0" for camera in CAMERAS)}
    tables["sample_data"] = [r for r in tables["sample_data"] if r["token"] not in gone]
    for row in tables["sample_data"]:
        row["prev"] = "" if row["prev"] in gone else row["prev"]
        row["next"] = "" if row["next"] in gone else row["next"]
    with caplog.at_level(logging.WARNING):
        first, second = read(tmp_path, tables)
    assert set(first.image_paths) == set(CAMERAS) - {"CAM_FRONT"}
    assert first.stamp_ns == max(first.image_stamps_ns.values())
    assert set(second.image_paths) == set(CAMERAS)
    assert "drive: 1 keyframes have no image" in caplog.text


def change(table: str, token: str, **values: Any) -> Callable[[Tables], None]:
    def apply(tables: Tables) -> None:
        next(row for row in tables[table] if row["token"] == token).update(values)

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("sample", "drive-01", prev=""), "scene drive: sample drive-01 .* unbroken chain"),
        (change("sample", "drive-01", scene_token="other"), "drive-01 is of another scene"),
        (change("sample", "drive-01", next=""), "other length or another end"),
        (change("sample", "drive-02", next="drive-00"), "drive-00 .* does not follow drive-02"),
        (change("scene", "drive", nbr_samples=2), "other length or another end"),
        (change("scene", "drive", nbr_samples=4), "other length or another end"),
        (change("scene", "drive", last_sample_token="drive-01"), "another end"),
        (
            change("sample_data", "drive-01-LIDAR_TOP-0", timestamp=FIRST_US),
            "stamp of keyframe drive-01-LIDAR_TOP-0 is not after",
        ),
        (
            change("sample_data", "drive-01-LIDAR_TOP-1", timestamp=FIRST_US),
            "drive-01-LIDAR_TOP-0 is not an earlier sweep",
        ),
        (
            change("sample_data", "drive-01-LIDAR_TOP-0", prev="drive-01-CAM_FRONT-0"),
            "CAM_FRONT-0 is not an earlier sweep of LIDAR_TOP",
        ),
        (
            change("sample_data", "drive-01-CAM_BACK-0", timestamp=FIRST_US + 3 * KEY_US),
            "drive-01-CAM_BACK-0: CAM_BACK is 1.000 s from its keyframe drive-01",
        ),
        (
            change("sample_data", "drive-01-CAM_BACK-0", filename="../../etc/passwd"),
            "drive-01-CAM_BACK-0: filename is '../../etc/passwd'",
        ),
        (
            change("sample_data", "drive-01-LIDAR_TOP-0", is_key_frame=False),
            "sample drive-01 has no LIDAR_TOP",
        ),
        (
            change("sample_annotation", "drive-agent0@drive-01", sample_token="drive-00"),
            "drive-agent0@drive-01: its agent is there twice",
        ),
    ],
)
def test_scene_that_cannot_be_trusted_is_refused(
    tmp_path: Path, damage: Callable[[Tables], None], message: str
) -> None:
    tables = fixed_tables()
    add_scene(tables, "drive", 3, straight(8.0), sweeps=1, agents=[lambda t: (9.0, 0.0, 0.0)])
    add_scene(tables, "other", 1, straight(8.0))
    damage(tables)
    with pytest.raises(DataError, match=message):
        read(tmp_path, tables)


def test_scenes_of_one_set_do_not_mix(tmp_path: Path) -> None:
    tables = fixed_tables()
    add_scene(tables, "a", 2, straight(8.0), agents=[lambda t: (9.0, 0.0, 0.0)])
    add_scene(tables, "b", 2, straight(2.0), agents=[lambda t: (20.0, 0.0, 0.0)])
    second = read(tmp_path, tables, scene=1)
    assert [k.sample_token for k in second] == ["b-00", "b-01"]
    assert [float(k.agents[0].poses[0, 0]) for k in second] == pytest.approx([20.0, 19.0])
