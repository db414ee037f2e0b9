"""What ``clkd train-planner`` can be told."""

from dataclasses import dataclass, field
from pathlib import Path

from clkd_core.models.planner import PlannerConfig
from clkd_core.models.vehicle import VehicleConfig


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """How often an input is withheld in training, so that a plan without it is no surprise."""

    action_frac: float = 0.3
    """Share of samples that see no meta-action."""
    ego_frac: float = 0.05
    """Share of samples that see no ego state."""
    command_frac: float = 0.05
    """Share of samples that see no route command."""
    view_frac: float = 0.05
    """Share of views that are masked."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}, expected 0 <= {name} < 1")


@dataclass(frozen=True, kw_only=True)
class PlannerDataConfig:
    """Keyframes of ``train`` are learnt, those of ``val`` judged."""

    root: Path = Path("runs/demo/world")
    """Root of a driving set in nuScenes' layout with our sidecar."""
    version: str = "v1.0-clkd"
    """Folder of the tables below ``root``."""
    max_keyframes: int | None = None
    """Learn from at most so many keyframes, evenly spread; null uses all."""

    def __post_init__(self) -> None:
        if self.max_keyframes is not None and self.max_keyframes < 1:
            raise ValueError(f"max_keyframes is {self.max_keyframes}, expected >= 1 or null")


@dataclass(frozen=True, kw_only=True)
class PlannerTrainConfig:
    """One training run of the planner.

    Raises:
        ValueError: a value is out of its range.
    """

    student: Path = Path("runs/demo/student")
    """Folder of the student; the planner is written into its ``planner/``."""
    data: PlannerDataConfig = field(default_factory=PlannerDataConfig)
    """Which keyframes."""
    model: PlannerConfig = field(default_factory=PlannerConfig)
    """Sizes of the planner."""
    vehicle: VehicleConfig = field(default_factory=VehicleConfig)
    """Limits that every plan stays within, as in ``config/vehicle/``; saved with the planner."""
    complete_vocabulary: bool = True
    """Add manoeuvres for the meta-actions that nobody drove from some speed."""
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    """Inputs withheld in training."""
    tau_m2: float = 0.5
    """Softness of the target: it falls by e per this mean squared distance [m^2], > 0."""
    refine_weight: float = 0.5
    """Weight of the correction's L1 loss [1/m], >= 0."""
    collision_weight: float = 0.0
    """Weight of the expected share of steps that touch somebody [nats], >= 0; 0 looks at none."""
    offroad_weight: float = 0.0
    """Weight of the expected share of steps off the road [nats], >= 0; 0 needs no map masks."""
    steps: int = 300
    """Optimizer steps."""
    batch_size: int = 32
    """Samples in one step."""
    lr: float = 4e-3
    """Peak learning rate of AdamW; a cosine after a warm-up over the first tenth."""
    weight_decay: float = 0.02
    """Of AdamW."""
    seed: int = 0
    """Of weights, sampling and dropout."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: CUDA where there is one."""
    threads: int | None = 1
    """Threads of torch that train on the CPU; null leaves its default. Two took 29 ms a step on
    two idle cores and 380 ms on busy ones, one takes 47 ms on either."""
    log_every: int = 50
    """Steps between two progress lines."""

    def __post_init__(self) -> None:
        for name in ("tau_m2", "steps", "batch_size", "lr", "log_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected > 0")
        for name in ("refine_weight", "collision_weight", "offroad_weight", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected >= 0")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}, expected >= 1 or null")
