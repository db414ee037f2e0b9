"""The baseline that sees no image: from ego status and route command to a meta-action.

Such models rival end-to-end planners on nuScenes open loop (Li et al. 2024, arXiv 2312.03031),
so a score says little until it stands beside one.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clkd_core.errors import CheckpointError, FrameError
from clkd_core.files import replace_folder
from clkd_core.metrics.baselines.majority import majority_action
from clkd_core.metrics.frames import FrameRow, Outcome
from clkd_core.types import META_ACTIONS, EgoState, MetaAction, RouteCommand

FAMILY = "ego-status-baseline"
FORMAT_VERSION = 1
FEATURES = 3 + len(RouteCommand) + 1
"""Odometry present, speed, yaw rate; one-hot route command; route command present."""

_HIDDEN = 64
_STEPS = 400  # full-batch Adam has settled by then on 5,000 world keyframes
_LEARNING_RATE = 1e-2
_WEIGHT_DECAY = 1e-4
_SPEED_SCALE_MPS = 10.0
_YAW_RATE_SCALE_RADPS = 0.3


class EgoStatusBaseline:
    """A small MLP from speed, yaw rate and route command to the 20 actions; it sees no image."""

    def __init__(self, network: nn.Sequential, majority: MetaAction | None = None) -> None:
        """Take a fitted network.

        Args:
            network: from FEATURES numbers to the scores of the 20 actions.
            majority: see :attr:`majority`.
        """
        self._network = network.eval()
        self.majority = majority
        """The most frequent label it was fitted on; None where the folder is too old to say."""

    @torch.inference_mode()
    def predict(
        self, egos: Sequence[EgoState | None], commands: Sequence[RouteCommand | None]
    ) -> list[MetaAction]:
        """The most probable action of each frame; None marks what the frame does not have.

        Raises:
            ValueError: lengths that disagree.
        """
        scores = self._network(_features(egos, commands))
        return [META_ACTIONS[index] for index in scores.argmax(dim=1).tolist()]

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder of its own, atomically."""
        config: dict[str, int | str] = {
            "family": FAMILY,
            "format_version": FORMAT_VERSION,
            "hidden": _HIDDEN,
        }
        if self.majority is not None:
            config["majority"] = self.majority.text
        with replace_folder(folder) as part:
            save_file(self._network.state_dict(), part / "model.safetensors")
            (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "EgoStatusBaseline":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the folder is missing, damaged or holds another model.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            found = (config.get("family"), config.get("format_version"))
            if found != (FAMILY, FORMAT_VERSION):
                raise CheckpointError(
                    f"{folder} holds {found[0]} version {found[1]}, "
                    f"expected {FAMILY} version {FORMAT_VERSION}"
                )
            network = _build_network(int(config["hidden"]))
            network.load_state_dict(load_file(folder / "model.safetensors"))
            text = config.get("majority")
            majority = None if text is None else MetaAction.from_text(text)
        except (
            OSError,
            ValueError,
            KeyError,
            AttributeError,
            RuntimeError,
            SafetensorError,
        ) as err:
            reason = " ".join(str(err).split())
            raise CheckpointError(f"{folder} is no {FAMILY}: {reason}") from err
        return cls(network, majority)


def fit_ego_status_baseline(
    egos: Sequence[EgoState | None],
    commands: Sequence[RouteCommand | None],
    actions: Sequence[MetaAction],
    *,
    seed: int,
) -> EgoStatusBaseline:
    """Fit on training keyframes with cross-entropy; seconds on a CPU, same seed, same result.

    Raises:
        ValueError: no keyframe, or lengths that disagree.
    """
    features = _features(egos, commands)
    if not actions or len(actions) != len(features):
        raise ValueError(f"{len(actions)} actions for {len(features)} keyframes, expected >= 1")
    target = torch.tensor([action.index for action in actions])
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay untouched
        torch.manual_seed(seed)
        network = _build_network(_HIDDEN)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(network(features), target))
        optimizer.step()
    return EgoStatusBaseline(network, majority_action(actions))


def answer_by_ego_status(rows: Sequence[FrameRow], baseline: EgoStatusBaseline) -> list[FrameRow]:
    """The same frames answered by the baseline; only speed, yaw rate and command are read."""
    answers = baseline.predict([_ego_from_row(row) for row in rows], [row.command for row in rows])
    return [
        replace(row.unanswered, answer=answer, outcome=Outcome.ANSWERED)
        for row, answer in zip(rows, answers, strict=True)
    ]


def _ego_from_row(row: FrameRow) -> EgoState | None:
    try:
        return EgoState(
            stamp_ns=row.stamp_ns, speed_mps=row.speed_mps, yaw_rate_radps=row.yaw_rate_radps
        )
    except FrameError:  # NaN: the frame had no odometry
        return None


def _build_network(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, len(META_ACTIONS)),
    )


def _features(egos: Sequence[EgoState | None], commands: Sequence[RouteCommand | None]) -> Tensor:
    """(N, FEATURES) float32, roughly of unit size."""
    if len(egos) != len(commands):
        raise ValueError(f"{len(egos)} ego states and {len(commands)} commands")
    features = torch.zeros(len(egos), FEATURES)
    for row, ego, command in zip(features, egos, commands, strict=True):
        if ego is not None:
            row[0] = 1
            row[1] = ego.speed_mps / _SPEED_SCALE_MPS
            row[2] = ego.yaw_rate_radps / _YAW_RATE_SCALE_RADPS
        if command is not None:
            row[3 + list(RouteCommand).index(command)] = 1
            row[-1] = 1
    return features
