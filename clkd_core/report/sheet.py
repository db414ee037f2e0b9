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
    rows = dict(enumerate(read_frames(run / "frames.csv")))
    seen = {n: rows[n] for n in sorted(gallery) if n in rows and FRONT in gallery[n]}
    chosen = _choose(seen, panels)
    if not chosen:
        raise DataError(f"{run} has no front view in its gallery, expected at least one")
    drawn = [_panel(gallery[number][FRONT], rows[number]) for number in chosen]
    drawn += [np.zeros_like(drawn[0])] * (-len(drawn) % COLUMNS)
    lines = [np.hstack(drawn[first : first + COLUMNS]) for first in range(0, len(drawn), COLUMNS)]
    _, encoded = cv2.imencode(".jpg", np.vstack(lines), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    write_bytes_atomic(path, encoded.tobytes())
    return len(chosen)


def _choose(rows: dict[int, FrameRow], count: int) -> list[int]:
    chosen: list[int] = []
    left = list(rows)
    while left and len(chosen) < count:
        cases = [rows[number].case_name for number in chosen]
        answers: list[MetaAction | None] = [rows[number].answer for number in chosen]
        best = min(
            left,
            key=lambda number: (
                cases.count(rows[number].case_name),
                answers.count(rows[number].answer),
                rows[number].speed_mps < _STOP_MPS,
                rows[number].stamp_ns,
            ),
        )
        left.remove(best)
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
