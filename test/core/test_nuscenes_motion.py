"""Speeds: from the CAN bus's own layout, and from differences of poses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_nuscenes import can_pose, circle, straight, write_can

from clkd_core.data.nuscenes.motion import (
    CAN_FOLDER,
    CAN_MAX_AGE_NS,
    CanBus,
    compute_twists,
    ego_from_can,
    open_can_bus,
)
from clkd_core.errors import DataError


def test_can_bus_is_there_or_not(tmp_path: Path) -> None:
    assert open_can_bus(tmp_path) is None
    write_can(tmp_path, "scene-0001", [])
    found = open_can_bus(tmp_path)
    assert found == CanBus(tmp_path / CAN_FOLDER)
    assert found.load_twists("scene-0001").shape == found.load_twists("scene-0161").shape == (0, 3)


def test_forward_speed_and_rate_of_turn_are_read(tmp_path: Path) -> None:
    write_can(tmp_path, "scene-0001", [can_pose(1_000_000, 8.5, 0.2), can_pose(1_020_000, 9, 0)])
    twists = CanBus(tmp_path / CAN_FOLDER).load_twists("scene-0001")
    assert twists.tolist() == [[1e6, 8.5, 0.2], [1.02e6, 9.0, 0.0]]


def test_devkit_reads_the_layout_that_we_do(tmp_path: Path) -> None:
    api = pytest.importorskip("nuscenes.can_bus.can_bus_api", reason="needs nuscenes-devkit")
    write_can(tmp_path, "scene-0001", [can_pose(1_000_000, 8.5, 0.2)])
    theirs = api.NuScenesCanBus(str(tmp_path)).get_messages("scene-0001", "pose")
    ours = CanBus(tmp_path / CAN_FOLDER).load_twists("scene-0001")
    message = theirs[0]
    told = [message["utime"], message["vel"][0], message["rotation_rate"][2]]
    assert ours.tolist() == [told]


@pytest.mark.parametrize(
    "messages",
    [
        "",
        "[{",
        "{}[]",
        [[1, 2]],
        [{"utime": 1}],
        [can_pose(1, "fast", 0)],
        [can_pose(1, None, 0)],
        [can_pose(1, float("nan"), 0)],
        [can_pose(1, 1, 10**400)],
        [can_pose(True, 1, 0)],
        [can_pose(10**18, 1, 0)],
        [{**can_pose(1, 1, 0), "vel": []}],
        [can_pose(2, 1, 0), can_pose(1, 1, 0)],
    ],
)
def test_damaged_can_bus_file_is_named(tmp_path: Path, messages: Any) -> None:
    write_can(tmp_path, "scene-0001", messages)
    with pytest.raises(DataError, match=r"scene-0001_pose\.json: (is no list|utime goes back)"):
        CanBus(tmp_path / CAN_FOLDER).load_twists("scene-0001")


def test_scene_name_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    write_can(tmp_path, "../secret", [can_pose(1, 2, 3)])
    assert (tmp_path / "secret_pose.json").is_file()
    assert len(CanBus(tmp_path / CAN_FOLDER).load_twists("../secret")) == 0


def test_last_pose_at_or_before_counts_while_it_is_fresh() -> None:
    twists = np.array([[1_000.0, 1.0, 0.1], [2_000.0, 2.0, 0.2], [3_000.0, 3.0, 0.3]])

    def speed_at(stamp_ns: int) -> float | None:
        ego = ego_from_can(twists, stamp_ns)
        return None if ego is None else ego.speed_mps

    assert speed_at(999_999) is None
    assert speed_at(1_000_000) == speed_at(1_999_999) == 1.0
    assert speed_at(2_000_000) == 2.0
    assert speed_at(3_000_000 + CAN_MAX_AGE_NS) == 3.0
    assert speed_at(3_000_001 + CAN_MAX_AGE_NS) is None
    ego = ego_from_can(twists, 2_500_000)
    assert ego is not None and (ego.stamp_ns, ego.yaw_rate_radps) == (2_000_000, 0.2)
    assert ego_from_can(np.empty((0, 3)), 5) is None


def poses(pose_at: Any, seconds: Any) -> np.ndarray[Any, Any]:
    matrices = np.tile(np.eye(4), (len(seconds), 1, 1))
    for matrix, second in zip(matrices, seconds, strict=True):
        x, y, yaw = pose_at(second)
        matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        matrix[:2, 3] = x, y
    return matrices


def twists(pose_at: Any, seconds: Any) -> list[tuple[float, float]]:
    stamps = np.round(np.asarray(seconds) * 1e9).astype(np.int64)
    return [tuple(row) for row in compute_twists(stamps, poses(pose_at, seconds)).tolist()]


def test_steady_motion_reads_the_same_everywhere() -> None:
    for speed, rate in twists(circle(8.0, 40.0, yaw=2.0), np.arange(12) * 0.05):
        assert speed == pytest.approx(8.0, rel=1e-4)
        assert rate == pytest.approx(0.2)
    for speed, rate in twists(circle(8.0, -40.0), np.arange(12) * 0.05):
        assert (speed, rate) == (pytest.approx(8.0, rel=1e-4), pytest.approx(-0.2))
    assert all(speed == pytest.approx(-3.0) for speed, _ in twists(straight(-3.0), [0, 0.1, 0.2]))


def test_speed_looks_back_and_never_ahead() -> None:
    """Twice as fast after 1 s: until then nobody may know."""
    seconds = np.arange(41) * 0.05
    found = twists(lambda t: (4.0 * t + 4.0 * max(t - 1.0, 0.0), 0.0, 0.0), seconds)
    assert [speed for speed, _ in found[:21]] == pytest.approx([4.0] * 21)
    assert found[21][0] == pytest.approx(6.0)  # half of the last 0.1 s
    assert [speed for speed, _ in found[22:]] == pytest.approx([8.0] * 19)


def test_first_poses_look_ahead_because_nothing_precedes() -> None:
    found = twists(lambda t: (t * t, 0.0, 0.0), [0.0, 0.05, 0.1, 0.5])
    assert found[0][0] == pytest.approx(0.1)  # 0 to 0.1 s
    assert found[1][0] == pytest.approx(0.1)  # the same way
    assert found[2][0] == pytest.approx(0.1)
    assert found[3][0] == pytest.approx((0.25 - 0.01) / 0.4)


def test_two_poses_suffice() -> None:
    assert twists(straight(2.0), [0.0, 0.02]) == [(pytest.approx(2.0), 0.0)] * 2
