"""Judging a planner: its baselines, its gains, the 20 actions, and what is printed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clkd_core.data.keyframes import AgentFuture
from clkd_core.models.manoeuvres import own_actions
from clkd_core.models.planner import (
    NO_ACTION,
    Planner,
    PlannerConfig,
    PlannerInputs,
    build_inputs,
)
from clkd_core.planner_training.config import PlannerTrainConfig
from clkd_core.planner_training.evaluate import (
    BLANK_IMAGES,
    CONSTANT_VELOCITY,
    EGO_STATUS,
    NO_META_ACTION,
    STUDENT_ACTION,
    TRUE_ACTION,
    PlannerScores,
    score_planner,
)
from clkd_core.planner_training.features import PlannerSet
from clkd_core.planner_training.scoring.obedience import Obedience, score_obedience
from clkd_core.planner_training.scoring.plans import plan_set, touched_steps
from clkd_core.planner_training.scoring.tables import obedience_lines, score_lines
from clkd_core.planner_training.train import fit_ego_status, fit_planner
from clkd_core.types import META_ACTIONS, EgoState, RouteCommand

KEEP, STOP = 0, 15
CONFIG = PlannerTrainConfig(
    model=PlannerConfig(vocabulary_size=12, width=16, heads=2, tokens_per_view=1),
    steps=120, batch_size=16, lr=1e-2,
)  # fmt: skip


def street(seed: int = 0, count: int = 64) -> PlannerSet:
    """At 3 m/s; the first view's sign says whether to slow down, or the meta-action does."""
    rng = np.random.default_rng(seed)
    stops = np.arange(count) % 2 == 0
    pace = np.where(stops, 1.5, 2.8) + rng.uniform(-0.1, 0.1, count)
    truth = np.zeros((count, 6, 2), np.float32)
    truth[..., 0] = pace[:, None] * 0.5 * np.arange(1, 7)
    features = torch.zeros(count, 6, 1, 4)
    features[:, 0, 0, 0] = torch.from_numpy(np.where(stops, 3.0, -3.0)).float()
    actions = [META_ACTIONS[i] for i in own_actions(truth)]
    poses = np.tile(np.array([[10.6, 0.0, 0.0]], np.float32), (7, 1))
    car = AgentFuture(category="vehicle.car", size_m=(4.0, 2.0), poses=poses)
    return PlannerSet(
        inputs=build_inputs(
            features, torch.ones(count, 6, dtype=torch.bool),
            [EgoState(stamp_ns=0, speed_mps=2.2)] * count, [RouteCommand.STRAIGHT] * count,
            actions,
        ),
        truth_m=torch.from_numpy(truth),
        scenes=tuple(f"drive-{i // 8}" for i in range(count)),
        is_corner=tuple(i // 8 % 2 == 0 for i in range(count)),
        agents=tuple((car,) if stop else () for stop in stops),
        student_action=torch.tensor([a.index for a in actions]).roll(1),  # always wrong
        blank_features=torch.zeros(6, 1, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def planner() -> Planner:
    return fit_planner(CONFIG, street(), device="cpu")[0]


@pytest.fixture(scope="module")
def scores(planner: Planner) -> PlannerScores:
    data = street()
    ego_status = fit_ego_status(CONFIG, data.inputs, data.truth_m)
    return score_planner(planner, street(seed=1), ego_status=ego_status)


def last_m(scores: PlannerScores, way: str, case: str = "all") -> float:
    return scores.cases[case].l2[way].horizon_m[3].value


def test_a_wrong_decision_costs_and_the_right_one_does_not(scores: PlannerScores) -> None:
    # Stopping and going on are 1.3 m/s apart: 3.9 m after 3 s.
    assert last_m(scores, TRUE_ACTION) < 0.4
    assert last_m(scores, STUDENT_ACTION) == pytest.approx(3.9, abs=0.6)


def test_images_are_worth_what_is_lost_without_them(scores: PlannerScores) -> None:
    assert last_m(scores, NO_META_ACTION) < 0.5
    assert last_m(scores, BLANK_IMAGES) > 1.5
    gain = scores.cases["all"].gains[BLANK_IMAGES, NO_META_ACTION].l2[1][3]
    wanted = last_m(scores, BLANK_IMAGES) - last_m(scores, NO_META_ACTION)
    assert gain.value == pytest.approx(wanted) and gain.low > 0


def test_speed_and_route_alone_leave_the_middle_between_both(scores: PlannerScores) -> None:
    assert last_m(scores, EGO_STATUS) == pytest.approx(1.95, abs=0.5)
    assert last_m(scores, CONSTANT_VELOCITY) == pytest.approx((2.1 + 1.8) / 2, abs=0.1)


def test_collisions_follow_the_plan_and_excuse_what_the_truth_touches(
    planner: Planner, scores: PlannerScores
) -> None:
    hits = scores.cases["all"].collisions
    assert hits[TRUE_ACTION].horizon_frac[3].value == 0.0
    # The student goes on in every frame where a car waits 8.6 m ahead: half of all frames.
    assert hits[STUDENT_ACTION].horizon_frac[3].value == pytest.approx(0.5)
    data = street(seed=1)
    assert data.agents is not None
    assert not touched_steps(data.truth_m, data.agents).any()


def test_regular_and_corner_are_told_apart_and_make_up_all(scores: PlannerScores) -> None:
    frames = {case: part.l2[TRUE_ACTION].frames for case, part in scores.cases.items()}
    assert frames == {"all": 64, "regular": 32, "corner": 32}
    mean = (last_m(scores, TRUE_ACTION, "regular") + last_m(scores, TRUE_ACTION, "corner")) / 2
    assert last_m(scores, TRUE_ACTION) == pytest.approx(mean)


def test_every_way_to_plan_with_the_planner_is_drivable(scores: PlannerScores) -> None:
    ours = [TRUE_ACTION, STUDENT_ACTION, NO_META_ACTION, BLANK_IMAGES]
    assert [scores.drivable_frac[way] for way in ours] == [1.0] * 4


def test_a_set_without_agents_has_no_collisions_and_no_invented_ones(planner: Planner) -> None:
    data = replace(street(count=8), agents=None, student_action=None, blank_features=None)
    scores = score_planner(planner, data)
    assert scores.cases["all"].collisions == {}
    assert STUDENT_ACTION not in scores.l2 and EGO_STATUS not in scores.l2
    assert "collisions" not in "\n".join(score_lines(scores))


def test_reachable_commands_are_obeyed(planner: Planner) -> None:
    obedience = score_obedience(planner, street(count=8))
    assert obedience is not None
    assert obedience.obeyed_frac().value >= 0.95
    assert 0.2 < obedience.reachable_frac < 0.8
    assert obedience.reachable[:, STOP].all() and obedience.reachable[:, KEEP].all()


def test_a_planner_that_ignores_its_command_is_found_out(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    heedless = planner.drive

    def drive(inputs: PlannerInputs, output: object) -> np.ndarray:
        deaf = inputs._replace(action=torch.full_like(inputs.action, NO_ACTION))
        return heedless(deaf, planner(deaf))

    monkeypatch.setattr(planner, "drive", drive)
    obedience = score_obedience(planner, street(count=8))
    assert obedience is not None and obedience.obeyed_frac().value < 0.5


def test_without_odometry_nobody_knows_what_is_reachable(planner: Planner) -> None:
    data = street(count=8)
    blind = data.inputs._replace(has_ego=torch.zeros_like(data.inputs.has_ego))
    assert score_obedience(planner, replace(data, inputs=blind)) is None


def test_the_share_obeyed_counts_reachable_pairs_only() -> None:
    reachable = np.zeros((4, 20), bool)
    reachable[:, STOP], reachable[:2, KEEP] = True, True
    obeyed = np.ones((4, 20), bool)
    obeyed[0, STOP] = False
    obedience = Obedience(reachable=reachable, obeyed=obeyed, scenes=("a", "a", "b", "b"))
    assert obedience.obeyed_frac().value == pytest.approx(5 / 6)
    assert obedience.obeyed_frac([STOP]).value == pytest.approx(3 / 4)
    assert np.isnan(obedience.obeyed_frac([7]).value)
    lines = list(obedience_lines(obedience))
    assert len(lines) == 22 and "STOP, STRAIGHT" in lines[16] and "75.0" in lines[16]
    assert "reachable 7.5 % of 80 pairs" in lines[-1] and "goal 95 % missed" in lines[-1]


def test_what_is_printed_says_both_conventions_and_every_case(scores: PlannerScores) -> None:
    text = "\n".join(score_lines(scores))
    for word in ("VAD", "UniAD", "regular: 32 frames", "corner: 32 frames", "ego-status MLP"):
        assert word in text
    json = scores.to_json()
    assert set(json) == {"validation", "cases", "obedience", "drivable_frac"}
    assert json["validation"][TRUE_ACTION]["frames"] == 64


def test_plans_come_in_batches_as_one_by_one(planner: Planner) -> None:
    data = street(count=70)
    whole = plan_set(planner, data.inputs)
    last = plan_set(planner, type(data.inputs)(*(tensor[69:] for tensor in data.inputs)))
    torch.testing.assert_close(whole[69:], last, rtol=0, atol=1e-4)
