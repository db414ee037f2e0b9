"""What can be driven: nine regular scenarios by their cause, seven corner cases by their name.

A scenario's drives take its recipes of the world in turn. Their seeds come from a stream of their
own, so no drive is one of a training set; the kinds of things that happen are those of training.
"""

from collections.abc import Sequence

import numpy as np

from clkd_core.data.keyframes import REGULAR
from clkd_core.data.world.config import CORNER_CASES
from clkd_core.data.world.scene.script import (
    CORNER_RECIPES,
    REGULAR_RECIPES,
    SPLITS,
    DriveSpec,
    Recipe,
)
from clkd_core.errors import ConfigError

_STREAM = len(SPLITS)  # the world seeds its splits with 0 and 1


def _by_cause() -> dict[str, tuple[Recipe, ...]]:
    causes = dict.fromkeys(recipe[0] for recipe in REGULAR_RECIPES)
    return {c: tuple(recipe for recipe in REGULAR_RECIPES if recipe[0] == c) for c in causes}


REGULAR_SCENARIOS: dict[str, tuple[Recipe, ...]] = _by_cause()
"""Recipes of each regular scenario."""

SCENARIOS: tuple[str, ...] = (*REGULAR_SCENARIOS, *CORNER_CASES)
"""All names, regular ones first."""

_GROUPS = {
    "all": SCENARIOS,
    REGULAR: tuple(REGULAR_SCENARIOS),
    "corner": CORNER_CASES,
}


def scenario_names(word: str) -> tuple[str, ...]:
    """The scenarios that a word of the command line means: a name, all, regular or corner.

    Raises:
        ConfigError: it means none.
    """
    if word in _GROUPS:
        return _GROUPS[word]
    if word not in SCENARIOS:
        names = ", ".join((*_GROUPS, *SCENARIOS))
        raise ConfigError(f"scenario is {word!r}, expected one of {names}")
    return (word,)


def plan_scenarios(names: Sequence[str], *, seed: int, count: int) -> list[DriveSpec]:
    """The drives of some scenarios, ``count`` of each; the same seed gives the same ones.

    Raises:
        ConfigError: no drive is wanted, or the seed is negative.
    """
    if count < 1 or seed < 0:
        raise ConfigError(f"count is {count}, seed {seed}, expected count >= 1 and seed >= 0")
    return [_spec(name, seed, number) for name in names for number in range(count)]


def scenario_of(spec: DriveSpec) -> str:
    """The scenario that a drive belongs to."""
    return spec.cause if spec.case_name == REGULAR else spec.case_name


def _spec(name: str, seed: int, number: int) -> DriveSpec:
    recipes = REGULAR_SCENARIOS.get(name) or CORNER_RECIPES[name]
    cause, manoeuvre, window = recipes[number % len(recipes)]
    drawn = np.random.SeedSequence([seed, _STREAM, SCENARIOS.index(name), number])
    return DriveSpec(
        name=f"{name}-{seed}-{number:03d}",
        split="val",
        index=number,
        seed=int(drawn.generate_state(1)[0]),
        case_name=name if name in CORNER_CASES else REGULAR,
        cause=cause,
        manoeuvre=manoeuvre,
        window=window,
    )
