"""Fill a model with released weights: check everything first, then copy tensor by tensor."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clkd_core.errors import CheckpointError
from clkd_core.models.pretrained.tensors.layouts import Layout
from clkd_core.models.pretrained.tensors.weights import WeightFiles

_FLOATS = {"float64", "float32", "float16", "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class LoadSummary:
    """What came of loading; ``str`` says it in one line."""

    source: str
    layout: str
    filled: tuple[str, ...]
    """Our keys that now hold the file's values; of tied ones the first."""
    kept: tuple[str, ...]
    """Our keys that hold what they held before: the file lacks them, as it may, or files of this
    layout never have them."""
    unused: Mapping[str, tuple[str, ...]]
    """Foreign keys that were knowingly not used, by reason."""
    padded: Mapping[str, int]
    """Rows at the end of a vocabulary table that hold what they held before, by our key."""

    def __str__(self) -> str:
        parts = [f"{len(self.filled)} tensors from {self.source} as {self.layout}"]
        parts += [f"{rows} rows of {key} left fresh" for key, rows in self.padded.items()]
        if self.kept:
            groups = Counter(key.split(".")[0] for key in self.kept)
            names = ", ".join(f"{name} ({count})" for name, count in groups.items())
            parts.append(f"left as they were: {names}")
        parts += [f"not used: {len(keys)} ({why})" for why, keys in self.unused.items()]
        return "; ".join(parts)


def load_mapped(
    module: nn.Module,
    weights: WeightFiles,
    layout: Layout,
    *,
    source: str,
    may_miss: Sequence[str] = (),
) -> LoadSummary:
    """Copy released weights into a model, in the model's dtype and on its device.

    Of the model only the keys below ``layout.fills`` must be found. Of weights that the model
    ties, the file may have one or all; if several, they must be equal.

    Args:
        module: has storage, that is, is not on the meta device. It is unchanged when an error is
            raised, unless a file becomes unreadable while it is copied.
        weights: from :func:`clkd_core.models.pretrained.tensors.weights.open_weights`.
        layout: of the file.
        source: names the weights in errors.
        may_miss: beginnings of our keys; the file may lack all keys of such a group, not some.

    Raises:
        CheckpointError: keys are missing, unknown, extra, of another shape or kind of number, or
            differ where the model ties them; the one message lists every one of them.
        ValueError: the model is on the meta device.
    """
    slots = _find_slots(module)
    mine = [slot for slot in slots if slot.name.startswith(layout.fills)]
    unused, problems = _assign(mine, weights, layout)
    lacking = {slot.name for slot in mine if not slot.foreign}
    excused = lacking & _find_excused(mine, may_miss)
    missing = [f"{slot.name} is missing" for slot in mine if slot.name in lacking - excused]
    for slot in mine:
        problems += _find_misfits(slot, weights, layout)
    if missing or problems:
        listed = "; ".join([*missing, *problems])
        raise CheckpointError(f"{source} does not fit as {layout.name}: {listed}")
    _copy(mine, weights)
    return LoadSummary(
        source=source,
        layout=layout.name,
        filled=tuple(slot.name for slot in slots if slot.foreign),
        kept=tuple(slot.name for slot in slots if not slot.foreign),
        unused={why: tuple(keys) for why, keys in unused.items()},
        padded={slot.name: slot.fresh_rows for slot in mine if slot.fresh_rows},
    )


@dataclass(eq=False)
class _Slot:
    """A tensor of the model, all keys it goes by, and the foreign keys that give it values."""

    tensor: Tensor
    keys: list[str]
    foreign: list[str] = field(default_factory=list)
    fresh_rows: int = 0

    @property
    def name(self) -> str:
        return self.keys[0]


def _find_slots(module: nn.Module) -> list[_Slot]:
    """Parameters and saved buffers; those that are tied are one slot with several keys."""
    slots: dict[int, _Slot] = {}
    for key, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_meta:
            raise ValueError(f"{key} is on the meta device, expected a model with storage")
        slots.setdefault(id(tensor), _Slot(tensor, [])).keys.append(key)
    return list(slots.values())


def _assign(
    slots: Sequence[_Slot], weights: WeightFiles, layout: Layout
) -> tuple[dict[str, list[str]], list[str]]:
    """Foreign keys to their slots; returns those that are not used, by reason, and strangers."""
    by_key = {key: slot for slot in slots for key in slot.keys}
    unused: dict[str, list[str]] = {}
    strangers = []
    for key in weights:
        place = layout.place(key)
        if place is None:
            strangers.append(f"{key} is unknown")
        elif place.ours is None:
            unused.setdefault(place.why_not, []).append(key)
        elif place.ours not in by_key:
            strangers.append(f"{key} is extra, the model has no {place.ours}")
        else:
            by_key[place.ours].foreign.append(key)
    return unused, strangers


def _find_excused(slots: Sequence[_Slot], may_miss: Sequence[str]) -> set[str]:
    """Names in groups that may be missing and of which nothing at all is there."""
    found = {key for slot in slots if slot.foreign for key in slot.keys}
    absent = tuple(
        prefix for prefix in may_miss if not any(key.startswith(prefix) for key in found)
    )
    return {slot.name for slot in slots if slot.name.startswith(absent)}


def _find_misfits(slot: _Slot, weights: WeightFiles, layout: Layout) -> list[str]:
    """What is wrong with the tensors that give a slot its values; notes rows to pad."""
    problems = []
    for key in slot.foreign:
        info = weights.info(key)
        if (info.dtype in _FLOATS) != slot.tensor.is_floating_point():
            kind = "floats" if slot.tensor.is_floating_point() else "integers"
            problems.append(f"{key} is of {info.dtype}, expected {kind}")
        fresh_rows = _count_fresh_rows(slot, info.shape, layout)
        if fresh_rows is None:
            wanted = tuple(slot.tensor.shape)
            problems.append(f"{key} is {info.shape}, expected {wanted} as {slot.name}")
        slot.fresh_rows = fresh_rows or 0
    if not problems:
        first = slot.foreign[:1]
        problems = [
            f"{key} differs from {first[0]}, but the model has one {slot.name} for both"
            for key in slot.foreign[1:]
            if not _are_equal(weights[first[0]], weights[key])
        ]
    return problems


def _count_fresh_rows(slot: _Slot, shape: tuple[int, ...], layout: Layout) -> int | None:
    """Rows the file's tensor is short of; None: it does not fit."""
    wanted = tuple(slot.tensor.shape)
    if shape == wanted:
        return 0
    may_pad = layout.pad_vocab_rows and not set(layout.vocab_tables).isdisjoint(slot.keys)
    if may_pad and shape[1:] == wanted[1:] and 0 < shape[0] < wanted[0]:
        return wanted[0] - shape[0]
    return None


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second.to(first.dtype))


@torch.no_grad()
def _copy(slots: Sequence[_Slot], weights: WeightFiles) -> None:
    """In the order of the files, so that each is gone through once."""
    by_foreign = {slot.foreign[0]: slot for slot in slots if slot.foreign}
    for key in weights:
        if key in by_foreign:
            values = weights[key]
            target = by_foreign[key].tensor
            (target if target.shape == values.shape else target[: len(values)]).copy_(values)
