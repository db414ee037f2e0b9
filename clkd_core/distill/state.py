"""A run's resumable states: written whole under a new name, so that any may be cut off.

``<run>/state/<stage>-<step>/`` holds weights, optimizer and how far the run had come; the newest
whole one counts. Random numbers need no saving: they follow from seed, stage and step.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clkd_core.distill.processes.sharding import laid_out, whole_tensor
from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.files import replace_folder
from clkd_core.models.checkpoint_files import MANIFEST, WEIGHTS, check_manifest, write_manifest

log = logging.getLogger(__name__)

OPTIMIZER = "optimizer.safetensors"
PROGRESS = "config.json"
STAGES = ("teacher", "distill", "done")


@dataclass(frozen=True)
class Progress:
    """How far a run has come; ``step`` optimizer steps of ``stage`` are done."""

    stage: str
    step: int
    config: Mapping[str, Any]
    """The resolved config of the run."""

    @property
    def order(self) -> tuple[int, int]:
        """Grows as the run goes on."""
        return STAGES.index(self.stage), self.step


def save_state(
    folder: Path,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    progress: Progress,
    *,
    keep: int,
) -> None:
    """Write a state, then remove older ones.

    Args:
        folder: of all states.
        weights: as :func:`clkd_core.models.checkpoint.unique_state` gives them.
        moments: as :func:`optimizer_tensors` gives them.
        progress: what the state stands for.
        keep: newest states that stay.

    Raises:
        DataError: the folder cannot be written.
    """
    place = folder / f"{progress.stage}-{progress.step:07d}"
    if (place / MANIFEST).is_file():
        return  # found on resuming; never set aside, so that a kill cannot lose it
    with replace_folder(place) as temporary:
        save_file(dict(weights), temporary / WEIGHTS)
        save_file(dict(moments), temporary / OPTIMIZER)
        text = json.dumps(vars(progress), indent=1)
        (temporary / PROGRESS).write_text(text, encoding="utf-8")
        write_manifest(temporary)
    older = sorted(_whole_states(folder), key=_place_order)[:-keep]
    for path in older:
        shutil.rmtree(path, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state by ``<parameter's number>.<name>``, on the CPU; all processes call."""
    return {
        f"{index}.{name}": whole_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def find_state(folder: Path) -> tuple[Path, Progress] | None:
    """The newest state and how far the run had come, or None when it left no state.

    A state that is damaged is passed over with a warning where an older one is whole.

    Raises:
        CheckpointError: there are states and all of them are damaged.
    """
    problem: CheckpointError | None = None
    for place in sorted(_whole_states(folder), key=_place_order, reverse=True):
        try:
            return place, _read_progress(place)
        except CheckpointError as err:
            log.warning("%s is passed over: %s", place, err)
            problem = problem or err
    if problem is not None:
        raise problem
    return None


def check_same_config(place: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse to go on with another config than the run began with.

    Raises:
        ConfigError: names every key whose value differs.
    """
    changed = changed_keys(ours, theirs)
    if changed:
        raise ConfigError(
            f"{place} was made with other values of {', '.join(changed)}; "
            "resume with the same config or start without --resume"
        )


def changed_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ, sorted."""
    flat, other = _flat(ours), _flat(theirs)
    return sorted(key for key in flat | other if flat.get(key) != other.get(key))


def restore_optimizer(place: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put an optimizer back as :func:`save_state` found it.

    Raises:
        CheckpointError: the state is damaged.
    """
    try:
        moments = load_file(place / OPTIMIZER)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{place / OPTIMIZER} cannot be read: {err}") from err
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in moments.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        if value.shape == like.shape:
            value = laid_out(value, like)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def forget_states(folder: Path) -> None:
    """Remove an earlier run's states; a kill meanwhile leaves either all of them or none."""
    if folder.is_dir():
        aside = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def discard_leftovers(folder: Path) -> None:
    """Remove what a killed process of this run had not finished writing or removing."""
    for path in folder.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)
    whole = set(_whole_states(folder))
    for path in folder.iterdir() if folder.is_dir() else ():
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)


def _whole_states(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [
        place
        for place in folder.iterdir()
        if not place.name.startswith(".") and (place / MANIFEST).is_file()
    ]


def _place_order(place: Path) -> tuple[int, int]:
    stage, _, step = place.name.rpartition("-")
    if stage not in STAGES or not step.isdecimal():
        return -1, -1
    return STAGES.index(stage), int(step)


def _read_progress(place: Path) -> Progress:
    check_manifest(place)
    try:
        progress = Progress(**json.loads((place / PROGRESS).read_text(encoding="utf-8")))
        progress.order  # noqa: B018 - an unknown stage is an error here
    except (OSError, ValueError, TypeError) as err:
        raise CheckpointError(f"{place / PROGRESS}: {err}") from err
    return progress


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
