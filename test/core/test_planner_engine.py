"""PlannerEngine: one plan per frame, honest about what was missing, silent about nothing."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import jpeg_bytes, one_hot

from clkd_core.data.prompts import plan_question
from clkd_core.errors import CheckpointError, FrameError
from clkd_core.files import replace_folder
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.planner import Planner, PlannerConfig
from clkd_core.models.planner_checkpoint import student_identity, write_planner
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.planning import PlannerEngine
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    Decision,
    EgoState,
    RouteCommand,
    SurroundFrame,
)


def write_student(folder: Path, seed: int = 0) -> None:
    """A real student with random weights, and a planner made for it."""
    texts = [plan_question(None, None), *(action.text for action in META_ACTIONS)]
    vision = TwoScaleConfig(
        height_px=32, width_px=64, stem_width=8, channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1)
    )
    language = LanguageConfig(hidden_size=16, layers=1, heads=2, ffn_size=16)
    config = LlamaVlmConfig(vision=vision, tokens_per_view=1, language=language)
    torch.manual_seed(seed)
    save_checkpoint(folder, LlamaVlm(config, train_tokenizer(texts, vocab_size=400)))
    planner = Planner(
        PlannerConfig(width=16, heads=2),
        vocabulary_m=torch.randn(12, 6, 2) * 10,
        own_action=torch.arange(12),
        patches=vision.patches,
        feature_width=vision.channels[-1],
    )
    with replace_folder(folder / "planner") as part:
        write_planner(planner, part, student_sha256=student_identity(folder))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planner") / "student"
    write_student(folder)
    return folder


@pytest.fixture(scope="module")
def planner(student: Path) -> PlannerEngine:
    return PlannerEngine.from_checkpoint(student, device="cpu")


def a_frame(**changes: object) -> SurroundFrame:
    image = CameraImage(stamp_ns=5, encoded=jpeg_bytes())
    whole = {
        "stamp_ns": 5,
        "images": dict.fromkeys(CAMERAS, image),
        "ego": EgoState(stamp_ns=5, speed_mps=7.0),
        "command": RouteCommand.STRAIGHT,
    }
    return SurroundFrame(**{**whole, **changes})  # type: ignore[arg-type]


def a_decision(index: int = 3, stamp_ns: int = 4) -> Decision:
    action = META_ACTIONS[index]
    return Decision(
        stamp_ns=stamp_ns, action=action, probabilities=one_hot(action), inference_ms=1.0
    )


def test_a_plan_says_what_it_comes_from(planner: PlannerEngine) -> None:
    planner.warm_up()
    plan = planner.plan(a_frame(), a_decision())
    assert (plan.stamp_ns, plan.decision_stamp_ns, plan.degraded) == (5, 4, ())
    assert plan.trajectory.xy_m.shape == (6, 2)
    assert plan.trajectory.xy_m.dtype == np.float32
    assert 0 < plan.inference_ms < 10_000


def test_without_a_decision_no_decision_is_claimed(planner: PlannerEngine) -> None:
    assert planner.plan(a_frame(), None).decision_stamp_ns is None


@pytest.mark.parametrize("index", [3, 8])
def test_the_decision_is_followed(planner: PlannerEngine, index: int) -> None:
    plan = planner.plan(a_frame(ego=None), a_decision(index))
    asked_m = planner._planner.vocabulary_m[index].numpy()  # the only one that does this action
    assert np.abs(plan.trajectory.xy_m - asked_m).max() <= 1.5


def test_the_same_frame_is_planned_the_same(planner: PlannerEngine) -> None:
    one, two = (planner.plan(a_frame(), a_decision()) for _ in range(2))
    np.testing.assert_array_equal(one.trajectory.xy_m, two.trajectory.xy_m)


def test_features_at_hand_give_the_same_plan(planner: PlannerEngine, student: Path) -> None:
    encoded = Engine.from_checkpoint(student, device="cpu").encode(a_frame(ego=None))
    shared = planner.plan_from_features(a_frame(), a_decision(), encoded)
    whole = planner.plan(a_frame(), a_decision())
    np.testing.assert_array_equal(shared.trajectory.xy_m, whole.trajectory.xy_m)
    assert shared.degraded == whole.degraded == ()


def test_latency_of_a_plan_from_features_counts_from_where_it_is_told(
    planner: PlannerEngine, student: Path
) -> None:
    encoded = Engine.from_checkpoint(student, device="cpu").encode(a_frame())
    start_s = time.perf_counter() - 5.0
    told = planner.plan_from_features(a_frame(), None, encoded, start_s=start_s)
    assert 5000.0 <= told.inference_ms < 9000.0
    assert planner.plan_from_features(a_frame(), None, encoded).inference_ms < 4000.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ego": None}, "no odometry"),
        ({"command": None}, "no route command"),
        ({"faults": ("odometry is NaN",)}, "odometry is NaN"),
        (
            {"ego": EgoState(stamp_ns=5, speed_mps=400.0)},
            "ego speed 400.0 m/s is beyond 70, ignored",
        ),
        (
            {"images": {"CAM_FRONT": CameraImage(stamp_ns=5, encoded=jpeg_bytes())}},
            "no image from CAM_FRONT_LEFT",
        ),
    ],
)
def test_what_was_missing_is_said(
    planner: PlannerEngine, changes: dict[str, object], reason: str
) -> None:
    plan = planner.plan(a_frame(**changes), a_decision())
    assert len(plan.degraded) == 1
    assert plan.degraded[0].startswith(reason)


def test_an_impossible_speed_plans_as_if_there_were_none(planner: PlannerEngine) -> None:
    fast = a_frame(ego=EgoState(stamp_ns=5, speed_mps=-400.0))
    np.testing.assert_array_equal(
        planner.plan(fast, None).trajectory.xy_m,
        planner.plan(a_frame(ego=None), None).trajectory.xy_m,
    )


def test_a_frame_without_a_usable_image_is_refused(planner: PlannerEngine) -> None:
    broken = {"CAM_FRONT": CameraImage(stamp_ns=5, encoded=b"no image")}
    with pytest.raises(FrameError, match="CAM_FRONT"):
        planner.plan(a_frame(images=broken), None)


def test_nan_speed_never_reaches_the_planner() -> None:
    with pytest.raises(FrameError, match="speed_mps is nan"):
        EgoState(stamp_ns=0, speed_mps=math.nan)


def test_a_plan_that_is_nan_is_refused(student: Path) -> None:
    planner = PlannerEngine.from_checkpoint(student, device="cpu")
    torch.nn.init.constant_(planner._planner.score.weight, math.nan)
    torch.nn.init.constant_(planner._planner.refine.weight, math.nan)
    with pytest.raises(FrameError, match="plan for frame 5 is NaN"):
        planner.plan(a_frame(), None)


def test_a_planner_never_runs_on_another_students_features(tmp_path: Path) -> None:
    write_student(tmp_path / "one")
    write_student(tmp_path / "two", seed=1)
    (tmp_path / "one" / "planner").rename(tmp_path / "old")
    (tmp_path / "two" / "planner").rename(tmp_path / "one" / "planner")
    with pytest.raises(CheckpointError, match="run clkd train-planner again"):
        PlannerEngine.from_checkpoint(tmp_path / "one", device="cpu")
