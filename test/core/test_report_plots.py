"""Drawings: well-formed, inside their frame, and at their edges."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_rows import straight

from clkd_core.metrics.intervals import Interval
from clkd_core.report.layout.plots import (
    draw_birds_eye,
    draw_histogram,
    draw_rsdr_curve,
    draw_whisker,
)
from clkd_core.types import Trajectory


def numbers_in(svg: str) -> list[float]:
    root = ElementTree.fromstring(svg)
    texts = [
        value
        for element in root.iter()
        for name, value in element.attrib.items()
        if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "points")
    ]
    return [float(number) for text in texts for number in re.split(r"[ ,]", text)]


@given(values=st.lists(st.floats(0, 1e6) | st.just(math.nan), max_size=50))
def test_a_histogram_of_anything_stays_inside_its_frame(values: list[float]) -> None:
    numbers = numbers_in(draw_histogram({"inference_ms": values}, deadline_ms=80.0))
    assert all(0 <= number <= 560 for number in numbers)


def test_the_highest_bar_is_the_fullest_bin() -> None:
    svg = draw_histogram({"inference_ms": [10.0] * 9 + [50.0]}, deadline_ms=80.0)
    points = re.search(r'bars inference_ms" points="([^"]+)"', svg)
    assert points is not None
    pairs = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    top = min(pairs, key=lambda pair: pair[1])
    assert top[0] == pytest.approx(44 + 0.1 * (560 - 58), abs=10)


def test_the_rsdr_curve_rises_to_the_left_top_and_marks_its_points() -> None:
    svg = draw_rsdr_curve(
        {"response_ms": [(0.0, 0.0), (50.0, 0.5), (100.0, 1.0)]},
        {"response_ms": {50.0: Interval(value=0.5, low=0.4, high=math.nan)}},
        deadline_ms=80.0,
        majority=0.3,
    )
    assert all(math.isfinite(number) for number in numbers_in(svg))
    assert "majority answer 30%" in svg
    points = re.search(r'series response_ms" points="([^"]+)"', svg)
    assert points is not None
    heights = [float(pair.split(",")[1]) for pair in points[1].split()]
    assert heights == sorted(heights, reverse=True)


def test_a_whisker_without_interval_is_a_dot() -> None:
    svg = draw_whisker(Interval(value=0.5, low=math.nan, high=math.nan), "main")
    assert all(0 <= number <= 120 for number in numbers_in(svg))


def test_birds_eye_turns_left_on_the_left_and_stays_inside() -> None:
    left = Trajectory(xy_m=np.array([[i, 6.0 * i] for i in range(1, 7)], np.float32))
    numbers = numbers_in(re.sub(r'<circle class="ring"[^>]*/>', "", draw_birds_eye(left, None)))
    assert all(0 <= number <= 172 for number in numbers)
    last = re.search(
        r'polyline class="plan" points="[^"]* ([\d.]+),([\d.]+)"', draw_birds_eye(left, None)
    )
    assert last is not None
    assert float(last[1]) < 40
    assert draw_birds_eye(None, None) == ""
    assert 'class="truth"' in draw_birds_eye(left, straight(2.0))
