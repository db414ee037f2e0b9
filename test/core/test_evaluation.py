"""clkd evaluate on a set: the same numbers whoever works, and everything that a report needs."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluations import TABLES, evaluate, numbers
from tiny_vlm import SQUARES_VERSION, tiny_model, write_squares

from clkd_core.data.keyframes import Keyframe, QuestionAnswer
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.evaluation.config import JudgeConfig, checkpoint_identity
from clkd_core.evaluation.inputs import open_set
from clkd_core.evaluation.judging import work
from clkd_core.evaluation.workers import choose
from clkd_core.metrics.baselines.ego_status import fit_ego_status_baseline
from clkd_core.metrics.frames import Outcome, read_frames
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.report.scoring.answers import DECISION, read_answers
from clkd_core.types import META_ACTIONS

NASTY = "<script>alert('x')</script> & what is \"this\"?"


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without it: half a minute a test is saved."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("squares") / "set"
    write_squares(root, train=6, val=10)
    return root


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "student"
    save_checkpoint(folder, tiny_model())
    return folder


def set_with(
    squares: Path, root: Path, change: Callable[[Keyframe], Keyframe | None], split: str = "val"
) -> Path:
    """A copy of the set whose keyframes were changed, or left out where None comes."""
    shutil.copytree(squares, root)
    kept = [k for old in load_keyframes(root, SQUARES_VERSION, split) if (k := change(old))]
    records = [keyframe_to_json(keyframe, split=split, root=root) for keyframe in kept]
    write_sidecar(root / SQUARES_VERSION / SIDECAR, records)
    return root


@pytest.fixture(scope="module")
def run(squares: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One evaluation that tests look at."""
    out = tmp_path_factory.mktemp("run") / "run"
    before = os.environ["PATH"]
    os.environ["PATH"] = str(out)  # no_java is for single tests
    try:
        evaluate(out, student, "--data", squares, "--limit-questions", 2)
    finally:
        os.environ["PATH"] = before
    return out


def test_the_same_seed_gives_the_same_numbers(squares: Path, student: Path, run: Path) -> None:
    again = run.parent / "again"
    metrics = evaluate(again, student, "--data", squares, "--limit-questions", 2)
    assert numbers(metrics) == numbers(json.loads((run / "metrics.json").read_text()))
    for name in TABLES:
        assert (run / name).read_bytes() == (again / name).read_bytes(), name


def test_every_baseline_stands_beside_the_student(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["actions"]) == {"student", "blank", "shuffled", "ego_status", "majority"}
    assert all(cases["all"]["frames"] == 10 for cases in metrics["actions"].values())
    assert metrics["majority_of"] == "the training labels"
    assert "fitted on 6 training keyframes" in " ".join(metrics["provenance"]["notes"])


def test_what_no_clock_measured_is_a_word_and_no_number(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["rsdr"].values()) == set(metrics["latency"].values()) == {"not measured"}
    assert metrics["frames"]["late"] == 0
    assert {row.outcome for row in read_frames(run / "frames.csv")} == {Outcome.ANSWERED}


def test_time_is_measured_when_asked_for(squares: Path, student: Path, tmp_path: Path) -> None:
    metrics = evaluate(tmp_path / "run", student, "--data", squares, "--time")
    assert metrics["latency"]["inference_ms"]["frames"] == 10
    assert 0 <= metrics["rsdr"]["inference_ms"]["student"]["all"]["80"]["value"] <= 1


def test_answers_are_written_with_their_questions_and_scored_by_kind(run: Path) -> None:
    answers = read_answers(run / "answers.jsonl")
    assert [answer.kind for answer in answers[:3]] == [DECISION, "perception", "planning"]
    assert len(answers) == 3 * 10
    assert answers[0].reference in {action.text for action in META_ACTIONS}
    assert answers[1].question == "Is the light red?" and answers[1].reference == "No."
    assert all(answer.answer is not None for answer in answers)
    texts = json.loads((run / "metrics.json").read_text())["texts"]
    assert set(texts) == {"all", "perception", "planning"}
    assert texts["all"]["all"]["questions"] == 20 and texts["perception"]["corner"]["questions"]
    assert "Java" in texts["all"]["all"]["published"]


def test_written_decisions_stand_beside_the_public_scripts_counting(run: Path) -> None:
    written = json.loads((run / "metrics.json").read_text())["generated_decisions"]
    assert written["senna_compat"]["frames"] == written["ours"]["frames"] == 10
    assert 0 <= written["agreement_with_one_pass"]["value"] <= 1
    listed = written["otherwise"]
    assert len(listed) == round(10 * (1 - written["agreement_with_one_pass"]["value"]))
    assert all(0 < one["decision_probability"] <= 1 for one in listed)
    assert any("Macro-F1" in reason for reason in written["difference"])


