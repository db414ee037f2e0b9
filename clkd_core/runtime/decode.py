"""Encoded or raw camera images to the pixels a model reads; in training as on the road.

Every view is brought to the aspect ratio of the training cameras (16:9) by a central crop, then
resized to the model's size. Cropping was preferred to letterboxing because black bars are
something no training image has, and a crop keeps the scale of what stands ahead: a 1226 x 370
KITTI image loses its left and right quarter. Images that are 16:9 already lose nothing.
"""

import struct
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import FrameError
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame

MAX_SIDE_PX = 8192
"""Larger images are refused before memory is taken: 8192 x 8192 RGB is 200 MB."""

VIEW_ASPECT = 16 / 9
"""Width over height of the training cameras (nuScenes 1600 x 900, our world 800 x 450)."""

_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class DecodedViews(NamedTuple):
    """What could be seen, and why the rest could not."""

    views: NDArray[np.uint8]
    """(C, 3, H, W) uint8 RGB in the order of ``CAMERAS``; a missing view is zeros."""
    present: NDArray[np.bool_]
    """(C,) bool, True where the view holds an image."""
    failures: tuple[str, ...]
    """One line per image that came and could not be used; absent cameras are not failures."""


class ImageHeader(NamedTuple):
    """What an encoded image says about itself before any pixel is decoded."""

    height: int
    width: int
    is_jpeg: bool


def decode_frame(
    frame: SurroundFrame, size_hw: tuple[int, int], *, pool: Executor | None = None
) -> DecodedViews:
    """Decode all views of a frame; an unusable view is masked and its reason kept.

    Args:
        frame: up to six views, encoded (JPEG, PNG) or raw.
        size_hw: (H, W) of the result in pixels.
        pool: decodes the views in parallel (OpenCV releases the GIL); None decodes in turn.

    Raises:
        FrameError: not a single view is usable; the message names each camera and its fault.
    """
    cameras = [camera for camera in CAMERAS if camera in frame.images]
    run = map if pool is None else pool.map
    results = list(run(lambda camera: try_decode(camera, frame, size_hw), cameras))
    views = np.zeros((len(CAMERAS), 3, *size_hw), np.uint8)
    present = np.zeros(len(CAMERAS), np.bool_)
    failures: list[str] = []
    for camera, result in zip(cameras, results, strict=True):
        if isinstance(result, FrameError):
            failures.append(str(result))
            continue
        position = CAMERAS.index(camera)
        views[position] = result.transpose(2, 0, 1)
        present[position] = True
    if not present.any():
        raise FrameError("no usable image in the set: " + ("; ".join(failures) or "it is empty"))
    return DecodedViews(views, present, tuple(failures))


