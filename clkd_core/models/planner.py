"""The end-to-end planner, after VADv2 (arXiv 2402.13243): score a vocabulary of trajectories.

Every trajectory of the vocabulary is a query. It is described by its points, by how they differ
from keeping speed and turn rate, and by whether it does what the meta-action commands; it
attends to the tokens of the scene: the student's frozen vision features (a few tokens a view),
the ego state, the route command and the meta-action. Out come a log-probability for each
trajectory and a bounded correction of those asked for. Attention among the queries is left out:
256 to 4096 queries reading some fifty tokens cost little, 4096 reading each other do not.

:meth:`Planner.drive` is what may be published: within the vehicle's limits whatever the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name everybody knows
from numpy.typing import NDArray
from torch import Tensor, nn

from clkd_core.models.drivable import start_speeds
from clkd_core.models.planner_layers import QueryLayer
from clkd_core.models.settling import ANY_ACTION, settle
from clkd_core.models.trajectories import constant_velocity_points
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.types import (
    CAMERAS,
    FUTURE_STEPS,
    META_ACTIONS,
    EgoState,
    MetaAction,
    PathAction,
    RouteCommand,
)

COMMANDS: tuple[RouteCommand, ...] = tuple(RouteCommand)
"""Order of the route commands in the embedding; one more row means that none came."""

NO_COMMAND = len(COMMANDS)
NO_ACTION = len(META_ACTIONS)

SPEED_SCALE_MPS = 10.0
YAW_RATE_SCALE_RADPS = 0.3
POINT_SCALE_M = 10.0
"""Typical sizes in city driving; inputs are divided by them so that they are about 1."""

_CANDIDATES = 32  # the most probable ones; the others weigh too little to move the choice


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Sizes of the planner; saved with its weights.

    Raises:
        ValueError: a size is not possible.
    """

    vocabulary_size: int = 256
    """Trajectories in the vocabulary; fewer when the training futures do not differ enough."""
    width: int = 64
    """Width E of queries and tokens."""
    heads: int = 4
    """Attention heads; divides ``width``."""
    tokens_per_view: int = 8
    """Tokens that remain of one view's patches."""
    refine_bound_m: float = 1.5
    """Largest correction of the last point along x and along y [m], >= 0; less before, in
    proportion to time."""

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "width", "heads", "tokens_per_view"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected >= 1")
        if self.vocabulary_size > 4096:
            raise ValueError(f"vocabulary_size is {self.vocabulary_size}, expected <= 4096")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if not 0 <= self.refine_bound_m <= 10:
            raise ValueError(f"refine_bound_m is {self.refine_bound_m}, expected 0 to 10")


class PlannerInputs(NamedTuple):
    """One batch of what a plan may look at."""

    features: Tensor
    """(B, C, P, D) float: the student's vision features."""
    present: Tensor
    """(B, C) bool, True where the view holds an image."""
    speed_mps: Tensor
    """(B,) float32; any number where ``has_ego`` is False."""
    yaw_rate_radps: Tensor
    """(B,) float32; any number where ``has_ego`` is False."""
    steady_xy_m: Tensor
    """(B, T, 2) float32: where keeping speed and turn rate leads; ditto."""
    has_ego: Tensor
    """(B,) bool, True where speed and yaw rate are known."""
    command: Tensor
    """(B,) int64 index into ``COMMANDS``, or ``NO_COMMAND``."""
    action: Tensor
    """(B,) int64 index of the commanded meta-action, or ``NO_ACTION``."""


def build_inputs(
    features: Tensor,
    present: Tensor,
    egos: Sequence[EgoState | None],
    commands: Sequence[RouteCommand | None],
    actions: Sequence[MetaAction | None],
) -> PlannerInputs:
    """Numbers from what is known about each sample; None marks what is not.

    Args:
        features: (B, C, P, D) float; its device becomes the device of all.
        present: (B, C) bool.
        egos: B ego states.
        commands: B route commands.
        actions: B meta-actions to follow.
    """
    speed = np.array([0.0 if ego is None else ego.speed_mps for ego in egos], np.float32)
    yaw_rate = np.array([0.0 if ego is None else ego.yaw_rate_radps for ego in egos], np.float32)
    rows = PlannerInputs(
        features=features,
        present=present,
        speed_mps=torch.from_numpy(speed),
        yaw_rate_radps=torch.from_numpy(yaw_rate),
        steady_xy_m=torch.from_numpy(constant_velocity_points(speed, yaw_rate)),
        has_ego=torch.tensor([ego is not None for ego in egos]),
        command=torch.tensor([NO_COMMAND if c is None else COMMANDS.index(c) for c in commands]),
        action=torch.tensor([NO_ACTION if a is None else a.index for a in actions]),
    )
    return PlannerInputs(*(tensor.to(features.device) for tensor in rows))