def test_interrupted_run_goes_on_where_it_was(
    squares: Path, student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, perform, done = tmp_path / "run", choose.perform, []

    def interrupted(task: work.Work, config: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task)
        return perform(task, config)

    monkeypatch.setattr(choose, "perform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(out, student, "--data", squares)
    assert len(list((out / "tasks").iterdir())) == 2
    assert not (out / "metrics.json").exists()
    counted = lambda task, config: done.append(task) or perform(task, config)  # noqa: E731
    monkeypatch.setattr(choose, "perform", counted)
    resumed = evaluate(out, student, "--data", squares)
    assert len(done) == len(list((out / "tasks").iterdir())) == 3
    damaged = next((out / "tasks").iterdir())
    damaged.write_text(damaged.read_text()[:-20])
    (out / "tasks" / "of-another-set.json").write_text("{}")
    assert numbers(evaluate(out, student, "--data", squares)) == numbers(resumed)
    assert len(done) == 4 and len(list((out / "tasks").iterdir())) == 3


def config_of(student: Path, **changes: Any) -> JudgeConfig:
    identity = checkpoint_identity(student, planner=False)
    return JudgeConfig(**{"checkpoint": student, "identity": identity, **changes})


def fingerprints(root: Path, config: JudgeConfig) -> list[str]:
    tasks = open_set(root, None, "val", config, skip_missing=False).tasks
    return [task.fingerprint for task in tasks]


def test_a_task_is_another_when_its_input_or_an_option_changes(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(squares, root)
    before = fingerprints(root, config_of(student))
    assert before == fingerprints(root, config_of(student)) and len(set(before)) == 3
    for change in (
        {"seed": 1}, {"limit_questions": 1}, {"max_new_tokens": 5}, {"threads": 2},
        {"planner": True}, {"timed": True}, {"device": "cuda"}, {"identity": "another"},
    ):  # fmt: skip
        assert not set(before) & set(fingerprints(root, config_of(student, **change))), change
    image = load_keyframes(root, SQUARES_VERSION, "val")[0].image_paths["CAM_FRONT"]
    assert cv2.imwrite(str(image), np.full((36, 64, 3), 7, np.uint8))
    changed = [a != b for a, b in zip(before, fingerprints(root, config_of(student)), strict=True)]
    assert changed[0] and any(changed[1:]) and not all(changed)  # its own, and who is shown it
    sidecar = root / SQUARES_VERSION / SIDECAR
    sidecar.write_text(sidecar.read_text().replace("token-015", "token-099"))
    assert fingerprints(root, config_of(student))[2] != before[2]


def test_another_checkpoint_at_the_same_place_is_judged_anew(
    squares: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for seed in (0, 1):
        save_checkpoint(tmp_path / "student", tiny_model(seed=seed))
        words = ("--data", squares, "--limit-questions", 0)
        evaluate(tmp_path / f"run{seed}", tmp_path / "student", *words)
    first, other = (read_frames(tmp_path / f"run{seed}" / "frames.csv") for seed in (0, 1))
    assert first[0].probabilities != other[0].probabilities


def test_questions_are_limited_the_same_way_every_time(squares: Path, student: Path) -> None:
    keyframes = load_keyframes(squares, SQUARES_VERSION, "val")
    for limit, count in ((None, 2), (5, 2), (1, 1), (0, 0)):
        config = config_of(student, limit_questions=limit)
        chosen = [work._choose_questions(keyframe, config) for keyframe in keyframes]
        assert [len(questions) for questions in chosen] == [count] * 10
        assert chosen == [work._choose_questions(keyframe, config) for keyframe in keyframes]
    one = config_of(student, limit_questions=1)
    kinds = {work._choose_questions(keyframe, one)[0].kind for keyframe in keyframes}
    assert kinds == {"perception", "planning"}


def test_without_a_question_there_are_words(squares: Path, student: Path, tmp_path: Path) -> None:
    metrics = evaluate(tmp_path / "run", student, "--data", squares, "--limit-questions", 0)
    assert metrics["texts"] == "no questions"


def test_question_that_holds_a_script_stays_text(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    asked = (QuestionAnswer(kind=NASTY, question=NASTY, answer=NASTY + " | `x`"),)
    root = set_with(squares, tmp_path / "set", lambda k: replace(k, questions=asked, scene=NASTY))
    evaluate(tmp_path / "run", student, "--data", root)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert" in page
    table = (tmp_path / "run" / "report.md").read_text()
    assert "<script" not in table and "&lt;script&gt;" in table


def test_set_without_labels_has_text_scores_and_says_not_labelled(
    squares: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def strip(keyframe: Keyframe) -> Keyframe:
        return replace(keyframe, action=None, future=None, ego=None, command=None)

    root = set_with(squares, tmp_path / "set", strip)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "frames_blank.csv").write_text("of an earlier run")
    metrics = evaluate(tmp_path / "run", student, "--data", root)
    assert metrics["actions"] == metrics["generated_decisions"] == "not labelled"
    assert metrics["texts"]["all"]["all"]["questions"] == 10
    assert not list((tmp_path / "run").glob("frames_*.csv"))
    assert "accuracy and macro-F1: not labelled" in capsys.readouterr().out


def test_one_scene_and_one_keyframe_are_enough(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    first = load_keyframes(squares, SQUARES_VERSION, "val")[0].sample_token
    scene = set_with(squares, tmp_path / "a", lambda k: replace(k, scene="the only one"))
    alone = set_with(squares, tmp_path / "b", lambda k: k if k.sample_token == first else None)
    assert "shuffled" in evaluate(tmp_path / "run-a", student, "--data", scene)["actions"]
    metrics = evaluate(tmp_path / "run-b", student, "--data", alone)
    assert "shuffled" not in metrics["actions"] and metrics["frames"]["answered"] == 1
    assert "Not run: same student, another scene" in (tmp_path / "run-b/report.md").read_text()


def test_set_without_the_split_is_refused(squares: Path, student: Path, tmp_path: Path) -> None:
    root = set_with(squares, tmp_path / "set", lambda k: k, split="train")
    with pytest.raises(DataError, match="no keyframe of split 'val'"):
        evaluate(tmp_path / "run", student, "--data", root)
    with pytest.raises(DataError, match="expected a set of keyframes"):
        evaluate(tmp_path / "run", student, "--data", tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


def test_set_whose_images_are_all_damaged_is_reported_and_nothing_is_answered(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    root = set_with(squares, tmp_path / "set", lambda k: k)
    for image in root.glob("*.png"):
        image.write_bytes(b"no image at all")
    metrics = evaluate(tmp_path / "run", student, "--data", root)
    assert metrics["frames"]["dropped"] == 10 and metrics["frames"]["answered"] == 0
    assert metrics["actions"]["student"]["all"]["accuracy"]["value"] == 0.0
    assert metrics["texts"]["all"]["all"]["unanswered"] == 10
    assert "no usable image" in " ".join(metrics["provenance"]["notes"])


def test_missing_images_are_named_and_counted_and_left_out_on_request(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    root = set_with(squares, tmp_path / "set", lambda k: k)
    keyframes = load_keyframes(root, SQUARES_VERSION, "val")
    for path in keyframes[0].image_paths.values():
        path.unlink()
    keyframes[1].image_paths["CAM_BACK"].write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 60 image files are missing or empty: .*CAM_FRONT"):
        evaluate(tmp_path / "run", student, "--data", root)
    metrics = evaluate(tmp_path / "run", student, "--data", root, "--skip-missing")
    assert metrics["frames"]["frames"] == 9 and metrics["frames"]["degraded"] == 1
    assert "7 of 60 image files" in " ".join(metrics["provenance"]["notes"])


def test_the_checkpoints_own_baseline_is_used_where_it_has_one(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "student"
    shutil.copytree(student, checkpoint)
    baseline = fit_ego_status_baseline([None], [None], [META_ACTIONS[9]], seed=0)
    baseline.save(checkpoint / "ego_status")
    metrics = evaluate(tmp_path / "run", checkpoint, "--data", squares)
    assert metrics["majority_answer"] == META_ACTIONS[9].text
    assert not any("fitted" in note for note in metrics["provenance"]["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either bags or --data"),
        (["bag", "--data", "set"], "either bags or --data"),
        (["--data", "set", "--workers", "0"], "--workers is 0"),
        (["--data", "set", "--time", "--workers", "2"], "--time needs"),
        (["--data", "set", "--time", "--engine", "ray"], "--time needs"),
        (["--data", "set", "--topics", "x.yaml"], "--topics is for bags"),
        (["bag", "--skip-missing"], "--skip-missing is for --data"),
        (["--data", "set", "--seed", "-1"], "seed is -1"),
        (["--data", "set", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--data", "set", "--device", "tpu"], "device is 'tpu'"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    tmp_path: Path, student: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(tmp_path / "run", student, *words)


def test_missing_checkpoint_or_planner_is_found_before_anything_runs(
    squares: Path, student: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="expected the folder of a checkpoint"):
        evaluate(tmp_path / "run", tmp_path, "--data", squares)
    with pytest.raises(ConfigError, match="train-planner"):
        evaluate(tmp_path / "run", student, "--data", squares, "--planner")
    assert not (tmp_path / "run").exists()


def test_several_versions_need_a_name(squares: Path, student: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(squares, root)
    shutil.copytree(root / SQUARES_VERSION, root / "v2")
    with pytest.raises(ConfigError, match="name one with --version"):
        evaluate(tmp_path / "run", student, "--data", root)
    evaluate(tmp_path / "run", student, "--data", root, "--version", "v2")
