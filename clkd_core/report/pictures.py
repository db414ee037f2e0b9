"""Pictures of frames with what was decided and planned drawn in, for the report's gallery.

A gallery is a folder beside ``frames.csv``: JPEG files and ``gallery.json``, which says which
file shows which row, counted from 0. What was decided is not repeated there: it stands in
``frames.csv``.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import REGULAR
from clkd_core.errors import DataError, FrameError
from clkd_core.files import replace_folder
from clkd_core.metrics.frames import FrameRow
from clkd_core.runtime.sync import LABEL_TOLERANCE_NS
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame, Trajectory

_log = logging.getLogger(__name__)

GALLERY_FOLDER = "gallery"
GALLERY_FILE = "gallery.json"
FORMAT_VERSION = 2
PICTURES = 18
"""Shown at most: enough for a right and a wrong one of eight cases, 2 MB of page."""

FRONT = CAMERAS[0]
FRONT_WIDTH_PX = 880
VIEW_WIDTH_PX = 256

_RIBBON_WIDTH_M = 1.7
_NEAR_M = 1.0  # what is nearer to the image plane is cut off before projecting
_SAMPLES = 90
_STANDING_M = 0.5
_PLAN_RGB = (0, 205, 180)
_TRUTH_RGB = (255, 255, 255)
_RIGHT_RGB = (120, 230, 150)
_WRONG_RGB = (255, 160, 110)
_SHADOW_RGB = (16, 18, 22)


@dataclass(frozen=True, kw_only=True)
class FrontCamera:
    """A pinhole camera; its frame is x right, y down, z forward."""

    camera_matrix: NDArray[np.float64]
    """(3, 3) intrinsics in pixels of an image of ``width_px`` columns."""
    width_px: int
    """Columns of the image the intrinsics belong to."""
    camera_from_ego: NDArray[np.float64]
    """(4, 4) homogeneous transform, metres."""

    def project(self, xyz_m: NDArray[np.float64], width_px: int) -> NDArray[np.float64]:
        """Pixels of points in the ego frame, in an image scaled to ``width_px`` columns.

        Args:
            xyz_m: (N, 3) in the ego frame.
            width_px: columns of the image drawn into.

        Returns:
            (N, 2) x, y; NaN for points less than a metre in front of the camera.
        """
        homogeneous = np.concatenate([xyz_m, np.ones((len(xyz_m), 1))], axis=1)
        in_camera = (self.camera_from_ego @ homogeneous.T)[:3]
        depth = np.where(in_camera[2] >= _NEAR_M, in_camera[2], np.nan)
        pixels = (self.camera_matrix @ in_camera)[:2] / depth
        return np.asarray(pixels.T * (width_px / self.width_px))


@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """One frame to draw: its pixels, its row, and the camera where it is known."""

    frame: SurroundFrame
    row: FrameRow
    number: int = 0
    """Of the row in ``frames.csv``, from 0."""
    front_camera: FrontCamera | None = None


def choose_frames(rows: Sequence[FrameRow], count: int = PICTURES) -> list[FrameRow]:
    """Pick instructive frames: of each case a right and a wrong one, rare labels first.

    The groups (regular right, regular wrong, then each corner case right and wrong) take turns,
    so the share of wrong ones among the pictures says nothing about accuracy. Within a group a
    label seldom chosen comes first, then a drive seldom chosen, then the frame furthest from
    those chosen. Frames without labels are spread evenly over time.

    Args:
        rows: of the run.
        count: at most so many.

    Returns:
        Rows in the order of their stamps; the same rows give the same choice.
    """
    labelled = [row for row in rows if row.label is not None]
    if not labelled:
        answered = sorted((row for row in rows if row.answered), key=_stamp_of)
        at = np.linspace(0, len(answered) - 1, min(count, len(answered))).round().astype(int)
        return [answered[index] for index in at]
    groups: dict[tuple[bool, str, bool], list[FrameRow]] = {}
    for row in sorted(labelled, key=_stamp_of):
        key = (row.case_name != REGULAR, row.case_name, not row.correct)
        groups.setdefault(key, []).append(row)
    chosen: list[FrameRow] = []
    turns = sorted(groups, key=lambda key: (key[2], key[0], key[1]))  # all right ones, then wrong
    while len(chosen) < count and any(groups.values()):
        for key in turns:
            if groups[key] and len(chosen) < count:
                best = min(groups[key], key=lambda row: _familiarity(row, chosen))
                groups[key].remove(best)
                chosen.append(best)
    return sorted(chosen, key=_stamp_of)


def _stamp_of(row: FrameRow) -> int:
    return row.stamp_ns


def _familiarity(row: FrameRow, chosen: Sequence[FrameRow]) -> tuple[int, int, int, int]:
    same_label = sum(other.label == row.label for other in chosen)
    same_scene = sum(other.scene == row.scene for other in chosen)
    apart_ns = min((abs(other.stamp_ns - row.stamp_ns) for other in chosen), default=0)
    return same_label, same_scene, -apart_ns, row.stamp_ns


def make_gallery(
    run: Path,
    rows: Sequence[FrameRow],
    frames: Iterable[SurroundFrame],
    *,
    front_camera: FrontCamera | None = None,
    count: int = PICTURES,
) -> int:
    """Draw the chosen frames into ``run/gallery``, replacing what stood there as a whole.

    Args:
        run: folder of the run.
        rows: of the run.
        frames: in any order; those that were not chosen are skipped without being decoded.
        front_camera: None where the bag has no calibration: nothing is projected then.
        count: see :func:`choose_frames`.

    Returns:
        Number of pictures.

    Raises:
        DataError: the folder cannot be written.
    """
    number_of = {id(row): number for number, row in enumerate(rows)}
    chosen = choose_frames(rows, count)
    found = _find_frames([row.stamp_ns for row in chosen], frames)
    return write_gallery(
        run,
        [
            PictureInput(
                frame=found[row.stamp_ns],
                row=row,
                number=number_of[id(row)],
                front_camera=front_camera,
            )
            for row in chosen
            if row.stamp_ns in found
        ],
    )


def write_gallery(run: Path, pictures: Sequence[PictureInput]) -> int:
    """Draw frames into ``run/gallery``, replacing what stood there as a whole.

    Returns:
        Number of pictures.

    Raises:
        DataError: the folder cannot be written.
    """
    with replace_folder(run / GALLERY_FOLDER) as folder:
        entries = [_write_pictures(folder, each) for each in pictures]
        content = {"format_version": FORMAT_VERSION, "pictures": entries}
        (folder / GALLERY_FILE).write_text(json.dumps(content, indent=1) + "\n")
    return len(entries)


def read_gallery(run: Path) -> dict[int, dict[str, bytes]]:
    """JPEG bytes by row number and camera name; empty where the run has no gallery.

    Raises:
        DataError: the gallery is damaged.
    """
    folder = run / GALLERY_FOLDER
    if not folder.is_dir():
        return {}
    try:
        content = json.loads((folder / GALLERY_FILE).read_text())
        if content["format_version"] != FORMAT_VERSION:
            _log.warning("%s is of an earlier version: no pictures", folder)
            return {}
        return {
            int(entry["row"]): {
                str(camera): (folder / Path(name).name).read_bytes()
                for camera, name in entry["views"].items()
            }
            for entry in content["pictures"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise DataError(f"{folder} is no gallery: {err}") from err


def draw_front(picture: PictureInput, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The front view with the planned path as a ribbon, the driven one as a line, and words.

    Args:
        picture: what was decided and planned.
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        (H', FRONT_WIDTH_PX, 3) uint8 RGB.
    """
    image = _scaled(pixels, FRONT_WIDTH_PX)
    camera, row = picture.front_camera, picture.row
    if camera is not None and row.plan is not None:
        image = _draw_ribbon(image, camera, row.plan)
    if camera is not None and row.truth is not None:
        image = _draw_line(image, camera, row.truth)
    return _draw_words(image, row)


