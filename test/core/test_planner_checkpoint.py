"""The planner on disk: what is read back, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clkd_core.errors import CheckpointError
from clkd_core.files import replace_folder
from clkd_core.models.checkpoint_files import write_manifest
from clkd_core.models.planner import Planner, PlannerConfig, build_inputs
from clkd_core.models.planner_checkpoint import load_planner, student_identity, write_planner
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import META_ACTIONS, EgoState, RouteCommand

SIZE = 16


def build() -> Planner:
    """A small planner with random weights; all it knows is to go straight on at some speed."""
    torch.manual_seed(0)
    return Planner(
        PlannerConfig(width=16, heads=2, tokens_per_view=2),
        vocabulary_m=straight_at(*[float(v) for v in range(SIZE)]),
        own_action=torch.arange(SIZE),
        patches=5,
        feature_width=12,
    ).eval()


def straight_at(*speeds_mps: float) -> torch.Tensor:
    """(V, T, 2): straight ahead, each at one speed."""
    x_m = torch.tensor(speeds_mps)[:, None] * 0.5 * torch.arange(1, 7)
    return torch.stack([x_m, torch.zeros_like(x_m)], dim=-1)


@torch.inference_mode()
def scores(planner: Planner) -> torch.Tensor:
    inputs = build_inputs(
        torch.randn(1, 6, 5, 12, generator=torch.Generator().manual_seed(7)),
        torch.ones(1, 6, dtype=torch.bool), [EgoState(stamp_ns=0, speed_mps=3.0)],
        [RouteCommand.LEFT], [META_ACTIONS[2]],
    )  # fmt: skip
    return planner(inputs).log_prob


def make_student(folder: Path, weights: str = "a") -> Path:
    """As much of a student's folder as the planner looks at."""
    folder.mkdir(exist_ok=True)
    manifest = {"format_version": 1, "sha256": {"model.safetensors": weights * 64}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def save_into(student: Path, planner: Planner) -> None:
    with replace_folder(student / "planner") as part:
        write_planner(planner, part, student_sha256=student_identity(student))


def test_a_planner_read_back_plans_the_same(tmp_path: Path) -> None:
    student, planner = make_student(tmp_path / "student"), build()
    save_into(student, planner)
    read = load_planner(student)
    assert not read.training
    assert read.config == planner.config
    torch.testing.assert_close(scores(read), scores(planner), rtol=0, atol=0)
    np.testing.assert_array_equal(read.vocabulary_m, planner.vocabulary_m)


def test_a_planner_beside_another_student_is_refused(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    make_student(student, weights="b")
    with pytest.raises(CheckpointError, match=r"features of student aaaaaaaaaaaa.* bbbbbbbbbbbb"):
        load_planner(student)


def test_a_damaged_planner_is_refused(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    path = student / "planner" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_planner(student)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "llama"}, "holds llama version 2"),
        ({"format_version": 9}, "version 9"),
        ({"patches": 9}, "does not fit"),
        ({"patches": None}, "config.json"),
        ({"architecture": {"widht": 16}}, "did you mean 'width'"),
        ({"vehicle": {"max_brake_mps2": -1.0}}, "max_brake_mps2 is -1.0, expected 0.1 to 15.0"),
        ({"vehicle": {"max_speed_mps": 400.0}}, "max_speed_mps is 400.0, expected 0.5 to 70.0"),
    ],
)
def test_a_planner_of_another_kind_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    config = student / "planner" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    write_manifest(student / "planner")
    with pytest.raises(CheckpointError) as caught:
        load_planner(student)
    assert named in str(caught.value)


def test_a_student_without_a_planner_and_no_student_at_all_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no planner"):
        load_planner(make_student(tmp_path / "student"))
    with pytest.raises(CheckpointError, match="holds no student"):
        student_identity(tmp_path)


@pytest.mark.parametrize(
    ("driven", "named"),
    [
        (VehicleConfig(name="lorry"), "than lorry: it is a Renault Zoe"),
        (VehicleConfig(max_curvature_pm=0.1), "max_curvature_pm 0.258 > 0.1"),
        (VehicleConfig(max_speed_mps=8.0, max_jerk_mps3=2.0), "max_jerk_mps3 10 > 2"),
    ],
)
def test_the_planner_of_another_vehicle_is_refused(
    tmp_path: Path, driven: VehicleConfig, named: str
) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    with pytest.raises(CheckpointError, match="was made for another vehicle") as caught:
        load_planner(student, vehicle=driven)
    assert named in str(caught.value)


def test_the_planner_of_this_vehicle_or_of_a_tamer_one_is_taken(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    for driven in (VehicleConfig(), VehicleConfig(max_accel_mps2=9.0)):
        assert load_planner(student, vehicle=driven).vehicle == VehicleConfig()


def test_what_the_vehicle_cannot_drive_is_counted_when_the_planner_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student, planner = make_student(tmp_path / "student"), build()
    planner.vocabulary_m.copy_(straight_at(*[3.0] * (SIZE - 2), 50.0, 60.0))
    save_into(student, planner)
    read = load_planner(student)
    assert "2 of 16 trajectories are beyond the limits of Renault Zoe" in caplog.text
    assert "max_speed_mps 2" in caplog.text
    assert (read.low_mps <= read.high_mps).tolist() == [True] * (SIZE - 2) + [False] * 2


def test_a_planner_of_the_format_before_vehicles_is_the_default_vehicles(tmp_path: Path) -> None:
    student = make_student(tmp_path / "student")
    save_into(student, build())
    path = student / "planner" / "config.json"
    config = json.loads(path.read_text())
    del config["vehicle"]
    config["architecture"]["max_accel_mps2"] = 6.0
    path.write_text(json.dumps({**config, "format_version": 1}))
    write_manifest(student / "planner")
    assert load_planner(student).vehicle == VehicleConfig()
