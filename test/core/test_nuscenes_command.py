"""``clkd data nuscenes``: the words, and what they leave."""

from pathlib import Path

import pytest
from tiny_nuscenes import VERSION, add_scene, fixed_tables, straight, write_tables

from clkd_core.cli import main
from clkd_core.data.sidecar import SIDECAR, load_keyframes

pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit (extra `nuscenes`)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tables = fixed_tables()
    add_scene(tables, "train-a", 8, straight(8.0))
    add_scene(tables, "val-b", 7, straight(8.0))
    write_tables(tmp_path / "set", tables)
    return tmp_path / "set"


def test_command_says_what_it_wrote(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "nuscenes", str(root), "--version", VERSION, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {root / VERSION / SIDECAR}: 2 scenes, 15 keyframes (8 train, 7 val)" in said
    assert len(load_keyframes(root, VERSION, "train")) == 8


def test_options_reach_what_they_are_for(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "samples/CAM_BACK/train-a-00-CAM_BACK-0.jpg").unlink()
    words = ["data", "nuscenes", str(root), "--version", VERSION, "--workers", "1"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "error: 1 of 90 image files are missing" in said and "--skip-missing" in said
    out = tmp_path / "out"
    more = ["--out", str(out), "--skip-missing", "--senna-questions"]
    assert main([*words, *more]) == 0
    assert "1 missing images left out and with them 0 keyframes" in capsys.readouterr().out
    first = load_keyframes(out, VERSION, "train")[0]
    assert "CAM_BACK" not in first.image_paths
    assert first.questions[0].kind == "planning"
