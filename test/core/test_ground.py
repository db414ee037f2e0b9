"""Off the road, by a mask drawn for the purpose and tables as nuScenes has them."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from clkd_core.errors import DataError
from clkd_core.planner_training.ground import load_places, off_road_shares


def write_tables(root: Path, mask: np.ndarray, pose: tuple[float, float, float]) -> None:
    """As much of nuScenes' tables as a place needs, for one sample called ``one``."""
    x_m, y_m, yaw = pose
    (root / "maps").mkdir(parents=True)
    (root / "v").mkdir()
    cv2.imwrite(str(root / "maps" / "m.png"), mask)
    tables = {
        "scene": [{"token": "s", "log_token": "l", "name": "s", "nbr_samples": 1}],
        "map": [{"token": "m", "log_tokens": ["l"], "filename": "maps/m.png"}],
        "sample": [{"token": "one", "scene_token": "s", "timestamp": 1}],
        "sensor": [
            {"token": "t", "channel": "LIDAR_TOP", "modality": "lidar"},
            {"token": "f", "channel": "CAM_FRONT", "modality": "camera"},
        ],
        "calibrated_sensor": [
            {"token": "ct", "sensor_token": "t", "translation": [0, 0, 0],
             "rotation": [1, 0, 0, 0], "camera_intrinsic": []},
            {"token": "cf", "sensor_token": "f", "translation": [0, 0, 0],
             "rotation": [1, 0, 0, 0], "camera_intrinsic": []},
        ],
        "sample_data": [
            {"token": name, "sample_token": "one", "ego_pose_token": f"p{name}",
             "calibrated_sensor_token": f"c{name}", "is_key_frame": True, "filename": "x",
             "timestamp": 1}
            for name in "ft"
        ],
        "ego_pose": [
            {"token": "pt", "translation": [x_m, y_m, 0], "timestamp": 1,
             "rotation": [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]},
            {"token": "pf", "translation": [0, 0, 0], "timestamp": 1, "rotation": [1, 0, 0, 0]},
        ],
    }  # fmt: skip
    for name, rows in tables.items():
        (root / "v" / f"{name}.json").write_text(json.dumps(rows))


def test_a_trajectory_is_off_the_road_from_the_step_at_which_a_corner_is(tmp_path: Path) -> None:
    # A road 6 m wide northwards, x 17 to 23 m, up to y = 40 m; the mask's first row is its north.
    mask = np.zeros((600, 400), np.uint8)
    mask[200:, 170:230] = 255
    write_tables(tmp_path, mask, (20.0, 20.0, math.pi / 2))
    (place,) = load_places(tmp_path, "v", ["one"])
    assert (place.x_m, place.y_m) == (20.0, 20.0) and place.yaw_rad == pytest.approx(math.pi / 2)
    # The front is 3.48 m ahead of the axle: 16.5 m along the road it is 20 cm short of its end.
    ahead, beyond, aside = (np.zeros((6, 2), np.float32) for _ in range(3))
    ahead[:, 0] = np.linspace(2, 16.3, 6)
    beyond[:, 0] = [4, 8, 12, 16, 17, 18]
    aside[:, 0], aside[:, 1] = ahead[:, 0], -2.3  # 2.3 + 0.9 m to the right, which is east
    vocabulary = np.stack([ahead, beyond, aside])
    still = np.zeros((1, 6, 2), np.float32)
    shares = off_road_shares(vocabulary, [place], still)[0]
    assert shares[0] == 0.0
    assert shares[1] == pytest.approx(2 / 6)
    assert shares[2] > 0.6
    excused = off_road_shares(vocabulary, [place], beyond[None])[0]
    assert excused[1] == 0.0


def test_a_keyframe_that_the_tables_do_not_know_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path, np.zeros((9, 9), np.uint8), (0.0, 0.0, 0.0))
    with pytest.raises(DataError, match="'two'"):
        load_places(tmp_path, "v", ["one", "two"])
