"""A bag through nodes that are processes of their own; only their models are fakes."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes import children, jpeg_bytes, wait_until
from shared_engines import write_student

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import open_bag, write_bag
from clkd_core.data.bags.messages import (
    Label,
    Pose,
    future_to_msg,
    image_to_msg,
    label_to_msg,
    odometry_to_msg,
    route_command_to_msg,
)
from clkd_core.data.bags.ros_types import message_class
from clkd_core.data.bags.topics import BagTopics, load_topics
from clkd_core.errors import ClkdError, ConfigError
from clkd_core.metrics.frames import Outcome, read_frames
from clkd_core.report.provenance import read_provenance
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    EgoState,
    RouteCommand,
    Trajectory,
)
from clkd_ros.live_replay import (
    Views,
    choose_domain_id,
    describe_system,
    find_views,
    replay_live,
    run_system,
)
from clkd_ros.system import SystemSpec

MS = 1_000_000
START_NS = 1_500_000_000_000 * MS
FUTURE = Trajectory(xy_m=np.stack([np.arange(1, 7), np.zeros(6)], 1).astype(np.float32))


def label_at(stamp_ns: int) -> Label:
    return Label(
        stamp_ns=stamp_ns, scene="s", case_name="fog", action=META_ACTIONS[6], future=FUTURE
    )


def write_drive(
    path: Path, steps: int = 15, bad_step: int = 7, cameras: tuple[str, ...] = CAMERAS
) -> list[int]:
    """1.5 s of six cameras at 10 Hz, one bad JPEG on the way; stamps of the labelled keyframes."""
    labelled = []
    with write_bag(path) as bag:
        route = route_command_to_msg(RouteCommand.LEFT)
        bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS, route)
        for step in range(steps):
            now = START_NS + (step + 1) * 100 * MS
            ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=3.0), Pose.planar(0, 0, 0))
            bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, now, ego)
            for camera in cameras:
                bad = step == bad_step and camera == "CAM_BACK"
                image = CameraImage(
                    stamp_ns=now, encoded=b"no JPEG" if bad else jpeg_bytes(value=8 * step % 256)
                )
                msg = image_to_msg(camera, image)
                bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, now, msg)
            if step % 3 == 1:
                labelled.append(now)
                label, future = label_to_msg(label_at(now)), future_to_msg(now, FUTURE)
                bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, now, label)
                bag.write(topics.TRUE_TRAJECTORY, topics.PLANNED_TRAJECTORY, now, future)
    return labelled


def words(tmp_path: Path) -> argparse.Namespace:
    """What ``clkd replay --live`` was given, with a checkpoint folder that has a planner."""
    checkpoint = tmp_path / "student"
    (checkpoint / "planner").mkdir(parents=True)
    return argparse.Namespace(
        bag=tmp_path / "bag",
        checkpoint=checkpoint,
        out=tmp_path / "out",
        device="cpu",
        threads=None,
        deadline_ms=5000.0,
        topics=None,
    )


def fake_system(tmp_path: Path, keyframes: int, views: Views | None = None) -> SystemSpec:
    """The shipped system; the two nodes with a model run their fakes."""
    system = describe_system(words(tmp_path), keyframes, views)
    fakes = {"vlm": "fake_vlm_node", "planner": "fake_planner_node"}
    nodes = [replace(node, module=fakes.get(node.name, node.module)) for node in system.nodes]
    return replace(system, nodes=tuple(nodes), composed=False)


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """A domain of this test's own, and children that find the fakes."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(choose_domain_id()))
    monkeypatch.setenv("PYTHONPATH", str(root / "test"), prepend=os.pathsep)


