"""Raw camera images to RGB pixels: by ROS 2's ``cv_bridge`` where it works, else by our own code.

Both give the same pixels for rgb8, bgr8, rgba8, bgra8 and mono8; cv_bridge knows more encodings
(Bayer patterns, yuv422, 16 bit). Two of its faults are kept away from the nodes:

- Rows padded by other than whole pixels come out of it sheared, without a word. They are packed
  before it sees them.
- Built for numpy 1 and run under numpy 2 it can be imported, and kills the process at the first
  conversion. So another process tries it first.
"""

import os
import subprocess
import sys
import threading
from array import array
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import FrameError
from clkd_core.runtime.decode import MAX_SIDE_PX, rgb_from_raw
from clkd_ros import messages
from clkd_ros.middleware import get_logger, which

TRIAL_TIMEOUT_S = 60.0
"""Importing OpenCV and the messages from a slow disk fits in this."""

_TRIAL = """
from cv_bridge import CvBridge
from sensor_msgs.msg import Image
image = Image(height=1, width=2, step=6, encoding="bgr8", data=bytes(range(6)))
pixels = CvBridge().imgmsg_to_cv2(image, "rgb8")
assert pixels.tolist() == [[[2, 1, 0], [5, 4, 3]]], f"wrong pixels: {pixels.tolist()}"
"""

_NO_COLOUR = frozenset({"8UC1", "8UC3"})
"""OpenCV's own names; cv_bridge takes them for no colours and refuses, ours reads grey and BGR."""

_BRIDGE_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""``CvBridgeError`` is a TypeError; the others come out of numpy and Boost for odd encodings."""

_MAX_CAUSE_CHARS = 200
_MAX_NAME_CHARS = 60


def rgb_from_msg(msg: messages.Image) -> NDArray[np.uint8]:
    """Pixels of a ``sensor_msgs/Image``, row padding removed.

    Returns:
        (H, W, 3) uint8 RGB; mono becomes three equal channels.

    Raises:
        FrameError: an encoding that the converter in use does not know, named; absurd sides; or
            fewer bytes than the sides need.
    """
    bridge = None if msg.encoding in _NO_COLOUR else _Converter.bridge()
    if bridge is not None:
        return _rgb_by_bridge(bridge, msg)
    data, encoding = np.frombuffer(msg.data, np.uint8), msg.encoding[:_MAX_NAME_CHARS]
    return rgb_from_raw(data, int(msg.height), int(msg.width), int(msg.step), encoding)


def converter_name() -> str:
    """``cv_bridge`` or ``own``; the first call tries cv_bridge, which takes about a second."""
    return "own" if _Converter.bridge() is None else "cv_bridge"


class _Converter:
    """cv_bridge, looked for once a process however many callbacks ask at the same time."""

    _lock = threading.Lock()
    _found: tuple[Any] | None = None

    @classmethod
    def bridge(cls) -> Any:
        """A ``CvBridge``; None without ROS 2, without cv_bridge, or where it does not work."""
        with cls._lock:
            if cls._found is None:
                cls._found = (_find_bridge(),)
            return cls._found[0]


def _find_bridge() -> Any:
    if which() != "rclpy" or find_spec("cv_bridge") is None:
        return None
    fault = try_bridge()
    if fault:
        get_logger("raw_images").warning(f"cv_bridge is not used, our own conversion is: {fault}")
        return None
    from cv_bridge import CvBridge

    return CvBridge()


def try_bridge() -> str:
    """Convert one small image by cv_bridge in a process of its own.

    Returns:
        Cause and remedy when that failed; empty when cv_bridge works here.
    """
    path = os.pathsep.join(place for place in sys.path if place)
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TRIAL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"it could not be tried: {err}"
    return "" if done.returncode == 0 else explain(done.returncode, done.stderr)


def explain(returncode: int, stderr: str) -> str:
    """What a failed trial of cv_bridge means and what to do; docs/ros2.md has the same table."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if "compiled using NumPy 1" in stderr or "_ARRAY_API" in stderr or "multiarray" in stderr:
        return (
            f"it was built for numpy 1 and numpy {np.__version__} is loaded. "
            'In the environment of the nodes: pip install "numpy<2"'
        )
    cause = lines[-1][:_MAX_CAUSE_CHARS] if lines else f"it ended with {returncode}"
    if "cv2" in stderr or "libopencv" in stderr:
        return f"{cause}. See which OpenCV is loaded: docs/ros2.md, 'When versions clash'"
    return f"{cause}. See docs/ros2.md, 'When versions clash'"


def _rgb_by_bridge(bridge: Any, msg: messages.Image) -> NDArray[np.uint8]:
    try:
        dtype, channels = bridge.encoding_to_dtype_with_channels(msg.encoding)
        packed = _packed(msg, np.dtype(dtype).itemsize * channels)
        return np.asarray(bridge.imgmsg_to_cv2(packed, "rgb8"), np.uint8)
    except _BRIDGE_ERRORS as err:
        name, cause = msg.encoding[:_MAX_NAME_CHARS], str(err).strip()[:_MAX_CAUSE_CHARS]
        raise FrameError(f"image encoding {name!r} is refused by cv_bridge: {cause}") from err


def _packed(msg: messages.Image, pixel_bytes: int) -> messages.Image:
    """The message itself, or a copy without padding where that is no number of whole pixels.

    Raises:
        FrameError: absurd sides, or fewer bytes than they need.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        raise FrameError(
            f"image of {width} x {height} pixels, expected sides of 1 to {MAX_SIDE_PX}"
        )
    row_bytes = width * pixel_bytes
    if step < row_bytes or len(msg.data) < step * height:
        raise FrameError(
            f"{len(msg.data)} bytes in rows of {step} for a {width} x {height} {msg.encoding} "
            f"image, expected {height} rows of at least {row_bytes}"
        )
    if step % pixel_bytes == 0:
        return msg
    rows = np.frombuffer(msg.data, np.uint8)[: step * height].reshape(height, step)
    packed = messages.Image(height=height, width=width, step=row_bytes, encoding=msg.encoding)
    packed.is_bigendian = msg.is_bigendian
    packed.data = array("B", rows[:, :row_bytes].tobytes())
    return packed
