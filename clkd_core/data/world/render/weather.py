"""Sky and weather: the far panorama, light, fog, headlights, rain, the glare of a low sun."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

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


@dataclass(frozen=True, kw_only=True)
class Weather:
    """Light and air of a drive."""

    name: str
    """``clear``, ``night``, ``fog`` or ``rain_glare``."""
    ambient: tuple[float, float, float]
    """RGB factors of everything that does not shine."""
    fog_m: float
    """Distance at which contrast has fallen to 1/e; infinite in clear air."""
    fog_rgb: tuple[float, float, float]
    headlights: bool
    rain: bool
    sun_yaw_rad: float | None
    """Where a blinding low sun stands in the layout frame."""


def sample_weather(case_name: str, seed: int) -> Weather:
    """The weather of a case; regular drives get mild variety of daylight."""
    rng = np.random.default_rng([seed, 3])
    tint = rng.uniform(0.97, 1.03, 3)
    level = rng.uniform(0.82, 1.08)
    fog_m, fog_rgb = float(rng.uniform(250.0, 600.0)), (205.0, 210.0, 216.0)
    name = case_name if case_name in ("night", "fog", "rain_glare") else "clear"
    if name == "night":
        tint, level, fog_m, fog_rgb = (
            np.array([0.8, 0.88, 1.15]),
            rng.uniform(0.2, 0.3),
            220.0,
            (16.0, 18.0, 28.0),
        )
    elif name == "fog":
        tint, level, fog_m = np.ones(3), 0.92, float(rng.uniform(24.0, 38.0))
    elif name == "rain_glare":
        level, fog_m = rng.uniform(0.62, 0.75), 130.0
    ambient = tint * level
    return Weather(
        name=name,
        ambient=(float(ambient[0]), float(ambient[1]), float(ambient[2])),
        fog_m=fog_m,
        fog_rgb=fog_rgb,
        headlights=name == "night",
        rain=name == "rain_glare",
        sun_yaw_rad=float(rng.uniform(-0.35, 0.35)) if name == "rain_glare" else None,
    )


def headlight_factor(x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extra light from the ego's headlights at places of the ego frame, 0..1."""
    distance = np.hypot(x_m - 3.5, y_m)
    angle = np.arctan2(y_m, x_m - 3.0)
    cone = np.exp(-((angle / 0.38) ** 2)) * (x_m > 3.0)
    light: NDArray[np.float64] = cone * np.exp(-((distance / 26.0) ** 2))
    return light


def fog_share(depth_m: NDArray[np.float64], fog_m: float) -> NDArray[np.float64]:
    """Share of the fog's colour in what is seen at a distance, 0..1."""
    share: NDArray[np.float64] = 1.0 - np.exp(-depth_m / fog_m)
    return share


def add_rain(image: Image, rng: np.random.Generator) -> None:
    """Streaks, drawn into the image."""
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.uint8)
    count = 140
    x, y = rng.integers(0, width, count), rng.integers(0, height, count)
    length = rng.integers(height // 40 + 2, height // 12 + 4, count)
    for i in range(count):
        end = (int(x[i] + length[i] // 6), int(y[i] + length[i]))
        cv2.line(layer, (int(x[i]), int(y[i])), end, [60.0], 1, cv2.LINE_AA)
    cv2.add(image, cv2.merge([layer] * 3), dst=image)


def add_sun(image: Image, column: float, row: float) -> None:
    """Glare around the sun's place in the image, additive."""
    radius = image.shape[1] // 2
    sprite = _glare(radius)
    add_sprite(image, sprite, int(column) - radius, int(row) - radius)


_GLARE: dict[int, Image] = {}


def _glare(radius: int) -> Image:
    if radius not in _GLARE:
        grid = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32) / radius
        d = np.hypot(grid[0], grid[1])
        light = 255 * np.clip(
            1.6 * np.exp(-((d / 0.07) ** 2)) + 0.6 * np.exp(-d / 0.22) - 0.01, 0, 1
        )
        _GLARE[radius] = np.stack([light, light * 0.95, light * 0.82], -1).astype(np.uint8)
    return _GLARE[radius]


def add_sprite(image: Image, sprite: Image, left: int, top: int) -> None:
    """Add an image to a part of another one, cut at its edges."""
    height, width = image.shape[:2]
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + sprite.shape[1]), min(height, top + sprite.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = image[y0:y1, x0:x1]
    cv2.add(part, sprite[y0 - top : y1 - top, x0 - left : x1 - left], dst=part)


def draw_panorama(seed: int, weather: str) -> Image:
    """(ROWS, COLUMNS, 3) uint8 RGB without a seam; the last row touches the horizon."""
    rng = np.random.default_rng([seed, 2])
    half = _gradient(rng, weather)
    if weather not in ("night", "fog"):
        _add_clouds(half, rng)
    _add_skyline(half, rng, weather)
    image = np.clip(half, 0, 255).astype(np.uint8)
    return np.concatenate([image, image[:, ::-1]], axis=1)


def _gradient(rng: np.random.Generator, weather: str) -> NDArray[np.float32]:
    upper, lower = _SKIES[int(rng.integers(len(_SKIES)))]
    if weather == "night":
        upper, lower = (6, 8, 20), (26, 28, 44)
    elif weather == "rain_glare":
        upper, lower = (104, 112, 122), (182, 184, 184)
    share = np.linspace(0.0, 1.0, ROWS, dtype=np.float32)[:, None] ** 1.3
    column = (1 - share) * np.array(upper, np.float32) + share * np.array(lower, np.float32)
    return np.repeat(column[:, None], COLUMNS // 2, axis=1)


def _add_clouds(image: NDArray[np.float32], rng: np.random.Generator) -> None:
    size = (COLUMNS // 2, ROWS)
    field = np.zeros(size[::-1], np.float32)
    for cells, weight in ((6, 1.0), (14, 0.6), (30, 0.3)):
        coarse = rng.random((cells, cells * 2)).astype(np.float32)
        field += weight * cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
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
