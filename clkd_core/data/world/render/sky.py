"""The far background: a panorama of sky, hills and a skyline, seeded by the layout."""

import cv2
import numpy as np
from numpy.typing import NDArray

COLUMNS = 2048
"""Columns of the panorama, 360 degrees."""
ROWS = 256
"""Rows from the upper edge of the widest view down to the horizon."""

_SKIES = (
    ((86, 140, 205), (196, 214, 228)),
    ((120, 160, 205), (224, 226, 220)),
    ((150, 165, 180), (206, 210, 212)),
    ((70, 120, 190), (236, 214, 190)),
    ((175, 182, 188), (222, 222, 220)),
)

Image = NDArray[np.uint8]


def draw_panorama(seed: int, weather: str) -> Image:
    """(ROWS, COLUMNS, 3) uint8 RGB without a seam; the last row touches the horizon."""
    rng = np.random.default_rng([seed, 2])
    image = _gradient(rng, weather)
    if weather not in ("night", "fog"):
        _add_clouds(image, rng)
    half = image[:, : COLUMNS // 2]
    _add_skyline(half, rng, weather)
    image[:, COLUMNS // 2 :] = half[:, ::-1]
    return np.clip(image, 0, 255).astype(np.uint8)


def _gradient(rng: np.random.Generator, weather: str) -> NDArray[np.float32]:
    upper, lower = _SKIES[int(rng.integers(len(_SKIES)))]
    if weather == "night":
        upper, lower = (6, 8, 20), (26, 28, 44)
    elif weather == "rain_glare":
        upper, lower = (104, 112, 122), (182, 184, 184)
    share = np.linspace(0.0, 1.0, ROWS, dtype=np.float32)[:, None] ** 1.3
    column = (1 - share) * np.array(upper, np.float32) + share * np.array(lower, np.float32)
    return np.repeat(column[:, None], COLUMNS, axis=1)


def _add_clouds(image: NDArray[np.float32], rng: np.random.Generator) -> None:
    field = np.zeros((ROWS, COLUMNS), np.float32)
    for cells, weight in ((6, 1.0), (14, 0.6), (30, 0.3)):
        coarse = rng.random((cells, cells * 3)).astype(np.float32)
        field += weight * cv2.resize(coarse, (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    cover = np.clip((field - rng.uniform(0.85, 1.1)) * 1.8, 0.0, 0.85)[..., None]
    image += cover * (np.array([244.0, 244.0, 246.0], np.float32) - image)


def _add_skyline(half: NDArray[np.float32], rng: np.random.Generator, weather: str) -> None:
    """Hills, then distant houses and trees, fading with the sky's own colour."""
    night = weather == "night"
    columns = half.shape[1]
    haze = half[-1, 0] * (0.55 if night else 0.8)
    hills = cv2.resize(
        rng.random((1, 9)).astype(np.float32), (columns, 1), interpolation=cv2.INTER_CUBIC
    )
    for column, height in enumerate((4 + 22 * np.clip(hills[0], 0, 1)).astype(int)):
        half[ROWS - height :, column] = haze * (0.9, 0.97, 0.92)
    at = 0
    while at < columns:
        width, height = int(rng.integers(8, 42)), int(rng.integers(5, 34))
        tone = (
            haze
            * rng.uniform(0.62, 0.95)
            * ((0.8, 0.95, 0.75) if rng.random() < 0.4 else (1, 1, 1))
        )
        half[ROWS - height :, at : at + width] = tone
        if night:
            lights = rng.random((height, min(width, columns - at))) < 0.04
            half[ROWS - height :, at : at + width][lights] = (230, 190, 120)
        at += width + int(rng.integers(0, 14))