class PlannerOutput(NamedTuple):
    """What the planner thinks of each trajectory of its vocabulary."""

    log_prob: Tensor
    """(B, V) float32, normalised."""
    read: Tensor
    """(B, V, E): each query after reading the scene; :meth:`Planner.refined` wants it."""


class Planner(nn.Module):
    """Scores a fixed vocabulary of trajectories for a scene."""

    vocabulary_m: Tensor
    own_action: Tensor
    low_mps: Tensor
    high_mps: Tensor

    def __init__(
        self,
        config: PlannerConfig,
        *,
        vocabulary_m: Tensor,
        own_action: Tensor,
        patches: int,
        feature_width: int,
        vehicle: VehicleConfig | None = None,
    ) -> None:
        """Build with fresh weights from torch's global random state.

        Args:
            config: sizes.
            vocabulary_m: (V, T, 2) float32 metres, ego frame.
            own_action: (V,) int64, the meta-action that each trajectory carries out.
            patches: P of the vision features.
            feature_width: D of the vision features.
            vehicle: its limits; None takes the defaults. A trajectory that it cannot drive from
                the present speed is chosen only where there is no other.

        Raises:
            ValueError: the shapes disagree.
        """
        super().__init__()
        if vocabulary_m.ndim != 3 or tuple(vocabulary_m.shape[1:]) != (FUTURE_STEPS, 2):
            raise ValueError(
                f"vocabulary is {tuple(vocabulary_m.shape)}, expected (V, {FUTURE_STEPS}, 2)"
            )
        if tuple(own_action.shape) != (vocabulary_m.shape[0],):
            raise ValueError(
                f"own_action is {tuple(own_action.shape)}, expected ({vocabulary_m.shape[0]},)"
            )
        self.config = config
        self.patches = patches
        self.feature_width = feature_width
        self.vehicle = vehicle or VehicleConfig()
        self.register_buffer("vocabulary_m", vocabulary_m.float())
        self.register_buffer("own_action", own_action.long())
        low, high = start_speeds(vocabulary_m.float().cpu().numpy(), self.vehicle)
        self.register_buffer("low_mps", torch.from_numpy(low), persistent=False)
        self.register_buffer("high_mps", torch.from_numpy(high), persistent=False)
        self.scene = SceneTokens(config, patches, feature_width)
        self.queries = TrajectoryQueries(config.width)
        self.reader = QueryLayer(config.width, config.heads)
        self.head_norm = nn.LayerNorm(config.width)
        self.score = nn.Linear(config.width, 1)
        self.refine = nn.Linear(config.width, FUTURE_STEPS * 2)
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)

    def forward(self, inputs: PlannerInputs) -> PlannerOutput:
        """Score every trajectory of the vocabulary.

        Raises:
            ValueError: the features are not (B, C, P, D) of this planner.
        """
        wanted = (len(CAMERAS), self.patches, self.feature_width)
        if tuple(inputs.features.shape[1:]) != wanted:
            raise ValueError(
                f"features are {tuple(inputs.features.shape)}, expected (B, *{wanted})"
            )
        tokens, readable = self.scene(inputs)
        queries = self.queries(inputs, self.vocabulary_m, self.own_action)
        read = self.head_norm(self.reader(queries, tokens, readable))
        logits = self.score(read).squeeze(-1).float()
        return PlannerOutput(torch.log_softmax(logits, dim=-1), read)

    def refined(self, output: PlannerOutput, chosen: Tensor) -> Tensor:
        """Trajectories of the vocabulary with their corrections.

        Args:
            output: of :meth:`forward`.
            chosen: (B, K) int64 indices into the vocabulary.

        Returns:
            (B, K, T, 2) float32 metres; the last points are no further than ``refine_bound_m``
            from where they were along either axis, the others in proportion to their time.
        """
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        shift = torch.tanh(self.refine(output.read[rows, chosen]).float())
        time_frac = torch.arange(1, FUTURE_STEPS + 1, device=shift.device)[:, None] / FUTURE_STEPS
        bound_m = self.config.refine_bound_m * time_frac
        moved: Tensor = self.vocabulary_m[chosen] + (
            bound_m * shift.view(*chosen.shape, FUTURE_STEPS, 2)
        )
        return moved

    def best(self, inputs: PlannerInputs, output: PlannerOutput) -> Tensor:
        """The chosen trajectory of each sample, corrected: (B, T, 2) float32 metres.

        The network's own words, for training and for looking at it; see :meth:`drive`.
        """
        return self.refined(output, self.choose(inputs, output)[:, None])[:, 0]

    @torch.no_grad()
    def drive(self, inputs: PlannerInputs, output: PlannerOutput) -> NDArray[np.float32]:
        """The trajectory to drive for each sample, within the vehicle's limits.

        What the chosen one does it still does after its correction: the commanded action where
        the vocabulary knows a way, see :func:`clkd_core.models.settling.settle`.

        Returns:
            (B, T, 2) float32 metres on the host; NaN where the network gave NaN.
        """
        chosen = self.choose(inputs, output)
        own = self.own_action[chosen]
        speed = torch.where(inputs.has_ego, inputs.speed_mps, torch.nan)
        return settle(
            self.vocabulary_m[chosen].cpu().numpy(),
            self.refined(output, chosen[:, None])[:, 0].cpu().numpy(),
            speed.cpu().numpy(),
            torch.where(own == inputs.action, own, ANY_ACTION).cpu().numpy(),
            self.vehicle,
        )

    def can_obey(self, inputs: PlannerInputs) -> Tensor:
        """(B,) bool: whether the commanded action can be carried out from the present speed by a
        trajectory of the vocabulary; True where nothing is commanded."""
        obedient = self._startable(inputs) & (self.own_action == inputs.action[:, None])
        return obedient.any(dim=-1) | (inputs.action == NO_ACTION)

    @torch.no_grad()
    def choose(self, inputs: PlannerInputs, output: PlannerOutput) -> Tensor:
        """Decide what to do, then how: (B,) int64 indices into the vocabulary.

        What to do is the commanded action wherever the vocabulary knows a way to do it from the
        present speed, else the action with most of the probability. How is the trajectory with
        the least expected distance to those that do the same: the most probable single one is
        a poor choice where many neighbours share the probability, and the least expected
        distance over all of them would be half a stop between stopping and going on.
        """
        allowed = self._allowed(inputs)
        prob = output.log_prob.exp() * allowed
        mass = prob @ F.one_hot(self.own_action, len(META_ACTIONS)).float()
        alike = allowed & (self.own_action == mass.argmax(dim=-1, keepdim=True))
        weight, candidates = torch.where(alike, prob, -1.0).topk(
            min(_CANDIDATES, len(self.own_action)), dim=-1
        )
        xy_m = self.vocabulary_m[candidates]
        gaps_m = (xy_m[:, :, None] - xy_m[:, None]).norm(dim=-1).mean(dim=-1)
        expected_m = (gaps_m * weight.clamp(min=0)[:, None]).sum(dim=-1)
        expected_m = expected_m.masked_fill(weight < 0, torch.inf)
        return candidates.gather(1, expected_m.argmin(dim=-1, keepdim=True))[:, 0]

    def _allowed(self, inputs: PlannerInputs) -> Tensor:
        """(B, V) bool: what may be chosen; never empty, the strictest set that is not."""
        startable = self._startable(inputs)
        startable |= ~startable.any(dim=-1, keepdim=True)
        obedient = startable & (self.own_action == inputs.action[:, None])
        return torch.where(obedient.any(dim=-1, keepdim=True), obedient, startable)

    def _startable(self, inputs: PlannerInputs) -> Tensor:
        """(B, V) bool: what the vehicle can drive from its present speed, backwards being none."""
        speed = inputs.speed_mps.clamp(min=0.0)[:, None]
        startable = (self.low_mps <= speed) & (speed <= self.high_mps)
        drivable = self.low_mps <= self.high_mps
        return torch.where(inputs.has_ego[:, None], startable, drivable)


