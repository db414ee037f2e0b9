"""Interleaved times, ratios with intervals, and the memory of the losses."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clkd_core.distill.frozen.soft_labels import compress_logits
from clkd_core.distill.losses import answer_token_loss, distill_kl, mean_token_loss
from clkd_core.distill.memory import peak_bytes
from clkd_core.metrics.intervals import Interval, interval_from_replicates, resample_weights
from clkd_core.progress import progress

Times = Mapping[str, NDArray[np.float64]]
"""(R,) milliseconds by contender; entry r of all was measured in round r."""

WARM_UP_ROUNDS = 2
"""Not counted: allocators, thread pools and the optimizer's moments are made in them."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One contender's time over another one's, of the same rounds."""

    name: str
    of: str
    """Whose time is above the line."""
    over: str
    """Whose time is below it."""
    paired: Interval
    """Median of the rounds' own ratios: when neighbours on the same cores come and go, both
    members of most pairs feel the same of it. Medians of each contender's times do not have that:
    on a loaded machine their ratio had a ten times wider interval."""
    mean: Interval
    """Ratio of the sums: how much longer all rounds together took."""
    goal: float | None
    """At most this is wanted of ``paired``; None: only to be known."""

    @property
    def met(self) -> bool | None:
        """Whether ``paired`` is within the goal; None without one."""
        return None if self.goal is None else self.paired.value <= self.goal

    @property
    def sure(self) -> bool | None:
        """Whether the whole interval of ``paired`` lies on that side of the goal."""
        if self.goal is None:
            return None
        return (self.paired.low <= self.goal) == (self.paired.high <= self.goal)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Most memory that a loss and its gradient held beside their arguments, bytes."""

    vocabulary: int
    """V of the (B, L, V) logits."""
    dtype: str
    """Of the logits."""
    torch_cross_entropy: int
    """torch's own mean cross-entropy."""
    cross_entropy: int
    """Ours, with which plain fine-tuning runs."""
    kd: int
    """KD with the teacher's logits, which are an argument."""
    kd_short: int
    """KD with compressed labels, which are one, too."""
    goal: float
    """At most this is wanted of :attr:`ratio` and :attr:`ratio_short`."""

    @property
    def ratio(self) -> float:
        """KD with logits over torch's cross-entropy."""
        return self.kd / self.torch_cross_entropy

    @property
    def ratio_short(self) -> float:
        """KD with compressed labels over torch's cross-entropy."""
        return self.kd_short / self.torch_cross_entropy

    @property
    def ratio_to_ours(self) -> float:
        """The larger of both KD losses over our own cross-entropy; no goal was set for it."""
        return max(self.kd, self.kd_short) / self.cross_entropy

    @property
    def met(self) -> bool:
        """Whether both ratios to torch's cross-entropy are within the goal."""
        return max(self.ratio, self.ratio_short) <= self.goal


def time_interleaved(
    contenders: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    seed: int,
    device: torch.device,
) -> dict[str, NDArray[np.float64]]:
    """Call every contender once per round with the round's number; all meet the same weather.

    Their order is drawn anew in each round, so that none always follows the same other one and
    finds what that left in the caches.

    Args:
        contenders: by name.
        rounds: R, counted ones.
        seed: of the orders.
        device: that a call's time includes the end of.

    Returns:
        (R,) milliseconds by name.
    """
    rng, names = np.random.default_rng(seed), list(contenders)
    times = {name: np.zeros(rounds) for name in names}
    for warm_up in range(WARM_UP_ROUNDS):
        for name in names:
            contenders[name](warm_up)
    for number in progress(range(rounds), desc="bench", unit="rounds"):
        for index in rng.permutation(len(names)):
            call = partial(contenders[names[index]], number)
            times[names[index]][number] = _time_ms(call, device)
    return times


def _time_ms(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start_ns = time.perf_counter_ns()
    call()
    _wait(device)
    return (time.perf_counter_ns() - start_ns) / 1e6


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compute_ratio(
    name: str, times: Times, *, of: str, over: str, goal: float | None, seed: int = 0
) -> Ratio:
    """Ratio of two contenders with 95 % bootstrap intervals over rounds.

    A replicate draws whole rounds, so what slowed down both in one round stays in both.

    Args:
        name: of the ratio.
        times: of all contenders.
        of: whose time is above the line.
        over: whose time is below it.
        goal: see :class:`Ratio`.
        seed: of the bootstrap.
    """
    above, below = times[of], times[over]
    weights = resample_weights(range(len(above)), seed=seed)
    rounds = np.arange(len(above))
    drawn = np.stack([np.repeat(rounds, row) for row in weights.astype(np.int64)])
    pairs = above / below
    return Ratio(
        name=name,
        of=of,
        over=over,
        paired=interval_from_replicates(float(np.median(pairs)), np.median(pairs[drawn], axis=1)),
        mean=interval_from_replicates(
            float(above.sum() / below.sum()), (weights @ above) / (weights @ below)
        ),
        goal=goal,
    )


def measure_peaks(
    keep: Tensor,
    vocabulary: int,
    dtype: torch.dtype,
    *,
    top_k: int,
    temperature: float,
    goal: float,
) -> Peaks:
    """Peak memory of the losses, gradient included, on random logits of one shape.

    Args:
        keep: (B, L) bool, True where the token counts; says the shape and the device.
        vocabulary: V.
        dtype: of the logits.
        top_k: tokens of the compressed labels.
        temperature: of KD, > 0.
        goal: see :class:`Peaks`.
    """
    shape, device = (*keep.shape, vocabulary), keep.device
    logits = torch.randn(shape, device=device).to(dtype).requires_grad_()
    teacher = torch.randn(shape, device=device).to(dtype)
    labels = compress_logits(teacher, k=top_k, temperature=temperature)
    targets = torch.randint(vocabulary, keep.shape, device=device)

    def peak(loss: Callable[[], Tensor]) -> int:
        return peak_bytes(lambda: torch.autograd.grad(loss(), logits), device)

    return Peaks(
        vocabulary=vocabulary,
        dtype=str(dtype).removeprefix("torch."),
        torch_cross_entropy=peak(
            lambda: functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        ),
        cross_entropy=peak(lambda: mean_token_loss(answer_token_loss(logits, targets), keep)),
        kd=peak(lambda: distill_kl(logits, teacher, keep, temperature=temperature)),
        kd_short=peak(lambda: distill_kl(logits, labels, keep, temperature=temperature)),
        goal=goal,
    )
