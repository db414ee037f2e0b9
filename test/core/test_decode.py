"""clkd_core.runtime.decode: what becomes of good, odd and hostile image bytes."""

import struct
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from clkd_core.errors import FrameError
from clkd_core.runtime.decode import (
    decode_frame,
    decode_image,
    decode_views,
    read_image_header,
    rgb_from_raw,
)
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame


def picture(height: int, width: int, rgb: tuple[int, int, int] = (200, 30, 90)) -> NDArray:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = rgb
    return pixels


def encode(pixels: NDArray, suffix: str = ".jpg") -> bytes:
    ok, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert ok
    return data.tobytes()


def frame_of(**images: bytes) -> SurroundFrame:
    return SurroundFrame(
        stamp_ns=1,
        images={name: CameraImage(stamp_ns=1, encoded=data) for name, data in images.items()},
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("size", [(900, 1600), (72, 128), (40, 60), (901, 1601)])
def test_decode_keeps_colour_order_and_gives_the_wanted_size(
    suffix: str, size: tuple[int, int]
) -> None:
    views, present = decode_views(frame_of(CAM_BACK=encode(picture(*size), suffix)), (72, 128))
    assert views.shape == (6, 3, 72, 128) and views.dtype == np.uint8
    assert present.tolist() == [camera == "CAM_BACK" for camera in CAMERAS]
    back = views[CAMERAS.index("CAM_BACK")]
    assert np.abs(back.mean((1, 2)) - [200, 30, 90]).max() < 3
    assert views[:5].max() == 0


def test_reduced_decoding_is_close_to_full_decoding_and_area_resize() -> None:
    rng = np.random.default_rng(3)
    smooth = cv2.resize(rng.integers(0, 255, (18, 32, 3), np.uint8), (1600, 900))
    ours = decode_image(CameraImage(stamp_ns=0, encoded=encode(smooth)), (72, 128))
    slow = cv2.resize(smooth, (128, 72), interpolation=cv2.INTER_AREA)
    assert np.abs(ours.astype(int) - slow.astype(int)).mean() < 3


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_reduced_decoding_never_goes_below_the_wanted_size(divisor: int) -> None:
    stripes = np.zeros((72, 128, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    big = np.repeat(np.repeat(stripes, divisor, axis=0), divisor, axis=1)
    ours = decode_image(CameraImage(stamp_ns=0, encoded=encode(big)), (72, 128))
    assert np.abs(ours.astype(int) - stripes).mean() < 12  # smeared stripes are 60 off and more


def test_wide_image_is_cropped_in_the_middle_not_squeezed() -> None:
    wide = picture(370, 1226, (0, 0, 0))
    wide[:, 300:926] = 255  # the middle 16:9 is columns 284..942
    views, _ = decode_views(frame_of(CAM_FRONT=encode(wide, ".png")), (72, 128))
    white_columns = (views[0, 0].mean(0) > 128).sum()
    assert 120 <= white_columns <= 123


def test_raw_pixels_and_png_of_the_same_picture_agree() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 255, (90, 160, 3), np.uint8)
    raw = decode_image(CameraImage(stamp_ns=0, pixels=pixels), (72, 128))
    png = decode_image(CameraImage(stamp_ns=0, encoded=encode(pixels, ".png")), (72, 128))
    assert np.array_equal(raw, png)


def test_grey_jpeg_becomes_three_equal_channels() -> None:
    _, data = cv2.imencode(".jpg", np.full((90, 160), 77, np.uint8))
    rgb = decode_image(CameraImage(stamp_ns=0, encoded=data.tobytes()), (72, 128))
    assert rgb.shape == (72, 128, 3) and np.ptp(rgb, axis=2).max() == 0


def absurd_jpeg() -> bytes:
    data = bytearray(encode(picture(16, 16)))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65000, 65000)
    return bytes(data)


GOOD = encode(np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8))
HOSTILE = {
    "zero bytes came": b"",
    "begin with b'hell'": b"hello world, this is no image",
    "cut off": GOOD[: len(GOOD) // 2],
    "without a frame header": GOOD[:40],
    "65000 x 65000 pixels": absurd_jpeg(),
    "a PNG cut off": encode(picture(90, 160), ".png")[:-20],
    "PNG without a header": encode(picture(90, 160), ".png")[:20],
}


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_bytes_mask_that_view_and_are_named(words: str) -> None:
    frame = frame_of(CAM_FRONT=encode(picture(90, 160)), CAM_FRONT_LEFT=HOSTILE[words])
    decoded = decode_frame(frame, (72, 128))
    assert decoded.present.tolist() == [True] + [False] * 5
    assert decoded.views[1].max() == 0
    (failure,) = decoded.failures
    assert failure.startswith("CAM_FRONT_LEFT: ") and words in failure and "expected" in failure
    with pytest.raises(FrameError, match="CAM_FRONT_LEFT"):
        decode_views(frame, (72, 128))


def test_frame_error_names_every_camera_when_nothing_is_usable() -> None:
    with pytest.raises(FrameError, match=r"no usable image.*CAM_FRONT: zero.*CAM_BACK: 4 bytes"):
        decode_frame(frame_of(CAM_FRONT=b"", CAM_BACK=b"text"), (72, 128))
    with pytest.raises(FrameError, match="it is empty"):
        decode_frame(frame_of(), (72, 128))


def test_garbage_inside_a_jpeg_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(9)
    for _ in range(200):
        data = bytearray(GOOD)
        for at in rng.integers(2, len(data), 30):
            data[at] = rng.integers(0, 256)
        try:
            assert decode_image(CameraImage(stamp_ns=0, encoded=bytes(data)), (9, 16)).any()
        except FrameError:
            pass


def test_decoding_in_parallel_gives_the_same_views() -> None:
    rng = np.random.default_rng(1)
    frame = frame_of(**{c: encode(rng.integers(0, 255, (90, 160, 3), np.uint8)) for c in CAMERAS})
    with ThreadPoolExecutor(3) as pool:
        parallel = decode_frame(frame, (36, 64), pool=pool)
    assert np.array_equal(parallel.views, decode_frame(frame, (36, 64)).views)
    assert parallel.present.all()


def test_image_header_is_read_without_decoding() -> None:
    assert read_image_header(encode(picture(90, 160)))[:2] == (90, 160)
    assert read_image_header(encode(picture(91, 163), ".png"))[:2] == (91, 163)


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [("rgb8", [1, 2, 3]), ("bgr8", [3, 2, 1]), ("rgba8", [1, 2, 3, 9]), ("bgra8", [3, 2, 1, 9])],
)
def test_raw_rows_with_padding_become_rgb(encoding: str, pixel: list[int]) -> None:
    row = np.array(pixel * 4 + [99, 99], np.uint8)
    rgb = rgb_from_raw(np.concatenate([row, row]), 2, 4, row.size, encoding)
    assert rgb.shape == (2, 4, 3) and (rgb == [1, 2, 3]).all()


def test_raw_image_errors_name_what_came_and_what_was_wanted() -> None:
    assert rgb_from_raw(np.full(8, 7, np.uint8), 2, 4, 4, "mono8").shape == (2, 4, 3)
    with pytest.raises(FrameError, match=r"'bayer_rggb8', expected one of 8UC1"):
        rgb_from_raw(np.zeros(8, np.uint8), 2, 4, 4, "bayer_rggb8")
    with pytest.raises(FrameError, match="20 bytes in rows of 12 for a 4 x 2 rgb8"):
        rgb_from_raw(np.zeros(20, np.uint8), 2, 4, 12, "rgb8")
