"""Whether the decision matters: every frame with every one of the 20 meta-actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clkd_core.metrics.intervals import Interval, interval_from_replicates, replicate_sums
from clkd_core.models.manoeuvres import own_actions, reachable_actions
from clkd_core.models.planner import Planner, PlannerInputs
from clkd_core.planner_training.features import PlannerSet
from clkd_core.planner_training.scoring.plans import plan_set
from clkd_core.progress import progress
from clkd_core.types import META_ACTIONS

GOAL_FRAC = 0.95
"""Of the pairs that can be reached, so many shall be obeyed."""


@dataclass(frozen=True, kw_only=True)
class Obedience:
    """Of N frames with a known speed and all A meta-actions."""

    reachable: NDArray[np.bool_]
    """(N, A) whether the vehicle can carry the action out at all from the frame's speed."""
    obeyed: NDArray[np.bool_]
    """(N, A) whether the plan carries out what was commanded; not asked where unreachable."""
    scenes: tuple[str, ...]
    """(N,)."""

    @property
    def reachable_frac(self) -> float:
        """Share of all pairs that can be reached."""
        return float(self.reachable.mean())

    def obeyed_frac(self, actions: Sequence[int] | None = None, *, seed: int = 0) -> Interval:
        """Share of the reachable pairs that are obeyed; drives are drawn. NaN where none is.

        Args:
            actions: which of the 20; None takes all.
            seed: of the bootstrap.
        """
        columns = list(range(len(META_ACTIONS)) if actions is None else actions)
        reachable = self.reachable[:, columns]
        obeyed = self.obeyed[:, columns] & reachable
        counts = np.stack([obeyed.sum(axis=1), reachable.sum(axis=1)], axis=1).astype(np.float64)
        sums = replicate_sums(counts, self.scenes, seed=seed)
        with np.errstate(invalid="ignore"):
            drawn = sums[:, 0] / sums[:, 1]
            value = np.divide(*counts.sum(axis=0))
        return interval_from_replicates(float(value), drawn)

    def to_json(self) -> dict[str, Any]:
        """Numbers only, for ``metrics.jsonl``."""
        every = self.obeyed_frac()
        rows = {}
        for action in META_ACTIONS:
            pairs = int(self.reachable[:, action.index].sum())
            part = self.obeyed_frac([action.index])
            share = {"obeyed_frac": part.value, "low": part.low, "high": part.high}
            rows[action.text] = {"reachable_pairs": pairs, **(share if pairs else {})}
        return {
            "frames": len(self.reachable),
            "reachable_frac": self.reachable_frac,
            "obeyed_frac": every.value, "low": every.low, "high": every.high,
            "actions": rows,
        }  # fmt: skip


def score_obedience(planner: Planner, data: PlannerSet) -> Obedience | None:
    """Command every frame each of the 20 in turn; None where no frame has an ego state.

    A pair counts as reachable when :func:`clkd_core.models.manoeuvres.reachable_actions` finds a
    manoeuvre, or when it is what the vehicle really did next.
    """
    known = data.inputs.has_ego.nonzero()[:, 0]
    if not len(known):
        return None
    inputs = PlannerInputs(*(tensor[known] for tensor in data.inputs))
    reachable = reachable_actions(inputs.speed_mps.numpy(), planner.vehicle)
    reachable[np.arange(len(known)), inputs.action.numpy()] = True
    obeyed = np.zeros_like(reachable)
    for action in progress(META_ACTIONS, total=len(META_ACTIONS), desc="command", unit="actions"):
        rows = torch.from_numpy(np.flatnonzero(reachable[:, action.index]))
        if len(rows):
            commanded = PlannerInputs(*(tensor[rows] for tensor in inputs))._replace(
                action=torch.full((len(rows),), action.index)
            )
            does = own_actions(plan_set(planner, commanded).numpy())
            obeyed[rows.numpy(), action.index] = does == action.index
    return Obedience(
        reachable=reachable,
        obeyed=obeyed,
        scenes=tuple(data.scenes[i] for i in known.tolist()),
    )
