"""clkd_core.runtime.replay, bag_run and comparisons: from a bag to rows and a report."""

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeEngine, FakePlanner, jpeg_bytes
from shared_engines import write_student
from tiny_bags import scene_start_ns, write_scene

from clkd_core.cli import main
from clkd_core.data.bags import topics
from clkd_core.data.bags.files import write_bag
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    future_to_msg,
    image_to_msg,
    label_to_msg,
    odometry_to_msg,
    route_command_to_msg,
)
from clkd_core.errors import ConfigError, DataError, FrameError
from clkd_core.metrics.baselines.ego_status import fit_ego_status_baseline
from clkd_core.metrics.frames import FrameRow, Outcome, read_frames, write_frames
from clkd_core.runtime import replay
from clkd_core.runtime.bag_run import ReplayConfig, replay_bag
from clkd_core.runtime.comparisons import write_comparisons
from clkd_core.runtime.shuffled_bags import KeptFrames, answer_shuffled, choose_bag_sources
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    Decision,
    EgoState,
    RouteCommand,
    SurroundFrame,
    Trajectory,
)

START_NS = 1_000_000_000_000
STEP_NS = 100_000_000


def write_drive(
    path: Path,
    steps: int = 11,
    *,
    labelled: Sequence[int] = (0, 5, 10),
    cameras: Sequence[str] = CAMERAS,
    poses: bool = True,
    broken: Sequence[int] = (),
) -> Path:
    """10 Hz; at ``broken`` steps every camera sends bytes that are no image."""
    with write_bag(path) as bag:
        if poses:
            route = route_command_to_msg(RouteCommand.STRAIGHT)
            bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS, route)
        for step in range(steps):
            now = START_NS + step * STEP_NS
            if poses:
                ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=5.0), Pose())
                bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, now, ego)
            for camera in cameras:
                data = b"no image" if step in broken else jpeg_bytes(value=20 * step)
                msg = image_to_msg(camera, CameraImage(stamp_ns=now, encoded=data))
                bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, now, msg)
            if step in labelled:
                write_label(bag, now)
    return path


def write_label(bag, stamp_ns: int) -> None:
    future = Trajectory(xy_m=np.full((6, 2), 1.0, np.float32))
    label = Label(
        stamp_ns=stamp_ns, scene="s", case_name="fog", action=META_ACTIONS[0], future=future
    )
    bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, stamp_ns, label_to_msg(label))
    msg = future_to_msg(stamp_ns, future)
    bag.write(topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, stamp_ns, msg)


