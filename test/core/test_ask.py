"""A question about image files, answered by the shipped student."""

from pathlib import Path

import pytest
from fakes import jpeg_bytes

from clkd_core.cli import main
from clkd_core.errors import ConfigError, DataError
from clkd_core.runtime.ask import build_frame
from clkd_core.types import CAMERAS, META_ACTIONS, RouteCommand


def write_views(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"view{number}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(jpeg_bytes())
    return paths


def test_images_fill_the_cameras_in_their_order_and_the_rest_is_missing(tmp_path: Path) -> None:
    frame = build_frame(write_views(tmp_path, 2), speed_mps=3.0, command="turn left")
    assert list(frame.images) == list(CAMERAS[:2])
    assert frame.ego is not None and frame.ego.speed_mps == 3.0
    assert frame.command is RouteCommand.LEFT
    assert all(camera in frame.degraded_reasons[0] for camera in CAMERAS[2:])


def test_too_many_images_and_unreadable_ones_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="7 images were given, expected at most 6"):
        build_frame(write_views(tmp_path, 7))
    with pytest.raises(DataError, match=r"nowhere\.jpg cannot be read"):
        build_frame([tmp_path / "nowhere.jpg"])


def test_shipped_student_answers_decides_and_says_how_long_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(path) for path in write_views(tmp_path, 6)]
    question = "Is there a traffic light ahead?"
    assert main(["ask", *words, question, "--threads", "1", "--speed", "5"]) == 0
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert said["answer"].strip()
    assert said["decision"].split("(")[0].strip() in {action.text for action in META_ACTIONS}
    assert "no route command" in said["degraded"] and "no odometry" not in said["degraded"]
    assert said["latency"].count(" ms") == 2


def test_file_that_is_no_image_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    assert main(["ask", str(path), "What is this?", "--threads", "1"]) == 2
    assert "CAM_FRONT" in capsys.readouterr().err
