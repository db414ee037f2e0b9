"""The six cameras: nuScenes' mounting and lens, scaled to the image size asked for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clkd_core.types import CAMERAS

_WIDTH_PX = 1600.0
"""Image width to which the numbers below belong."""
_HEIGHT_PX = 900.0

# yaw [deg], translation x, y, z [m], focal length [px], principal point x, y [px]: rounded from
# nuScenes' calibrated_sensor table; pitch and roll, below one degree there, are left out.
_MOUNTS: dict[str, tuple[float, tuple[float, float, float], float, tuple[float, float]]] = {
    "CAM_FRONT": (0.0, (1.70, 0.02, 1.51), 1266.4, (816.3, 491.5)),
    "CAM_FRONT_LEFT": (55.0, (1.52, 0.49, 1.51), 1272.6, (826.6, 479.8)),
    "CAM_FRONT_RIGHT": (-55.0, (1.55, -0.49, 1.50), 1260.8, (808.0, 495.3)),
    "CAM_BACK_LEFT": (108.5, (1.03, 0.48, 1.56), 1256.7, (792.1, 492.8)),
    "CAM_BACK_RIGHT": (-110.0, (1.01, -0.48, 1.56), 1259.5, (807.3, 501.2)),
    "CAM_BACK": (180.0, (0.03, 0.0, 1.57), 809.2, (829.2, 481.8)),
}

CAMERA_STAMP_OFFSETS_NS: dict[str, int] = {
    "CAM_FRONT": -12_000_000,
    "CAM_FRONT_LEFT": -21_000_000,
    "CAM_FRONT_RIGHT": -4_000_000,
    "CAM_BACK_LEFT": -26_000_000,
    "CAM_BACK_RIGHT": 0,
    "CAM_BACK": -15_000_000,
}
"""Each image's stamp relative to its set's newest one; as in nuScenes the views are staggered.
What is rendered is the instant of the newest stamp in all six."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the vehicle, looking level."""

    name: str
    width_px: int
    height_px: int
    intrinsic: NDArray[np.float64]
    """(3, 3) pixels."""
    yaw_rad: float
    """Of the optical axis in the ego frame."""
    translation_m: NDArray[np.float64]
    """(3,) of the lens in the ego frame."""

    @property
    def camera_from_ego(self) -> NDArray[np.float64]:
        """(3, 3) rotation; camera axes are x right, y down, z forward."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.array([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])

    @property
    def quaternion_wxyz(self) -> tuple[float, float, float, float]:
        """Rotation of the camera in the ego frame, as nuScenes' ``calibrated_sensor`` has it."""
        half = self.yaw_rad / 2.0
        yaw = (np.cos(half), np.sin(half))  # about z
        # axes turned from forward-left-up to right-down-forward: (0.5, -0.5, 0.5, -0.5)
        w, x, y, z = 0.5, -0.5, 0.5, -0.5
        c, s = float(yaw[0]), float(yaw[1])
        return (c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w)

    def project(self, points_ego: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 3) points of the ego frame as (..., 3): column, row [px], depth [m]."""
        cam = (points_ego - self.translation_m) @ self.camera_from_ego.T
        depth = cam[..., 2]
        uv = cam[..., :2] / depth[..., None] * self.intrinsic[0, 0] + self.intrinsic[:2, 2]
        return np.concatenate([uv, depth[..., None]], axis=-1)


def build_cameras(width_px: int, height_px: int) -> dict[str, Camera]:
    """The six cameras for one image size; the field of view across is nuScenes' at any size.

    The principal point's row keeps its distance to the middle in pixels of the scaled lens, so
    a ratio other than 16 : 9 crops or adds rows evenly.
    """
    scale = width_px / _WIDTH_PX
    cameras = {}
    for name in CAMERAS:
        yaw_deg, translation, focal, (cx, cy) = _MOUNTS[name]
        row = height_px / 2.0 + (cy - _HEIGHT_PX / 2.0) * scale
        intrinsic = np.array(
            [[focal * scale, 0.0, cx * scale], [0.0, focal * scale, row], [0.0, 0.0, 1.0]]
        )
        cameras[name] = Camera(
            name, width_px, height_px, intrinsic, np.radians(yaw_deg), np.array(translation)
        )
    return cameras
