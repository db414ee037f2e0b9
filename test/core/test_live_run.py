"""What a live run leaves in its folder, when, and what is added once its bag is known."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, wait_until
from report_rows import make_labelled_rows, make_row, with_plans
from shared_engines import write_student
from tiny_bags import scene_start_ns, write_scene

from clkd_core.cli import main
from clkd_core.data.bags.frames import load_labels
from clkd_core.data.bags.messages import Label
from clkd_core.errors import DataError
from clkd_core.metrics.frames import FrameRow, Outcome, read_frames, write_frames
from clkd_core.report.provenance import read_provenance
from clkd_core.runtime import live_run
from clkd_core.runtime.bag_run import replay_bag
from clkd_core.runtime.live_run import ADDED_LATER, UNHEARD, LiveRun, account_for, recount
from clkd_core.runtime.replay import finish_run
from clkd_core.types import META_ACTIONS, Trajectory

FUTURE = Trajectory(xy_m=np.ones((6, 2), np.float32))
NODES = {"/vlm": {"answered": "9", "device": "CPU of a node", "dropped: unusable image": "3"}}


def label_at(stamp_ns: int) -> Label:
    return Label(
        stamp_ns=stamp_ns, scene="s", case_name="fog", action=META_ACTIONS[6], future=FUTURE
    )


def open_run(folder: Path, labels: list[Label] | None = None) -> LiveRun:
    bags = [Path("a"), Path("b")]
    return LiveRun(folder, checkpoint="c", bags=bags, labels=labels or [], deadline_ms=80.0)


def finish(run: LiveRun, rows: list[FrameRow]) -> None:
    run.write_pages(
        run.write_numbers(rows, nodes=NODES, counters={"label messages not usable": 2})
    )


def test_finished_run_has_table_numbers_and_page_that_say_what_is_not_there(
    tmp_path: Path,
) -> None:
    finish(open_run(tmp_path), with_plans(make_labelled_rows()))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    page = (tmp_path / "report.html").read_text()
    assert len(read_frames(tmp_path / "frames.csv")) == 10
    assert metrics["frames"]["answered"] == 8
    for name in ("blank", "shuffled", "ego_status", "direct"):
        assert metrics["not_built"][name] == f"not built: {ADDED_LATER}"
    assert metrics["live_vs_direct"] == f"not built: {ADDED_LATER}"
    assert page.count(f"not built: {ADDED_LATER}") == 4
    assert "drops: unusable image 3" in page and "label messages not usable" in page
    provenance = read_provenance(tmp_path)
    assert (provenance.bag, provenance.checkpoint) == ("a, b", "c")
    assert provenance.device == "CPU of a node"
    assert provenance.counters["late"] == 2 and provenance.nodes == NODES


def test_numbers_are_there_before_the_page(tmp_path: Path) -> None:
    open_run(tmp_path).write_numbers(make_labelled_rows(), nodes={}, counters={})
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"frames.csv", "provenance.json", "metrics.json"}
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()


def test_a_killed_run_has_lost_no_more_than_the_last_seconds(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.save_now_and_then(100.0)
    for row in make_labelled_rows():
        run.note(row)
    run.save_now_and_then(100.0 + live_run.SAVE_EVERY_S - 0.1)
    run.save_now_and_then(100.0 + live_run.SAVE_EVERY_S)
    wait_until(lambda: (tmp_path / "frames.csv").exists(), "the growing table")
    assert read_frames(tmp_path / "frames.csv") == make_labelled_rows()
    assert main(["report", str(tmp_path)]) == 0  # nobody else touched the folder
    run.close()


def test_growing_table_forgets_unlabelled_rows_once_a_keyframe_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_run, "UNLABELLED_KEPT", 3)
    run = open_run(tmp_path)
    for number in range(5):
        run.note(make_row(number, None))
    assert [line.split(",")[2] for line in run._lines] == [
        str(number * 500_000_000) for number in (2, 3, 4)
    ]
    run.note(make_row(9))
    assert len(run._lines) == 1
    run.close()


def test_what_an_older_run_left_goes_with_the_first_row_and_not_before(tmp_path: Path) -> None:
    finish(open_run(tmp_path), make_labelled_rows())
    write_frames(tmp_path / "frames_blank.csv", make_labelled_rows())
    (tmp_path / "gallery").mkdir()
    run = open_run(tmp_path)
    run.save_now_and_then(0.0)
    run.save_now_and_then(99.0)  # not one row yet
    assert (tmp_path / "report.html").exists()
    run.write_numbers(make_labelled_rows()[:3], nodes={}, counters={})
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"frames.csv", "provenance.json", "metrics.json"}


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.note(make_row(1))
    run.save_now_and_then(0.0)
    run.write_numbers(make_labelled_rows(), nodes={}, counters={})
    run.save_now_and_then(99.0)
    assert len(read_frames(tmp_path / "frames.csv")) == 10
    assert "frames.csv" not in {thread.name for thread in threading.enumerate()}


def test_account_for_adds_what_the_evaluator_never_heard_as_dropped() -> None:
    labels = [label_at(stamp) for stamp in (30, 10, 20)]
    heard = FrameRow(scene="s", case_name="fog", stamp_ns=20, label=META_ACTIONS[6])
    unlabelled = FrameRow(scene="", case_name="", stamp_ns=99)
    rows = account_for([heard, unlabelled], labels)
    assert [row.stamp_ns for row in rows] == [10, 20, 30]
    assert [row.reason == UNHEARD for row in rows] == [True, False, True]
    assert rows[0].truth is FUTURE and rows[0].outcome is Outcome.DROPPED


def test_account_for_keeps_every_row_where_nothing_is_labelled() -> None:
    rows = [FrameRow(scene="", case_name="", stamp_ns=stamp) for stamp in (2, 1)]
    assert [row.stamp_ns for row in account_for(rows, [])] == [1, 2]


def test_keyframes_of_other_bags_are_refused_and_cost_a_run_no_row(tmp_path: Path) -> None:
    rows = make_labelled_rows()
    with pytest.raises(DataError, match="9 of 10 labelled keyframes are in none of the bags"):
        account_for(rows, [label_at(rows[3].stamp_ns)])
    finish(open_run(tmp_path, [label_at(7)]), rows)
    assert len(read_frames(tmp_path / "frames.csv")) == 10
    assert "in none of the bags" in read_provenance(tmp_path).notes[-1]


def test_recount_replaces_what_was_said_of_the_rows_and_nothing_else(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    before = make_labelled_rows()
    run.write_numbers(before, nodes={}, counters={"stops planned without a frame": 4})
    said = replace(read_provenance(tmp_path), notes=(*read_provenance(tmp_path).notes, "mine"))
    after = recount(said, before, [make_row(number, answer=None) for number in range(3)])
    assert after.counters == {"dropped": 3, "stops planned without a frame": 4}
    assert after.notes == ("3 of 3 frames were not answered", "mine")


def live_rows(bag: Path) -> list[FrameRow]:
    """As an evaluator would have seen a bag of three keyframes, but for the last of them."""
    return [
        replace(row, response_ms=20.0, outcome=Outcome.ANSWERED)
        for row in replay_bag(bag, FakeEngine())
        if row.label
    ][:-1]


def test_run_without_its_bag_is_completed_when_the_bag_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, run = write_scene(tmp_path / "bag", 1), tmp_path / "run"
    finish(open_run(run), live_rows(bag))
    for _ in range(2):  # again is the same
        finish_run(run, [bag], FakeEngine(), tmp_path)
        rows = read_frames(run / "frames.csv")
        assert [row.stamp_ns for row in rows] == [each.stamp_ns for each in load_labels(bag)]
        assert [row.outcome for row in rows[-2:]] == [Outcome.ANSWERED, Outcome.DROPPED]
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["live_vs_direct"]["same"] == len(rows) - 1
        assert metrics["live_vs_direct"]["by_outcome"] == {"dropped": 1}
        assert metrics["live_vs_direct"]["unexplained"] == []
        assert set(metrics["actions"]) == {"student", "majority", "blank", "shuffled"}
        assert metrics["not_built"] == {"ego_status": f"not built: {tmp_path} has no ego_status"}
        provenance = read_provenance(run)
        assert provenance.bag == str(bag)
        assert provenance.notes.count(f"1 of {len(rows)} frames were not answered") == 1
    said = f"live answers as direct in {len(rows) - 1} of {len(rows)} keyframes; 1 dropped"
    assert said in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert said in page and UNHEARD in page


def test_unexplained_difference_is_listed_by_name(tmp_path: Path) -> None:
    bag, run = write_scene(tmp_path / "bag", 1), tmp_path / "run"
    finish(open_run(run), live_rows(bag))
    finish_run(run, [bag], FakeEngine(META_ACTIONS[7]), tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    odd = metrics["live_vs_direct"]["unexplained"]
    assert [one["stamp_ns"] for one in odd] == [row.stamp_ns for row in live_rows(bag)]
    assert odd[0] | {"stamp_ns": 0, "scene": ""} == {
        "stamp_ns": 0, "scene": "", "live": META_ACTIONS[0].text, "direct": META_ACTIONS[7].text,
        "outcome": "answered", "explanation": "",
    }  # fmt: skip
    assert "unexplained" in (run / "report.html").read_text()
    assert str(scene_start_ns(1)) in (run / "report.md").read_text()


def test_clkd_report_shows_a_run_its_bag_with_the_real_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, run, student = write_scene(tmp_path / "bag", 1), tmp_path / "run", tmp_path / "student"
    write_student(student)
    finish(open_run(run), live_rows(bag))
    words = ["report", str(run), "--bag", str(bag), "--checkpoint", str(student)]
    assert main([*words, "--device", "cpu"]) == 0
    assert "live answers as direct in" in capsys.readouterr().out
    assert (run / "frames_direct.csv").is_file() and (run / "gallery").is_dir()
    assert "not built: " in (run / "report.md").read_text()  # the tiny student has no ego_status


def test_bag_and_checkpoint_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(open_run(tmp_path), make_labelled_rows())
    assert main(["report", str(tmp_path), "--bag", str(tmp_path)]) == 2
    assert "--bag and --checkpoint together" in capsys.readouterr().err


def test_run_of_another_student_is_refused(tmp_path: Path) -> None:
    bag, run = write_scene(tmp_path / "bag", 1), tmp_path / "run"
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    made = LiveRun(run, checkpoint=str(tmp_path / "mine"), bags=[], labels=[], deadline_ms=80.0)
    finish(made, live_rows(bag))
    with pytest.raises(DataError, match=r"was answered by .*mine, expected that student"):
        finish_run(run, [bag], FakeEngine(), tmp_path / "other")
