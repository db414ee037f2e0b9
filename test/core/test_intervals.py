"""Bootstrap intervals: drawn by drives, seeded, never empty."""

import math

import numpy as np
import pytest

from clkd_core.metrics.intervals import (
    interval_from_replicates,
    mean_interval,
    resample_weights,
    resampling_unit,
)


def test_frames_of_one_drive_are_drawn_together() -> None:
    scenes = ["a", "b", "a", "c", "b"]
    weights = resample_weights(scenes, seed=3, resamples=200)
    assert weights.shape == (200, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    assert (weights[:, 0] != weights[:, 1]).any()


def test_each_replicate_draws_as_many_drives_as_there_are() -> None:
    weights = resample_weights(list(range(7)), seed=0, resamples=50)
    np.testing.assert_array_equal(weights.sum(axis=1), 7)


def test_a_single_drive_is_drawn_by_frames_so_that_there_is_spread() -> None:
    assert resampling_unit(["a", "a", "a"]) == "frame"
    assert resampling_unit(["a", "b"]) == "scene"
    weights = resample_weights(["a"] * 6, seed=0, resamples=50)
    interval = mean_interval(np.array([0, 0, 0, 1, 1, 1.0]), weights)
    assert interval.low < 0.5 < interval.high


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).random(40)
    first, again, other = (
        mean_interval(values, resample_weights(range(40), seed=seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_mean_interval_agrees_with_drawing_in_a_loop() -> None:
    values = np.random.default_rng(2).normal(size=60)
    fast = mean_interval(values, resample_weights(range(60), seed=0, resamples=4000))
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 60).mean() for _ in range(4000)]
    assert fast.low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert fast.high == pytest.approx(np.quantile(means, 0.975), abs=0.03)
    assert fast.value == pytest.approx(values.mean())


def test_replicates_that_are_nan_are_left_out() -> None:
    interval = interval_from_replicates(0.5, np.array([math.nan, 0.5, 0.5]))
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        resample_weights([], seed=0)
