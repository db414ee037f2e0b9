"""What a vehicle can do at all, and a vocabulary that knows how."""

import numpy as np
import pytest

from clkd_core.models.drivable import is_drivable
from clkd_core.models.manoeuvres import (
    COARSE,
    manoeuvre_pool,
    missing_manoeuvres,
    own_actions,
    reachable_actions,
)
from clkd_core.models.settling import ANY_ACTION, settle
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import META_ACTIONS, MetaAction

ZOE = VehicleConfig()
STANDING = np.zeros((1, 6, 2), np.float32)


def reachable(speed_mps: float, vehicle: VehicleConfig = ZOE) -> set[str]:
    speeds = np.array([speed_mps, 17.0], np.float32)  # one pool for all tests
    row = reachable_actions(speeds, vehicle, shares=COARSE)[0]
    return {action.text for action in META_ACTIONS if row[action.index]}


def test_a_standing_vehicle_can_stop_or_drive_off_and_change_no_lane() -> None:
    found = reachable(0.0)
    assert {"STOP, STRAIGHT", "KEEP, STRAIGHT", "ACCELERATE, STRAIGHT"} <= found
    assert "DECELERATE, STRAIGHT" not in found
    assert not any("CHANGE" in text for text in found)


def test_a_fast_vehicle_cannot_stop_within_the_first_step_of_the_rule() -> None:
    # STOP asks for less than 2 m/s from 0.5 s on; 6.4 m/s^2 takes 3.2 m/s off until then.
    assert "STOP, STRAIGHT" in reachable(4.0)
    assert "STOP, STRAIGHT" not in reachable(12.0)
    assert "DECELERATE, STRAIGHT" in reachable(12.0)


def test_a_lane_change_by_the_rule_needs_46_metres_in_3_seconds() -> None:
    # More than 4 m aside at less than 5 degrees is 45.7 m ahead: 15.2 m/s on average.
    assert "KEEP, LEFT_CHANGE" in reachable(17.0)
    assert "KEEP, LEFT_CHANGE" not in reachable(10.0)


def test_a_vehicle_that_hardly_steers_or_brakes_can_do_less() -> None:
    lame = VehicleConfig(max_curvature_pm=0.01, max_brake_mps2=0.5, max_lateral_accel_mps2=0.5)
    assert not any("TURN" in text for text in reachable(4.0, lame))
    assert "STOP, STRAIGHT" not in reachable(6.0, lame)


def test_rolling_backwards_counts_as_standing_and_nan_is_refused() -> None:
    assert reachable(-3.0) == reachable(0.0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        reachable_actions(np.array([np.nan], np.float32), ZOE, shares=COARSE)


def test_every_manoeuvre_of_the_pool_is_what_it_says() -> None:
    pool = manoeuvre_pool(ZOE, 4.0, COARSE)
    for speeds in (np.maximum(pool.low_mps, 0) + 0.01, pool.high_mps - 0.01):
        wide = pool.high_mps - np.maximum(pool.low_mps, 0) > 0.02
        assert is_drivable(pool.xy_m[wide], speeds[wide], ZOE).all()
    some = np.arange(0, len(pool.xy_m), 97)
    np.testing.assert_array_equal(own_actions(pool.xy_m[some]), pool.action[some])


def test_a_completed_vocabulary_knows_what_can_be_done_from_every_speed() -> None:
    added = missing_manoeuvres(STANDING, ZOE, 4.0)
    vocabulary = np.concatenate([STANDING, added])
    own, speeds = own_actions(vocabulary), np.arange(0.0, 4.0, 0.21, dtype=np.float32)
    known = np.zeros((len(speeds), len(META_ACTIONS)), bool)
    for xy_m, action in zip(vocabulary, own, strict=True):
        many = np.repeat(xy_m[None], len(speeds), axis=0)
        known[:, action] |= is_drivable(many, speeds, ZOE)
    wanted = reachable_actions(speeds, ZOE)
    assert (known & wanted).sum() >= 0.97 * wanted.sum()
    assert len(np.unique(added, axis=0)) == len(added)
    assert len(missing_manoeuvres(vocabulary, ZOE, 3.9)) < len(added) // 4


def test_a_correction_is_given_up_as_far_as_the_command_asks() -> None:
    stop = MetaAction.from_text("STOP, STRAIGHT").index
    base = np.zeros((2, 6, 2), np.float32)
    base[..., 0] = 0.9 * np.arange(1, 7)  # 1.8 m/s is a stop by the rule
    wish = base.copy()
    wish[..., 0] *= 1.4  # 2.5 m/s is none; a quarter of that correction is 1.98 m/s
    speed = np.full(2, 1.8, np.float32)
    settled = settle(base, wish, speed, np.array([stop, ANY_ACTION]), ZOE)
    assert own_actions(settled).tolist()[0] == stop
    np.testing.assert_allclose(settled[0], base[0] + 0.25 * (wish[0] - base[0]), atol=1e-4)
    np.testing.assert_allclose(settled[1], wish[1], atol=1e-4)


def test_a_row_of_nan_stays_nan_and_spoils_no_other() -> None:
    base = np.zeros((2, 6, 2), np.float32)
    wish = base.copy()
    wish[0, 2] = np.nan
    settled = settle(base, wish, np.zeros(2, np.float32), np.array([15, 15]), ZOE)
    assert np.isnan(settled[0]).all() and (settled[1] == 0).all()
