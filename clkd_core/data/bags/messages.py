"""The messages of our bags, made from the core's types and turned back.

Bags only: nodes convert their own messages in clkd_ros.convert.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.bags import topics
from clkd_core.data.bags.ros_types import (
    header_to_msg,
    message_class,
    stamp_from_msg,
    stamp_to_msg,
)
from clkd_core.errors import DataError, FrameError
from clkd_core.runtime.decode import rgb_from_raw
from clkd_core.types import (
    META_ACTIONS,
    STEP_S,
    CameraImage,
    EgoState,
    MetaAction,
    PathAction,
    PlanMode,
    RouteCommand,
    SpeedAction,
    Trajectory,
)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where one frame is in another, and which way it is turned."""

    xyz_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Origin of the child frame in the parent frame."""
    quaternion_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """Parent-from-child rotation, unit length."""

    @classmethod
    def planar(cls, x_m: float, y_m: float, yaw_rad: float) -> "Pose":
        """A pose on the ground."""
        half = yaw_rad / 2
        return cls(
            xyz_m=(x_m, y_m, 0.0), quaternion_xyzw=(0.0, 0.0, math.sin(half), math.cos(half))
        )

    @classmethod
    def from_matrix(cls, parent_from_child: NDArray[np.float64]) -> "Pose":
        """From a (3, 4) or (4, 4) matrix [R | t]; metres.

        The quaternion by Shepperd's method (J. Guidance and Control 1(3), 1978): the largest of
        the four components is taken first, so nothing is divided by a small number.
        """
        r = np.asarray(parent_from_child, np.float64)
        squares = np.array([1 + r[0, 0] + r[1, 1] + r[2, 2], *(1 + 2 * np.diag(r[:3, :3]))])
        squares[1:] -= np.trace(r[:3, :3])
        off = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
        pairs = np.array([r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]])
        rows = np.array(
            [
                [squares[0], off[0], off[1], off[2]],
                [off[0], squares[1], pairs[0], pairs[1]],
                [off[1], pairs[0], squares[2], pairs[2]],
                [off[2], pairs[1], pairs[2], squares[3]],
            ]
        )
        w, x, y, z = (row := rows[int(np.argmax(squares))]) / np.linalg.norm(row)
        xyz = (float(r[0, 3]), float(r[1, 3]), float(r[2, 3]))
        return cls(xyz_m=xyz, quaternion_xyzw=(float(x), float(y), float(z), float(w)))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(4, 4) parent-from-child, inverse of :meth:`from_matrix`."""
        x, y, z, w = self.quaternion_xyzw
        matrix = np.eye(4)
        matrix[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrix[:3, 3] = self.xyz_m
        return matrix


@dataclass(frozen=True, kw_only=True)
class Label:
    """What was right at one keyframe of a bag."""

    stamp_ns: int
    """Newest image stamp of the keyframe."""
    scene: str
    """Name of the drive."""
    case_name: str
    """``regular`` or the name of the corner case."""
    action: MetaAction
    future: Trajectory | None = None
    """Where the vehicle went; None where the bag does not say."""


def image_to_msg(camera: str, image: CameraImage, image_format: str = "jpeg") -> Any:
    """sensor_msgs/CompressedImage of an encoded view."""
    if image.encoded is None:
        raise FrameError(f"{camera}: only encoded images are written to a bag")
    return message_class(topics.COMPRESSED_IMAGE)(
        header=header_to_msg(image.stamp_ns, topics.camera_frame(camera)),
        format=image_format,
        data=np.frombuffer(image.encoded, np.uint8),
    )


def image_from_msg(msg: Any, log_ns: int) -> CameraImage:
    """A view from a CompressedImage or a raw Image message.

    Raises:
        FrameError: a raw image of an unknown encoding or with too few bytes.
    """
    stamp_ns = stamp_from_msg(msg.header.stamp) or log_ns  # drivers that never set a stamp
    if hasattr(msg, "format"):
        return CameraImage(stamp_ns=stamp_ns, encoded=msg.data.tobytes())
    pixels = rgb_from_raw(msg.data, msg.height, msg.width, msg.step, msg.encoding)
    return CameraImage(stamp_ns=stamp_ns, pixels=pixels)


def camera_info_to_msg(
    camera: str, stamp_ns: int, k: NDArray[np.float64], width: int, height: int
) -> Any:
    """sensor_msgs/CameraInfo of a rectified pinhole camera.

    Args:
        camera: its name.
        stamp_ns: from when on it holds.
        k: (3, 3) intrinsic matrix [px].
        width: columns.
        height: rows.
    """
    zero = message_class("sensor_msgs/msg/RegionOfInterest")(
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    projection = np.hstack([k, np.zeros((3, 1))])
    return message_class(topics.CAMERA_INFO)(
        header=header_to_msg(stamp_ns, topics.camera_frame(camera)),
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.asarray(k, np.float64).reshape(9),
        r=np.eye(3).reshape(9),
        p=projection.reshape(12),
        binning_x=0,
        binning_y=0,
        roi=zero,
    )


def _vector(xyz: tuple[float, float, float], kind: str = "Vector3") -> Any:
    return message_class(f"geometry_msgs/msg/{kind}")(x=xyz[0], y=xyz[1], z=xyz[2])


def _rotation(pose: Pose) -> Any:
    x, y, z, w = pose.quaternion_xyzw
    return message_class("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w)


def odometry_to_msg(ego: EgoState, pose: Pose) -> Any:
    """nav_msgs/Odometry: pose in ``odom``, twist in the ego frame."""
    covariance = np.zeros(36)
    ros_pose = message_class("geometry_msgs/msg/Pose")(
        position=_vector(pose.xyz_m, "Point"), orientation=_rotation(pose)
    )
    twist = message_class("geometry_msgs/msg/Twist")(
        linear=_vector((ego.speed_mps, 0.0, 0.0)), angular=_vector((0.0, 0.0, ego.yaw_rate_radps))
    )
    return message_class(topics.ODOMETRY_TYPE)(
        header=header_to_msg(ego.stamp_ns, topics.ODOM_FRAME),
        child_frame_id=topics.EGO_FRAME,
        pose=message_class("geometry_msgs/msg/PoseWithCovariance")(
            pose=ros_pose, covariance=covariance
        ),
        twist=message_class("geometry_msgs/msg/TwistWithCovariance")(
            twist=twist, covariance=covariance
        ),
    )


def ego_from_msg(msg: Any, log_ns: int) -> EgoState:
    """Speed and rate of turn; the pose must be a number too, although only the twist is used.

    Raises:
        FrameError: a value is NaN or infinite.
    """
    place, turn = msg.pose.pose.position, msg.pose.pose.orientation
    pose = (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w)
    if not all(math.isfinite(value) for value in pose):
        raise FrameError("odometry pose has a NaN or infinite value, expected finite numbers")
    return EgoState(
        stamp_ns=stamp_from_msg(msg.header.stamp) or log_ns,
        speed_mps=msg.twist.twist.linear.x,
        yaw_rate_radps=msg.twist.twist.angular.z,
    )


def transform_to_msg(stamp_ns: int, parent: str, child: str, pose: Pose) -> Any:
    """geometry_msgs/TransformStamped."""
    return message_class("geometry_msgs/msg/TransformStamped")(
        header=header_to_msg(stamp_ns, parent),
        child_frame_id=child,
        transform=message_class("geometry_msgs/msg/Transform")(
            translation=_vector(pose.xyz_m), rotation=_rotation(pose)
        ),
    )


def transforms_to_msg(transforms: list[Any]) -> Any:
    """tf2_msgs/TFMessage."""
    return message_class(topics.TF_MESSAGE)(transforms=transforms)


def motion_to_msgs(ego: EgoState, pose: Pose) -> list[tuple[str, str, Any]]:
    """(topic, type, message) of odometry and of the same motion as a transform."""
    moving = transform_to_msg(ego.stamp_ns, topics.ODOM_FRAME, topics.EGO_FRAME, pose)
    return [
        (topics.ODOMETRY, topics.ODOMETRY_TYPE, odometry_to_msg(ego, pose)),
        (topics.TF, topics.TF_MESSAGE, transforms_to_msg([moving])),
    ]


def route_command_to_msg(command: RouteCommand) -> Any:
    """std_msgs/String."""
    return message_class(topics.STRING)(data=command.value)


def route_command_from_msg(msg: Any) -> RouteCommand:
    """One of the five phrases.

    Raises:
        FrameError: another phrase.
    """
    try:
        return RouteCommand(msg.data.strip())
    except ValueError as err:
        wanted = ", ".join(repr(command.value) for command in RouteCommand)
        raise FrameError(f"route command is {msg.data[:60]!r}, expected {wanted}") from err


def label_to_msg(label: Label) -> Any:
    """clkd_ros/MetaAction with a one-hot probability and no latency."""
    probability = np.zeros(len(META_ACTIONS), np.float32)
    probability[label.action.index] = 1.0
    return message_class(topics.META_ACTION)(
        header=header_to_msg(label.stamp_ns, topics.EGO_FRAME),
        speed=int(label.action.speed),
        path=int(label.action.path),
        probability=probability,
        inference_ms=math.nan,
        node_response_ms=math.nan,
        degraded=False,
        stale=False,
        late=False,
        reason="",
        scene=label.scene,
        case_name=label.case_name,
    )


def label_to_msgs(label: Label) -> list[tuple[str, str, Any]]:
    """(topic, type, message) of a label and, where it is known, of where the vehicle went."""
    msgs = [(topics.TRUE_META_ACTION, topics.META_ACTION, label_to_msg(label))]
    if label.future is not None:
        future = future_to_msg(label.stamp_ns, label.future)
        msgs.append((topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, future))
    return msgs


def label_from_msg(msg: Any) -> Label:
    """A label without its future.

    Raises:
        DataError: speed or path is none of the actions.
    """
    try:
        action = MetaAction(SpeedAction(msg.speed), PathAction(msg.path))
    except ValueError as err:
        raise DataError(
            f"label is speed {msg.speed}, path {msg.path}, expected 0..3 and 0..4"
        ) from err
    stamp_ns = stamp_from_msg(msg.header.stamp)
    return Label(stamp_ns=stamp_ns, scene=msg.scene, case_name=msg.case_name, action=action)


def future_to_msg(stamp_ns: int, future: Trajectory) -> Any:
    """clkd_ros/PlannedTrajectory of where the vehicle went."""
    return message_class(topics.PLANNED_TRAJECTORY)(
        header=header_to_msg(stamp_ns, topics.EGO_FRAME),
        step_s=STEP_S,
        x_m=np.ascontiguousarray(future.xy_m[:, 0], np.float32),
        y_m=np.ascontiguousarray(future.xy_m[:, 1], np.float32),
        inference_ms=math.nan,
        mode=int(PlanMode.WITHOUT_DECISION),
        decision_stamp=stamp_to_msg(0),
        degraded=False,
        reason="",
    )


def future_from_msg(msg: Any) -> tuple[int, Trajectory]:
    """(stamp, trajectory).

    Raises:
        DataError: it is not six finite points ``STEP_S`` apart.
    """
    if len(msg.x_m) != len(msg.y_m) or not math.isclose(msg.step_s, STEP_S):
        raise DataError(
            f"true trajectory has {len(msg.x_m)} x, {len(msg.y_m)} y and steps of {msg.step_s} s, "
            f"expected as many x as y and {STEP_S} s"
        )
    try:
        xy_m = np.stack([msg.x_m, msg.y_m], axis=1).astype(np.float32)
        return stamp_from_msg(msg.header.stamp), Trajectory(xy_m=xy_m)
    except FrameError as err:
        raise DataError(f"true {err}") from err
