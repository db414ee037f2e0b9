"""Which trajectories of a vocabulary leave the road, by the masks that come with nuScenes' tables.

A mask is a picture of one log's map, 0.1 m a pixel, not black where one may drive; its lower left
corner is the map's origin (nuScenes devkit, ``MapMask``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.nuscenes.tables import load_table
from clkd_core.errors import DataError
from clkd_core.metrics.plans.collision import EgoBox, path_headings
from clkd_core.progress import progress

PIXEL_M = 0.1
"""nuScenes' masks and ours."""


class Place(NamedTuple):
    """Where a keyframe was taken."""

    mask: Path
    x_m: float
    """In the map, to the right on the mask."""
    y_m: float
    """In the map, up on the mask."""
    yaw_rad: float


def load_places(root: Path, version: str, tokens: Sequence[str]) -> list[Place]:
    """Look keyframes up in nuScenes' tables.

    Args:
        root: folder with ``maps/`` and the version folder.
        version: folder of the tables.
        tokens: (N,) of samples.

    Raises:
        DataError: a table is missing or damaged, or does not know a keyframe.
    """
    folder, wanted = root / version, set(tokens)
    log_of = {row["token"]: row["log_token"] for row in load_table(folder, "scene")}
    mask_of = {
        log: root / row["filename"]
        for row in load_table(folder, "map")
        for log in row["log_tokens"]
    }
    scene_of = {row["token"]: row["scene_token"] for row in load_table(folder, "sample")}
    # Poses differ by sensor within a sample; trajectories are those of LIDAR_TOP (design.md, 4).
    sensors = _tokens_of_channel(folder, "LIDAR_TOP")
    lidars = {
        row["token"]
        for row in load_table(folder, "calibrated_sensor")
        if row["sensor_token"] in sensors
    }
    pose_of = {
        row["sample_token"]: row["ego_pose_token"]
        for row in load_table(folder, "sample_data")
        if row["is_key_frame"]
        and row["sample_token"] in wanted
        and row["calibrated_sensor_token"] in lidars
    }
    needed = set(pose_of.values())
    poses = {row["token"]: row for row in load_table(folder, "ego_pose") if row["token"] in needed}
    try:
        return [
            _place(mask_of[log_of[scene_of[token]]], poses[pose_of[token]]) for token in tokens
        ]
    except KeyError as err:
        raise DataError(f"{folder}: the tables lead from no keyframe to {err}") from err


def _tokens_of_channel(folder: Path, channel: str) -> set[str]:
    return {row["token"] for row in load_table(folder, "sensor") if row["channel"] == channel}


def _place(mask: Path, pose: dict[str, list[float]]) -> Place:
    w, x, y, z = pose["rotation"]
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return Place(mask, float(pose["translation"][0]), float(pose["translation"][1]), float(yaw))


def off_road_shares(
    vocabulary_m: NDArray[np.float32], places: Sequence[Place], truth_m: NDArray[np.float32]
) -> NDArray[np.float32]:
    """For every frame and trajectory the share of steps at which a corner is off the road.

    A step at which the driven path is off the road, too, is held against no trajectory.

    Args:
        vocabulary_m: (V, T, 2) metres.
        places: (N,) of each frame.
        truth_m: (N, T, 2) metres, the driven path of each frame.

    Returns:
        (N, V) float32, 0 to 1.

    Raises:
        DataError: a mask cannot be read.
    """
    corners = ego_corners(vocabulary_m)
    shares = np.zeros((len(places), len(vocabulary_m)), np.float32)
    loaded: tuple[Path | None, NDArray[np.uint8]] = (None, np.zeros((0, 0), np.uint8))
    order = sorted(range(len(places)), key=lambda i: str(places[i].mask))
    for frame in progress(order, total=len(order), desc="where the road ends", unit="frames"):
        place = places[frame]
        if loaded[0] != place.mask:
            loaded = (place.mask, _read_mask(place.mask))
        off = is_off_road(corners, place, loaded[1])
        off[:, is_off_road(ego_corners(truth_m[frame : frame + 1]), place, loaded[1])[0]] = False
        shares[frame] = off.mean(axis=1)
    return shares


def ego_corners(xy_m: NDArray[np.float32]) -> NDArray[np.float64]:
    """(V, T, 4, 2) the corners of the vehicle on each of (V, T, 2) trajectories [m]."""
    box = EgoBox()
    headings = np.stack([path_headings(xy.astype(np.float64)) for xy in xy_m])
    along = box.center_ahead_m + box.length_m / 2 * np.array([1, 1, -1, -1])
    across = box.width_m / 2 * np.array([1, -1, -1, 1])
    cos, sin = np.cos(headings)[..., None], np.sin(headings)[..., None]
    offset = np.stack([cos * along - sin * across, sin * along + cos * across], axis=-1)
    corners: NDArray[np.float64] = xy_m[:, :, None].astype(np.float64) + offset
    return corners


def is_off_road(
    corners_m: NDArray[np.float64], place: Place, mask: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """(V, T) whether one of (V, T, 4, 2) corners in a place's ego frame is black or outside."""
    cos, sin = np.cos(place.yaw_rad), np.sin(place.yaw_rad)
    x_m = place.x_m + cos * corners_m[..., 0] - sin * corners_m[..., 1]
    y_m = place.y_m + sin * corners_m[..., 0] + cos * corners_m[..., 1]
    column = np.floor(x_m / PIXEL_M).astype(np.int64)
    row = np.floor(mask.shape[0] - y_m / PIXEL_M).astype(np.int64)
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    road = inside & (mask[np.where(inside, row, 0), np.where(inside, column, 0)] > 0)
    return np.asarray(~road.all(axis=-1))


def _read_mask(path: Path) -> NDArray[np.uint8]:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise DataError(f"{path}: map mask is missing or no picture")
    return np.asarray(mask, np.uint8)
