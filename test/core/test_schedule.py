import math

import pytest

from clkd_core.distill.schedule import ProgressiveRelease, one_cycle_lr


def test_alpha_is_repeated_multiplication() -> None:
    release = ProgressiveRelease(2.0, 0.9)
    slow = 2.0
    for step in range(50):
        assert release.alpha(step) == pytest.approx(slow)
        slow *= 0.9


def test_alpha_starts_at_alpha0_and_gamma_one_never_lets_go() -> None:
    assert ProgressiveRelease(0.7, 0.5).alpha(0) == 0.7
    assert ProgressiveRelease(0.7, 1.0).alpha(10**6) == 0.7
    assert ProgressiveRelease(0.0, 0.5).alpha(3) == 0.0


def test_half_life_halves_alpha_every_so_many_steps() -> None:
    release = ProgressiveRelease.from_half_life(1.0, 40)
    for halvings in range(4):
        assert release.alpha(40 * halvings) == pytest.approx(0.5**halvings)


@pytest.mark.parametrize(
    ("alpha0", "gamma"), [(-1.0, 0.9), (math.nan, 0.9), (1.0, 0.0), (1.0, 1.1), (1.0, math.nan)]
)
def test_release_refuses_numbers_out_of_range(alpha0: float, gamma: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        ProgressiveRelease(alpha0, gamma)


def test_release_refuses_negative_steps_and_half_lives() -> None:
    with pytest.raises(ValueError, match="step is -1"):
        ProgressiveRelease(1.0, 0.9).alpha(-1)
    with pytest.raises(ValueError, match="half_life_steps is 0"):
        ProgressiveRelease.from_half_life(1.0, 0)


def test_one_cycle_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    rates = [one_cycle_lr(step, 100, peak_lr=1.0, warmup_frac=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_one_cycle_of_a_single_step_is_the_peak() -> None:
    assert one_cycle_lr(0, 1, peak_lr=0.5, warmup_frac=0.0) == 0.5
