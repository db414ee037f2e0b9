"""The planner network: what may influence a plan and what must not; what is driven of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.models.drivable import is_drivable
from clkd_core.models.planner import (
    NO_ACTION,
    Planner,
    PlannerConfig,
    PlannerInputs,
    PlannerOutput,
    action_agreement,
    build_inputs,
)
from clkd_core.models.planner_layers import QueryLayer
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import (
    META_ACTIONS,
    EgoState,
    MetaAction,
    PathAction,
    RouteCommand,
    SpeedAction,
)

PATCHES, WIDTH, SIZE = 5, 12, 16


def build(seed: int = 0, **sizes: float) -> Planner:
    """A small planner with random weights everywhere, its corrections included."""
    torch.manual_seed(seed)
    planner = Planner(
        PlannerConfig(**{"width": 16, "heads": 2, "tokens_per_view": 2, **sizes}),
        vocabulary_m=torch.randn(SIZE, 6, 2) * 10,
        own_action=torch.arange(SIZE),
        patches=PATCHES,
        feature_width=WIDTH,
    )
    torch.nn.init.normal_(planner.refine.weight)
    return planner.eval()


def some_inputs(batch: int = 3) -> PlannerInputs:
    generator = torch.Generator().manual_seed(7)
    return build_inputs(
        torch.randn(batch, 6, PATCHES, WIDTH, generator=generator),
        torch.ones(batch, 6, dtype=torch.bool),
        [EgoState(stamp_ns=0, speed_mps=3.0 + i, yaw_rate_radps=0.1) for i in range(batch)],
        [RouteCommand.LEFT] * batch,
        [META_ACTIONS[i] for i in range(batch)],
    )


@torch.inference_mode()
def scores(planner: Planner, inputs: PlannerInputs) -> torch.Tensor:
    return planner(inputs).log_prob


def test_probabilities_sum_to_one() -> None:
    total = scores(build(), some_inputs()).exp().sum(dim=-1)
    torch.testing.assert_close(total, torch.ones(3))


@pytest.mark.parametrize("content", [0.0, 1e3, float("nan")])
def test_a_masked_view_does_not_influence_the_plan(content: float) -> None:
    planner, inputs = build(), some_inputs()
    present = inputs.present.clone()
    present[:, 2] = False
    filled = inputs.features.clone()
    filled[:, 2] = content
    wanted = scores(planner, inputs._replace(present=present))
    got = scores(planner, inputs._replace(present=present, features=filled))
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_queries_read_masked_tokens_as_if_they_were_not_there() -> None:
    torch.manual_seed(0)
    layer, queries, tokens = QueryLayer(16, 2), torch.randn(2, 4, 16), torch.randn(2, 9, 16)
    readable = torch.ones(2, 9, dtype=torch.bool)
    readable[:, 5:] = False
    masked = layer(queries, tokens, readable)
    torch.testing.assert_close(masked, layer(queries, tokens[:, :5], readable[:, :5]))
    assert not torch.allclose(masked, layer(queries, tokens, torch.ones_like(readable)))


def test_a_present_view_influences_the_plan() -> None:
    planner, inputs = build(), some_inputs()
    changed = inputs.features.clone()
    changed[:, 2] = torch.randn(PATCHES, WIDTH)
    assert not torch.allclose(
        scores(planner, inputs._replace(features=changed)), scores(planner, inputs)
    )


def test_a_plan_is_possible_when_every_view_is_masked() -> None:
    inputs = some_inputs()
    blind = inputs._replace(present=torch.zeros_like(inputs.present))
    assert torch.isfinite(scores(build(), blind)).all()


def test_without_an_ego_state_speed_and_yaw_rate_do_not_influence_the_plan() -> None:
    planner, inputs = build(), some_inputs()
    unknown = inputs._replace(has_ego=torch.zeros_like(inputs.has_ego))
    other = unknown._replace(
        speed_mps=inputs.speed_mps + 9, yaw_rate_radps=-inputs.yaw_rate_radps,
        steady_xy_m=inputs.steady_xy_m * float("nan"),
    )  # fmt: skip
    torch.testing.assert_close(scores(planner, other), scores(planner, unknown), rtol=0, atol=0)
    assert not torch.allclose(scores(planner, unknown), scores(planner, inputs))


@pytest.mark.parametrize("field", ["command", "action"])
def test_an_unknown_command_or_action_is_a_case_of_its_own(field: str) -> None:
    inputs = some_inputs(1)
    known = range(5 if field == "command" else 20)
    rows = [
        scores(build(), inputs._replace(**{field: torch.tensor([index])}))
        for index in [*known, len(known)]
    ]
    assert all(not torch.allclose(row, rows[-1]) for row in rows[:-1])


def test_agreement_tells_speed_and_path_apart() -> None:
    stop_left = MetaAction(SpeedAction.STOP, PathAction.LEFT_TURN)
    stop_straight = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)
    keep_left = MetaAction(SpeedAction.KEEP, PathAction.LEFT_TURN)
    own = torch.tensor([stop_left.index, stop_straight.index, keep_left.index])
    asked = torch.tensor([stop_left.index, NO_ACTION])
    assert action_agreement(asked, own).tolist() == [
        [[1, 1], [1, -1], [-1, 1]],
        [[0, 0], [0, 0], [0, 0]],
    ]


def test_corrections_stay_within_their_bound_which_grows_with_time() -> None:
    planner = build(refine_bound_m=0.6)
    with torch.no_grad():
        planner.refine.weight.mul_(1000)
        output = planner(some_inputs())
        moved = planner.refined(output, torch.arange(SIZE).expand(3, SIZE)) - planner.vocabulary_m
    furthest = moved.abs().amax(dim=(0, 1, 3))
    assert furthest.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rel=1e-3)


def test_the_best_trajectory_is_the_chosen_one_corrected() -> None:
    planner, inputs = build(), some_inputs()
    with torch.no_grad():
        output = planner(inputs)
        best, chosen = planner.best(inputs, output), planner.choose(inputs, output)
        wanted = planner.refined(output, chosen[:, None])[:, 0]
    torch.testing.assert_close(best, wanted, rtol=0, atol=0)
    assert not torch.allclose(best, planner.vocabulary_m[chosen])


def straight_at(*speeds_mps: float) -> torch.Tensor:
    """(V, T, 2): straight ahead, each at one speed."""
    time_s = 0.5 * torch.arange(1, 7)
    x_m = torch.tensor(speeds_mps)[:, None] * time_s
    return torch.stack([x_m, torch.zeros_like(x_m)], dim=-1)


def choose(
    speeds_mps: list[float],
    own: list[int],
    prob: list[float],
    *,
    action: int = NO_ACTION,
    ego_mps: float | None = None,
    vehicle: VehicleConfig | None = None,
) -> int:
    """What a planner chooses whose network gave these probabilities."""
    planner = Planner(
        PlannerConfig(width=16, heads=2),
        vocabulary_m=straight_at(*speeds_mps), own_action=torch.tensor(own),
        patches=PATCHES, feature_width=WIDTH, vehicle=vehicle,
    )  # fmt: skip
    inputs = build_inputs(
        torch.zeros(1, 6, PATCHES, WIDTH), torch.ones(1, 6, dtype=torch.bool),
        [None if ego_mps is None else EgoState(stamp_ns=0, speed_mps=ego_mps)],
        [None], [None if action == NO_ACTION else META_ACTIONS[action]],
    )  # fmt: skip
    output = PlannerOutput(torch.tensor([prob]).log(), torch.zeros(1, len(own), 16))
    return int(planner.choose(inputs, output)[0])


def test_the_action_with_most_probability_is_chosen_before_the_trajectory() -> None:
    # The single most probable trajectory stops (action 15), but going on (0) has more in sum;
    # the least expected distance over all would be the slow trajectory in between (5).
    assert choose([0, 3, 9, 10, 11], [15, 5, 0, 0, 0], [0.4, 0.02, 0.19, 0.2, 0.19]) == 3


def test_among_trajectories_that_do_the_same_the_middle_one_is_chosen() -> None:
    speeds, prob = [0.0, 1.0, 2.0, 9.0], [0.3, 0.24, 0.22, 0.24]
    distances = [sum(p * abs(a - b) for b, p in zip(speeds, prob, strict=True)) for a in speeds]
    assert choose(speeds, [0] * 4, prob) == int(np.argmin(distances)) == 1


def test_the_commanded_action_is_chosen_however_improbable() -> None:
    assert choose([0, 5, 6], [15, 0, 0], [1e-6, 0.5, 0.5], action=15) == 0


def test_a_command_that_no_trajectory_carries_out_is_not_followed() -> None:
    assert choose([0, 5, 6], [15, 0, 0], [0.2, 0.7, 0.1], action=7) == 1


@pytest.mark.parametrize(
    ("ego_mps", "wanted"), [(0.9, 0), (2.2, 1), (3.9, 1), (-1.4, 0), (-9.0, 0)]
)
def test_what_cannot_be_started_from_the_present_speed_is_not_chosen(
    ego_mps: float, wanted: int
) -> None:
    # Gaining at most 3.6 m/s^2 the first half second's mean speed rises by 0.9 m/s. Braking to
    # a speed that is then kept may take 3.75 m/s^2, or its end would be a jerk beyond 10 m/s^3.
    assert choose([0, 3], [15, 0], [0.6, 0.4], action=15, ego_mps=ego_mps) == wanted


def test_a_limit_of_the_vehicle_decides_what_is_chosen() -> None:
    lame = VehicleConfig(max_accel_mps2=1.0)
    asked = {"action": 0, "ego_mps": 2.2}
    assert choose([2.2, 3], [15, 0], [0.6, 0.4], **asked) == 1
    assert choose([2.2, 3], [15, 0], [0.6, 0.4], **asked, vehicle=lame) == 0


def test_whether_a_command_can_be_obeyed_is_known() -> None:
    planner = build()
    planner.low_mps[:], planner.high_mps[:] = 0.0, 3.5
    inputs = some_inputs()._replace(action=torch.tensor([0, SIZE, NO_ACTION]))
    # 3 m/s is within, 4 m/s is not, and nobody does action 16; without a command all is well.
    assert planner.can_obey(inputs).tolist() == [True, False, True]
    assert planner.can_obey(inputs._replace(speed_mps=inputs.speed_mps + 1)).tolist() == [
        False, False, True,
    ]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    speeds=st.lists(st.floats(-5, 60), min_size=3, max_size=3),
    spread=st.sampled_from([0.1, 3.0, 100.0]),
)
def test_what_is_driven_is_within_the_limits_whatever_the_weights(
    seed: int, speeds: list[float], spread: float
) -> None:
    planner, inputs = build(seed, refine_bound_m=10.0), some_inputs()
    with torch.no_grad():
        planner.vocabulary_m.mul_(spread / 10)
        planner.refine.weight.mul_(spread)
        inputs = inputs._replace(
            features=inputs.features * spread, speed_mps=torch.tensor(speeds),
            has_ego=torch.tensor([True, True, False]),
        )  # fmt: skip
        driven = planner.drive(inputs, planner(inputs))
    now = np.array([*speeds[:2], math.nan], np.float32)
    assert is_drivable(driven, now, planner.vehicle).all()


def test_a_network_of_nan_drives_nan_and_nothing_that_looks_like_a_plan() -> None:
    planner, inputs = build(), some_inputs()
    torch.nn.init.constant_(planner.refine.weight, math.nan)
    with torch.no_grad():
        assert np.isnan(planner.drive(inputs, planner(inputs))).all()


def test_at_a_speed_no_trajectory_starts_from_something_is_chosen_all_the_same() -> None:
    assert choose([0, 5], [15, 0], [0.4, 0.6], ego_mps=60.0) == 1


def test_inputs_mark_what_is_unknown() -> None:
    inputs = build_inputs(
        torch.zeros(2, 6, PATCHES, WIDTH),
        torch.ones(2, 6, dtype=torch.bool),
        [None, EgoState(stamp_ns=0, speed_mps=4.0)],
        [None, RouteCommand.RIGHT],
        [None, META_ACTIONS[7]],
    )
    assert inputs.has_ego.tolist() == [False, True]
    assert inputs.command.tolist() == [5, 2]
    assert inputs.action.tolist() == [NO_ACTION, 7]
    assert inputs.steady_xy_m[1, -1].tolist() == [12.0, 0.0]


def test_features_of_another_shape_are_refused() -> None:
    inputs = some_inputs()
    with pytest.raises(ValueError, match=r"features are \(3, 6, 4, 12\)"):
        build()(inputs._replace(features=inputs.features[:, :, :4]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 30),
        ("vocabulary_size", 5000),
        ("refine_bound_m", float("nan")),
        ("heads", 0),
    ],
)
def test_sizes_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        PlannerConfig(**{field: value})
