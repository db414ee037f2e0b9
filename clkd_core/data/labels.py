"""Senna's rules: which meta-action a future is, and which route command a goal is.

Source: the public Senna repository's data converter (design.md, section 3), which speaks LIDAR_TOP
axes (x right, y forward); so does the meta-action rule here. Trajectories are in the ego frame.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clkd_core.errors import DataError
from clkd_core.types import FUTURE_STEPS, STEP_S, MetaAction, PathAction, RouteCommand, SpeedAction

STOP_BELOW_MPS = 2.0
"""Slower than this in all five intervals is a STOP."""
SPEED_CHANGE_MPS = 3.0
"""Last minus first speed from which it counts as ACCELERATE or, negative, DECELERATE."""
SIDE_M = 4.0
"""Sideways travel from which the path is a turn or a lane change."""
TURN_BEARING_DEG = 5.0
"""Bearing of the last point from which sideways travel is a turn; in degrees as in the public
code, so that both round alike."""
COMMAND_AHEAD_M = 20.0
"""Goals at least this far ahead are reached by going straight first."""
COMMAND_SIDE_M = 10.0
"""Goals at least this far to one side need a turn."""


def lidar_from_ego(xy_ego: ArrayLike, *, lidar_forward_m: float = 0.0) -> NDArray[np.float64]:
    """Turn points of the ego frame (x forward, y left) into LIDAR_TOP axes (x right, y forward).

    Args:
        xy_ego: (..., 2) metres.
        lidar_forward_m: how far ahead of the ego frame's origin the LIDAR sits; 0 where only
            differences of positions count.

    Returns:
        (..., 2) float64 metres.
    """
    xy = np.asarray(xy_ego, dtype=np.float64)
    return np.stack([-xy[..., 1], xy[..., 0] - lidar_forward_m], axis=-1)


def meta_action_from_future(xy_lidar: ArrayLike) -> MetaAction:
    """Label a keyframe from where the ego vehicle is in the next 3 s (Senna's converter).

    Speeds are the distances between consecutive *future* points over 0.5 s, five values: the
    way from now to the first point does not count. The path follows from the last point alone.

    Args:
        xy_lidar: (6, 2) metres in the LIDAR_TOP frame of now, x right, y forward, 0.5 s apart.

    Raises:
        DataError: the shape is another one, or a position is NaN or infinite.
    """
    xy = np.asarray(xy_lidar, dtype=np.float64)
    if xy.shape != (FUTURE_STEPS, 2):
        raise DataError(f"future is {xy.shape}, expected ({FUTURE_STEPS}, 2) positions in metres")
    if not np.isfinite(xy).all():
        raise DataError("future has a position that is NaN or infinite, expected metres")
    speeds = np.linalg.norm(np.diff(xy, axis=0), axis=1) / STEP_S
    return MetaAction(_speed_action(speeds), _path_action(float(xy[-1, 0]), float(xy[-1, 1])))


def _speed_action(speeds_mps: NDArray[np.float64]) -> SpeedAction:
    change = speeds_mps[-1] - speeds_mps[0]
    if (speeds_mps < STOP_BELOW_MPS).all():
        return SpeedAction.STOP
    if change >= SPEED_CHANGE_MPS:
        return SpeedAction.ACCELERATE
    if change <= -SPEED_CHANGE_MPS:
        return SpeedAction.DECELERATE
    return SpeedAction.KEEP


def _path_action(right_m: float, forward_m: float) -> PathAction:
    left_bearing = math.degrees(math.atan2(forward_m, right_m)) - 90.0
    if right_m > SIDE_M and left_bearing <= -TURN_BEARING_DEG:
        return PathAction.RIGHT_TURN
    if right_m > SIDE_M and abs(left_bearing) < TURN_BEARING_DEG:
        return PathAction.RIGHT_CHANGE
    if right_m <= -SIDE_M and left_bearing >= TURN_BEARING_DEG:
        return PathAction.LEFT_TURN
    if right_m <= -SIDE_M and abs(left_bearing) < TURN_BEARING_DEG:
        return PathAction.LEFT_CHANGE
    return PathAction.STRAIGHT


def route_command_from_pose(
    forward_m: float, left_m: float, *, senna_compat: bool = False
) -> RouteCommand:
    """Name the navigation command from the pose 6 s ahead, in the ego frame of now.

    The public converter compares LIDAR axes (x right, y forward) with thresholds that were meant
    for ego axes: it takes "right" for forward and "forward" for left, so that driving 10 m or
    more straight ahead reads as "turn left" (design.md, section 3). Without ``senna_compat`` this
    is the rule as it was meant.

    Args:
        forward_m: where the goal lies ahead.
        left_m: and to the left.
        senna_compat: mistake the axes as the public converter does. It measures the way of the
            LIDAR itself: hand that over to agree with it to the last frame. The way of the ego
            frame's origin differs by up to twice the mounting offset of 0.94 m, in U-turns.

    Raises:
        DataError: a coordinate is NaN or infinite.
    """
    if not (math.isfinite(forward_m) and math.isfinite(left_m)):
        raise DataError(f"route goal is ({forward_m}, {left_m}), expected finite metres")
    ahead_m, side_m = (-left_m, forward_m) if senna_compat else (forward_m, left_m)
    if side_m >= COMMAND_SIDE_M:
        straight_first, at_once = RouteCommand.STRAIGHT_LEFT, RouteCommand.LEFT
    elif side_m <= -COMMAND_SIDE_M:
        straight_first, at_once = RouteCommand.STRAIGHT_RIGHT, RouteCommand.RIGHT
    else:
        return RouteCommand.STRAIGHT
    return straight_first if ahead_m >= COMMAND_AHEAD_M else at_once
