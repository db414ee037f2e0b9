"""From what a planner would like to drive to what is published."""

import numpy as np
from numpy.typing import NDArray

from clkd_core.models.drivable import make_drivable
from clkd_core.models.manoeuvres import own_actions
from clkd_core.models.vehicle import VehicleConfig

ANY_ACTION = -1
"""No particular meta-action is asked for."""

_SHARES = (0.75, 0.5, 0.25, 0.0)


def settle(
    base_m: NDArray[np.float32],
    corrected_m: NDArray[np.float32],
    speed_mps: NDArray[np.float32],
    action: NDArray[np.int64],
    vehicle: VehicleConfig,
) -> NDArray[np.float32]:
    """Make corrected trajectories drivable without losing what they are to do.

    Where the corrected one no longer carries out the action asked for, it gets three quarters of
    its correction, a half, a quarter, none: the first share that does. So where the base carries
    the action out and can be driven from the present speed, the result does both.

    Args:
        base_m: (B, T, 2) metres, without a correction.
        corrected_m: (B, T, 2) metres, with it.
        speed_mps: (B,) present speed; NaN where it is unknown.
        action: (B,) index of the meta-action to carry out, or ``ANY_ACTION``.
        vehicle: the limits.

    Returns:
        (B, T, 2) float32 metres, drivable; a row that holds NaN comes back as NaN.
    """
    settled = np.full(corrected_m.shape, np.nan, np.float32)
    rows = np.flatnonzero(np.isfinite(corrected_m).all(axis=(1, 2)))
    settled[rows] = make_drivable(corrected_m[rows], speed_mps[rows], vehicle)
    rows = rows[action[rows] != ANY_ACTION]
    for share in _SHARES:
        rows = rows[own_actions(settled[rows]) != action[rows]]
        if not len(rows):
            break
        tried = base_m[rows] + np.float32(share) * (corrected_m[rows] - base_m[rows])
        settled[rows] = make_drivable(tried, speed_mps[rows], vehicle)
    return settled
