"""Raw images to RGB: cv_bridge and our conversion agree; a broken cv_bridge is survived."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.errors import FrameError
from clkd_core.runtime.decode import rgb_from_raw
from clkd_ros import messages, raw_images

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
BUILT_FOR_NUMPY_1 = """
A module that was compiled using NumPy 1.x cannot be run in
NumPy 2.4.6 as it may crash. To support both 1.x and 2.x
versions of NumPy, modules must be compiled with NumPy 2.0.
"""
"""How numpy itself words it, before the process dies."""


def random_image(
    rng: np.random.Generator,
    encoding: str,
    height: int,
    width: int,
    pixel_bytes: int,
    padding: int,
) -> messages.Image:
    rows = rng.integers(0, 256, (height, width * pixel_bytes + padding), np.uint8)
    msg = messages.Image(height=height, width=width, step=rows.shape[1], encoding=encoding)
    msg.data = rows.tobytes()
    return msg


def our_pixels(msg: messages.Image) -> np.ndarray:
    return rgb_from_raw(
        np.frombuffer(msg.data, np.uint8), msg.height, msg.width, msg.step, msg.encoding
    )


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: nobody has looked for cv_bridge yet."""
    monkeypatch.setattr(raw_images._Converter, "_found", None)


def broken_bridge(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a cv_bridge on the path that runs ``code`` when it converts."""
    for package in ("cv_bridge", "sensor_msgs"):
        (folder / package).mkdir()
    (folder / "sensor_msgs" / "__init__.py").write_text("")
    (folder / "sensor_msgs" / "msg.py").write_text("from types import SimpleNamespace as Image")
    body = "\n".join(f"        {line}" for line in code.strip().splitlines())
    (folder / "cv_bridge" / "__init__.py").write_text(
        f"class CvBridge:\n    def imgmsg_to_cv2(self, msg, encoding):\n{body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(raw_images, "which", lambda: "rclpy")


def test_a_cv_bridge_that_kills_its_process_leaves_ours_alive_and_is_reported_once(
    forgotten: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dying = f"import os, sys\nsys.stderr.write({BUILT_FOR_NUMPY_1!r})\nos.kill(os.getpid(), 11)"
    broken_bridge(tmp_path, monkeypatch, dying)
    msg = random_image(np.random.default_rng(0), "bgr8", 4, 6, 3, 1)
    with ThreadPoolExecutor(6) as cameras:
        for pixels in cameras.map(raw_images.rgb_from_msg, [msg] * 6):
            np.testing.assert_array_equal(pixels, our_pixels(msg))
    assert raw_images.converter_name() == "own"
    said = "".join(capfd.readouterr())
    assert said.count("cv_bridge is not used, our own conversion is") == 1
    assert f"numpy {np.__version__} is loaded" in said
    assert 'pip install "numpy<2"' in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libopencv_core.so.406: cannot open shared object file')", "OpenCV"),
        ("raise AttributeError('_ARRAY_API not found')", 'pip install "numpy<2"'),
        ("import numpy\nreturn numpy.zeros((1, 2, 3), 'u1')", "wrong pixels"),
        ("import os\nos._exit(7)", "it ended with 7"),
    ],
)
def test_the_trial_names_cause_and_remedy(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_bridge(tmp_path, monkeypatch, code)
    assert said in raw_images.try_bridge()


def test_a_trial_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_bridge(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    monkeypatch.setattr(raw_images, "TRIAL_TIMEOUT_S", 0.5)
    assert "timed out" in raw_images.try_bridge()


def test_without_cv_bridge_our_own_conversion_is_used_and_nothing_is_said(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(raw_images, "find_spec", lambda name: None)
    assert raw_images.converter_name() == "own"
    assert "cv_bridge" not in "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def bridge() -> Any:
    """The real one."""
    pytest.importorskip("cv_bridge", reason="cv_bridge is missing: install ros-DISTRO-cv-bridge")
    raw_images._Converter._found = None
    assert raw_images.converter_name() == "cv_bridge"
    return raw_images._Converter.bridge()


@pytest.mark.ros
@pytest.mark.parametrize("padding", [0, 1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("encoding", CHANNELS)
def test_cv_bridge_and_our_own_conversion_agree(bridge: Any, encoding: str, padding: int) -> None:
    rng = np.random.default_rng(padding)
    for height, width in ((1, 1), (5, 7), (36, 64)):
        msg = random_image(rng, encoding, height, width, CHANNELS[encoding], padding)
        np.testing.assert_array_equal(raw_images.rgb_from_msg(msg), our_pixels(msg))


@pytest.mark.ros
@pytest.mark.parametrize(
    ("encoding", "pixel_bytes"), [("bayer_rggb8", 1), ("yuv422", 2), ("mono16", 2), ("rgb16", 6)]
)
def test_cv_bridge_adds_encodings_padded_or_not(
    bridge: Any, encoding: str, pixel_bytes: int
) -> None:
    plain = random_image(np.random.default_rng(1), encoding, 6, 8, pixel_bytes, 0)
    rows = np.frombuffer(plain.data, np.uint8).reshape(6, -1)
    padded = messages.Image(height=6, width=8, step=rows.shape[1] + 5, encoding=encoding)
    padded.data = np.pad(rows, ((0, 0), (0, 5)), constant_values=99).tobytes()
    pixels = raw_images.rgb_from_msg(plain)
    assert (pixels.shape, pixels.dtype) == ((6, 8, 3), np.uint8)
    np.testing.assert_array_equal(raw_images.rgb_from_msg(padded), pixels)


@pytest.mark.ros
@pytest.mark.parametrize("encoding", ["8UC1", "8UC3"])
def test_opencvs_own_encodings_are_read_although_cv_bridge_refuses_them(
    bridge: Any, encoding: str
) -> None:
    msg = random_image(np.random.default_rng(2), encoding, 6, 8, int(encoding[-1]), 3)
    np.testing.assert_array_equal(raw_images.rgb_from_msg(msg), our_pixels(msg))


@pytest.mark.ros
@given(
    encoding=st.sampled_from(
        [*CHANNELS, "bayer_gbrg8", "yuv422", "yuv422_yuy2", "mono16", "rgba16", "32FC1", "8UC999"]
    )
    | st.text("8U16SC32F0159rgbay_nv", max_size=14),
    sides=st.tuples(st.integers(0, 9), st.integers(0, 9)) | st.just((2**32 - 1, 2**32 - 1)),
    step=st.integers(0, 90) | st.just(2**32 - 1),
    size=st.integers(0, 600),
    big=st.integers(0, 255),
)
@settings(deadline=None, max_examples=300)
def test_whatever_a_message_claims_it_becomes_pixels_or_a_frame_error(
    bridge: Any, encoding: str, sides: tuple[int, int], step: int, size: int, big: int
) -> None:
    msg = messages.Image(height=sides[0], width=sides[1], step=step, encoding=encoding)
    msg.data, msg.is_bigendian = bytes(size), big
    try:
        pixels = raw_images.rgb_from_msg(msg)
    except FrameError as err:
        assert str(err)
    else:
        assert (pixels.shape, pixels.dtype) == ((*sides, 3), np.uint8)
