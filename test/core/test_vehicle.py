"""A vehicle's limits: what is impossible is refused when they are read."""

import math
from pathlib import Path

import pytest

from clkd_core.errors import ConfigError
from clkd_core.models.vehicle import VehicleConfig, load_vehicle

ZOE = Path(__file__).resolve().parents[2] / "config" / "vehicle" / "zoe.yaml"


def test_the_shipped_vehicle_is_the_default_one() -> None:
    assert load_vehicle(ZOE) == VehicleConfig()


@pytest.mark.parametrize("value", [math.nan, math.inf, -3.0, 0.0])
def test_a_limit_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"vehicle max_accel_mps2 is .*expected 0\.1 to 15\.0"):
        VehicleConfig(max_accel_mps2=value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        VehicleConfig(name=" ", max_speed_mps=400.0, max_curvature_pm=9.0)
    assert all(word in str(caught.value) for word in ("name", "max_speed_mps", "max_curvature"))


def test_a_file_with_an_impossible_speed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rocket.yaml"
    path.write_text("name: rocket\nmax_speed_mps: 7900\n")
    with pytest.raises(ConfigError, match=r"rocket\.yaml.*max_speed_mps is 7900"):
        load_vehicle(path)


def test_a_vehicle_that_may_do_more_says_what() -> None:
    more = VehicleConfig(max_accel_mps2=4.0, max_brake_mps2=5.0)
    assert more.looser_than(VehicleConfig()) == ["max_accel_mps2 4 > 3.6"]
    assert VehicleConfig().looser_than(VehicleConfig()) == []
