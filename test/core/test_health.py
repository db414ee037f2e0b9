"""What a node says about itself."""

import math

import numpy as np

from clkd_core.runtime.health import Health, compute_percentiles


def test_percentiles_match_a_slow_version_and_are_nan_of_nothing() -> None:
    values = [float(v) for v in np.random.default_rng(0).permutation(101)]
    assert compute_percentiles(values) == (50.0, 95.0, 99.0)
    assert all(math.isnan(value) for value in compute_percentiles([]))
    assert compute_percentiles([7.0]) == (7.0, 7.0, 7.0)


def test_rate_counts_only_recent_answers() -> None:
    now_s = 100.0
    health = Health(clock_s=lambda: now_s)
    for _ in range(10):
        health.count_answer(5.0)
    assert health.report().rate_hz == 2.0  # ten in five seconds
    now_s = 106.0
    assert health.report().rate_hz == 0.0
    assert health.report().answered == 10


def test_drops_and_flags_are_counted_by_reason_and_reasons_are_bounded() -> None:
    health = Health()
    for number in range(100):
        health.count_drop(f"reason {number}")
        health.count_flag("always the same")
    report = health.report()
    assert sum(report.drops.values()) == 100
    assert len(report.drops) <= 33
    assert report.flags == {"always the same": 100}
