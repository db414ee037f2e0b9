"""The pipeline's benchmark over real processes: what it plays, what it measures, how it ends."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from fakes import children, wait_until
from shared_engines import write_student

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import open_bag
from clkd_core.data.bags.frames import read_frames as read_bag_frames
from clkd_core.errors import ClkdError, ConfigError, DataError
from clkd_core.metrics.frames import read_frames
from clkd_core.types import CAMERAS
from clkd_ros import middleware
from clkd_ros.bench_pipeline import command, live
from clkd_ros.bench_pipeline.cameras import MadeCameras, describe_bag, make_bag
from clkd_ros.bench_pipeline.job import IDLE_S, LEFT_AT_END, Job, describe_system
from clkd_ros.bench_pipeline.live import run_arrangement
from clkd_ros.bench_pipeline.stages import STAGES, PlayedSets
from clkd_ros.launcher import child_environment
from clkd_ros.live_replay import Views, choose_domain_id, find_views
from clkd_ros.system import SystemSpec

SMALL = MadeCameras(sets=45, hz=10.0, width_px=96, height_px=54, jpeg_quality=80)


@pytest.fixture(scope="module")
def small_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4.5 s of six small views at 10 Hz."""
    return make_bag(SMALL, tmp_path_factory.mktemp("work"))


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A domain of this test's own, and children that find the fakes."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(choose_domain_id()))
    monkeypatch.setenv("PYTHONPATH", str(root / "test"), prepend=os.pathsep)


@pytest.fixture
def nothing_left(small_bag: Path) -> Iterator[None]:
    """Sees that a test leaves no process; what drew the bag may have a helper of its own."""
    before = {process.pid for process in children()}
    yield
    assert [process for process in children() if process.pid not in before] == []


