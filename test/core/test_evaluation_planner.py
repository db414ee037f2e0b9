"""clkd evaluate --planner: L2 and collisions of the planner on the set's own agents."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import evaluate
from tiny_vlm import SQUARES_VERSION, tiny_config, tiny_model, write_squares

from clkd_core.data.keyframes import AgentFuture, Keyframe
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
from clkd_core.evaluation.judging.judge import with_collisions
from clkd_core.files import replace_folder
from clkd_core.metrics.frames import FrameRow, read_frames
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.models.planner import Planner, PlannerConfig
from clkd_core.models.planner_checkpoint import student_identity, write_planner
from clkd_core.types import EgoState, Trajectory


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without it: half a minute a test is saved."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a planner that knows one thing: 2 m straight on, six times."""
    folder = tmp_path_factory.mktemp("student") / "student"
    save_checkpoint(folder, tiny_model())
    vision = tiny_config().vision
    straight = torch.tensor([[[2.0 * step, 0.0] for step in range(1, 7)]] * 2)
    planner = Planner(
        PlannerConfig(width=16, heads=2, refine_bound_m=0.0),
        vocabulary_m=straight,
        own_action=torch.arange(2),
        patches=vision.patches,
        feature_width=vision.feature_width,
    )
    with replace_folder(folder / "planner") as part:
        write_planner(planner, part, student_sha256=student_identity(folder))
    return folder


def car_at(x_m: float, y_m: float, category: str = "vehicle.car") -> AgentFuture:
    """4 m by 2 m, parked."""
    poses = np.tile(np.array([[x_m, y_m, 0.0]], np.float32), (7, 1))
    return AgentFuture(category=category, size_m=(4.0, 2.0), poses=poses)


def write_street(root: Path, *, agents: bool) -> Path:
    """The vehicle stands; where there are agents a car is parked 12 m ahead."""
    write_squares(root, train=6, val=4)
    future = Trajectory(xy_m=np.array([[0.01 * n, 0.0] for n in range(1, 7)], np.float32))
    action = meta_action_from_future(lidar_from_ego(future.xy_m))

    def changed(keyframe: Keyframe) -> Keyframe:
        return replace(
            keyframe,
            future=future,
            action=action,
            agents=(car_at(12.0, 0.0),) if agents else (),
            ego=EgoState(stamp_ns=keyframe.stamp_ns, speed_mps=0.0),
        )

    kept = [changed(keyframe) for keyframe in load_keyframes(root, SQUARES_VERSION, "val")]
    records = [keyframe_to_json(keyframe, split="val", root=root) for keyframe in kept]
    write_sidecar(root / SQUARES_VERSION / SIDECAR, records)
    return root


def test_planner_is_scored_in_both_conventions_beside_constant_velocity(
    student: Path, tmp_path: Path
) -> None:
    root = write_street(tmp_path / "set", agents=True)
    metrics = evaluate(tmp_path / "run", student, "--data", root, "--planner")
    l2, hits = (metrics[name]["planner"]["all"] for name in ("l2_m", "collision"))
    assert l2["at_horizon_uniad"]["3s"]["value"] == pytest.approx(12.0 - 0.06, abs=1e-4)
    assert l2["average_vad_st_p3"]["3s"]["value"] == pytest.approx(7.0 - 0.035, abs=1e-4)
    # The front is 3.48 m ahead of the axle: at 8, 10 and 12 m it is in the car that begins at 10.
    assert [hits["at_horizon_uniad"][f"{s}s"]["value"] for s in (1, 2, 3)] == [0.0, 1.0, 1.0]
    average = [hits["average_vad_st_p3"][f"{s}s"]["value"] for s in (1, 2, 3)]
    assert average == pytest.approx([0.0, 1 / 4, 3 / 6])
    assert metrics["collision"]["constant_velocity"]["all"]["at_horizon_uniad"]["3s"][
        "value"
    ] == pytest.approx(0.0)
    assert metrics["l2_m"]["ego_status"] == metrics["collision"]["ego_status"] == "not built"
    row = read_frames(tmp_path / "run" / "frames.csv")[0]
    assert row.plan_collisions == (False, False, False, True, True, True)
    assert row.true_collisions == (False,) * 6 and row.plan_with_decision
    page = (tmp_path / "run" / "report.html").read_text()
    assert "VAD, ST-P3" in page and "UniAD" in page and "not built" in page
    table = (tmp_path / "run" / "report.md").read_text()
    assert "| Planner, all | 4 | 0.00% | 25.00% | 50.00% | 0.00% | 100.00% | 100.00% |" in table


def test_set_that_does_not_say_where_others_are_has_no_collisions(
    student: Path, tmp_path: Path
) -> None:
    root = write_street(tmp_path / "set", agents=False)
    metrics = evaluate(tmp_path / "run", student, "--data", root, "--planner")
    assert metrics["collision"]["planner"] == "not measured"
    assert metrics["l2_m"]["planner"]["all"]["frames"] == 4
    assert read_frames(tmp_path / "run" / "frames.csv")[0].plan_collisions is None


def test_without_the_planner_constant_velocity_is_still_scored(
    student: Path, tmp_path: Path
) -> None:
    root = write_street(tmp_path / "set", agents=True)
    metrics = evaluate(tmp_path / "run", student, "--data", root)
    assert metrics["l2_m"]["planner"] == metrics["collision"]["planner"] == "no planner"
    assert metrics["collision"]["constant_velocity"]["all"]["frames"] == 4


def test_collisions_of_a_frame_without_plan_or_speed_are_unknown() -> None:
    row = FrameRow(scene="s", case_name="regular", stamp_ns=1)
    told = with_collisions(row, [car_at(3.0, 0.0)])
    assert told.plan_collisions is told.steady_collisions is told.true_collisions is None
    moving = replace(row, speed_mps=2.0)
    assert with_collisions(moving, [car_at(5.0, 0.0)]).steady_collisions == (True,) * 6
    assert with_collisions(moving, []).steady_collisions == (False,) * 6