def decode_views(
    frame: SurroundFrame, size_hw: tuple[int, int], *, pool: Executor | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode all views of a frame, accepting no damage: what training and tests want.

    Returns:
        (C, 3, H, W) uint8 RGB and (C,) bool as in :class:`DecodedViews`.

    Raises:
        FrameError: an image of the frame is unusable, or there is none.
    """
    decoded = decode_frame(frame, size_hw, pool=pool)
    if decoded.failures:
        raise FrameError("; ".join(decoded.failures))
    return decoded.views, decoded.present


def try_decode(
    camera: str, frame: SurroundFrame, size_hw: tuple[int, int]
) -> NDArray[np.uint8] | FrameError:
    """One view of a frame, or what is wrong with it."""
    try:
        return decode_image(frame.images[camera], size_hw)
    except FrameError as err:
        return FrameError(f"{camera}: {err}")


def decode_image(image: CameraImage, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """One view as (H, W, 3) uint8 RGB of the wanted size.

    Raises:
        FrameError: the bytes are no whole JPEG or PNG, or a side is 0 or over ``MAX_SIDE_PX``.
    """
    if image.pixels is not None:
        check_sides(*image.pixels.shape[:2])
        return _fit(image.pixels, size_hw)
    assert image.encoded is not None  # CameraImage holds exactly one of the two
    bgr = _decode_bytes(image.encoded, size_hw)
    return np.asarray(cv2.cvtColor(_fit(bgr, size_hw), cv2.COLOR_BGR2RGB), np.uint8)


def _decode_bytes(data: bytes, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    header = read_image_header(data)
    check_sides(header.height, header.width)
    flag = _REDUCED_FLAGS[_reduction(header, size_hw)] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as err:
        raise FrameError(f"the image decoder failed: {str(err).strip()[:80]}") from err
    if bgr is None:
        raise FrameError(
            f"{len(data)} bytes that the image decoder refuses, expected a JPEG or PNG"
        )
    return np.asarray(bgr, np.uint8)


def _reduction(header: ImageHeader, size_hw: tuple[int, int]) -> int:
    """Largest divisor the JPEG decoder offers that leaves at least the wanted size."""
    if not header.is_jpeg:
        return 1
    height, width = _crop_size(header.height, header.width)
    room = min(height / size_hw[0], width / size_hw[1])
    return max(divisor for divisor in _REDUCED_FLAGS if divisor == 1 or divisor <= room)


def _crop_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the largest 16:9 rectangle inside."""
    return (
        max(1, min(height, round(width / VIEW_ASPECT))),
        max(1, min(width, round(height * VIEW_ASPECT))),
    )


def crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the central 16:9 part of an image.

    A decoder that halves 1599 x 899 gives 800 x 450: one pixel of slack is no other aspect.
    """
    crop_height, crop_width = _crop_size(height, width)
    crop_height = height if height - crop_height <= 1 else crop_height
    crop_width = width if width - crop_width <= 1 else crop_width
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _fit(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Central 16:9 crop, then the wanted size: by area when shrinking, linear when growing."""
    top, left, crop_height, crop_width = crop_box(*pixels.shape[:2])
    crop = pixels[top : top + crop_height, left : left + crop_width]
    if crop.shape[:2] == tuple(size_hw):
        return crop
    shrinks = crop_height >= size_hw[0] and crop_width >= size_hw[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(crop, (size_hw[1], size_hw[0]), interpolation=how)
    return np.asarray(resized, np.uint8)


def check_sides(height: int, width: int) -> None:
    """FrameError where a side is 0 or over ``MAX_SIDE_PX``."""
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        raise FrameError(
            f"image of {width} x {height} pixels, expected sides of 1 to {MAX_SIDE_PX}"
        )


def read_image_header(data: bytes) -> ImageHeader:
    """Size of a JPEG or PNG from its header; the end of the file must be there too.

    Markers: ITU-T T.81 annex B (JPEG), W3C PNG section 11.2.2.

    Raises:
        FrameError: empty, neither of the two, damaged or cut off.
    """
    if not data:
        raise FrameError("zero bytes came, expected a JPEG or PNG")
    if data[:2] == b"\xff\xd8":
        return _read_jpeg_header(data)
    if data[:8] == _PNG_MAGIC:
        return _read_png_header(data)
    raise FrameError(f"{len(data)} bytes that begin with {data[:4]!r}, expected a JPEG or PNG")


def _read_jpeg_header(data: bytes) -> ImageHeader:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Entropy-coded data never holds FF D9: without one after here the end is missing.
            if data.rfind(b"\xff\xd9") < position:
                raise FrameError(f"a JPEG cut off after {len(data)} bytes, expected a whole one")
            return ImageHeader(height, width, is_jpeg=True)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise FrameError(f"{len(data)} bytes of JPEG without a frame header, expected a whole one")


def _read_png_header(data: bytes) -> ImageHeader:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise FrameError(f"{len(data)} bytes of PNG without a header, expected a whole one")
    width, height = struct.unpack_from(">II", data, 16)
    if data.rfind(b"IEND") < 33:
        raise FrameError(f"a PNG cut off after {len(data)} bytes, expected a whole one")
    return ImageHeader(height, width, is_jpeg=False)


_RAW_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "8UC1": 1, "8UC3": 3, "rgba8": 4, "bgra8": 4}


def rgb_from_raw(
    data: NDArray[np.uint8], height: int, width: int, step: int, encoding: str
) -> NDArray[np.uint8]:
    """Pixels of a ``sensor_msgs/Image`` as (H, W, 3) uint8 RGB; mono becomes three equal channels.

    Args:
        data: (step * height,) uint8.
        height: rows.
        width: columns.
        step: bytes per row, padding included.
        encoding: rgb8, bgr8, mono8, 8UC1, 8UC3 (taken as bgr8, OpenCV's habit), rgba8 or bgra8.

    Raises:
        FrameError: another encoding, absurd sides, or fewer bytes than the sides need.
    """
    channels = _RAW_CHANNELS.get(encoding)
    if channels is None:
        wanted: Sequence[str] = sorted(_RAW_CHANNELS)
        raise FrameError(f"image encoding {encoding!r}, expected one of {', '.join(wanted)}")
    check_sides(height, width)
    if step < width * channels or data.size < step * height:
        raise FrameError(
            f"{data.size} bytes in rows of {step} for a {width} x {height} {encoding} image, "
            f"expected {height} rows of at least {width * channels}"
        )
    rows = data[: step * height].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if encoding.startswith(("bgr", "8UC3")):
        return np.ascontiguousarray(pixels[:, :, 2::-1])
    return np.ascontiguousarray(pixels[:, :, :3])
