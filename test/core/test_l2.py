"""L2 in both conventions: against loops, and what they must never mix up."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.plans.l2 import score_l2

distance_rows = st.lists(
    st.lists(st.floats(0, 50), min_size=6, max_size=6), min_size=1, max_size=20
)


@settings(max_examples=30, deadline=None)
@given(rows=distance_rows)
def test_both_conventions_agree_with_loops(rows: list[list[float]]) -> None:
    scores = score_l2(rows)
    for horizon_s, points in ((1, 2), (2, 4), (3, 6)):
        average = sum(sum(row[:points]) / points for row in rows) / len(rows)
        horizon = sum(row[points - 1] for row in rows) / len(rows)
        assert scores.average_m[horizon_s].value == pytest.approx(average)
        assert scores.horizon_m[horizon_s].value == pytest.approx(horizon)
    assert scores.frames == len(rows)


@settings(max_examples=30, deadline=None)
@given(rows=distance_rows, data=st.data(), scale=st.floats(0, 10))
def test_order_does_not_matter_and_twice_the_error_is_twice_the_score(
    rows: list[list[float]], data: st.DataObject, scale: float
) -> None:
    scores = score_l2(rows)
    shuffled = score_l2(data.draw(st.permutations(rows)))
    scaled = score_l2(np.array(rows) * scale)
    for horizon_s in (1, 2, 3):
        metres = scores.average_m[horizon_s]
        assert 0 <= metres.low <= metres.high <= np.max(rows) + 1e-9
        assert shuffled.average_m[horizon_s].value == pytest.approx(metres.value)
        assert shuffled.horizon_m[horizon_s].value == pytest.approx(
            scores.horizon_m[horizon_s].value
        )
        assert scaled.average_m[horizon_s].high == pytest.approx(scale * metres.high)


def test_on_a_growing_error_the_average_is_below_the_horizon() -> None:
    scores = score_l2([[1, 2, 3, 4, 5, 6]])
    assert [scores.average_m[h].value for h in (1, 2, 3)] == [1.5, 2.5, 3.5]
    assert [scores.horizon_m[h].value for h in (1, 2, 3)] == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    "distances",
    [[], np.zeros((0, 6)), np.zeros((3, 5)), [[0, 0, 0, 0, 0, math.nan]], [[-1, 0, 0, 0, 0, 0]]],
)
def test_distances_that_cannot_be_averaged_are_refused(distances: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        score_l2(distances)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters"):
        score_l2(np.zeros((1, 6)), clusters=["a", "b"])
