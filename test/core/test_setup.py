"""What a run starts from: sets that index themselves, images that are looked for first."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from keyframe_makers import tokens
from tiny_nuscenes import VERSION, add_scene, circle, fixed_tables, straight, write_tables
from tiny_runs import config_for
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.config import load_config
from clkd_core.data.sidecar import SIDECAR, Keyframes, write_sidecar
from clkd_core.distill import __main__ as command
from clkd_core.distill import train as train_module
from clkd_core.distill.config import DataConfig, TrainConfig
from clkd_core.distill.setup import check_images, ensure_data, load_train, load_unseen
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    write_squares(tmp_path / "set", train=6, val=3)
    return tmp_path / "set"


@pytest.fixture
def nuscenes(tmp_path: Path) -> Path:
    """Tables and images as they are downloaded: nobody has indexed them."""
    pytest.importorskip("nuscenes.nuscenes", reason="needs nuscenes-devkit (extra `nuscenes`)")
    tables = fixed_tables()
    add_scene(tables, "train-a", 9, circle(8.0, 25.0))
    add_scene(tables, "val-b", 7, straight(8.0))
    write_tables(tmp_path / "set", tables)
    _, encoded = cv2.imencode(".jpg", np.full((36, 64, 3), 90, np.uint8))
    for path in (tmp_path / "set" / "samples").rglob("*.jpg"):
        path.write_bytes(encoded.tobytes())
    return tmp_path / "set"


def config_of(root: Path, version: str, out: Path, *, skip_missing: bool = False) -> TrainConfig:
    data = DataConfig(root=root, version=version, workers=1, skip_missing=skip_missing)
    return replace(config_for(root, out), data=data)


def test_tables_of_nuscenes_are_indexed_when_a_run_begins(
    nuscenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(nuscenes, VERSION, tmp_path / "run")
    with caplog.at_level(logging.INFO):
        ensure_data(config.data)
    assert "2 scenes, 16 keyframes (9 train, 7 val), 4 with a label" in caplog.text
    check_images(config.data)
    samples = load_train(config)
    assert isinstance(samples.keyframes, Keyframes)
    assert tokens(samples.keyframes) == ["train-a-00", "train-a-01", "train-a-02"]
    assert samples.present.all()
    unseen = load_unseen(config)
    assert unseen is not None and len(unseen.keyframes) == 7


def test_keyframes_with_nothing_to_learn_are_not_drawn(squares: Path, tmp_path: Path) -> None:
    """The second has no plan, the third neither plan nor question."""
    path = squares / SQUARES_VERSION / SIDECAR
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found[1] |= {"action": None, "future": None}
    found[2] |= {"action": None, "future": None, "questions": []}
    write_sidecar(path, found)
    config = config_of(squares, SQUARES_VERSION, tmp_path / "run")
    left = tokens(load_train(config).keyframes)
    assert left == [f"token-00{i}" for i in (0, 1, 3, 4, 5)]
    silent = replace(config, questions_per_sample=0)
    assert tokens(load_train(silent).keyframes) == [f"token-00{i}" for i in (0, 3, 4, 5)]
    nothing = {"action": None, "future": None, "questions": []}
    write_sidecar(path, [record | nothing for record in found])
    with pytest.raises(DataError, match="no keyframe has an action or a question"):
        load_train(config)


def test_set_that_is_indexed_is_left_alone(nuscenes: Path) -> None:
    data = DataConfig(root=nuscenes, version=VERSION)
    ensure_data(data)
    path = nuscenes / VERSION / SIDECAR
    stat = path.stat()
    ensure_data(data)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_set_to_be_judged_on_is_indexed_too(nuscenes: Path, squares: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ensure_data(DataConfig(root=tmp_path / "other", version=VERSION, val_root=nuscenes))
    assert (nuscenes / VERSION / SIDECAR).is_file()


def break_images(root: Path) -> None:
    """One view of the third keyframe to train on, all of the fourth, one to judge on."""
    (root / "CAM_BACK-002.png").unlink()
    for camera in CAMERAS:
        (root / f"{camera}-003.png").unlink()
    (root / "CAM_FRONT-006.png").write_bytes(b"")


def test_missing_images_of_both_splits_end_the_run_before_it_begins(
    squares: Path, tmp_path: Path
) -> None:
    break_images(squares)
    config = config_of(squares, SQUARES_VERSION, tmp_path / "run")
    with pytest.raises(DataError, match=r"^8 of 54 image files are missing or empty: ") as caught:
        train_module.train(config)
    for name in ("CAM_BACK-002.png", "CAM_FRONT-003.png", "CAM_FRONT-006.png"):
        assert name in str(caught.value)
    assert "; --skip-missing goes on without them" in str(caught.value)
    assert not list((tmp_path / "run").glob("cache/*"))


def test_missing_images_may_be_skipped(squares: Path, tmp_path: Path) -> None:
    break_images(squares)
    config = config_of(squares, SQUARES_VERSION, tmp_path / "run", skip_missing=True)
    check_images(config.data)
    samples = load_train(config)
    assert tokens(samples.keyframes) == [f"token-00{i}" for i in (0, 1, 2, 4, 5)]
    assert samples.present[2].tolist() == [True] * 5 + [False]
    unseen = load_unseen(config)
    assert unseen is not None
    assert unseen.present[0].tolist() == [False] + [True] * 5


def test_set_that_lost_all_images_to_judge_on_is_learnt_all_the_same(
    squares: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (6, 7, 8):
        for camera in CAMERAS:
            (squares / f"{camera}-00{number}.png").unlink()
    config = config_of(squares, SQUARES_VERSION, tmp_path / "run", skip_missing=True)
    with caplog.at_level(logging.INFO):
        assert load_unseen(config) is None
    assert "nothing to judge" in caplog.text or "no validation split to judge on" in caplog.text


def test_switch_of_the_command_reaches_the_config(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainConfig] = []

    def remember(config: TrainConfig, *, resume: bool) -> Path:
        seen.append(config)
        return config.out

    monkeypatch.setattr(train_module, "train", remember)
    path = tmp_path / "run.yaml"
    path.write_text(f"out: {tmp_path / 'run'}\n")
    for words in ([], ["--skip-missing"], ["--skip-missing", "seed=3"]):
        assert command.main([str(path), *words]) == 0
    assert [config.data.skip_missing for config in seen] == [False, True, True]
    assert seen[2].seed == 3
    assert not load_config(TrainConfig, path).data.skip_missing


def test_regular_samples_are_chosen_without_parsing(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clkd_core.data import sidecar
    from clkd_core.data.sidecar import corner_flags
    from clkd_core.distill.feed.batches import balance_weights

    def never(*args: object) -> None:
        raise AssertionError("a record was parsed")

    samples = load_train(config_of(squares, SQUARES_VERSION, tmp_path / "run"))
    again = load_train(config_of(squares, SQUARES_VERSION, tmp_path / "run"))
    monkeypatch.setattr(sidecar, "parse_record", never)
    regular = again.subset(np.flatnonzero(~corner_flags(again.keyframes)))
    assert len(regular.keyframes) == 5  # every sixth is fog
    assert balance_weights(regular.keyframes, 0.5).shape == (5,)
    assert again.fingerprint == samples.fingerprint == regular.fingerprint
