"""Progressive release: how the teacher's weight fades (Eq. 6), and the learning rate's course."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgressiveRelease:
    """``alpha(t) = alpha0 * gamma ** t``, t in optimizer steps.

    Raises:
        ValueError: alpha0 is negative, or gamma is not in 0 < gamma <= 1.
    """

    alpha0: float
    """Weight of the teacher's term at step 0."""
    gamma: float
    """Decay per optimizer step; 1 never lets go (constant distillation)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha0) and self.alpha0 >= 0):
            raise ValueError(f"alpha0 is {self.alpha0}, expected a finite number >= 0")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}, expected 0 < gamma <= 1")

    @classmethod
    def from_half_life(cls, alpha0: float, half_life_steps: float) -> "ProgressiveRelease":
        """The schedule whose weight halves every ``half_life_steps`` optimizer steps.

        Raises:
            ValueError: half_life_steps is not positive.
        """
        if not half_life_steps > 0:
            raise ValueError(f"half_life_steps is {half_life_steps}, expected > 0")
        return cls(alpha0, 0.5 ** (1.0 / half_life_steps))

    def alpha(self, step: int) -> float:
        """The teacher's weight at an optimizer step.

        Args:
            step: t, counted from 0.

        Raises:
            ValueError: step is negative.
        """
        if step < 0:
            raise ValueError(f"step is {step}, expected >= 0")
        return self.alpha0 * self.gamma**step


def one_cycle_lr(step: int, steps: int, *, peak_lr: float, warmup_frac: float) -> float:
    """Linear rise to ``peak_lr``, then half a cosine down to 1 % of it.

    Args:
        step: 0 .. steps - 1.
        steps: of the whole training.
        peak_lr: highest rate.
        warmup_frac: share of the steps spent rising, 0 <= share < 1.
    """
    warmup = max(1, round(steps * warmup_frac))
    if step < warmup:
        return peak_lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak_lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0))))
