"""``clkd data senna``: files there and back, what is refused, and that nothing half is left."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer
from clkd_core.data.senna import command
from clkd_core.data.senna.questions import PLAN_WORDS
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
from clkd_core.errors import ConfigError, DataError
from clkd_core.types import CAMERAS, EgoState, MetaAction, RouteCommand, Trajectory

CAR = AgentFuture(
    category="vehicle.car", size_m=(4.0, 2.0), poses=np.tile([9.0, 0.0, 0.0], (7, 1))
)


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def keyframe(root: Path, number: int, **changes: Any) -> Keyframe:
    """Drives straight on at 8 m/s; pictures are named as nuScenes names them."""
    stamp_us = 1_700_000_000_000_000 + 500_000 * number
    paths = {}
    for i, camera in enumerate(CAMERAS):
        name = f"samples/{camera}/drive__{camera}__{stamp_us + i}.jpg"
        paths[camera] = root / name
        paths[camera].parent.mkdir(parents=True, exist_ok=True)
        paths[camera].write_bytes(camera.encode())
    fields = {
        "sample_token": f"t{number}",
        "scene": "s",
        "case_name": "regular",
        "stamp_ns": (stamp_us + 5) * 1000,
        "image_paths": paths,
        "image_stamps_ns": {c: (stamp_us + i) * 1000 for i, c in enumerate(CAMERAS)},
        "ego": EgoState(stamp_ns=(stamp_us + 5) * 1000, speed_mps=8.0),
        "command": RouteCommand.RIGHT,
        "future": Trajectory(xy_m=np.float32([[4 * i, 0] for i in range(1, 7)])),
        "action": MetaAction.from_text("KEEP, STRAIGHT"),
        "agents": (CAR,),
        "questions": (QuestionAnswer(kind="description", question="Weather?", answer="Rain."),),
    }
    return Keyframe(**{**fields, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of three training keyframes, one of them a corner case, and one to validate."""
    home = tmp_path / "set"
    keyframes = [
        ("train", keyframe(home, 0)),
        ("train", keyframe(home, 1, case_name="fog")),
        ("train", keyframe(home, 2, future=None, action=None)),
        ("val", keyframe(home, 3, scene="v")),
    ]
    records = [keyframe_to_json(k, split=split, root=home) for split, k in keyframes]
    write_sidecar(home / "v1" / SIDECAR, records)
    return home


def exported(root: Path, split: str) -> Path:
    out = root.parent / f"qa_{split}.json"
    assert run("export", root, "--version", "v1", "--split", split, "--out", out) == 0
    return out


def imported(root: Path, *files: Path, **options: str) -> Path:
    out = root.parent / "imported"
    words = [w for name, value in options.items() for w in (f"--{name}", value)]
    assert run("import", *files, "--images", root, "--out", out, *words) == 0
    return out


