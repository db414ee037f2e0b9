"""What the tables say of one scene, looked up once: plain arrays that fit through a pipe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.sidecar_record import path_below
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

LIDAR = "LIDAR_TOP"
"""Whose poses trajectories are made of: the six cameras' differ within one keyframe."""

IMAGE_WITHIN_NS = 500_000_000
"""An image farther from its keyframe's LIDAR sweep belongs to another keyframe."""

_NS_PER_US = 1000

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """All annotated boxes of a scene, M of them."""

    samples: NDArray[np.int64]
    """(M,) which of the scene's keyframes."""
    instances: NDArray[np.int64]
    """(M,) which of the scene's agents."""
    places: NDArray[np.float64]
    """(M, 3) centres in the world frame [m]."""
    headings: NDArray[np.float64]
    """(M, 3) unit vectors along their lengths, world frame."""
    sizes_m: NDArray[np.float64]
    """(M, 2) length, width."""
    categories: tuple[str, ...]
    """M nuScenes category names."""


@dataclass(frozen=True, kw_only=True)
class SceneRows:
    """N keyframes of a scene, in the order of time, and all LIDAR sweeps between them."""

    name: str
    tokens: tuple[str, ...]
    """N sample tokens."""
    stamps_ns: NDArray[np.int64]
    """(N,) times of the LIDAR sweeps, strictly increasing."""
    world_from_ego: NDArray[np.float64]
    """(N, 4, 4) at those times."""
    ego_from_lidar: NDArray[np.float64]
    """(N, 4, 4) mounting of LIDAR_TOP."""
    sweep_stamps_ns: NDArray[np.int64]
    """(S,) of every LIDAR sweep up to the last keyframe, strictly increasing."""
    sweep_world_from_ego: NDArray[np.float64]
    """(S, 4, 4) at those times."""
    images: tuple[Mapping[str, tuple[str, int]], ...]
    """N times camera -> (path below the root, capture time [ns])."""
    boxes: Boxes


def collect_scene(nusc: "NuScenes", scene: Row) -> SceneRows:
    """Look up all that one scene's keyframes are made of.

    Args:
        nusc: from :func:`clkd_core.data.nuscenes.devkit.open_nuscenes`.
        scene: row of the table ``scene``.

    Raises:
        DataError: the chain of keyframes is broken, stamps do not increase, a keyframe has no
            LIDAR_TOP, an image is named outside of the set or captured at another time, or an
            agent is annotated twice at once; names scene and token.
    """
    samples = list(_chain(nusc, scene))
    sweeps = [nusc.get("sample_data", _lidar_token(sample)) for sample in samples]
    stamps_ns = _increasing(sweeps, scene, "keyframe")
    mounts = [nusc.get("calibrated_sensor", s["calibrated_sensor_token"]) for s in sweeps]
    all_sweeps = list(_sweeps_until(nusc, sweeps[-1], scene))
    images = tuple(
        _images(nusc, sample, int(stamp)) for sample, stamp in zip(samples, stamps_ns, strict=True)
    )
    return SceneRows(
        name=scene["name"],
        tokens=tuple(sample["token"] for sample in samples),
        stamps_ns=stamps_ns,
        world_from_ego=_ego_poses(nusc, sweeps),
        ego_from_lidar=_matrices(mounts),
        sweep_stamps_ns=_increasing(all_sweeps, scene, "LIDAR sweep"),
        sweep_world_from_ego=_ego_poses(nusc, all_sweeps),
        images=images,
        boxes=_boxes(nusc, samples),
    )


def _chain(nusc: "NuScenes", scene: Row) -> Iterator[Row]:
    """The scene's keyframes from first to last."""
    token, before, count = scene["first_sample_token"], "", 0
    while token:
        sample = nusc.get("sample", token)
        count += 1
        if sample["scene_token"] != scene["token"] or sample["prev"] != before:
            raise DataError(
                f"scene {scene['name']}: sample {token} is of another scene or does not follow "
                f"{before or 'nothing'}, expected an unbroken chain"
            )
        if count > scene["nbr_samples"]:
            break
        yield sample
        token, before = sample["next"], token
    if count != scene["nbr_samples"] or before != scene["last_sample_token"]:
        raise DataError(
            f"scene {scene['name']}: its chain of samples has other length or another end than "
            f"its record says ({scene['nbr_samples']}, {scene['last_sample_token']})"
        )


