"""RSDR: against a loop that says it in words, and at its edges."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.decisions.rsdr import rsd, rsdr, rsdr_curve

latencies = st.none() | st.floats(0, 300) | st.sampled_from([math.nan, math.inf, 80.0, 0.0])
samples = st.lists(st.tuples(latencies, st.booleans()), min_size=1, max_size=40)


def slow_rsdr(sample: list[tuple[float | None, bool]], deadline_ms: float) -> float:
    hits = 0
    for latency_ms, correct in sample:
        if latency_ms is None or math.isnan(latency_ms):
            continue
        if correct and latency_ms <= deadline_ms:
            hits += 1
    return hits / len(sample)


@given(sample=samples, deadline_ms=st.floats(0.1, 400))
def test_rsdr_agrees_with_counting(
    sample: list[tuple[float | None, bool]], deadline_ms: float
) -> None:
    latency_ms, correct = zip(*sample, strict=True)
    assert rsdr(latency_ms, correct, deadline_ms) == pytest.approx(slow_rsdr(sample, deadline_ms))


@given(sample=samples, deadline_ms=st.floats(0.1, 300), longer_ms=st.floats(0, 300))
def test_rsdr_never_falls_with_a_longer_deadline_nor_exceeds_accuracy(
    sample: list[tuple[float | None, bool]], deadline_ms: float, longer_ms: float
) -> None:
    latency_ms, correct = zip(*sample, strict=True)
    near = rsdr(latency_ms, correct, deadline_ms)
    far = rsdr(latency_ms, correct, deadline_ms + longer_ms)
    assert 0 <= near <= far <= sum(correct) / len(correct) + 1e-12


@given(sample=samples, deadline_ms=st.floats(0.1, 400))
def test_rsd_says_it_of_each_sample_and_rsdr_is_its_mean(
    sample: list[tuple[float | None, bool]], deadline_ms: float
) -> None:
    latency_ms, correct = zip(*sample, strict=True)
    each = rsd(latency_ms, correct, deadline_ms)
    assert each.tolist() == [slow_rsdr([one], deadline_ms) == 1 for one in sample]
    assert each.mean() == rsdr(latency_ms, correct, deadline_ms)


@settings(max_examples=20, deadline=None)
@given(sample=samples, data=st.data())
def test_the_order_of_samples_does_not_matter(
    sample: list[tuple[float | None, bool]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(sample))
    first, second = (rsdr_curve(*zip(*some, strict=True)) for some in (sample, shuffled))
    for deadline_ms, interval in first.items():
        assert second[deadline_ms].value == pytest.approx(interval.value)
        assert 0 <= interval.low <= interval.high <= 1


def test_an_answer_that_takes_no_time_has_its_accuracy_at_every_deadline() -> None:
    right = [True] * 7 + [False] * 3  # as the majority answer that stands beside a model
    curve = rsdr_curve([0.0] * 10, right)
    assert {interval.value for interval in curve.values()} == {0.7}


def test_a_curve_without_a_deadline_is_refused() -> None:
    with pytest.raises(ValueError, match="no deadline"):
        rsdr_curve([1.0], [True], [])


def test_exactly_at_the_deadline_is_in_time() -> None:
    assert rsdr([80.0], [True]) == 1.0
    assert rsdr([math.nextafter(80.0, 81)], [True]) == 0.0


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_missing_latency_is_never_in_time(missing: float | None) -> None:
    assert rsdr([missing, 1.0], [True, True], 1e12) == 0.5


def test_no_sample_is_an_error_and_not_zero() -> None:
    with pytest.raises(ValueError, match="no sample"):
        rsdr([], [])


@pytest.mark.parametrize(
    ("latency_ms", "correct", "deadline_ms"),
    [([1.0, 2.0], [True], 80), ([[1.0]], [[True]], 80), ([-1.0], [True], 80)]
    + [([1.0], [True], deadline) for deadline in (0.0, -1.0, math.nan)],
)
def test_nonsense_is_refused(
    latency_ms: list[float], correct: list[bool], deadline_ms: float
) -> None:
    with pytest.raises(ValueError, match="expected"):
        rsdr(latency_ms, correct, deadline_ms)


@settings(max_examples=10, deadline=None)
@given(sample=samples)
def test_the_curve_holds_the_values_of_rsdr(sample: list[tuple[float | None, bool]]) -> None:
    latency_ms, correct = zip(*sample, strict=True)
    curve = rsdr_curve(latency_ms, correct)
    assert list(curve) == [20.0, 50.0, 80.0, 100.0]
    for deadline_ms, interval in curve.items():
        assert interval.value == pytest.approx(rsdr(latency_ms, correct, deadline_ms))
        assert interval.low <= interval.high


def test_few_drives_make_a_wider_interval_than_many_frames() -> None:
    correct = [True] * 50 + [False] * 50
    latency_ms = [10.0] * 100
    by_frame = rsdr_curve(latency_ms, correct)[80.0]
    by_drive = rsdr_curve(latency_ms, correct, clusters=["a"] * 50 + ["b"] * 50)[80.0]
    assert by_drive.high - by_drive.low > by_frame.high - by_frame.low
    assert (by_drive.low, by_drive.high) == (0.0, 1.0)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters has 1"):
        rsdr_curve([1.0, 2.0], [True, True], clusters=["a"])
