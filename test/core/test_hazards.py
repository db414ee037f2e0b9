"""Who would be touched, found fast, against the metric that looks at everybody."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.keyframes import AgentFuture
from clkd_core.metrics.plans.collision import collision_steps
from clkd_core.planner_training.hazards import touching_shares


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_touching_shares_agree_with_the_collision_metric(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = rng.normal(1.0, 2.0, (12, 6, 2)).cumsum(axis=1).astype(np.float32)
    agents = [
        AgentFuture(category=str(rng.choice(["vehicle.car", "human.adult", "static.rack"])),
                    size_m=(4.0, 2.0),
                    poses=rng.normal(3.0, 5.0, (rng.integers(1, 8), 3)).astype(np.float32))
        for _ in range(5)
    ]  # fmt: skip
    truth = rng.normal(0.0, 1.0, (1, 6, 2)).astype(np.float32)
    excused = collision_steps(truth[0], agents)
    wanted = [(collision_steps(xy, agents) & ~excused).mean() for xy in vocabulary]
    np.testing.assert_allclose(touching_shares(vocabulary, [agents], truth)[0], wanted, atol=1e-6)
