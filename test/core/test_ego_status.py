"""The ego-status baseline: what it knows, what it cannot, and that it comes back from disk."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from clkd_core.errors import CheckpointError
from clkd_core.metrics.baselines.ego_status import (
    EgoStatusBaseline,
    answer_by_ego_status,
    fit_ego_status_baseline,
)
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.types import EgoState, MetaAction, PathAction, RouteCommand, SpeedAction

KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
LEFT = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)


def ego(speed_mps: float) -> EgoState:
    return EgoState(stamp_ns=0, speed_mps=speed_mps)


EGOS = [ego(0.0), ego(8.0), ego(8.0), None] * 10
COMMANDS = [RouteCommand.STRAIGHT, RouteCommand.STRAIGHT, RouteCommand.LEFT, None] * 10
ACTIONS = [STOP, KEEP, LEFT, KEEP] * 10


@pytest.fixture(scope="module")
def baseline() -> EgoStatusBaseline:
    return fit_ego_status_baseline(EGOS, COMMANDS, ACTIONS, seed=1)


def test_ego_status_learns_what_speed_and_route_tell(baseline: EgoStatusBaseline) -> None:
    assert baseline.predict(EGOS[:4], COMMANDS[:4]) == ACTIONS[:4]


def test_the_same_seed_gives_the_same_answers_and_leaves_torch_alone() -> None:
    egos = [ego(v) for v in np.random.default_rng(0).uniform(0, 12, 60)]
    commands = [None] * 60
    actions = [KEEP if i % 3 else STOP for i in range(60)]
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = fit_ego_status_baseline(egos, commands, actions, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    again = fit_ego_status_baseline(egos, commands, actions, seed=5)
    assert first.predict(egos, commands) == again.predict(egos, commands)


def test_what_was_saved_answers_the_same(baseline: EgoStatusBaseline, tmp_path: Path) -> None:
    baseline.save(tmp_path / "ego_status")
    loaded = EgoStatusBaseline.load(tmp_path / "ego_status")
    grid = [ego(v) for v in np.linspace(0, 20, 50)]
    commands = [RouteCommand.LEFT] * 50
    assert loaded.predict(grid, commands) == baseline.predict(grid, commands)


def test_the_training_labels_majority_is_kept_and_old_folders_do_without(
    baseline: EgoStatusBaseline, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    baseline.save(folder)
    assert baseline.majority == KEEP and EgoStatusBaseline.load(folder).majority == KEEP
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "majority": "FLY, UP"}))
    with pytest.raises(CheckpointError, match="FLY, UP"):
        EgoStatusBaseline.load(folder)
    del config["majority"]
    (folder / "config.json").write_text(json.dumps(config))
    assert EgoStatusBaseline.load(folder).majority is None


def test_a_missing_damaged_or_foreign_folder_is_refused(
    baseline: EgoStatusBaseline, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        EgoStatusBaseline.load(tmp_path / "nowhere")
    folder = tmp_path / "saved"
    baseline.save(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="is no ego-status-baseline"):
        EgoStatusBaseline.load(folder)
    (folder / "config.json").write_text('{"family": "student", "format_version": 1}')
    with pytest.raises(CheckpointError, match="holds student version 1"):
        EgoStatusBaseline.load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="saved"):
        EgoStatusBaseline.load(folder)


def test_rows_are_answered_from_ego_state_alone(baseline: EgoStatusBaseline) -> None:
    row = FrameRow(
        scene="s",
        case_name="regular",
        stamp_ns=5,
        label=STOP,
        answer=LEFT,
        stale=True,
        degraded=True,
        response_ms=200.0,
        speed_mps=0.0,
        yaw_rate_radps=0.0,
        command=RouteCommand.STRAIGHT,
    )
    blind = FrameRow(scene="s", case_name="regular", stamp_ns=6, label=KEEP)
    answered = answer_by_ego_status([row, blind], baseline)
    assert [r.answer for r in answered] == [STOP, KEEP]
    assert answered[0].label == STOP
    assert answered[0].outcome is Outcome.ANSWERED
    assert not answered[0].stale
    assert math.isnan(answered[0].response_ms)


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(ValueError, match="expected >= 1"):
        fit_ego_status_baseline([], [], [], seed=0)
    with pytest.raises(ValueError, match="2 ego states"):
        fit_ego_status_baseline([None, None], [None], [KEEP], seed=0)