@pytest.mark.parametrize("ended_by", ["count", "signal"])
def test_live_replay_answers_every_keyframe_through_processes(
    tmp_path: Path, own_domain: None, ended_by: str
) -> None:
    stamps = write_drive(tmp_path / "bag")
    expected = len(stamps) if ended_by == "count" else 0
    run_system(fake_system(tmp_path, expected), [tmp_path / "bag"])
    rows = read_frames(tmp_path / "out" / "frames.csv")
    assert (tmp_path / "out" / "report.html").exists()
    assert read_provenance(tmp_path / "out").nodes["/vlm"]["answered"] != "0"
    assert [row.stamp_ns for row in rows] == stamps
    assert [row.outcome for row in rows] == [Outcome.ANSWERED] * len(stamps)
    assert all(row.answer == META_ACTIONS[6] and row.plan is not None for row in rows)
    assert all(0 < row.inference_ms <= row.response_ms for row in rows)
    bad = [row.reason for row in rows if row.stamp_ns == START_NS + 800 * MS]
    assert "CAM_BACK" in bad[0]
    assert rows[-1].speed_mps == 3.0


THEIRS = """
images: {CAM_FRONT: /front/image_raw, CAM_BACK: /rear/image_raw}
odometry: /odom
route_command: /navigation/phrase
true_meta_action: /labels/action
true_trajectory: /labels/path
"""


def write_foreign_drive(path: Path) -> list[int]:
    """1 s of two raw cameras, a label each 0.5 s, all under names that are not ours."""
    renamed = {
        topics.image_topic("CAM_FRONT"): "/front/image_raw",
        topics.image_topic("CAM_BACK"): "/rear/image_raw",
        topics.ODOMETRY: "/odom",
        topics.ROUTE_COMMAND: "/navigation/phrase",
        topics.TRUE_META_ACTION: "/labels/action",
        topics.TRUE_TRAJECTORY: "/labels/path",
    }
    ours = path.parent / "ours"
    stamps = write_drive(ours, steps=11, bad_step=-1, cameras=("CAM_FRONT", "CAM_BACK"))
    with open_bag(ours) as read, write_bag(path) as bag:
        for topic, log_ns, msg in read.messages():
            if read.types[topic] == topics.COMPRESSED_IMAGE:
                raw = message_class(topics.IMAGE)(
                    header=msg.header,
                    height=36,
                    width=64,
                    encoding="rgb8",
                    is_bigendian=0,
                    step=3 * 64,
                    data=np.full(3 * 36 * 64, 99, np.uint8),
                )
                bag.write(renamed[topic], topics.IMAGE, log_ns, raw)
            else:
                bag.write(renamed[topic], read.types[topic], log_ns, msg)
    return stamps


def test_foreign_bag_of_raw_images_is_played_through_the_nodes_by_a_mapping(
    tmp_path: Path, own_domain: None
) -> None:
    bags = [tmp_path / "bag"]
    stamps = write_foreign_drive(bags[0])
    (tmp_path / "topics.yaml").write_text(THEIRS)
    views = find_views(bags, load_topics(tmp_path / "topics.yaml"))
    assert views == (("CAM_FRONT", "CAM_BACK"), True)
    run_system(fake_system(tmp_path, len(stamps), views), bags, tmp_path / "topics.yaml")
    rows = read_frames(tmp_path / "out" / "frames.csv")
    assert [row.stamp_ns for row in rows] == stamps
    assert [row.outcome for row in rows] == [Outcome.ANSWERED] * len(stamps)
    assert {(row.speed_mps, row.command) for row in rows} == {(3.0, RouteCommand.LEFT)}
    assert {row.reason for row in rows} == {
        "no image from CAM_FRONT_LEFT CAM_FRONT_RIGHT CAM_BACK_LEFT CAM_BACK_RIGHT"
    }


def test_bag_with_raw_and_compressed_cameras_is_for_direct_replay_only(tmp_path: Path) -> None:
    write_foreign_drive(tmp_path / "bag")
    write_drive(tmp_path / "two", steps=2, cameras=("CAM_BACK_LEFT",))
    names = replace(BagTopics(), images={"CAM_FRONT": "/front/image_raw"})
    mixed = {"CAM_FRONT": "/front/image_raw", "CAM_BACK_LEFT": topics.image_topic("CAM_BACK_LEFT")}
    assert find_views([tmp_path / "bag"], names).raw
    with open_bag(tmp_path / "bag") as one, open_bag(tmp_path / "two") as two:
        with write_bag(tmp_path / "mixed") as bag:
            for read in (one, two):
                for topic, log_ns, msg in read.messages({*mixed.values()}):
                    bag.write(topic, read.types[topic], log_ns, msg)
    with pytest.raises(ConfigError, match=r"raw images \(CAM_FRONT\) and compressed ones"):
        find_views([tmp_path / "mixed"], replace(names, images=mixed))


