"""`launch_test`: a bag is played, scored and reported, and the launch ends by itself."""

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from tiny_bags import write_scene

from launch import LaunchDescription

FOLDER = Path(tempfile.mkdtemp(prefix="clkd-evaluate-"))
KEYFRAMES = 6
PATIENCE_S = 180.0


def generate_test_description() -> LaunchDescription:
    """A bag of one small scene, and what a user starts."""
    write_scene(FOLDER / "bag", 2, keyframes=KEYFRAMES)
    path = f"{get_package_share_directory('clkd_ros')}/launch/evaluate_bag.launch.py"
    words = {"bag": str(FOLDER / "bag"), "out": str(FOLDER / "out")}
    scored = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(path), launch_arguments=words.items()
    )
    return LaunchDescription([scored, launch_testing.actions.ReadyToTest()])


class TestEvaluateBag(unittest.TestCase):
    """While it runs."""

    def test_report_is_said_to_be_written(self, proc_output: Any) -> None:
        """The last line of `clkd report`."""
        proc_output.assertWaitFor("report.html", timeout=PATIENCE_S)


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After it has ended."""

    def test_every_keyframe_is_in_the_score_and_every_process_ended_cleanly(
        self, proc_info: Any
    ) -> None:
        """Answered, late or dropped, but counted."""
        scores = json.loads((FOLDER / "out" / "metrics.json").read_text())
        self.assertEqual(scores["frames"]["labelled"], KEYFRAMES)
        self.assertTrue((FOLDER / "out" / "report.html").exists())
        launch_testing.asserts.assertExitCodes(proc_info)
