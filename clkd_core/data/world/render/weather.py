"""What weather does to light: ambient level, fog density, headlights, rain, the sun's glare."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


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
    return cone * np.exp(-((distance / 26.0) ** 2))


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
        cv2.line(layer, (int(x[i]), int(y[i])), end, 60, 1, cv2.LINE_AA)
    cv2.add(image, cv2.merge([layer] * 3), dst=image)


def add_sun(image: Image, column: float, row: float) -> None:
    """Glare around the sun's place in the image, additive."""
    height, width = image.shape[:2]
    radius = width // 2
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
