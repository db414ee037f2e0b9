"""Bootstrap intervals: drawn by drives, seeded, never empty."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics import intervals
from clkd_core.metrics.intervals import (
    interval_from_replicates,
    mean_interval,
    mean_intervals,
    replicate_sums,
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


samples = st.lists(
    st.tuples(st.sampled_from("abcd"), st.floats(-5, 5), st.floats(-5, 5)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(samples=samples, seed=st.integers(0, 9))
def test_sums_are_those_of_the_weights(samples: list[tuple[str, float, float]], seed: int) -> None:
    clusters, values = [name for name, *_ in samples], np.array([row for _, *row in samples])
    weights = resample_weights(clusters, seed=seed, resamples=30)
    sums = replicate_sums(values, clusters, seed=seed, resamples=30)
    np.testing.assert_allclose(sums, weights @ values, atol=1e-9)
    alone = replicate_sums(values, seed=seed, resamples=30)
    weights = resample_weights(range(len(values)), seed=seed, resamples=30)
    np.testing.assert_allclose(alone, weights @ values, atol=1e-9)


def test_sums_do_not_depend_on_how_many_replicates_are_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).random((50, 2))
    whole = replicate_sums(values, seed=4, resamples=41)
    weights = resample_weights(range(50), seed=4, resamples=41)
    monkeypatch.setattr(intervals, "_BLOCK_VALUES", 7 * 50 + 3)
    np.testing.assert_allclose(replicate_sums(values, seed=4, resamples=41), whole)
    np.testing.assert_array_equal(resample_weights(range(50), seed=4, resamples=41), weights)


@settings(max_examples=60, deadline=None)
@given(samples=samples, seed=st.integers(0, 9))
def test_means_are_ordered_and_within_the_values(
    samples: list[tuple[str, float, float]], seed: int
) -> None:
    clusters, values = [name for name, *_ in samples], np.array([row for _, *row in samples])
    found = mean_intervals(values, clusters, seed=seed, resamples=40)
    assert found == mean_intervals(values, clusters, seed=seed, resamples=40)
    for interval, column in zip(found, values.T, strict=True):
        assert interval.value == pytest.approx(column.mean())
        assert column.min() - 1e-9 <= interval.low <= interval.high <= column.max() + 1e-9


def test_nearly_all_intervals_hold_their_value_and_most_the_truth() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(1.0, 2.0, (60, 200))
    found = mean_intervals(values, seed=0)
    assert sum(each.low <= each.value <= each.high for each in found) == 200
    assert 0.88 <= sum(each.low <= 1.0 <= each.high for each in found) / 200 <= 0.99


def test_one_sample_or_equal_ones_have_an_interval_without_width() -> None:
    for values in (np.array([[0.3]]), np.full((9, 1), 0.3)):
        (interval,) = mean_intervals(values, seed=0)
        assert (interval.low, interval.high) == pytest.approx((0.3, 0.3))


def test_memory_stays_bounded_where_the_weights_would_fill_it() -> None:
    values = np.random.default_rng(0).random((8_000, 30))
    tracemalloc.start()
    replicate_sums(values, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # the weights alone: 2,000 x 8,000 x 8 = 128e6


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((3, 1, 1))])
def test_values_of_another_shape_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        replicate_sums(values, seed=0)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters for 3 samples"):
        replicate_sums(np.zeros((3, 1)), ["a", "b"], seed=0)
    with pytest.raises(ValueError, match="no sample"):
        replicate_sums(np.zeros((0, 1)), seed=0)
