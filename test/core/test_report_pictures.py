"""Pictures: which frames are chosen, where paths are drawn, what a gallery holds."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from report_rows import KEEP, LEFT, STOP, make_row, straight

from clkd_core.errors import DataError
from clkd_core.report.pictures import (
    FRONT_WIDTH_PX,
    FrontCamera,
    PictureInput,
    choose_frames,
    draw_front,
    make_gallery,
    read_gallery,
)
from clkd_core.types import CameraImage, SurroundFrame, Trajectory

CAMERA = FrontCamera(
    camera_matrix=np.array([[400.0, 0, 400], [0, 400, 225], [0, 0, 1]]),
    width_px=800,
    camera_from_ego=np.array([[0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, -1], [0, 0, 0, 1.0]]),
)
GREY = np.full((450, 800, 3), 90, np.uint8)


def frame(stamp_ns: int, *, pixels: np.ndarray = GREY) -> SurroundFrame:
    _, jpeg = cv2.imencode(".jpg", pixels)
    image = CameraImage(stamp_ns=stamp_ns, encoded=jpeg.tobytes())
    return SurroundFrame(stamp_ns=stamp_ns, images={"CAM_FRONT": image, "CAM_BACK": image})


def test_each_case_is_shown_right_and_wrong_before_any_is_repeated() -> None:
    rows = [make_row(n) for n in range(40)] + [make_row(40, STOP, KEEP)]
    for number, name in enumerate(("fog", "night")):
        rows += [make_row(50 + number, LEFT, LEFT, case_name=name, scene=name)]
        rows += [make_row(60 + number, LEFT, KEEP, case_name=name, scene=name)]
    chosen = choose_frames(rows, 6)
    assert {(row.case_name, row.correct) for row in chosen} == {
        (name, right) for name in ("regular", "fog", "night") for right in (True, False)
    }
    assert [row.stamp_ns for row in chosen] == sorted(row.stamp_ns for row in chosen)


def test_rare_labels_and_other_drives_are_preferred() -> None:
    rows = [make_row(n, scene="a") for n in range(20)] + [make_row(30, LEFT, LEFT, scene="b")]
    assert LEFT in {row.label for row in choose_frames(rows, 2)}
    rows = [make_row(n, scene="a" if n < 19 else "b") for n in range(20)]
    assert {row.scene for row in choose_frames(rows, 2)} == {"a", "b"}


def test_frames_of_one_kind_are_spread_over_time() -> None:
    stamps = [
        row.stamp_ns // 500_000_000 for row in choose_frames([make_row(n) for n in range(21)], 3)
    ]
    assert stamps == [0, 10, 20]


def test_unlabelled_frames_are_spread_evenly_and_unanswered_ones_left_out() -> None:
    rows = [make_row(n, None) for n in range(9)] + [make_row(99, None, None)]
    assert [row.stamp_ns // 500_000_000 for row in choose_frames(rows, 3)] == [0, 4, 8]
    assert len(choose_frames(rows, 50)) == 9
    assert choose_frames([], 5) == []


def test_a_point_straight_ahead_is_projected_below_the_centre() -> None:
    # 11 m before the ego origin is 10 m before the camera, 1.5 m below it: 225 + 400 * 0.15
    pixels = CAMERA.project(np.array([[11.0, 0, 0], [11.0, 2.5, 0], [0.5, 0, 0]]), 800)
    np.testing.assert_allclose(pixels[:2], [[400, 285], [300, 285]])
    assert np.isnan(pixels[2]).all()
    half = CAMERA.project(np.array([[11.0, 0, 0]]), 400)
    np.testing.assert_allclose(half, [[200, 142.5]])


def green_share(drawn: np.ndarray, left: int, right: int) -> float:
    part = drawn[:, left:right].astype(int)
    return float((part[..., 1] - part[..., 0] > 25).mean())


def test_the_planned_path_is_drawn_where_it_leads() -> None:
    bend = Trajectory(xy_m=np.array([[3 * i, 0.4 * i * i] for i in range(1, 7)], np.float32))
    row = replace(make_row(1), plan=bend)
    with_path = draw_front(PictureInput(frame=frame(1), row=row, front_camera=CAMERA), GREY)
    without = draw_front(PictureInput(frame=frame(1), row=row), GREY)
    middle = FRONT_WIDTH_PX // 2
    assert with_path.shape == (495, FRONT_WIDTH_PX, 3)
    assert green_share(with_path[300:], 0, middle) > 2 * green_share(with_path[300:], middle, 880)
    assert green_share(without[300:], 0, 880) == 0.0


@pytest.mark.parametrize(
    "points", [np.zeros((6, 2)), np.full((6, 2), (-5.0, 0.0)), np.full((6, 2), (1e5, 1e5))]
)
def test_standing_reversing_and_absurd_paths_do_not_break_the_drawing(points: np.ndarray) -> None:
    row = replace(make_row(1), plan=Trajectory(xy_m=points.astype(np.float32)), truth=straight(2))
    drawn = draw_front(PictureInput(frame=frame(1), row=row, front_camera=CAMERA), GREY)
    assert drawn.shape == (495, FRONT_WIDTH_PX, 3)


def test_a_gallery_holds_the_chosen_frames_and_comes_back(tmp_path: Path) -> None:
    rows = [make_row(n) for n in range(4)]
    frames = (frame(row.stamp_ns + 1_000_000) for row in rows[:3])
    assert make_gallery(tmp_path, rows, frames, front_camera=CAMERA) == 3
    gallery = read_gallery(tmp_path)
    assert set(gallery) == {0, 1, 2}
    assert set(gallery[0]) == {"CAM_FRONT", "CAM_BACK"}
    pixels = cv2.imdecode(np.frombuffer(gallery[0]["CAM_FRONT"], np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[1] == FRONT_WIDTH_PX


def test_the_nearest_frame_is_taken_and_a_far_one_is_not(tmp_path: Path) -> None:
    white = np.full((45, 80, 3), 255, np.uint8)
    frames = [frame(30_000_000), frame(2_000_000, pixels=white), frame(99_000_000)]
    rows = [make_row(0), make_row(1)]
    assert make_gallery(tmp_path, rows, frames) == 1
    jpeg = read_gallery(tmp_path)[0]["CAM_BACK"]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).mean() > 250


def test_a_broken_view_is_left_out(tmp_path: Path) -> None:
    broken = CameraImage(stamp_ns=0, encoded=b"no jpeg")
    empty = CameraImage(stamp_ns=0, encoded=b"")
    raw = CameraImage(stamp_ns=0, pixels=GREY)
    seen = SurroundFrame(
        stamp_ns=0, images={"CAM_FRONT": broken, "CAM_BACK": raw, "CAM_BACK_LEFT": empty}
    )
    make_gallery(tmp_path, [make_row(0)], [seen])
    assert set(read_gallery(tmp_path)[0]) == {"CAM_BACK"}


def test_no_gallery_is_empty_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_gallery(tmp_path) == {}
    make_gallery(tmp_path, [make_row(0)], [frame(0)])
    (tmp_path / "gallery" / "0_cam_front.jpg").unlink()
    with pytest.raises(DataError, match="gallery"):
        read_gallery(tmp_path)
    (tmp_path / "gallery" / "gallery.json").write_text("[]")
    with pytest.raises(DataError, match="gallery"):
        read_gallery(tmp_path)


def test_a_gallery_never_reads_outside_its_folder(tmp_path: Path) -> None:
    make_gallery(tmp_path, [make_row(0)], [frame(0)])
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    listed = tmp_path / "gallery" / "gallery.json"
    listed.write_text(listed.read_text().replace("0_cam_front.jpg", "../secret.jpg"))
    with pytest.raises(DataError, match="gallery"):
        read_gallery(tmp_path)


def test_the_ribbon_is_as_wide_as_the_vehicle() -> None:
    row = replace(make_row(1), plan=straight(3.0))
    drawn = draw_front(PictureInput(frame=frame(1), row=row, front_camera=CAMERA), GREY)
    ten_metres_ahead = drawn[round(285 * 1.1)].astype(int)  # 880 columns drawn, 800 known
    green = (ten_metres_ahead[:, 1] - ten_metres_ahead[:, 0] > 25).sum()
    assert green == pytest.approx(1.7 / 10 * 400 * 1.1, abs=6)  # and its edges
