"""The one picture of a run."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from report_rows import make_row

from clkd_core.errors import DataError
from clkd_core.metrics.frames import write_frames
from clkd_core.report.pictures import make_gallery
from clkd_core.report.sheet import COLUMNS, PANEL_HEIGHT_PX, PANEL_WIDTH_PX, write_sheet
from clkd_core.types import CameraImage, SurroundFrame


def frame(stamp_ns: int, grey: int, camera: str = "CAM_FRONT") -> SurroundFrame:
    _, jpeg = cv2.imencode(".jpg", np.full((90, 160, 3), grey, np.uint8))
    image = CameraImage(stamp_ns=stamp_ns, encoded=jpeg.tobytes())
    return SurroundFrame(stamp_ns=stamp_ns, images={camera: image})


def test_sheet_shows_each_case_before_any_is_repeated(tmp_path: Path) -> None:
    rows = [make_row(0), make_row(1), make_row(2, case_name="fog")]
    write_frames(tmp_path / "frames.csv", rows)
    greys = (60, 60, 200)
    make_gallery(tmp_path, rows, [frame(r.stamp_ns, g) for r, g in zip(rows, greys, strict=True)])
    path = tmp_path / "sheet.jpg"
    assert write_sheet(tmp_path, path, panels=2) == 2
    sheet = cv2.imread(str(path))
    assert sheet.shape == (PANEL_HEIGHT_PX, COLUMNS * PANEL_WIDTH_PX, 3)
    middles = [
        sheet[PANEL_HEIGHT_PX // 2, column * PANEL_WIDTH_PX + PANEL_WIDTH_PX // 2, 0]
        for column in range(COLUMNS)
    ]
    assert middles == pytest.approx([60, 200, 0], abs=8)


def test_run_without_front_views_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    rows = [make_row(0)]
    write_frames(tmp_path / "frames.csv", rows)
    make_gallery(tmp_path, rows, [frame(0, 60, "CAM_BACK")])
    with pytest.raises(DataError, match="no front view"):
        write_sheet(tmp_path, tmp_path / "sheet.jpg")
    assert not (tmp_path / "sheet.jpg").exists()
