"""clkd evaluate BAG...: every bag a task, the same answers as a replay gives."""

from pathlib import Path

import pytest
from evaluations import evaluate
from tiny_bags import scene_start_ns, write_scene
from tiny_vlm import tiny_model

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import write_bag
from clkd_core.data.bags.messages import Pose, image_to_msg, odometry_to_msg
from clkd_core.errors import DataError
from clkd_core.evaluation.config import JudgeConfig, checkpoint_identity
from clkd_core.evaluation.inputs import open_bags
from clkd_core.metrics.frames import read_frames
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.report.scoring.answers import DECISION, read_answers
from clkd_core.runtime.bag_run import replay_bag
from clkd_core.runtime.engine import Engine
from clkd_core.types import CameraImage, EgoState


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without it: half a minute a test is saved."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "student"
    save_checkpoint(folder, tiny_model())
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for number in (1, 2, 3):
        write_scene(folder / f"bag{number}", number)
    return folder


def test_bags_are_answered_as_a_replay_does_and_every_baseline_is_there(
    bags: Path, student: Path, tmp_path: Path
) -> None:
    metrics = evaluate(tmp_path / "run", student, bags)
    assert set(metrics["actions"]) == {"student", "blank", "shuffled", "majority"}
    assert metrics["frames"]["labelled"] == metrics["frames"]["answered"] == 9
    assert metrics["texts"] == "no questions"
    assert metrics["collision"]["constant_velocity"] == "not measured"
    assert "no row for ego status only" in " ".join(metrics["provenance"]["notes"])
    engine = Engine.from_checkpoint(student, device="cpu", threads=1)
    replayed = [row for n in (1, 2, 3) for row in replay_bag(bags / f"bag{n}", engine)]
    rows = read_frames(tmp_path / "run" / "frames.csv")
    assert [row.answer for row in rows] == [row.answer for row in replayed]
    assert [row.stamp_ns for row in rows] == [row.stamp_ns for row in replayed]


def test_the_decision_is_written_in_words_for_bags_too(
    bags: Path, student: Path, tmp_path: Path
) -> None:
    metrics = evaluate(tmp_path / "run", student, bags / "bag1", bags / "bag2")
    answers = read_answers(tmp_path / "run" / "answers.jsonl")
    assert {answer.kind for answer in answers} == {DECISION} and len(answers) == 6
    assert answers[0].sample_token == str(scene_start_ns(1))
    assert metrics["generated_decisions"]["ours"]["frames"] == 6


def test_unlabelled_bag_is_answered_and_said_to_be_so(student: Path, tmp_path: Path) -> None:
    bag = write_scene(tmp_path / "bag", 4, labelled=False)
    metrics = evaluate(tmp_path / "run", student, bag)
    assert metrics["actions"] == "not labelled" and metrics["frames"]["answered"] == 3
    assert not list((tmp_path / "run").glob("frames_*.csv"))


def test_labelled_and_unlabelled_bags_go_together(
    bags: Path, student: Path, tmp_path: Path
) -> None:
    plain = write_scene(tmp_path / "plain", 5, labelled=False)
    metrics = evaluate(tmp_path / "run", student, bags / "bag1", plain, bags / "bag2")
    assert metrics["frames"]["labelled"] == 6
    assert metrics["actions"]["shuffled"]["all"]["frames"] == 6
    assert len(read_frames(tmp_path / "run" / "frames.csv")) == 9


def test_bag_given_twice_is_one_task(bags: Path, student: Path, tmp_path: Path) -> None:
    metrics = evaluate(tmp_path / "run", student, bags / "bag1", bags)
    assert metrics["frames"]["labelled"] == 9


def test_wrong_bag_is_named_before_anything_runs(
    bags: Path, student: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no-bag does not exist"):
        evaluate(tmp_path / "run", student, bags, tmp_path / "no-bag")
    assert not (tmp_path / "run").exists()


def test_bag_of_somebody_else_is_judged_through_a_mapping(student: Path, tmp_path: Path) -> None:
    from fakes import jpeg_bytes

    with write_bag(tmp_path / "bag") as bag:
        for now in range(10**9, 10**9 + 4 * 10**8, 10**8):
            msg = image_to_msg("CAM_FRONT", CameraImage(stamp_ns=now, encoded=jpeg_bytes()))
            bag.write("/theirs/front", topics.COMPRESSED_IMAGE, now, msg)
            ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=5.0), Pose())
            bag.write("/theirs/odom", topics.ODOMETRY_TYPE, now, ego)
    mapping = tmp_path / "topics.yaml"
    mapping.write_text("images: {CAM_FRONT: /theirs/front}\nodometry: /theirs/odom\n")
    evaluate(tmp_path / "run", student, tmp_path / "bag", "--topics", mapping)
    rows = read_frames(tmp_path / "run" / "frames.csv")
    assert len(rows) == 4 and {row.speed_mps for row in rows} == {5.0}


def test_changed_bag_is_another_task_and_so_is_who_is_shown_it(
    student: Path, tmp_path: Path
) -> None:
    paths = [write_scene(tmp_path / f"bag{number}", number) for number in range(1, 7)]
    config = JudgeConfig(checkpoint=student, identity=checkpoint_identity(student, planner=False))
    before = [task.fingerprint for task in open_bags(paths, None, config).tasks]
    assert before == [task.fingerprint for task in open_bags(paths, None, config).tasks]
    write_scene(paths[0], 9)
    after = [task.fingerprint for task in open_bags(paths, None, config).tasks]
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed[0] and any(changed[1:]) and not all(changed)