class SceneTokens(nn.Module):
    """Vision features, ego state, command and meta-action as one short list of tokens."""

    def __init__(self, config: PlannerConfig, patches: int, feature_width: int) -> None:
        super().__init__()
        width, kept = config.width, config.tokens_per_view
        self.project = nn.Sequential(nn.LayerNorm(feature_width), nn.Linear(feature_width, width))
        self.patch_position = nn.Parameter(torch.randn(patches, width) * 0.1)
        self.mix_patches = nn.Linear(patches, kept)
        self.token_position = nn.Parameter(torch.randn(len(CAMERAS), kept, width) * 0.1)
        self.ego = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.command = nn.Embedding(len(COMMANDS) + 1, width)
        self.action = nn.Embedding(len(META_ACTIONS) + 1, width)
        self.mixer = nn.TransformerEncoderLayer(
            width, config.heads, 2 * width, dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip

    def forward(self, inputs: PlannerInputs) -> tuple[Tensor, Tensor]:
        """Return tokens (B, S, E) and readable (B, S) bool; S = 3 + C * tokens_per_view."""
        patches = self.project(inputs.features.float()) + self.patch_position
        # As in Senna, a linear layer on the token axis shortens each view (design.md section 3).
        views = self.mix_patches(patches.transpose(-1, -2)).transpose(-1, -2)
        views = (views + self.token_position).flatten(1, 2)
        known = torch.stack(
            [self.ego(_ego_values(inputs)), self.command(inputs.command),
             self.action(inputs.action)], dim=1,
        )  # fmt: skip
        per_view = self.token_position.shape[1]
        seen = inputs.present.repeat_interleave(per_view, dim=1)
        readable = F.pad(seen, (known.shape[1], 0), value=True)
        tokens = torch.cat([known, views], dim=1)
        # A missing view's features may be anything, NaN included: zero them before any product.
        tokens = torch.where(readable[..., None], tokens, 0.0)
        return self.mixer(tokens, src_key_padding_mask=~readable), readable


def _ego_values(inputs: PlannerInputs) -> Tensor:
    """(B, 3): scaled speed, scaled yaw rate, presence; zeros where the ego state is unknown."""
    values = torch.stack(
        [inputs.speed_mps / SPEED_SCALE_MPS, inputs.yaw_rate_radps / YAW_RATE_SCALE_RADPS,
         torch.ones_like(inputs.speed_mps)], dim=-1,
    )  # fmt: skip
    return torch.where(inputs.has_ego[:, None], values, 0.0)


class TrajectoryQueries(nn.Module):
    """Each trajectory of the vocabulary as seen from the present motion and the command."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Linear(4 * FUTURE_STEPS + 2, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, inputs: PlannerInputs, vocabulary_m: Tensor, own_action: Tensor) -> Tensor:
        """Return (B, V, E)."""
        batch, size = len(inputs.action), len(vocabulary_m)
        change = vocabulary_m - inputs.steady_xy_m[:, None]
        change = torch.where(inputs.has_ego[:, None, None, None], change, 0.0)
        absolute = vocabulary_m.flatten(1).expand(batch, size, -1)
        described = torch.cat([absolute, change.flatten(2)], dim=-1) / POINT_SCALE_M
        obeys = action_agreement(inputs.action, own_action)
        queries: Tensor = self.encode(torch.cat([described, obeys], dim=-1))
        return queries


def action_agreement(action: Tensor, own_action: Tensor) -> Tensor:
    """Whether each trajectory carries out the commanded speed action and path action.

    Args:
        action: (B,) int64, ``NO_ACTION`` where nothing is commanded.
        own_action: (V,) int64.

    Returns:
        (B, V, 2) float32: 1 agrees, -1 does not, 0 nothing is commanded.
    """
    paths = len(PathAction)
    same_speed = action[:, None] // paths == own_action[None] // paths
    same_path = action[:, None] % paths == own_action[None] % paths
    sign = torch.stack([same_speed, same_path], dim=-1).float() * 2 - 1
    return torch.where((action == NO_ACTION)[:, None, None], 0.0, sign)
