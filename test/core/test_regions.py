"""clkd_core.data.regions: the red box around what a question is about."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from annotation_files import write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.keyframes import Keyframe, QuestionAnswer, Region, surround_frame
from clkd_core.data.regions import clip_box, draw_region
from clkd_core.distill.feed.samples import load_samples
from clkd_core.errors import DataError, FrameError
from clkd_core.runtime.decode import decode_views

RED = (255, 0, 0)


def keyframe(path: Path, box: tuple[float, float, float, float] | None) -> Keyframe:
    return Keyframe(
        sample_token="t",
        scene="s",
        case_name="cone",
        stamp_ns=0,
        image_paths={"CAM_FRONT": path},
        image_stamps_ns={"CAM_FRONT": 0},
        ego=None,
        command=None,
        future=None,
        action=None,
        agents=(),
        questions=(QuestionAnswer(kind="region", question="What?", answer="A cone."),),
        region=None if box is None else Region(camera="CAM_FRONT", box_xywh_px=box),
    )


def front(frame: Keyframe, size_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) as a model sees the view ahead."""
    return decode_views(surround_frame(frame), size_hw)[0][0].transpose(1, 2, 0)


def is_red(pixels: np.ndarray) -> np.ndarray:
    return (pixels == RED).all(axis=-1)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_region_and_plain_twin_differ_exactly_along_the_box(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a.{suffix}", height=450, width=800)
    left, top, width, height = 300, 200, 90, 60
    marked = front(keyframe(path, (left, top, width, height)), (450, 800))
    plain = front(keyframe(path, None), (450, 800))
    line = 6  # 1.5 x 800 / 224, rounded up
    expected = np.zeros((450, 800), bool)
    for row in range(450):
        for column in range(800):
            inside = left <= column < left + width and top <= row < top + height
            near = (
                left - line <= column < left + width + line
                and top - line <= row < top + height + line
            )
            expected[row, column] = near and not inside
    assert np.array_equal((marked != plain).any(axis=-1), expected)
    assert is_red(marked)[expected].all()


@pytest.mark.parametrize("shift", range(8))
def test_box_survives_the_reduction_to_224_pixels_wherever_it_is(
    tmp_path: Path, shift: int
) -> None:
    path = write_image(tmp_path / "a.jpg", height=900, width=1600)
    small = front(keyframe(path, (700 + shift, 400 + shift, 60, 50)), (224, 224)).astype(int)
    redness = small[..., 0] - small[..., 1:].max(axis=-1)
    middle_row, middle_column = round(425 / 900 * 224), round(730 / 1600 * 224)
    across, down = redness[middle_row, 90:115], redness[90:120, middle_column]
    for half in (across[: middle_column - 90], across[middle_column - 90 :]):
        assert half.max() > 160
    for half in (down[: middle_row - 90], down[middle_row - 90 :]):
        assert half.max() > 160
    assert redness[middle_row, middle_column] < 20


def test_training_sees_the_box(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", height=360, width=640)
    plain, marked = keyframe(path, None), keyframe(path, (100, 100, 50, 50))
    samples = load_samples([plain, marked], (360, 640), workers=1)
    assert not is_red(samples.views[0, 0].transpose(1, 2, 0)).any()
    assert is_red(samples.views[1, 0].transpose(1, 2, 0)).sum() == 60 * 60 - 50 * 50


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 30), (600, 330, 40, 30), (0, 150, 640, 20), (3, 3, 2, 2), (638, 0, 2, 360)]
)
def test_box_at_the_border_keeps_all_four_sides_and_its_inside(
    tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    path = write_image(tmp_path / "a.png", height=360, width=640)
    red = is_red(draw_region(path.read_bytes(), box))
    left, top, width, height = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    assert not red[top + height // 2, left + width // 2]
    assert red[: top + height // 2 + 1, columns].any(), "no line above"
    assert red[top + height // 2 :, columns].any(), "no line below"
    if width > 5:  # else nothing could stay visible
        assert red[rows, : left + width // 2].any(), "no line to the left"
        assert red[rows, left + width // 2 :].any(), "no line to the right"


@pytest.mark.parametrize("left", [0, 300, 600, 1150])
@pytest.mark.parametrize("size", [(375, 1242), (1242, 375), (1020, 1920)])
def test_box_is_seen_where_only_the_central_16_to_9_part_of_an_image_is(
    tmp_path: Path, size: tuple[int, int], left: int
) -> None:
    path = write_image(tmp_path / "a.png", height=size[0], width=size[1])
    long_side_first = size[0] > size[1]
    box = (20, left, 50, 80) if long_side_first else (left, 20, 80, 50)
    seen = front(keyframe(path, box), (180, 320)).astype(int)
    redness = (seen[..., 0] - seen[..., 1:].max(axis=-1)) > 150
    rows, columns = np.nonzero(redness)
    assert len(rows) > 20
    inner = redness[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert inner[0].mean() > 0.5 and inner[-1].mean() > 0.5
    assert inner[:, 0].mean() > 0.5 and inner[:, -1].mean() > 0.5


def test_a_box_in_the_middle_leaves_the_whole_image_to_who_decodes_it(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", height=375, width=1242)
    assert draw_region(path.read_bytes(), (600, 100, 50, 50)).shape == (375, 1242, 3)
    assert draw_region(path.read_bytes(), (0, 100, 50, 50)).shape == (375, 667, 3)


def test_image_file_stays_as_it_is(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    before = path.read_bytes()
    surround_frame(keyframe(path, (1, 1, 5, 5)))
    assert path.read_bytes() == before


def test_region_outside_of_its_image_is_named_with_the_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: box .* has no pixel of a 32 x 18 image"):
        surround_frame(keyframe(path, (50, 1, 5, 5)))


def test_region_in_a_view_that_is_not_there_is_named(tmp_path: Path) -> None:
    frame = keyframe(write_image(tmp_path / "a.jpg"), None)
    frame = replace(frame, region=Region(camera="CAM_BACK", box_xywh_px=(1, 1, 5, 5)))
    with pytest.raises(DataError, match="keyframe t: its region is in CAM_BACK"):
        surround_frame(frame)


@pytest.mark.parametrize("content", [b"no image", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_damaged_image_of_a_region_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: "):
        surround_frame(keyframe(tmp_path / "a.jpg", (1, 1, 5, 5)))


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "a.jpg", height=90, width=160).read_bytes()
    with pytest.raises(FrameError, match="cut off"):
        draw_region(whole[: len(whole) // 2], (1, 1, 5, 5))


def test_box_is_clipped_to_the_image() -> None:
    assert clip_box((-10.0, 5.0, 30.0, 100.0), 50, 40) == (0.0, 5.0, 20.0, 45.0)
    assert clip_box((5.0, 5.0, 10.0, 10.0), 50, 40) == (5.0, 5.0, 10.0, 10.0)
    assert clip_box((39.5, 5.0, 10.0, 10.0), 50, 40) is None
    assert clip_box((-10.0, 5.0, 10.0, 10.0), 50, 40) is None


finite = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-60, 60)


@given(st.tuples(finite | small, finite | small, finite | small, finite | small))
@settings(max_examples=200, deadline=None)
def test_any_finite_box_is_drawn_inside_the_image_or_refused(
    box: tuple[float, float, float, float],
) -> None:
    encoded = cv2.imencode(".png", np.full((24, 40, 3), 99, np.uint8))[1].tobytes()
    clipped = clip_box(box, 24, 40)
    if clipped is None:
        with pytest.raises(FrameError, match="has no pixel"):
            draw_region(encoded, box)
        return
    left, top, width, height = clipped
    assert left >= 0 and top >= 0 and width >= 1 and height >= 1
    assert left + width <= 40 + 1e-9 and top + height <= 24 + 1e-9
    assert is_red(draw_region(encoded, box)).any()
