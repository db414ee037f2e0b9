"""How fast the vehicle was: from the CAN bus where it is there, else from differences of poses."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import DataError
from clkd_core.types import EgoState

CAN_FOLDER = "can_bus"
"""Where nuScenes' CAN bus expansion lies below the root."""

CAN_MAX_AGE_NS = 100_000_000
"""CAN bus poses come at 50 Hz; an older one says nothing about now."""

TWIST_NS = 100_000_000
"""Speeds are differences over at least this long, two sweeps of the LIDAR: over one, the noise of
the localisation weighs twice as much."""

_NS_PER_US = 1000


@dataclass(frozen=True)
class CanBus:
    """The CAN bus expansion; scenes that it has no file of are answered by poses."""

    folder: Path

    def load_twists(self, scene: str) -> NDArray[np.float64]:
        """(N, 3) time [us], forward speed [m/s], rate of turn [rad/s]; N = 0 without a file.

        Raises:
            DataError: the file is no list of poses in the order of time.
        """
        path = self.folder / f"{scene}_pose.json"
        if "/" in scene or "\0" in scene or not path.is_file():
            return np.empty((0, 3))
        try:
            rows = [list(_twist(pose)) for pose in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as err:
            raise DataError(f"{path}: is no list of CAN bus poses: {err}") from err
        twists = np.array(rows, np.float64).reshape(-1, 3)
        if (np.diff(twists[:, 0]) < 0).any():
            raise DataError(f"{path}: utime goes backwards, expected the order of time")
        return twists


def open_can_bus(root: Path) -> CanBus | None:
    """The CAN bus expansion of a data set, or None where it is not there."""
    folder = root / CAN_FOLDER
    return CanBus(folder) if folder.is_dir() else None


def _twist(message: Any) -> Iterator[float]:
    for value in (message["utime"], message["vel"][0], message["rotation_rate"][2]):
        if isinstance(value, bool) or not math.isfinite(value) or abs(value) > 2**53:
            raise ValueError(f"{str(value)[:60]} is no finite number")
        yield float(value)


def ego_from_can(twists: NDArray[np.float64], stamp_ns: int) -> EgoState | None:
    """The last CAN bus pose at or before ``stamp_ns``; None where there is none so new.

    Args:
        twists: (N, 3) as :meth:`CanBus.load_twists` gives them.
        stamp_ns: the instant asked about.
    """
    stamps_ns = twists[:, 0].astype(np.int64) * _NS_PER_US
    last = int(np.searchsorted(stamps_ns, stamp_ns, side="right")) - 1
    if last < 0 or stamp_ns - int(stamps_ns[last]) > CAN_MAX_AGE_NS:
        return None
    _, speed, rate = twists[last].tolist()
    return EgoState(stamp_ns=int(stamps_ns[last]), speed_mps=speed, yaw_rate_radps=rate)


def compute_twists(
    stamps_ns: NDArray[np.int64], world_from_ego: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Forward speed and rate of turn at every pose, from differences of poses.

    Each is the way since the last pose at least :data:`TWIST_NS` before, so nothing of the future
    is in it; at the beginning, where there is none, the way until the first one so much later.
    Speed is the straight distance in the plane of the vehicle, negative when it went backwards.

    Args:
        stamps_ns: (N,) increasing, N >= 2.
        world_from_ego: (N, 4, 4) poses.

    Returns:
        (N, 2) forward speed [m/s], rate of turn [rad/s].
    """
    numbers = np.arange(len(stamps_ns))
    before = np.searchsorted(stamps_ns, stamps_ns - TWIST_NS, side="right") - 1
    start = int(np.searchsorted(stamps_ns, stamps_ns[0] + TWIST_NS))
    after = np.where(before < 0, min(start, len(stamps_ns) - 1), numbers)
    before = np.maximum(before, 0)
    step = np.linalg.inv(world_from_ego[before]) @ world_from_ego[after]
    seconds = (stamps_ns[after] - stamps_ns[before]) * 1e-9
    way = np.copysign(np.hypot(step[:, 0, 3], step[:, 1, 3]), step[:, 0, 3])
    turn = np.arctan2(step[:, 1, 0], step[:, 0, 0])
    return np.asarray(np.stack([way, turn], axis=1) / seconds[:, None])
