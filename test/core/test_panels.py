"""Small multiples: the running mean, which points are taken, and pictures at their edges."""

import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clkd_core.distill.record.panels import (
    COLOURS,
    Curve,
    Panel,
    collect_points,
    draw_panels,
    is_telling,
    running_mean,
    stage_steps,
)


def slow_mean(values: list[float], window: int) -> list[float]:
    means = []
    for center in range(len(values)):
        first, last = center - window // 2, center + (window - 1) // 2
        inside = [value for i, value in enumerate(values) if first <= i <= last]
        means.append(sum(inside) / len(inside))
    return means


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def has_colour(image: NDArray[np.uint8], colour: str) -> bool:
    """Whether a pixel is of the hex colour; antialiasing leaves some of a line as they are."""
    bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
    return bool((np.abs(image.astype(int) - bgr).max(axis=2) <= 6).any())


def curve_of(*values: float, colour: str = COLOURS[0]) -> Curve:
    return Curve(points=[(float(step), value) for step, value in enumerate(values)], colour=colour)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), window=st.integers(1, 70))
def test_running_mean_equals_the_slow_obvious_version(values: list[float], window: int) -> None:
    assert running_mean(values, window) == pytest.approx(slow_mean(values, window), abs=1e-9)


def test_running_mean_forgets_a_spike_that_has_left_its_window() -> None:
    values = [1e30, *[1.0] * 6]
    assert running_mean(values, 3)[2:] == pytest.approx([1.0] * 5)


def test_running_mean_of_nothing_is_refused() -> None:
    for values, window in (([1.0], 0), ([], 3)):
        with pytest.raises(ValueError, match="expected both >= 1"):
            running_mean(values, window)


def test_points_leave_out_what_is_no_number_and_a_teacher_that_was_not_asked() -> None:
    lines = [
        {"stage": "distill", "step": 0, "kd": 0.5, "usage": [0.1, 0.9]},
        {"stage": "distill", "step": 1, "kd": None, "usage": [0.1, None]},
        {"stage": "teacher", "step": 2, "kd": 0.7, "usage": [0.4, 0.6]},
        {"stage": "distill", "step": 3, "kd": 0.0, "usage": [0.4]},
        {"stage": "distill", "step": 4, "kd": "1", "usage": 0.2},
    ]
    assert collect_points(lines, "distill", "kd") == [(0.0, 0.5)]
    assert collect_points(lines, "distill", "usage", item=0) == [
        (0.0, 0.1),
        (1.0, 0.1),
        (3.0, 0.4),
    ]
    assert collect_points(lines, "distill", "usage", item=1) == [(0.0, 0.9)]
    assert stage_steps(lines, "distill") == (0.0, 4.0)
    assert stage_steps(lines, "done") is None


def test_a_curve_that_is_zero_throughout_tells_nothing() -> None:
    assert not is_telling([])
    assert not is_telling([(0.0, 0.0), (1.0, 0.0)])
    assert is_telling([(0.0, 0.0), (1.0, -0.1)])


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (7, 2, 4), (13, 4, 4)]
)
def test_panels_stand_in_rows_of_four_at_most(count: int, rows: int, columns: int) -> None:
    image = pixels_of(draw_panels([Panel(title="loss", curves=[curve_of(1.0, 2.0)])] * count))
    assert image.shape[1] // 396 == columns
    assert image.shape[0] // 252 == rows


def test_a_picture_of_nothing_is_a_line_of_words() -> None:
    image = pixels_of(draw_panels([]))
    assert image.shape[0] < 50
    assert image.min() < 200


def test_curves_that_lie_on_each_other_are_all_seen() -> None:
    for shift in (0.0, 0.001):
        curves = [
            curve_of(*(value + number * shift for value in (3.0, 1.0, 2.0)), colour=colour)
            for number, colour in enumerate(COLOURS[:3])
        ]
        image = pixels_of(draw_panels([Panel(title="alpha", curves=curves)]))
        assert [has_colour(image, colour) for colour in COLOURS[:4]] == [True, True, True, False]


@pytest.mark.parametrize("count", [1, 2, 500])
@pytest.mark.parametrize("stacked", [False, True])
def test_any_number_of_points_is_drawn_without_a_warning(count: int, stacked: bool) -> None:
    curves = [curve_of(*[0.3] * count), curve_of(*[0.7] * count, colour=COLOURS[1])]
    panel = Panel(
        title="use",
        curves=curves,
        share=True,
        stacked=stacked,
        steps=(0.0, count - 1.0),
        mark=(0.0, "here"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = pixels_of(draw_panels([panel], smooth=0.05))
    if not stacked:
        assert has_colour(image, COLOURS[0])
        assert has_colour(image, COLOURS[1])


def test_a_running_mean_hides_a_single_spike_but_for_its_faint_trace() -> None:
    values = [0.0] * 50 + [1.0] + [0.0] * 50
    panel = Panel(title="loss", curves=[curve_of(*values)])
    sharp, smooth = (pixels_of(draw_panels([panel], smooth=n)) for n in (1, 20))
    upper = slice(40, 120)  # above the smoothed curve, below the title
    assert has_colour(sharp[upper], COLOURS[0])
    assert not has_colour(smooth[upper], COLOURS[0])


def test_names_are_drawn_as_they_are_whatever_signs_they_hold() -> None:
    names = ["_hidden", "$\\frac{1$", "<script>\u8f66", "a" * 300]
    legend = list(zip(names, COLOURS, strict=False))
    panel = Panel(title="$\\bad{$", curves=[curve_of(1.0, 2.0, colour=COLOURS[9])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = pixels_of(draw_panels([panel], legend=legend))
    assert all(has_colour(image, colour) for colour in COLOURS[:4])
