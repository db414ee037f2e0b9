"""One picture of a whole run: a panel of the gallery for each kind of case."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import DataError
from clkd_core.files import write_bytes_atomic
from clkd_core.metrics.frames import FrameRow, read_frames
from clkd_core.report.pictures import FRONT, read_gallery
from clkd_core.types import MetaAction

COLUMNS = 3
PANEL_WIDTH_PX, PANEL_HEIGHT_PX = 480, 270
_QUALITY = 82
_STOP_MPS = 0.5


def write_sheet(run: Path, path: Path, *, panels: int = 6) -> int:
    """Write one JPEG of the front views of a run's gallery, decision and plan drawn in.

    Cases that were not shown yet come first, among them answers that were not shown yet and
    frames in motion, where there is a path to see.

    Args:
        run: folder with ``frames.csv`` and ``gallery/``.
        path: the file to write.
        panels: at most so many, a multiple of ``COLUMNS`` looks best.

    Returns:
        The number of panels.

    Raises:
        DataError: the run has no gallery, or a picture of it cannot be read.
    """
    gallery = read_gallery(run)
    rows = {row.stamp_ns: row for row in read_frames(run / "frames.csv")}
    seen = [rows[stamp] for stamp in sorted(gallery) if stamp in rows and FRONT in gallery[stamp]]
    chosen = _choose(seen, panels)
    if not chosen:
        raise DataError(f"{run} has no front view in its gallery, expected at least one")
    drawn = [_panel(gallery[row.stamp_ns][FRONT], row) for row in chosen]
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % COLUMNS)
    lines = [np.hstack(drawn[first : first + COLUMNS]) for first in range(0, len(drawn), COLUMNS)]
    _, encoded = cv2.imencode(".jpg", np.vstack(lines), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    write_bytes_atomic(path, encoded.tobytes())
    return len(chosen)


def _choose(rows: list[FrameRow], count: int) -> list[FrameRow]:
    chosen: list[FrameRow] = []
    while rows and len(chosen) < count:
        cases = [row.case_name for row in chosen]
        answers: list[MetaAction | None] = [row.answer for row in chosen]
        best = min(
            rows,
            key=lambda row: (
                cases.count(row.case_name),
                answers.count(row.answer),
                row.speed_mps < _STOP_MPS,
                row.stamp_ns,
            ),
        )
        rows.remove(best)
        chosen.append(best)
    return chosen


def _panel(jpeg: bytes, row: FrameRow) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"the gallery's picture of {row.stamp_ns} is no image, expected a JPEG")
    size = (PANEL_WIDTH_PX, PANEL_HEIGHT_PX)
    panel = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    words = row.case_name.replace("_", " ")
    place, font = (10, PANEL_HEIGHT_PX - 10), cv2.FONT_HERSHEY_SIMPLEX
    for colour, thickness in (((16, 18, 22), 4), ((255, 255, 255), 1)):
        cv2.putText(panel, words, place, font, 0.6, colour, thickness, cv2.LINE_AA)
    return np.asarray(panel, np.uint8)
