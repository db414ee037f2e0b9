"""Topic names, frame ids and message types of our bags and nodes, chosen once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clkd_core.errors import ConfigError
from clkd_core.types import CAMERAS

ODOMETRY = "/odometry"
ROUTE_COMMAND = "/route_command"
TF = "/tf"
TF_STATIC = "/tf_static"
TRUE_META_ACTION = "/ground_truth/meta_action"
TRUE_TRAJECTORY = "/ground_truth/trajectory"

EGO_FRAME = "base_link"
"""x forward, y left, z up; origin on the ground under the rear axle."""
ODOM_FRAME = "odom"
"""Fixed to the world, starts anywhere."""

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
STRING = "std_msgs/msg/String"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"
META_ACTION = "clkd_ros/msg/MetaAction"
PLANNED_TRAJECTORY = "clkd_ros/msg/PlannedTrajectory"
FRAME_RESULT = "clkd_ros/msg/FrameResult"


def image_topic(camera: str) -> str:
    """``CAM_FRONT`` -> ``/cam_front/image_raw/compressed``."""
    return f"/{camera.lower()}/image_raw/compressed"


def camera_info_topic(camera: str) -> str:
    """``CAM_FRONT`` -> ``/cam_front/camera_info``."""
    return f"/{camera.lower()}/camera_info"


def camera_frame(camera: str) -> str:
    """Frame id of a camera: x right, y down, z forward."""
    return camera.lower()


@dataclass(frozen=True, kw_only=True)
class BagTopics:
    """Which topic of a bag is what; the defaults are those of our own bags.

    Raises:
        ConfigError: a camera is unknown.
    """

    images: Mapping[str, str] = field(
        default_factory=lambda: {camera: image_topic(camera) for camera in CAMERAS}
    )
    """Image topic by camera name; CompressedImage or raw Image, the bag says which."""
    odometry: str = ODOMETRY
    """nav_msgs/Odometry."""
    route_command: str = ROUTE_COMMAND
    """std_msgs/String with one of Senna's five phrases."""
    true_meta_action: str = TRUE_META_ACTION
    """clkd_ros/MetaAction labels."""
    true_trajectory: str = TRUE_TRAJECTORY
    """clkd_ros/PlannedTrajectory: where the vehicle went."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.images) - set(CAMERAS))
        if unknown:
            raise ConfigError(f"bag topics name cameras {unknown}, expected {list(CAMERAS)}")

    @property
    def wanted_types(self) -> dict[str, tuple[str, ...]]:
        """Message types that each topic may have."""
        types = {topic: (COMPRESSED_IMAGE, IMAGE) for topic in self.images.values()}
        return types | {
            self.odometry: (ODOMETRY_TYPE,),
            self.route_command: (STRING,),
            self.true_meta_action: (META_ACTION,),
            self.true_trajectory: (PLANNED_TRAJECTORY,),
        }
