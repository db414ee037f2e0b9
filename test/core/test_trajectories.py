"""The vocabulary against a slow obvious sampler, the constant-velocity path against a drive."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clkd_core.models.trajectories import (
    build_vocabulary,
    constant_velocity_trajectory,
    mean_squared_distance,
)
from clkd_core.types import EgoState


def random_futures(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 10, (count, 6, 2)).astype(np.float32)


def slow_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return sum(
        (float(a[0]) - float(b[0])) ** 2 + (float(a[1]) - float(b[1])) ** 2
        for a, b in zip(one, other, strict=True)
    ) / len(one)


def slow_vocabulary(futures: NDArray[np.float32], size: int) -> list[int]:
    """Indices picked by recomputing every distance in every round."""
    standing = np.zeros((6, 2), np.float32)
    picks = [min(range(len(futures)), key=lambda i: slow_distance(futures[i], standing))]
    while len(picks) < size:
        picks.append(
            max(
                range(len(futures)),
                key=lambda i: min(slow_distance(futures[i], futures[p]) for p in picks),
            )
        )
    return picks


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 25))
def test_build_vocabulary_agrees_with_the_slow_version(seed: int, count: int) -> None:
    futures = random_futures(count, seed)
    size = 1 + count // 2
    np.testing.assert_array_equal(
        build_vocabulary(futures, size), futures[slow_vocabulary(futures, size)]
    )


def test_mean_squared_distance_agrees_with_loops() -> None:
    some, others = random_futures(4), random_futures(3, seed=1)
    slow = [[slow_distance(a, b) for b in others] for a in some]
    np.testing.assert_allclose(mean_squared_distance(some, others), slow, rtol=1e-5)


def test_standing_still_is_the_first_of_the_vocabulary() -> None:
    futures = np.concatenate([random_futures(20), np.zeros((1, 6, 2), np.float32)])
    assert (build_vocabulary(futures, 5)[0] == 0).all()


def test_equal_futures_give_a_smaller_vocabulary() -> None:
    futures = np.repeat(random_futures(3), 10, axis=0)
    assert len(build_vocabulary(futures, 8)) == 3


@pytest.mark.parametrize(
    ("futures", "size", "named"),
    [
        (np.zeros((0, 6, 2), np.float32), 4, "futures are (0, 6, 2)"),
        (np.zeros((3, 5, 2), np.float32), 4, "futures are (3, 5, 2)"),
        (np.full((3, 6, 2), np.nan, np.float32), 4, "NaN"),
        (np.zeros((3, 6, 2), np.float32), 0, "size is 0"),
    ],
)
def test_an_impossible_vocabulary_is_refused(
    futures: NDArray[np.float32], size: int, named: str
) -> None:
    with pytest.raises(ValueError) as caught:
        build_vocabulary(futures, size)
    assert named in str(caught.value)


@pytest.mark.parametrize("yaw_rate", [0.0, 1e-9, 0.3, -0.5])
def test_constant_velocity_trajectory_agrees_with_driving_in_small_steps(yaw_rate: float) -> None:
    x = y = 0.0
    steps, driven = 5000, []
    for step in range(6 * steps):
        heading = yaw_rate * (step + 0.5) * 0.5 / steps
        x += 8.0 * math.cos(heading) * 0.5 / steps
        y += 8.0 * math.sin(heading) * 0.5 / steps
        if (step + 1) % steps == 0:
            driven.append((x, y))
    ego = EgoState(stamp_ns=0, speed_mps=8.0, yaw_rate_radps=yaw_rate)
    np.testing.assert_allclose(constant_velocity_trajectory(ego).xy_m, driven, atol=1e-3)


def test_a_standing_vehicle_stays_even_when_its_gyro_drifts() -> None:
    ego = EgoState(stamp_ns=0, speed_mps=0.0, yaw_rate_radps=0.01)
    assert (constant_velocity_trajectory(ego).xy_m == 0).all()
