"""clkd_core.data.bags.command: the words of ``clkd bag`` and what they leave."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest

from clkd_core.data.bags import command
from clkd_core.data.bags.frames import count_image_sets, load_labels
from clkd_core.errors import DataError


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def kitti(root: Path, images: int) -> Path:
    """Straight ahead at 10 m/s."""
    (root / "image_0").mkdir(parents=True)
    for number in range(images):
        cv2.imwrite(str(root / "image_0" / f"{number:06}.png"), np.zeros((9, 16), np.uint8))
    rows = [f"1 0 0 0 0 1 0 0 0 0 1 {number}.0\n" for number in range(images)]
    (root / "poses.txt").write_text("".join(rows))
    (root / "calib.txt").write_text("7 0 8 0 0 7 4 0 0 0 1 0\n")
    return root


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_from_kitti_writes_a_bag_and_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    source = kitti(tmp_path / "drive", 33)
    assert run("from-kitti", source, tmp_path / "bag", "--storage", storage) == 0
    said = capsys.readouterr().out
    assert "33 images, 3 labelled, route unknown" in said
    assert count_image_sets(tmp_path / "bag") == 33
    labels = load_labels(tmp_path / "bag")
    assert [label.action.text for label in labels] == ["KEEP, STRAIGHT"] * 3
    suffixes = {path.suffix for path in (tmp_path / "bag").iterdir()}
    assert suffixes == {".yaml", ".mcap" if storage == "mcap" else ".db3"}


def test_from_world_draws_the_validation_drives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world.yaml").write_text(
        "{train_drives: 1, val_drives: 1, drive_s: 2, width_px: 64, height_px: 36, workers: 1}"
    )
    assert run("from-world", tmp_path, tmp_path / "bag") == 0
    assert "1 validation drives, 2 s, 20 image sets, 4 labelled" in capsys.readouterr().out
    assert len(load_labels(tmp_path / "bag")) == 4


@pytest.mark.parametrize("source", ["from-world", "from-drivelm", "from-kitti"])
def test_wrong_input_is_a_data_error_and_leaves_the_old_bag(tmp_path: Path, source: str) -> None:
    run("from-kitti", kitti(tmp_path / "drive", 2), tmp_path / "bag")
    with pytest.raises(DataError, match="nothing"):
        run(source, tmp_path / "nothing", tmp_path / "bag")
    assert count_image_sets(tmp_path / "bag") == 2
