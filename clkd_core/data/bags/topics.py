"""Topic names, frame ids and message types of our bags and nodes, chosen once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.errors import ConfigError
from clkd_core.types import CAMERAS

ODOMETRY = "/odometry"
ROUTE_COMMAND = "/route_command"
TF = "/tf"
TF_STATIC = "/tf_static"
TRUE_META_ACTION = "/ground_truth/meta_action"
TRUE_TRAJECTORY = "/ground_truth/trajectory"

IMAGE_DELAY_NS = 10_000_000
"""Our bags log an image this long after its stamp, as a camera would deliver it; odometry of the
same instant, logged at its stamp, is then there before it, live too: transports jitter by less."""

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


def raw_image_topic(camera: str) -> str:
    """``CAM_FRONT`` -> ``/cam_front/image_raw``, the name beside :func:`image_topic`."""
    return f"/{camera.lower()}/image_raw"


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
        ConfigError: a camera is unknown, a topic has no absolute name, or stands for two things;
            names all of these.
    """

    images: Mapping[str, str] = field(
        default_factory=lambda: {camera: image_topic(camera) for camera in CAMERAS}
    )
    """Image topic by camera name; CompressedImage or raw Image, the bag says which. A camera that
    is not named here is absent: its view is masked and every answer flagged."""
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
        problems = []
        if unknown or not self.images:
            problems.append(f"bag topics name cameras {unknown}, expected some of {list(CAMERAS)}")
        for role, topic in self.by_role.items():
            if not topic.startswith("/") or topic.endswith("/") or not topic.isprintable():
                problems.append(f"topic of {role} is {topic!r}, expected a name like '/x/y'")
        for topic, count in Counter(self.by_role.values()).items():
            if count > 1:
                roles = ", ".join(role for role, name in self.by_role.items() if name == topic)
                problems.append(f"topic {topic!r} is given for {roles}, expected one of them")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def by_role(self) -> dict[str, str]:
        """Topic by what it is: a camera's name or a field's."""
        roles = ("odometry", "route_command", "true_meta_action", "true_trajectory")
        return {**self.images, **{role: getattr(self, role) for role in roles}}

    @property
    def foreign(self) -> set[str]:
        """Topics with other names than ours: a bag that is read by this mapping must have them."""
        ours = {camera: image_topic(camera) for camera in CAMERAS} | _OUR_NAMES
        return {topic for role, topic in self.by_role.items() if ours[role] != topic}

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


_OUR_NAMES = {
    "odometry": ODOMETRY,
    "route_command": ROUTE_COMMAND,
    "true_meta_action": TRUE_META_ACTION,
    "true_trajectory": TRUE_TRAJECTORY,
}


def load_topics(path: Path) -> BagTopics:
    """Read a topic mapping: what another's bag calls the things that we read.

    A file may give a part only; ``images``, where given, names every camera there is.

    Args:
        path: a YAML file with the keys of :class:`BagTopics`, like those in ``config/topics``.

    Raises:
        ConfigError: lists every unknown key, unknown camera and unusable name.
    """
    return load_config(BagTopics, path)


def rename_topics(types: Mapping[str, str], names: BagTopics) -> dict[str, str]:
    """Our name for each topic of a bag that is played for our nodes.

    What the mapping names gets our name, a raw image that of :func:`raw_image_topic`. A topic
    that the mapping does not name and that has one of our names is left out: it is something
    else, or a camera that is to be absent. All others keep their names.

    Args:
        types: message type by topic, as the bag has them.
        names: the mapping.

    Returns:
        Name to play under, by recorded name; what is left out is absent.
    """
    ours = {topic: _OUR_NAMES[role] for role, topic in names.by_role.items() if role in _OUR_NAMES}
    for camera, topic in names.images.items():
        raw = types.get(topic) == IMAGE
        ours[topic] = raw_image_topic(camera) if raw else image_topic(camera)
    reserved = {*_OUR_NAMES.values(), *map(image_topic, CAMERAS), *map(raw_image_topic, CAMERAS)}
    return {
        topic: ours.get(topic, topic) for topic in types if topic in ours or topic not in reserved
    }