def parse(*words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def a_job(bag: Path, checkpoint: Path, **changes: Any) -> Job:
    """Planner or not follows from the checkpoint; nobody loads it where the nodes are fakes."""
    views = find_views([bag])
    whole: dict[str, Any] = {
        "bag": bag,
        "views": views,
        "sets": describe_bag(bag, views, made=True)[1],
        "checkpoint": checkpoint,
        "device": "cpu",
        "threads": None,
        "seconds": 2.0,
        "warm_up_s": 1.0,
        "rate": 1.0,
    }
    return Job(**{**whole, **changes})


def with_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two nodes with a model run their fakes, each in a process of its own."""
    fakes = {"vlm": "fake_vlm_node", "planner": "fake_planner_node"}

    def described(job: Job, *, composed: bool, folder: Path) -> SystemSpec:
        system = describe_system(job, composed=composed, folder=folder)
        nodes = [replace(node, module=fakes.get(node.name, node.module)) for node in system.nodes]
        return replace(system, nodes=tuple(nodes))

    monkeypatch.setattr(live, "describe_system", described)


def student_folder(folder: Path, *, planner: bool = True) -> Path:
    (folder / "student" / ("planner" if planner else ".")).mkdir(parents=True)
    return folder / "student"


# --- what is played


def test_made_images_have_one_rate_and_no_gap_between_drives(small_bag: Path) -> None:
    assert MadeCameras(sets=161, hz=10.0).world.val_drives == 3
    each = replace(SMALL, sets=20, hz=2.5)  # 20 sets a drive
    assert each.sets_per_drive == 20 and each.stamp_ns(20) - each.stamp_ns(19) == 400_000_000
    described, sets = describe_bag(small_bag, find_views([small_bag]), made=True)
    assert (described.image_sets, described.cameras, described.format) == (45, 6, "JPEG")
    assert (described.width_px, described.height_px) == (96, 54)
    assert described.hz == pytest.approx(10.0) and set(np.diff(sets.stamps_ns)) == {100_000_000}
    assert described.megabytes == pytest.approx(45 * 6 * described.image_kb_mean / 1e3)
    assert "45 sets of 6 JPEGs 96 x 54 at 10 Hz" in described.line


def test_drives_follow_each_other_under_growing_stamps(tmp_path: Path) -> None:
    two = replace(SMALL, sets=12, hz=1.0, width_px=64, height_px=36)
    bag = make_bag(two, tmp_path)
    frames = [entry.frame for entry in read_bag_frames(bag)]
    assert [frame.stamp_ns for frame in frames] == [two.stamp_ns(number) for number in range(12)]
    assert all(len(frame.images) == len(CAMERAS) for frame in frames)
    assert not any(frame.degraded_reasons for frame in frames)  # odometry and command, too
    with open_bag(bag) as reader:
        logged = [log_ns for _, _, log_ns, _ in reader.raw_messages()]
        assert reader.counts[topics.ODOMETRY] == pytest.approx(12 * 50, abs=2)
    assert logged == sorted(logged)


def test_images_are_drawn_once_and_the_same_ones_every_time(tmp_path: Path) -> None:
    few = replace(SMALL, sets=3, width_px=64, height_px=36)
    first, other = make_bag(few, tmp_path / "a"), make_bag(few, tmp_path / "b")
    assert first.name == other.name
    with open_bag(first) as one, open_bag(other) as two:
        assert [*one.raw_messages()] == [*two.raw_messages()]
    before = {file: file.stat().st_mtime_ns for file in first.iterdir()}
    assert make_bag(few, tmp_path / "a") == first
    assert {file: file.stat().st_mtime_ns for file in first.iterdir()} == before
    assert make_bag(replace(few, jpeg_quality=50), tmp_path / "a") != first


def test_window_leaves_out_the_warm_up_and_the_last_sets(small_bag: Path) -> None:
    job = a_job(small_bag, small_bag)
    assert len(job.window) == pytest.approx(20, abs=1)
    assert job.window.start == pytest.approx(10, abs=1)
    assert replace(job, seconds=60.0).window.stop == 45 - LEFT_AT_END
    assert job.idle_s == pytest.approx(IDLE_S + 0.1)
    slow = replace(job, rate=0.01)  # the evaluator must not take 10 s between sets for the end
    assert slow.idle_s == pytest.approx(IDLE_S + 10.0)
    fast = replace(job, rate=2.0, seconds=1.0)
    assert fast.window.start == pytest.approx(20, abs=1) and len(fast.window) > 18


def test_bag_that_is_too_short_is_refused_with_its_length(small_bag: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 camera sets between 4 s of warm-up and 60 s"):
        command._describe_job(parse("--bag", small_bag, "--warm-up", "4"))
    with pytest.raises(DataError, match="does not exist"):
        command.run(parse("--bag", small_bag / "nothing"))


# --- words


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--seconds", "0"), "seconds is 0, expected 1 to 1500"),
        (("--seconds", "nan"), "seconds is nan"),
        (("--rate", "0"), "rate is 0"),
        (("--warm-up", "-1"), "warm-up is -1"),
        (("--camera-hz", "60"), "camera-hz is 60, expected 0.5 to 20"),
        (("--threads", "0"), "threads is 0"),
        (("--offline-frames", "-1"), "offline-frames is -1"),
        (("--device", "tpu"), "device is 'tpu'"),
        (("--bag", "x", "--camera-hz", "5"), "use --rate"),
        (("--topics", "x"), "expected a bag, too"),
        (("--out", "x.json"), "expected a folder"),
        (("--checkpoint", "/nothing/here"), "does not exist"),
    ],
)
def test_words_that_cannot_be_measured_are_refused(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        command.run(parse(*words))


def test_out_that_is_a_file_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="names a file"):
        command.run(parse("--out", tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


# --- which nodes


def test_evaluator_hears_no_labels_so_that_every_set_counts(tmp_path: Path) -> None:
    sets = PlayedSets(stamps_ns=[1], offsets_s=[0.0])
    job = Job(
        bag=tmp_path,
        views=Views(("CAM_FRONT",)),
        sets=sets,
        checkpoint=student_folder(tmp_path),
        device="cpu",
        threads=2,
        seconds=1.0,
        warm_up_s=0.0,
        rate=1.0,
    )
    system = describe_system(job, composed=True, folder=tmp_path / "out")
    assert [process.name for process in system.processes] == ["dual_system", "evaluator"]
    by_name = {node.name: node for node in system.nodes}
    assert by_name["evaluator"].remappings["~/input/label"] != topics.TRUE_META_ACTION
    assert by_name["evaluator"].remappings["~/input/meta_action"] == "/vlm/meta_action"
    assert by_name["vlm"].parameters["threads"] == by_name["planner"].parameters["threads"] == 2
    assert job.engine_threads == 2 and replace(job, threads=None).engine_threads == 1
    apart = describe_system(job, composed=False, folder=tmp_path / "out")
    assert [process.name for process in apart.processes] == ["vlm", "planner", "evaluator"]
    (job.checkpoint / "planner").rmdir()
    alone = describe_system(job, composed=True, folder=tmp_path / "out")
    assert [process.name for process in alone.processes] == ["vlm", "evaluator"]
    assert job.name(composed=True) == job.name(composed=False) == "alone"


# --- live


def test_every_set_of_the_steady_part_is_measured_through_processes(
    small_bag: Path,
    tmp_path: Path,
    own_domain: None,
    nothing_left: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_fakes(monkeypatch)
    monkeypatch.setattr("clkd_ros.bench_pipeline.job.IDLE_S", 0.6)
    job = a_job(small_bag, student_folder(tmp_path), warm_up_s=0.7)
    found = run_arrangement(job, composed=False, folder=tmp_path)
    assert found.frames == len(job.window) == found.decided == found.planned
    assert (found.repeated, found.name) == (0, "separate")
    for spread in (found.response, found.node_response, found.plan_response):
        assert 0 < spread.p50_ms <= spread.p95_ms <= spread.p99_ms < math.inf
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.plan_inference.p50_ms == found.plan_inference.p99_ms == 1.0  # as the fake says
    assert found.stages["inference"].p50_ms < found.response.p50_ms
    names = [cost.name for cost in found.processes]
    assert names == ["player", "vlm", "planner", "evaluator", "watch", "bench"]
    assert all(cost.resident_mib > 10 for cost in found.processes)
    assert 0 < found.nodes_cpu_ms_per_frame < 200
    assert 0 <= found.others_cpu_frac <= 1
    assert set(found.dropped) == {"/vlm", "/planner"}
    rows = read_frames(tmp_path / "separate" / "frames.csv")
    assert len(rows) >= job.window.stop  # no label, so every camera set has a row


def test_node_that_dies_while_the_bag_is_played_is_named(
    small_bag: Path,
    tmp_path: Path,
    own_domain: None,
    nothing_left: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_fakes(monkeypatch)
    job = a_job(small_bag, student_folder(tmp_path))

    def kill_vlm() -> None:
        wait_until(lambda: any("play" in words for words in command_lines()), "player", 30.0)
        for process in children():
            if "fake_vlm_node" in process.cmdline():
                process.kill()

    (killer := threading.Thread(target=kill_vlm)).start()
    with pytest.raises(ClkdError, match="'vlm' ended with exit code -9"):
        run_arrangement(job, composed=False, folder=tmp_path)
    killer.join()


def command_lines() -> list[list[str]]:
    found = []
    for process in children():
        try:
            found.append(process.cmdline())
        except psutil.NoSuchProcess:
            continue
    return found


def test_bag_player_that_fails_is_an_error(
    small_bag: Path,
    tmp_path: Path,
    own_domain: None,
    nothing_left: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_fakes(monkeypatch)
    job = a_job(small_bag, student_folder(tmp_path))
    with pytest.raises(ClkdError, match="bag player ended with exit code 2"):
        run_arrangement(
            replace(job, bag=tmp_path / "no-bag"), composed=False, folder=tmp_path / "out"
        )


@pytest.mark.parametrize(
    "processes", [2, pytest.param(4, marks=pytest.mark.slow)], ids=["starting", "playing"]
)
def test_ctrl_c_ends_all_processes_and_leaves_nothing(
    processes: int, small_bag: Path, tmp_path: Path, own_domain: None, nothing_left: None
) -> None:
    script = (
        "import sys, argparse\n"
        "from clkd_core.cli import run_guarded\n"
        "from clkd_ros.bench_pipeline import command as bench\n"
        "parser = argparse.ArgumentParser(); bench.add_arguments(parser)\n"
        "sys.exit(run_guarded(lambda: bench.run(parser.parse_args())))\n"
    )
    words = [sys.executable, "-c", script, "--bag", str(small_bag), "--out", str(tmp_path / "o")]
    started = subprocess.Popen(
        words,
        env={**child_environment(), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    whole = psutil.Process(started.pid)
    wait_until(lambda: len(whole.children()) == processes, f"{processes} processes", 60.0)
    below = whole.children(recursive=True)
    start_s = time.monotonic()
    started.send_signal(signal.SIGINT)
    said, complained = started.communicate(timeout=20.0)
    assert (started.returncode, said) == (130, "")
    ours = [line for line in complained.splitlines() if line[:1] != "["]  # nodes still import
    assert not any("Traceback" in line for line in ours)
    assert time.monotonic() - start_s < 5.0
    wait_until(lambda: not any(map(runs, below)), "no process is left", 1.0)
    assert [*tmp_path.iterdir()] == []


def runs(process: psutil.Process) -> bool:
    """False for a zombie, too: it has ended, and only init has not noticed yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


# --- the whole command


@pytest.mark.slow
def test_short_run_of_the_command_writes_figures_picture_and_tables(
    small_bag: Path,
    tmp_path: Path,
    own_domain: None,
    nothing_left: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_student(tmp_path / "student")
    words = ("--bag", small_bag, "--checkpoint", tmp_path / "student", "--device", "cpu")
    short = ("--seconds", "2", "--warm-up", "1", "--offline-frames", "8")
    before = dict(os.environ)
    assert command.run(parse(*words, *short, "--out", tmp_path / "out")) == 0
    assert dict(os.environ) == before
    written = json.loads((tmp_path / "out" / command.JSON_FILE).read_text())
    assert [one["name"] for one in written["arrangements"]] == ["composed", "separate"]
    for one in written["arrangements"]:
        assert one["decided"] == one["planned"] == one["frames"] > 15
        times = [one["response"], one["node_response"], one["plan_response"]]
        assert all(0 < each["p50_ms"] <= each["p95_ms"] <= each["p99_ms"] for each in times)
        parts = [one["stages"][stage]["mean_ms"] for stage in STAGES]
        assert sum(parts) == pytest.approx(one["response"]["mean_ms"])
        assert sum(one["shares"].values()) == pytest.approx(1.0)
        assert len(read_frames(tmp_path / "out" / f"{one['name']}-frames.csv")) >= one["frames"]
    assert written["middleware"] == middleware.which() and "cores" in written["device"]
    assert written["offline"]["frames"] == 8 and written["bag"]["image_sets"] == 45
    assert {goal["what"].split(",")[0] for goal in written["goals"]} > {"composed", "separate"}
    picture = cv2.imread(str(tmp_path / "out" / command.PICTURE_FILE))
    assert picture is not None and picture.shape[1] > 600
    said = capfd.readouterr().out
    assert "= response" in said and "CPU of the nodes a set" in said and "wrote" in said
