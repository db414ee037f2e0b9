"""What every contender is shown: six JPEGs of real size, as hard to decode as camera images."""

import cv2
import numpy as np

from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

FULL_SIZE_HW = (900, 1600)
"""nuScenes' images."""
JPEG_QUALITY = 80
DISTINCT_FRAMES = 8
"""They come round again and again."""


def make_frames(count: int, *, seed: int = 0) -> list[SurroundFrame]:
    """Frames of six 1600 x 900 JPEGs: smooth shapes with fine noise.

    Some 150 to 250 kB each, as in nuScenes.
    """
    rng = np.random.default_rng(seed)
    return [
        SurroundFrame(
            stamp_ns=number + 1,
            images={
                camera: CameraImage(stamp_ns=number + 1, encoded=_made_up_jpeg(rng))
                for camera in CAMERAS
            },
            ego=EgoState(stamp_ns=number + 1, speed_mps=float(rng.uniform(0, 15))),
            command=list(RouteCommand)[number % len(RouteCommand)],
        )
        for number in range(count)
    ]


def _made_up_jpeg(rng: np.random.Generator) -> bytes:
    height, width = FULL_SIZE_HW
    coarse = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), (width, height))
    fine = cv2.resize(rng.integers(0, 256, (225, 400, 3), np.uint8), (width, height))
    image = cv2.addWeighted(coarse, 0.75, fine, 0.25, 0)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done  # a made-up image of fixed shape always encodes
    return encoded.tobytes()


def describe_frames(frames: list[SurroundFrame]) -> str:
    """``six 1600 x 900 JPEGs of 185 kB``."""
    sizes = [len(image.encoded or b"") for frame in frames for image in frame.images.values()]
    height, width = FULL_SIZE_HW
    return f"six {width} x {height} JPEGs of {np.mean(sizes) / 1e3:.0f} kB"