def test_set_that_goes_there_and_back_keeps_what_the_layout_holds(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = imported(root, exported(root, "train"), exported(root, "val"))
    said = capsys.readouterr().out
    assert "11 questions about 3 keyframes, 2 of them for the plan" in said
    assert "train: 3 keyframes of 3 samples, 2 labelled" in said
    assert "questions: 4 description, 4 perception, 3 planning, 4 prediction" in said
    for split, count in (("train", 3), ("val", 1)):
        old, new = load_keyframes(root, "v1", split), load_keyframes(out, "senna", split)
        assert len(new) == count
        for before, after in zip(old, new, strict=True):
            for name in ("sample_token", "scene", "case_name", "stamp_ns", "action"):
                assert getattr(after, name) == getattr(before, name)
            assert after.image_stamps_ns == before.image_stamps_ns
            for camera, path in after.image_paths.items():
                assert path.read_bytes() == camera.encode()
            if before.future is not None:
                assert after.future.xy_m.tolist() == before.future.xy_m.tolist()
                assert (after.ego, after.command) == (before.ego, before.command)
                assert after.questions[0].answer == "KEEP, STRAIGHT"


def test_imported_set_is_exported_with_the_same_questions(root: Path) -> None:
    first = exported(root, "val")
    out = imported(root, first)
    again = root.parent / "again.json"
    run("export", out, "--version", "senna", "--split", "val", "--out", again)
    talks = [[r["conversations"] for r in json.loads(p.read_text())] for p in (first, again)]
    assert talks[0] == talks[1]


def test_pictures_are_linked_not_copied_and_survive_a_second_import(root: Path) -> None:
    val = exported(root, "val")
    out = imported(root, val)
    assert (out / "senna" / "images").is_symlink()
    imported(root, val)
    assert len(list(root.glob("samples/*/*.jpg"))) == 24
    assert sorted(p.name for p in out.iterdir()) == ["senna"]


def test_file_without_a_split_in_its_name_needs_the_word(root: Path) -> None:
    file = exported(root, "train").rename(root.parent / "qa.json")
    with pytest.raises(ConfigError, match=r"qa\.json: which split it is is not clear"):
        imported(root, file)
    with pytest.raises(ConfigError, match="expected a single file with --split"):
        run("import", file, file, "--split", "val", "--images", root, "--out", root.parent / "o")
    out = imported(root, file, split="val", version="other")
    assert len(load_keyframes(out, "other", "val")) == 3


def test_sample_in_both_splits_is_refused(root: Path) -> None:
    train = exported(root, "train")
    val = root.parent / "copy_val.json"
    val.write_text(train.read_text())
    with pytest.raises(DataError, match="sample 't0' is in train too"):
        imported(root, train, val)
    assert not (root.parent / "imported").exists()


def test_missing_pictures_are_named_and_counted_or_skipped(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = exported(root, "train")
    (gone,) = root.glob("samples/CAM_BACK/*__1700000000000005.jpg")
    gone.unlink()
    for path in root.glob("samples/*/*__1700000000500*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"7 pictures are missing or empty .* and 2 more; --skip"):
        imported(root, train)
    out = root.parent / "imported"
    assert not out.exists()
    assert run("import", train, "--images", root, "--out", out, "--skip-missing") == 0
    assert "7 pictures are missing and left out" in capsys.readouterr().out
    first, last = load_keyframes(out, "senna", "train")
    assert (first.sample_token, last.sample_token) == ("t0", "t2")
    assert set(CAMERAS) - set(first.image_paths) == {"CAM_BACK"}


def test_file_none_of_whose_pictures_are_there_is_refused(root: Path, tmp_path: Path) -> None:
    val = exported(root, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no sample of .* has a picture"):
        run(
            *("import", val, "--images", tmp_path / "empty"),
            *("--out", tmp_path / "o", "--skip-missing"),
        )


def test_damaged_file_leaves_the_old_set(root: Path) -> None:
    val = exported(root, "val")
    out = imported(root, val)
    before = (out / "senna" / SIDECAR).read_bytes()
    val.write_text(val.read_text()[:-200])
    with pytest.raises(DataError, match="qa_val"):
        imported(root, val)
    assert (out / "senna" / SIDECAR).read_bytes() == before


@pytest.mark.parametrize("words", [("import", "f_val.json", "--images", "."), ("add-questions",)])
def test_folder_of_somebody_else_is_never_replaced(
    root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    theirs = tmp_path / "theirs" / "v1"
    theirs.mkdir(parents=True)
    (theirs / "scene.json").write_text("[]")
    subject = (root,) if words[0] == "add-questions" else ()
    with pytest.raises(DataError, match=r"holds 'scene\.json', expected nothing"):
        run(*words, *subject, "--version", "v1", "--out", tmp_path / "theirs")
    assert (theirs / "scene.json").read_text() == "[]"


@pytest.mark.parametrize("version", ["../v", "a/b", "", "."])
def test_version_that_is_no_name_is_refused(root: Path, version: str) -> None:
    with pytest.raises(DataError, match="expected the name of a folder"):
        imported(root, exported(root, "val"), version=version)


def test_questions_are_added_to_all_splits_and_nothing_else_changes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = root.parent / "asked"
    assert run("add-questions", root, "--version", "v1", "--out", out) == 0
    assert "4 keyframes, 11 questions more" in capsys.readouterr().out
    for split in ("train", "val"):
        old, new = load_keyframes(root, "v1", split), load_keyframes(out, "v1", split)
        for before, after in zip(old, new, strict=True):
            assert set(before.questions) < set(after.questions)
            assert after.agents[0].poses.tolist() == before.agents[0].poses.tolist()
            assert (after.ego, after.action, after.stamp_ns) == (
                *(before.ego, before.action),
                before.stamp_ns,
            )
            assert {c: p.read_bytes().decode() for c, p in after.image_paths.items()} == {
                camera: camera for camera in CAMERAS
            }
            asked = [PLAN_WORDS in q.question for q in after.questions]
            assert sum(asked) == (before.action is not None)


def test_adding_questions_twice_adds_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once, twice = root.parent / "once", root.parent / "twice"
    run("add-questions", root, "--version", "v1", "--out", once)
    run("add-questions", once, "--version", "v1", "--out", twice)
    assert "4 keyframes, 0 questions more" in capsys.readouterr().out
    (only,) = load_keyframes(twice, "v1", "val")
    assert only.image_paths["CAM_FRONT"].read_bytes() == b"CAM_FRONT"


def test_set_is_not_written_over_itself(root: Path) -> None:
    with pytest.raises(DataError, match="is the root of the set itself"):
        run("add-questions", root, "--version", "v1", "--out", root.parent / "x" / ".." / "set")


def test_public_commands_need_tables(root: Path) -> None:
    with pytest.raises(DataError, match="has no tables of nuScenes"):
        run(
            *("export", root, "--version", "v1", "--split", "val"),
            *("--out", root.parent / "qa.json", "--senna-compat"),
        )


def test_set_or_split_that_is_not_there_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run("export", root, "--version", "no", "--split", "val", "--out", root.parent / "qa.json")
    with pytest.raises(DataError, match="no such file"):
        run("add-questions", root, "--version", "no", "--out", root.parent / "o")
    assert not (root.parent / "qa.json").exists()
    assert not (root.parent / "o" / "no").exists()
