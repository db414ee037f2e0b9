"""The red box that says which part of a view a question is about.

CODA-LM asks about regions by drawing them; so the box belongs to the image that a model sees, and
is drawn when a frame is asked for: image files on disk stay as they are.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import FrameError
from clkd_core.runtime.decode import MAX_SIDE_PX, VIEW_ASPECT, read_image_header

RED_RGB = (255, 0, 0)

LINE_OF_224 = 1.5
"""Width of the line in pixels of a view reduced to 224: however the grid falls, at least one
pixel across the line is three quarters red."""

Box = tuple[float, float, float, float]
"""Left, top, width, height [px]."""


def clip_box(box_xywh_px: Box, height_px: int, width_px: int) -> Box | None:
    """The part of a box that lies in the image; None where that is less than a pixel each way.

    Args:
        box_xywh_px: left, top, width and height, finite.
        height_px: of the image.
        width_px: of the image.
    """
    left, top, width, height = box_xywh_px
    right, bottom = min(left + width, float(width_px)), min(top + height, float(height_px))
    left, top = max(left, 0.0), max(top, 0.0)
    if right - left < 1.0 or bottom - top < 1.0:
        return None
    return left, top, right - left, bottom - top


def draw_region(encoded: bytes, box_xywh_px: Box) -> NDArray[np.uint8]:
    """Decode an image at its full size and draw a box around a part of it.

    The line runs around the box, so that what is inside stays visible; at the image's border it
    moves inwards. A view is shown to a model as its central 16:9 part
    (:mod:`clkd_core.runtime.decode`): where the box would not fit in there, the image is cut to
    the 16:9 part that holds it.

    Args:
        encoded: a JPEG or PNG file's bytes.
        box_xywh_px: left, top, width and height in the pixels of the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FrameError: the image cannot be decoded, or less than a pixel of the box is in it.
    """
    pixels = _decode(encoded)
    height, width = pixels.shape[:2]
    box = clip_box(box_xywh_px, height, width)
    if box is None:
        raise FrameError(f"box {box_xywh_px} has no pixel of a {width} x {height} image")
    visible_width = min(width, round(height * VIEW_ASPECT))
    visible_height = min(height, round(width / VIEW_ASPECT))
    line = math.ceil(LINE_OF_224 * visible_width / 224)
    across = _Side.around(box[0], box[0] + box[2], line, width)
    down = _Side.around(box[1], box[1] + box[3], line, height)
    inside = pixels[down.inner, across.inner].copy()
    pixels[down.outer, across.outer] = RED_RGB
    pixels[down.inner, across.inner] = inside
    return np.ascontiguousarray(
        pixels[down.window(visible_height, height), across.window(visible_width, width)]
    )


class _Side:
    """Where the line's outer and inner edges are along one axis."""

    def __init__(self, outer: slice, inner: slice) -> None:
        self.outer, self.inner = outer, inner

    @classmethod
    def around(cls, low: float, high: float, line: int, length: int) -> "_Side":
        """The line outside of ``low`` to ``high``, or within where the image ends."""
        start, stop = math.floor(low), math.ceil(high)
        first, last = max(start - line, 0), min(stop + line, length)
        most = (stop - start) // 3  # of a small box at the border two thirds stay visible
        return cls(
            slice(first, last),
            slice(
                start + min(line - (start - first), most),
                stop - min(line - (last - stop), most),
            ),
        )

    def window(self, visible: int, length: int) -> slice:
        """The central part of the axis, moved just so far that the box is in it."""
        low, high = self.outer.start, self.outer.stop
        start = (length - visible) // 2
        if start <= low and high <= start + visible:
            return slice(0, length)  # whoever decodes will cut out the central part
        if high - low > visible:
            start = (low + high - visible) // 2
        else:
            start = low if low < start else high - visible
        start = min(max(start, 0), length - visible)
        return slice(start, start + visible)


def _decode(encoded: bytes) -> NDArray[np.uint8]:
    header = read_image_header(encoded)
    if max(header.height, header.width) > MAX_SIDE_PX or min(header.height, header.width) < 1:
        raise FrameError(
            f"image of {header.width} x {header.height} pixels, expected sides of 1 to "
            f"{MAX_SIDE_PX}"
        )
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as err:
        raise FrameError(f"the image decoder failed: {str(err).strip()[:80]}") from err
    if bgr is None:
        raise FrameError(f"{len(encoded)} bytes that the image decoder refuses")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