@pytest.mark.slow
def test_real_student_answers_live_as_it_does_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(choose_domain_id()))
    stamps = write_drive(tmp_path / "bag", steps=30)
    args = words(tmp_path)
    (args.checkpoint / "planner").rmdir()
    write_student(args.checkpoint)
    assert replay_live(args) == 0
    metrics = json.loads((args.out / "metrics.json").read_text())
    live = metrics["live_vs_direct"]
    assert live["frames"] == len(stamps) and live["unexplained"] == []
    assert live["largest_gap"] == 0.0  # not one bit is rounded otherwise
    assert live["different"] == sum(live["by_outcome"].get(one, 0) for one in ("late", "dropped"))
    assert live["words"] in capfd.readouterr().out
    provenance = read_provenance(args.out)
    assert provenance.bag == str(args.bag) and "CPU" in provenance.device
    assert set(provenance.nodes) == {"/vlm", "/planner"}


def test_live_replay_names_the_node_that_fails(tmp_path: Path, own_domain: None) -> None:
    write_drive(tmp_path / "bag")
    system = fake_system(tmp_path, 5)
    broken = replace(system.nodes[0], parameters={"transport": "theora"})
    system = replace(system, nodes=(broken, *system.nodes[1:]))
    with pytest.raises(ClkdError, match=r"node 'vlm' could not configure: .*theora"):
        run_system(system, [tmp_path / "bag"])
    assert not children()


def test_live_replay_ends_everything_within_three_seconds_of_ctrl_c(
    tmp_path: Path, own_domain: None, root: Path
) -> None:
    write_drive(tmp_path / "bag", steps=600)
    (tmp_path / "main.py").write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(root)!r}, {str(root / 'test')!r}, {str(root / 'test/ros')!r}]\n"
        "from pathlib import Path\n"
        "from test_live_replay import fake_system, run_system\n"
        "folder = Path(sys.argv[1])\n"
        "run_system(fake_system(folder, 0), [folder / 'bag'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    family = psutil.Process(process.pid)
    try:
        wait_until(lambda: len(family.children()) == 4, "three nodes and a player", 30.0)
        below = family.children(recursive=True)
        start_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10.0)
        assert time.monotonic() - start_s < 3.0
        wait_until(lambda: not any(map(runs, below)), "no process is left", 1.0)
    finally:
        process.kill()
        process.communicate()


def runs(process: psutil.Process) -> bool:
    """False for a zombie too: it has ended, and only init has not noticed yet."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_system_is_run_without_planner_where_the_student_has_none(tmp_path: Path) -> None:
    args = words(tmp_path)
    (args.checkpoint / "planner").rmdir()
    assert [node.name for node in describe_system(args, 3).nodes] == ["vlm", "evaluator"]
    args.checkpoint.rmdir()
    with pytest.raises(ConfigError, match="does not exist"):
        describe_system(args, 3)


def test_only_cameras_that_a_bag_holds_are_waited_for(tmp_path: Path) -> None:
    write_drive(tmp_path / "bag", steps=2, cameras=("CAM_BACK", "CAM_FRONT"))
    views = find_views([tmp_path / "bag"])
    assert views == (("CAM_FRONT", "CAM_BACK"), False)
    for node in describe_system(words(tmp_path), 0, views).nodes:
        assert node.parameters["sync.cameras"] == ["CAM_FRONT", "CAM_BACK"]
        assert node.parameters["transport"] == "compressed"


def test_domain_of_a_replay_is_one_whose_ports_nobody_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 41)
    before = choose_domain_id()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 7400 + 250 * before + 10))
        assert choose_domain_id() != before
    assert choose_domain_id() == before
