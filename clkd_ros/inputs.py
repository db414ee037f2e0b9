"""The subscriptions that make camera frames, the same for every node that looks at the road."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from clkd_core.errors import FrameError
from clkd_core.runtime.health import Health
from clkd_core.runtime.sync import FrameAssembler, SyncConfig
from clkd_core.types import CameraImage, EgoState, SurroundFrame
from clkd_ros import convert, messages
from clkd_ros.middleware import DurabilityPolicy, Node, QoSProfile, ReliabilityPolicy
from clkd_ros.params import RANGE
from clkd_ros.raw_images import converter_name

Stamped = TypeVar("Stamped", CameraImage, EgoState)

LOG_EVERY_S = 5.0
"""A fault that repeats is logged this often; every one of them is counted."""

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What a late subscriber still gets: the route command."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How a node listens to the cameras."""

    transport: Literal["compressed", "raw"] = "compressed"
    """compressed: sensor_msgs/CompressedImage; raw: sensor_msgs/Image."""
    reliability: Literal["best_effort", "reliable"] = "best_effort"
    """Of the sensor subscriptions; best_effort hears both kinds of publisher."""
    depth: int = field(default=5, metadata={RANGE: (1, 100)})
    """Sensor messages that wait in the middleware before the oldest is lost."""
    sync: SyncConfig = field(default_factory=SyncConfig)
    """Which images belong together."""

    @property
    def sensor_qos(self) -> QoSProfile:
        """Of images and odometry."""
        reliable = self.reliability == "reliable"
        return QoSProfile(
            depth=self.depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )

    @property
    def image_class(self) -> type[Any]:
        """Message type of the camera topics."""
        return messages.CompressedImage if self.transport == "compressed" else messages.Image


def camera_topic(camera: str) -> str:
    """The private name that the launch configuration remaps."""
    return f"~/input/{camera.lower()}"


@dataclass(frozen=True)
class TimedFrame:
    """A frame and the moment it was complete."""

    frame: SurroundFrame
    complete_ns: int
    """Reading of the monotonic clock."""

    def elapsed_ms(self) -> float:
        """Time since the frame was complete."""
        return (time.monotonic_ns() - self.complete_ns) / 1e6


class FrameInputs:
    """Six cameras, odometry and route command of one node, put together by the core."""

    def __init__(
        self,
        node: Node,
        config: InputConfig,
        on_frame: Callable[[TimedFrame], None],
        health: Health,
    ) -> None:
        """Subscribe.

        Args:
            node: whose private topics are listened to.
            config: quality of service and matching.
            on_frame: called in the node's executor with each complete frame.
            health: counts what cannot be used.
        """
        self._node = node
        self._on_frame = on_frame
        self._health = health
        self._assembler = FrameAssembler(config.sync)
        compressed = config.transport == "compressed"
        self._convert: Callable[[Any], CameraImage] = (
            convert.image_from_compressed_msg if compressed else convert.image_from_raw_msg
        )
        if not compressed:  # the trial of cv_bridge is over before the first frame
            node.get_logger().info(f"raw images are converted by {converter_name()}")
        qos = config.sensor_qos
        # Executors serve what is ready in the order of creation: an image that completes a frame
        # comes after the odometry and the command that waited beside it.
        self._subscriptions = [
            node.create_subscription(
                messages.String, "~/input/route_command", self._on_route_command, LATCHED
            ),
            node.create_subscription(
                messages.Odometry, "~/input/odometry", self._on_odometry, qos
            ),
        ]
        self._subscriptions += [
            node.create_subscription(
                config.image_class, camera_topic(camera), partial(self._on_image, camera), qos
            )
            for camera in config.sync.cameras
        ]

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def unused_images(self) -> Mapping[str, str]:
        """Images that went into no frame, by reason, for the diagnostics."""
        unused = {f"image {why}": str(count) for why, count in self._assembler.dropped.items()}
        silent = self._assembler.silent_cameras
        return unused | ({"silent cameras": " ".join(silent)} if silent else {})

    def _on_image(self, camera: str, msg: Any) -> None:
        try:
            image = self._convert(msg)
        except FrameError as err:
            self._refuse(f"{camera}: {err}", "unusable image")
            return
        for frame in self._assembler.push_image(camera, self._stamped(image)):
            self._on_frame(TimedFrame(frame, time.monotonic_ns()))

    def _on_odometry(self, msg: messages.Odometry) -> None:
        try:
            ego = self._stamped(convert.ego_state_from_msg(msg))
            self._assembler.context.push_ego(ego)
        except FrameError as err:
            stamp_ns = convert.stamp_ns_from_msg(msg.header.stamp) or self._now_ns()
            self._assembler.context.push_ego_fault(stamp_ns, str(err))
            self._refuse(str(err), "unusable odometry")

    def _on_route_command(self, msg: messages.String) -> None:
        try:
            self._assembler.context.push_command(convert.route_command_from_msg(msg))
        except FrameError as err:
            self._assembler.context.push_command_fault(str(err))
            self._refuse(str(err), "unusable route command")

    def _stamped(self, item: Stamped) -> Stamped:
        """As it is, or with the time of its arrival where a driver never sets a stamp."""
        return item if item.stamp_ns else replace(item, stamp_ns=self._now_ns())

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _refuse(self, text: str, reason: str) -> None:
        self._health.count_drop(reason)
        self._node.get_logger().warning(text, throttle_duration_sec=LOG_EVERY_S)