def _lidar_token(sample: Row) -> str:
    token = sample["data"].get(LIDAR)
    if token is None:
        raise DataError(f"sample {sample['token']} has no {LIDAR}, whose pose is needed")
    return str(token)


def _increasing(sweeps: Sequence[Row], scene: Row, what: str) -> NDArray[np.int64]:
    stamps_ns = np.array([row["timestamp"] for row in sweeps], np.int64) * _NS_PER_US
    wrong = np.flatnonzero(np.diff(stamps_ns) <= 0)
    if len(wrong):
        token = sweeps[int(wrong[0]) + 1]["token"]
        raise DataError(
            f"scene {scene['name']}: stamp of {what} {token} is not after the one before it"
        )
    return stamps_ns


def _sweeps_until(nusc: "NuScenes", last: Row, scene: Row) -> Iterator[Row]:
    """LIDAR sweeps of the scene in the order of time, ``last`` included."""
    found, row = [last], last
    while row["prev"]:
        row = nusc.get("sample_data", row["prev"])
        if row["timestamp"] >= found[-1]["timestamp"] or row["channel"] != LIDAR:
            raise DataError(
                f"scene {scene['name']}: sample_data {row['token']} is not an earlier sweep of "
                f"{LIDAR} than the one that follows it"
            )
        found.append(row)
    return reversed(found)


def _images(nusc: "NuScenes", sample: Row, stamp_ns: int) -> dict[str, tuple[str, int]]:
    images = {}
    for camera in CAMERAS:
        if camera not in sample["data"]:
            continue
        row = nusc.get("sample_data", sample["data"][camera])
        taken_ns = row["timestamp"] * _NS_PER_US
        if abs(taken_ns - stamp_ns) > IMAGE_WITHIN_NS:
            raise DataError(
                f"sample_data {row['token']}: {camera} is {abs(taken_ns - stamp_ns) / 1e9:.3f} s "
                f"from its keyframe {sample['token']}, expected at most {IMAGE_WITHIN_NS / 1e9} s"
            )
        images[camera] = (image_name(row), taken_ns)
    return images


def image_name(row: Row) -> str:
    """The path of a row of ``sample_data`` below the root.

    Raises:
        DataError: it leaves the root.
    """
    try:
        return path_below(row["filename"], "filename")
    except ValueError as err:
        raise DataError(f"sample_data {row['token']}: {err}") from err


def _boxes(nusc: "NuScenes", samples: Sequence[Row]) -> Boxes:
    rows = [
        (number, nusc.get("sample_annotation", token))
        for number, sample in enumerate(samples)
        for token in sample["anns"]
    ]
    numbers: dict[str, int] = {}
    instances = [numbers.setdefault(row["instance_token"], len(numbers)) for _, row in rows]
    poses = _matrices([row for _, row in rows])
    sizes = np.array([row["size"] for _, row in rows], np.float64).reshape(-1, 3)
    seen = [(instance, number) for instance, (number, _) in zip(instances, rows, strict=True)]
    if len(set(seen)) < len(seen):
        twice = next(i for i, key in enumerate(seen) if key in seen[:i])
        raise DataError(f"sample_annotation {rows[twice][1]['token']}: its agent is there twice")
    return Boxes(
        samples=np.array([number for number, _ in rows], np.int64),
        instances=np.array(instances, np.int64),
        places=poses[:, :3, 3],
        headings=poses[:, :3, 0],
        sizes_m=sizes[:, [1, 0]],  # nuScenes: width, length, height
        categories=tuple(str(row["category_name"]) for _, row in rows),
    )


def _ego_poses(nusc: "NuScenes", sweeps: Sequence[Row]) -> NDArray[np.float64]:
    return _matrices([nusc.get("ego_pose", sweep["ego_pose_token"]) for sweep in sweeps])


def _matrices(rows: Sequence[Row]) -> NDArray[np.float64]:
    """(N, 4, 4) from ``translation`` and ``rotation``, a quaternion w, x, y, z."""
    turn = np.array([row["rotation"] for row in rows], np.float64).reshape(-1, 4)
    w, x, y, z = (turn / np.linalg.norm(turn, axis=1, keepdims=True)).T
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, 0, :3] = np.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=1
    )
    matrices[:, 1, :3] = np.stack(
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=1
    )
    matrices[:, 2, :3] = np.stack(
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1
    )
    matrices[:, :3, 3] = np.array([r["translation"] for r in rows], np.float64).reshape(-1, 3)
    return matrices