def _find_frames(
    stamps_ns: Sequence[int], frames: Iterable[SurroundFrame]
) -> dict[int, SurroundFrame]:
    """For each stamp the nearest frame within the tolerance."""
    found: dict[int, SurroundFrame] = {}
    for frame in frames:
        for stamp_ns in stamps_ns:
            distance_ns = abs(frame.stamp_ns - stamp_ns)
            best = found.get(stamp_ns)
            if distance_ns <= LABEL_TOLERANCE_NS and (
                best is None or distance_ns < abs(best.stamp_ns - stamp_ns)
            ):
                found[stamp_ns] = frame
    return found


def _write_pictures(folder: Path, picture: PictureInput) -> Mapping[str, object]:
    views: dict[str, str] = {}
    for camera, image in picture.frame.images.items():
        try:
            pixels = _pixels_from_image(image)
        except FrameError:
            continue  # the row's reason already says that this view is broken
        drawn = draw_front(picture, pixels) if camera == FRONT else _scaled(pixels, VIEW_WIDTH_PX)
        views[camera] = f"{picture.number}_{camera.lower()}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, 82]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), quality)
        (folder / views[camera]).write_bytes(encoded.tobytes())
    return {"row": picture.number, "views": views}


def _pixels_from_image(image: CameraImage) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of the whole image; the engine's decoder would crop it.

    Raises:
        FrameError: the bytes are no image.
    """
    if image.pixels is not None:
        return image.pixels
    try:
        bgr = cv2.imdecode(np.frombuffer(image.encoded or b"", np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as err:  # an empty buffer
        raise FrameError(f"image bytes cannot be decoded: {err}") from err
    if bgr is None:
        raise FrameError("image bytes cannot be decoded")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _scaled(pixels: NDArray[np.uint8], width_px: int) -> NDArray[np.uint8]:
    height_px = max(1, round(pixels.shape[0] * width_px / pixels.shape[1]))
    shrinks = width_px < pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width_px, height_px), interpolation=method), np.uint8)


def _dense_path(trajectory: Trajectory) -> NDArray[np.float64]:
    """(_SAMPLES, 2) points from the ego vehicle along the trajectory, at equal distances."""
    points = np.concatenate([np.zeros((1, 2)), trajectory.xy_m.astype(np.float64)])
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    moving = np.concatenate([[True], lengths > 1e-3])  # np.interp needs increasing places
    points, places = points[moving], np.cumsum(np.concatenate([[0.0], lengths]))[moving]
    dense = np.linspace(0, places[-1], _SAMPLES)
    return np.stack([np.interp(dense, places, points[:, axis]) for axis in (0, 1)], axis=1)


def _on_ground(xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([xy_m, np.zeros((len(xy_m), 1))], axis=1)


def _draw_ribbon(
    image: NDArray[np.uint8], camera: FrontCamera, trajectory: Trajectory
) -> NDArray[np.uint8]:
    path = _dense_path(trajectory)
    along = np.gradient(path, axis=0)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    if length.sum() < _STANDING_M:  # no direction to draw
        return image
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(length, 1e-6)
    edges = [
        camera.project(_on_ground(path + side * _RIBBON_WIDTH_M / 2 * normal), image.shape[1])
        for side in (1, -1)
    ]
    seen = np.isfinite(edges[0]).all(axis=1) & np.isfinite(edges[1]).all(axis=1)
    if seen.sum() < 2:
        return image
    outline = np.concatenate([edges[0][seen], edges[1][seen][::-1]])
    corners = np.clip(outline, -1e4, 1e4).round().astype(np.int32)
    filled = cv2.fillPoly(image.copy(), [corners], _PLAN_RGB, lineType=cv2.LINE_AA)
    blended = cv2.addWeighted(filled, 0.45, image, 0.55, 0)
    cv2.polylines(blended, [corners], True, _PLAN_RGB, 1, cv2.LINE_AA)
    return np.asarray(blended, np.uint8)


def _draw_line(
    image: NDArray[np.uint8], camera: FrontCamera, trajectory: Trajectory
) -> NDArray[np.uint8]:
    drawn = image.copy()
    line = camera.project(_on_ground(_dense_path(trajectory)), image.shape[1])
    line = np.clip(line[np.isfinite(line).all(axis=1)], -1e4, 1e4).round().astype(np.int32)
    points = camera.project(_on_ground(trajectory.xy_m.astype(np.float64)), image.shape[1])
    for color, width in ((_SHADOW_RGB, 4), (_TRUTH_RGB, 2)):
        if len(line) > 1:
            cv2.polylines(drawn, [line], False, color, width, cv2.LINE_AA)
        for x, y in points[np.isfinite(points).all(axis=1)]:
            if abs(x) < 1e4 and abs(y) < 1e4:
                cv2.circle(drawn, (round(x), round(y)), width, color, -1, cv2.LINE_AA)
    return drawn


def _draw_words(image: NDArray[np.uint8], row: FrameRow) -> NDArray[np.uint8]:
    drawn = image.copy()
    answer = row.answer.text if row.answer else "no decision"
    color = _TRUTH_RGB if row.label is None else _RIGHT_RGB if row.correct else _WRONG_RGB
    words = [(answer, color)]
    if row.label is not None and not row.correct:
        words.append((f"right: {row.label.text}", _TRUTH_RGB))
    left = 12
    for text, rgb in words:
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 0.6, 1)
        box = drawn[10 : 26 + height, left : left + width + 20]
        box[:] = (box * 0.25 + np.array(_SHADOW_RGB) * 0.75).astype(np.uint8)
        place = (left + 10, 18 + height)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_DUPLEX, 0.6, rgb, 1, cv2.LINE_AA)
        left += width + 28
    return drawn
