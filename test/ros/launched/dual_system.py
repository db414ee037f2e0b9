"""`launch_test`: the launch file without arguments runs the shipped student."""

import time
import unittest
from typing import Any

import cv2
import launch_testing.actions
import launch_testing.asserts
import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from clkd_ros.msg import MetaAction, PlannedTrajectory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from sensor_msgs.msg import CompressedImage

from launch import LaunchDescription

VIEWS = ("front", "front_left", "front_right", "back_left", "back_right", "back")
PATIENCE_S = 90.0


def generate_test_description() -> LaunchDescription:
    """What a user starts."""
    path = f"{get_package_share_directory('clkd_ros')}/launch/dual_system.launch.py"
    system = IncludeLaunchDescription(PythonLaunchDescriptionSource(path))
    return LaunchDescription([system, launch_testing.actions.ReadyToTest()])


class TestDualSystem(unittest.TestCase):
    """While it runs."""

    def setUp(self) -> None:
        rclpy.init()
        self.node = rclpy.create_node("driver")
        self.heard: dict[type, Any] = {}
        self._hear(MetaAction, "/vlm/meta_action")
        self._hear(PlannedTrajectory, "/planner/trajectory")
        self.cameras = [
            self.node.create_publisher(CompressedImage, f"/cam_{view}/image_raw/compressed", 5)
            for view in VIEWS
        ]

    def tearDown(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown()

    def test_images_become_a_decision_and_a_plan_that_follows_it(self) -> None:
        """Six grey views, no odometry: degraded, and said so."""
        jpeg = cv2.imencode(".jpg", np.full((90, 160, 3), 120, np.uint8))[1].tobytes()
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s and not self._followed():
            msg = CompressedImage(format="jpeg", data=jpeg)
            msg.header.stamp = self.node.get_clock().now().to_msg()
            for camera in self.cameras:
                camera.publish(msg)
            rclpy.spin_once(self.node, timeout_sec=0.1)
        self.assertTrue(self._followed(), f"not within {PATIENCE_S} s, heard {self.heard}")
        decision = self.heard[MetaAction]
        self.assertAlmostEqual(float(np.sum(decision.probability)), 1.0, places=4)
        self.assertTrue(decision.degraded)
        self.assertIn("no odometry", decision.reason)
        self.assertEqual(len(self.heard[PlannedTrajectory].x_m), 6)

    def _hear(self, kind: type, topic: str) -> None:
        self.node.create_subscription(kind, topic, lambda msg: self.heard.update({kind: msg}), 1)

    def _followed(self) -> bool:
        plan = self.heard.get(PlannedTrajectory)
        return plan is not None and plan.mode == PlannedTrajectory.FOLLOWING


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_every_process_ends_cleanly(self, proc_info: Any) -> None:
        """Exit code 0."""
        launch_testing.asserts.assertExitCodes(proc_info)
