"""`launch_test`: a bag is played, scored and reported, and `ros2 launch` ends by itself."""

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

import launch_testing.actions
import launch_testing.asserts
import launch_testing.util
from launch.actions import ExecuteProcess
from tiny_bags import write_scene

from launch import LaunchDescription

FOLDER = Path(tempfile.mkdtemp(prefix="clkd-evaluate-"))
KEYFRAMES = 6
PATIENCE_S = 180.0


def generate_test_description() -> tuple[LaunchDescription, dict[str, Any]]:
    """A bag of one small scene, and what a user types."""
    write_scene(FOLDER / "bag", 2, keyframes=KEYFRAMES)
    words = [f"bag:={FOLDER / 'bag'}", f"out:={FOLDER / 'out'}"]
    typed = ExecuteProcess(cmd=["ros2", "launch", "clkd_ros", "evaluate_bag.launch.py", *words])
    alive = launch_testing.util.KeepAliveProc()  # else the test would end with what it waits for
    started = LaunchDescription([typed, alive, launch_testing.actions.ReadyToTest()])
    return started, {"typed": typed}


class TestEvaluateBag(unittest.TestCase):
    """While it runs."""

    def test_launch_ends_by_itself_with_every_keyframe_scored_and_the_page_left(
        self, proc_info: Any, typed: ExecuteProcess
    ) -> None:
        """Answered, late or dropped, but counted; and compared with the direct answers."""
        proc_info.assertWaitForShutdown(process=typed, timeout=PATIENCE_S)
        launch_testing.asserts.assertExitCodes(proc_info, process=typed)
        scores = json.loads((FOLDER / "out" / "metrics.json").read_text())
        self.assertEqual(scores["frames"]["labelled"], KEYFRAMES)
        self.assertEqual(scores["live_vs_direct"]["unexplained"], [])
        self.assertTrue((FOLDER / "out" / "report.html").exists())