def test_every_camera_set_gives_a_row_and_labels_stand_at_their_keyframes(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag")
    rows = list(replay_bag(bag, FakeEngine(), FakePlanner()))
    assert len(rows) == 11
    assert [row.label is not None for row in rows] == [n in (0, 5, 10) for n in range(11)]
    row = rows[5]
    assert (row.scene, row.case_name, row.correct) == ("s", "fog", True)
    assert row.outcome is Outcome.ANSWERED and row.inference_ms > 0
    assert math.isnan(row.response_ms) and math.isnan(row.node_response_ms)
    assert row.plan is not None and row.plan_with_decision and row.point_distances_m is not None
    assert (row.speed_mps, row.command) == (5.0, RouteCommand.STRAIGHT)
    assert rows[4].case_name == "" and rows[4].corner is None


def test_keyframes_only_decides_on_labelled_frames_only(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag")
    engine = FakeEngine()
    rows = list(replay_bag(bag, engine, config=ReplayConfig(keyframes_only=True)))
    assert len(rows) == len(engine.frames) == 3 and all(row.label for row in rows)
    assert all(row.plan is None for row in rows)


def test_keyframes_only_means_all_frames_where_nothing_is_labelled(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag", labelled=())
    rows = list(replay_bag(bag, FakeEngine(), config=ReplayConfig(keyframes_only=True)))
    assert len(rows) == 11 and not any(row.label for row in rows)


def test_labelled_keyframe_without_images_is_a_dropped_row(tmp_path: Path) -> None:
    with write_bag(tmp_path / "bag") as bag:
        write_label(bag, START_NS - 3 * STEP_NS)
        for camera in CAMERAS:
            msg = image_to_msg(camera, CameraImage(stamp_ns=START_NS, encoded=jpeg_bytes()))
            bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, START_NS, msg)
    first, lost = replay_bag(tmp_path / "bag", FakeEngine())
    assert first.label is None and first.answered
    assert lost.label is not None and lost.outcome is Outcome.DROPPED and not lost.correct


def test_unusable_frame_is_a_dropped_row_with_its_reason_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    bag = write_drive(tmp_path / "bag", broken=(5,))
    rows = list(replay_bag(bag, FakeEngine(), FakePlanner()))
    assert [row.outcome is Outcome.DROPPED for row in rows] == [n == 5 for n in range(11)]
    assert "no usable image" in rows[5].reason and rows[5].label is not None


def test_failing_planner_does_not_cost_the_decision(tmp_path: Path) -> None:
    class BrokenPlanner(FakePlanner):
        def plan(self, frame: SurroundFrame, decision: Decision | None):
            raise FrameError("the planner's output is NaN")

    row = next(replay_bag(write_drive(tmp_path / "bag"), FakeEngine(), BrokenPlanner()))
    assert row.answered and row.plan is None and "planner's output is NaN" in row.reason


def test_single_camera_without_poses_is_degraded_and_says_why(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag", cameras=["CAM_FRONT"], poses=False, labelled=())
    rows = list(replay_bag(bag, FakeEngine()))
    assert len(rows) == 11 and all(row.degraded for row in rows)
    lines = replay.describe_rows(rows)
    assert lines[0].startswith("11 of 11 frames: no image from CAM_FRONT_LEFT")
    assert "11 of 11 frames: no odometry" in lines
    assert lines[-1] == "not labelled: no accuracy, RSDR or L2"


def test_late_answers_are_called_late(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag")
    rows = replay_bag(bag, FakeEngine(), config=ReplayConfig(deadline_ms=1e-6))
    assert {row.outcome for row in rows} == {Outcome.LATE}
    with pytest.raises(ConfigError, match="deadline_ms is nan"):
        ReplayConfig(deadline_ms=math.nan)


def test_comparisons_answer_the_same_keyframes_blank_and_by_ego_status(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag")
    run, checkpoint = tmp_path / "run", tmp_path / "student"
    write_frames(run / "frames.csv", replay_bag(bag, FakeEngine()))
    baseline = fit_ego_status_baseline([None], [None], [META_ACTIONS[3]], seed=0)
    baseline.save(checkpoint / "ego_status")
    write_comparisons(run, [bag], FakeEngine(META_ACTIONS[7]), checkpoint)
    tables = {
        name: read_frames(run / f"frames_{name}.csv")
        for name in ("blank", "shuffled", "ego_status", "majority")
    }
    assert [row.answer for row in tables["blank"]] == [META_ACTIONS[7]] * 3
    assert [row.answer for row in tables["shuffled"]] == [META_ACTIONS[7]] * 3
    assert [row.answer for row in tables["ego_status"]] == [META_ACTIONS[3]] * 3
    assert [row.answer for row in tables["majority"]] == [META_ACTIONS[3]] * 3
    assert len({tuple(row.stamp_ns for row in rows) for rows in tables.values()}) == 1


class SeeingEngine(FakeEngine):
    """Keeps the first byte of the front image it was shown beside each stamp and speed."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[int, float, int]] = []

    def decide(self, frame: SurroundFrame, *, blank: bool = False) -> Decision:
        image = frame.images["CAM_FRONT"]
        pixels = image.pixels
        if pixels is None:
            pixels = cv2.imdecode(np.frombuffer(image.encoded, np.uint8), cv2.IMREAD_COLOR)
        self.shown.append((frame.stamp_ns, frame.ego.speed_mps, round(pixels.mean() / 20)))
        return super().decide(frame, blank=blank)


def test_shuffled_keyframes_keep_their_speed_and_see_another_scene(tmp_path: Path) -> None:
    bags = [write_scene(tmp_path / f"bag{number}", number) for number in (1, 2, 3)]
    run = tmp_path / "run"
    rows = [row for bag in bags for row in replay_bag(bag, FakeEngine())]
    write_frames(run / "frames.csv", rows)
    engine = SeeingEngine()
    write_comparisons(run, bags, engine, tmp_path)
    blank, shuffled = engine.shown[:9], engine.shown[9:]
    assert [speed for _, speed, _ in blank] == [seen for *_, seen in blank]
    assert [(stamp, speed) for stamp, speed, _ in shuffled] == [entry[:2] for entry in blank]
    assert all(seen != speed for _, speed, seen in shuffled)
    assert sorted(seen for *_, seen in shuffled) == [1] * 3 + [2] * 3 + [3] * 3
    assert len(read_frames(run / "frames_shuffled.csv")) == 9


def test_shuffled_images_follow_the_seed(tmp_path: Path) -> None:
    bags = [write_scene(tmp_path / f"bag{number}", number) for number in range(1, 7)]
    first, again, other = (choose_bag_sources(bags, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_keyframe_whose_source_has_no_images_is_dropped_and_says_why(tmp_path: Path) -> None:
    bag = write_scene(tmp_path / "a", 1, keyframes=1)
    sources = {scene_start_ns(1): (bag, 5)}
    (row,) = answer_shuffled(bag, sources, FakeEngine())
    assert row.outcome is Outcome.DROPPED and "no images of another keyframe" in row.reason


def test_a_single_keyframe_has_no_shuffled_row(tmp_path: Path) -> None:
    bag = write_scene(tmp_path / "a", 1, keyframes=1)
    write_frames(tmp_path / "frames.csv", replay_bag(bag, FakeEngine()))
    write_comparisons(tmp_path, [bag], FakeEngine(), tmp_path)
    assert (tmp_path / "frames_blank.csv").is_file()
    assert not (tmp_path / "frames_shuffled.csv").exists()


def test_raw_images_wait_on_disk_and_come_back(tmp_path: Path) -> None:
    kept = KeptFrames(tmp_path)
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    images = {"CAM_FRONT": CameraImage(stamp_ns=4, pixels=pixels)}
    kept.add((tmp_path, 7), SurroundFrame(stamp_ns=4, images=images))
    back = kept.frame((tmp_path, 7))
    assert back is not None and kept.frame((tmp_path, 8)) is None
    np.testing.assert_array_equal(back.images["CAM_FRONT"].pixels, pixels)


def test_bag_of_somebody_else_is_replayed_through_a_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_bag(tmp_path / "bag") as bag:
        for step in range(4):
            now = START_NS + step * STEP_NS
            msg = image_to_msg("CAM_FRONT", CameraImage(stamp_ns=now, encoded=jpeg_bytes()))
            bag.write("/theirs/front", topics.COMPRESSED_IMAGE, now, msg)
            ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=5.0), Pose())
            bag.write("/theirs/odom", topics.ODOMETRY_TYPE, now, ego)
    mapping = tmp_path / "topics.yaml"
    mapping.write_text("images: {CAM_FRONT: /theirs/front}\nodometry: /theirs/odom\n")
    rows = run_direct(tmp_path, tmp_path / "bag", monkeypatch, "--topics", str(mapping))
    assert len(rows) == 4 and all(row.answered and row.speed_mps == 5.0 for row in rows)


def test_comparisons_of_an_unlabelled_run_leave_nothing_behind(tmp_path: Path) -> None:
    bag = write_drive(tmp_path / "bag", labelled=())
    write_frames(tmp_path / "frames.csv", replay_bag(bag, FakeEngine()))
    for name in ("frames_blank.csv", "frames_shuffled.csv", "frames_majority.csv"):
        (tmp_path / name).write_text("of an earlier run")
    write_comparisons(tmp_path, [bag], FakeEngine(), tmp_path)
    assert [path.name for path in tmp_path.glob("frames_*.csv")] == []


class LoadedEngine(FakeEngine):
    device = "cpu"


def arguments(tmp_path: Path, bag: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    out = str(tmp_path / "run")
    return parser.parse_args([str(bag), "--checkpoint", str(tmp_path), "--out", out, *more])


def run_direct(
    tmp_path: Path, bag: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> list[FrameRow]:
    monkeypatch.setattr(replay, "_load", lambda args: (LoadedEngine(), FakePlanner()))
    assert replay.run(arguments(tmp_path, bag, *more)) == 0
    return read_frames(tmp_path / "run" / "frames.csv")


def test_direct_replay_writes_rows_report_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_direct(tmp_path, write_drive(tmp_path / "bag"), monkeypatch)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["latency"]["response_ms"] == "not measured"
    assert metrics["rsdr"]["response_ms"] == "not measured"
    assert set(metrics["actions"]) >= {"student", "majority", "blank", "shuffled"}
    assert metrics["collision"] == {
        "planner": "not measured", "constant_velocity": "not measured", "ego_status": "not built",
    }  # fmt: skip
    assert metrics["texts"] == "no questions"
    assert metrics["generated_decisions"] == "not generated"
    assert "| Student |" in (tmp_path / "run" / "report.md").read_text()
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_direct_replay_of_an_unlabelled_bag_prints_not_labelled_and_never_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_direct(tmp_path, write_drive(tmp_path / "bag", labelled=()), monkeypatch)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["actions"] == metrics["rsdr"]["inference_ms"] == "not labelled"
    assert metrics["l2_m"]["planner"] == "not labelled"
    assert "not labelled" in capsys.readouterr().out


DECISION_COLUMNS = (
    *("scene", "case_name", "stamp_ns", "label", "answer", "answered", "stale", "degraded"),
    *("reason", "speed_mps", "yaw_rate_radps", "command", "plan_with_decision", "plan_mode"),
    *("plan_xy_m", "true_xy_m", "probability"),
)
"""All of ``frames.csv`` but what a clock said and what follows from it."""


def test_three_direct_replays_by_a_real_student_give_identical_decisions(tmp_path: Path) -> None:
    bag, student = write_drive(tmp_path / "bag", broken=(3,)), tmp_path / "student"
    write_student(student)
    tables = []
    for number in range(3):
        out = tmp_path / f"run-{number}"
        words = ["replay", str(bag), "--checkpoint", str(student), "--out", str(out)]
        assert main([*words, "--device", "cpu"]) == 0
        with (out / "frames.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([tuple(row[name] for name in DECISION_COLUMNS) for row in rows])
    assert tables[0] == tables[1] == tables[2]
    assert len({row[-1] for row in tables[0]}) > 5  # the student sees what it is shown


def test_folder_of_bags_is_replayed_bag_by_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_drive(tmp_path / "bags" / name, 3, labelled=())
    assert len(run_direct(tmp_path, tmp_path / "bags", monkeypatch)) == 6


def test_missing_bag_is_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_load", lambda args: pytest.fail("loaded a model for nothing"))
    with pytest.raises(DataError, match="does not exist"):
        replay.run(arguments(tmp_path, tmp_path / "nothing"))


def test_live_replay_refuses_what_only_direct_replay_can_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--blank and --keyframes-only are for direct"):
        replay.run(arguments(tmp_path, tmp_path, "--live", "--blank"))
