"""Which drives a split has: what makes the ego act, which way it goes, which case it is.

Shares are laid out evenly and then shuffled, so that a small set is as balanced as a large one.
Lane changes are left out on purpose: Senna's rule sees one only where more than 4 m sideways stay
below 5 degrees of bearing, that is from 15 m/s on, and there is no fast road here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clkd_core.data.world.config import CORNER_CASES, WorldConfig

SPLITS = ("train", "val")

Recipe = tuple[str, str, str]
"""Cause, manoeuvre, window (``full``: approach, stop and start; ``stand``: begins standing)."""

REGULAR_RECIPES: dict[Recipe, float] = {
    ("red_light", "straight", "full"): 8,
    ("red_light", "straight", "stand"): 5,
    ("red_light", "left", "full"): 5,
    ("red_light", "left", "stand"): 4,
    ("red_light", "right", "full"): 5,
    ("red_light", "right", "stand"): 4,
    ("red_light_lead", "straight", "full"): 5,
    ("red_light_lead", "straight", "stand"): 4,
    ("red_light_lead", "left", "stand"): 4,
    ("red_light_lead", "right", "stand"): 4,
    ("red_light_lead", "left", "full"): 2,
    ("red_light_lead", "right", "full"): 2,
    ("lead_stop", "straight", "full"): 5,
    ("lead_stop", "straight", "stand"): 5,
    ("slow_lead", "straight", "full"): 8,
    ("pedestrian", "straight", "full"): 8,
    ("pedestrian", "straight", "stand"): 5,
    ("side_pedestrian", "right", "stand"): 4,
    ("oncoming", "left", "stand"): 4,
    ("oncoming", "left", "full"): 2,
    ("green", "straight", "full"): 5,
    ("green", "left", "full"): 6,
    ("green", "right", "full"): 6,
    ("free", "straight", "full"): 2,
}
"""Relative shares among regular drives."""

CORNER_RECIPES: dict[str, tuple[Recipe, ...]] = {
    "night": (
        ("red_light", "straight", "full"),
        ("red_light", "left", "stand"),
        ("lead_stop", "straight", "stand"),
        ("pedestrian", "straight", "full"),
    ),
    "fog": (
        ("red_light", "right", "stand"),
        ("lead_stop", "straight", "full"),
        ("red_light_lead", "straight", "stand"),
        ("pedestrian", "straight", "stand"),
    ),
    "rain_glare": (
        ("green", "right", "full"),
        ("red_light", "left", "full"),
        ("slow_lead", "straight", "full"),
        ("lead_stop", "straight", "stand"),
    ),
    "blocked_lane": (("blocked_lane", "straight", "full"), ("blocked_lane", "straight", "stand")),
    "jaywalker": (("jaywalker", "straight", "full"), ("jaywalker", "straight", "stand")),
    "hidden_sign": (
        ("red_light", "left", "stand"),
        ("red_light", "straight", "full"),
        ("red_light", "right", "stand"),
        ("green", "straight", "full"),
    ),
    "animal": (("animal", "straight", "full"), ("animal", "straight", "stand")),
}
"""What happens in each corner case; drives take them in turn."""

VAL_RECIPES: tuple[Recipe, ...] = (
    ("red_light", "left", "full"),
    ("green", "right", "full"),
    ("lead_stop", "straight", "full"),
    ("red_light", "right", "stand"),
    ("pedestrian", "straight", "full"),
    ("oncoming", "left", "stand"),
    ("slow_lead", "straight", "full"),
    ("red_light", "straight", "full"),
    ("green", "left", "full"),
    ("red_light_lead", "right", "stand"),
    ("red_light", "right", "full"),
    ("pedestrian", "straight", "stand"),
    ("side_pedestrian", "right", "stand"),
    ("green", "straight", "full"),
)
"""Regular validation drives in turn; a dozen of them already hold every action."""


@dataclass(frozen=True, kw_only=True)
class DriveSpec:
    """One drive to be; with the config it determines every pixel."""

    name: str
    """Scene name, e.g. ``train-0007``."""
    split: str
    index: int
    seed: int
    case_name: str
    cause: str
    manoeuvre: str
    window: str


def plan_drives(config: WorldConfig, split: str) -> list[DriveSpec]:
    """All drives of a split in their order.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {list(SPLITS)}")
    total = config.train_drives if split == "train" else config.val_drives
    rng = np.random.default_rng([config.seed, SPLITS.index(split), 0])
    corner = corner_drives(config, split)
    if split == "train":
        regular = _spread(REGULAR_RECIPES, total - corner, rng)
    else:
        regular = [VAL_RECIPES[i % len(VAL_RECIPES)] for i in range(total - corner)]
    plans = [("regular", recipe) for recipe in regular]
    first = int(rng.integers(len(CORNER_CASES))) if split == "train" else 0
    plans += _corner_plans(corner, first)
    order = rng.permutation(total)
    return [_spec(config, split, i, *plans[j]) for i, j in enumerate(order)]


def corner_drives(config: WorldConfig, split: str) -> int:
    """How many drives of a split are corner cases; at least one in training."""
    if split == "train":
        return max(1, round(config.train_drives / (1.0 + config.regular_per_corner)))
    return round(config.val_drives * config.val_corner_frac)


def _spec(config: WorldConfig, split: str, index: int, case: str, recipe: Recipe) -> DriveSpec:
    seed = np.random.SeedSequence([config.seed, SPLITS.index(split), index + 1])
    return DriveSpec(
        name=f"{split}-{index:04d}",
        split=split,
        index=index,
        seed=int(seed.generate_state(1)[0]),
        case_name=case,
        cause=recipe[0],
        manoeuvre=recipe[1],
        window=recipe[2],
    )


def _spread(shares: Mapping[Recipe, float], total: int, rng: np.random.Generator) -> list[Recipe]:
    """``total`` recipes at even steps through the shares (systematic sampling)."""
    recipes = sorted(shares, key=lambda recipe: recipe[1])
    edges = np.cumsum([shares[r] for r in recipes]) / sum(shares.values())
    at = (np.arange(total) + rng.uniform(0.05, 0.95)) / max(1, total)
    return [recipes[int(i)] for i in np.searchsorted(edges, at)]


def _corner_plans(total: int, first: int) -> list[tuple[str, Recipe]]:
    """Every corner case in turn, each time with the next of its recipes."""
    plans = []
    for i in range(first, first + total):
        case = CORNER_CASES[i % len(CORNER_CASES)]
        options = CORNER_RECIPES[case]
        plans.append((case, options[i // len(CORNER_CASES) % len(options)]))
    return plans
