"""All knobs of a training run: data, teacher, student, losses and the two courses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clkd_core.distill.schedule import ProgressiveRelease
from clkd_core.models.llama_vlm import LlamaVlmConfig
from clkd_core.models.moe import MoeConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which keyframes; those of ``train`` are learnt, those of ``val``, where written, judged."""

    root: Path = Path("runs/demo/world")
    """Root of a driving set in nuScenes' layout with our sidecar."""
    version: str = "v1.0-clkd"
    """Folder of the tables below ``root``."""
    world: Path | None = None
    """World config the set is generated from when it is not there; null: an error instead."""
    val_root: Path | None = None
    """Root of the set whose ``val`` split is judged at the end; null: ``root`` itself."""
    workers: int = 2
    """Threads that decode images."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is varied between two looks at one sample.

    Raises:
        ValueError: a share is not in 0..1.
    """

    mirror: float = 0.5
    """Share of samples shown mirrored, left and right exchanged in cameras and words alike."""
    drop_views: float = 0.1
    """Share of samples that lose a random set of views, so that fewer cameras are no surprise."""
    drop_ego: float = 0.2
    """Share of samples whose speed reads "unknown"."""
    drop_command: float = 0.1
    """Share of samples whose route reads "unknown"."""
    brightness: float = 0.2
    """Gain of the pixels varies by up to this share, contrast likewise."""
    zoom: float = 0.15
    """Views lose up to this share of each side, cut off at random, and are enlarged again."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, expected 0..1")


@dataclass(frozen=True, kw_only=True)
class CourseConfig:
    """Length and pace of one training stage.

    Raises:
        ValueError: a number is out of its range.
    """

    steps: int = 400
    """Optimizer steps."""
    batch_size: int = 32
    """Samples per step."""
    peak_lr: float = 2e-3
    """Highest learning rate of the one-cycle course."""
    warmup_frac: float = 0.1
    """Share of the steps spent rising to it."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    balance: float = 0.5
    """Samples are drawn by (number with the same action) ** -balance; 0 draws evenly."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.peak_lr <= 0 or self.weight_decay < 0:
            raise ValueError("steps and batch_size must be >= 1, peak_lr > 0, weight_decay >= 0")
        if not 0 <= self.warmup_frac < 1 or not 0 <= self.balance <= 1:
            raise ValueError("warmup_frac must be in 0 <= share < 1 and balance in 0..1")


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How the student is cut from its teacher."""

    keep: Literal["every_other", "first", "last"] | tuple[int, ...] = "every_other"
    """Blocks that stay of every stack; a list names them."""
    moe: MoeConfig = field(default_factory=MoeConfig)


@dataclass(frozen=True, kw_only=True)
class H2gConfig:
    """Hardness at two granularities (Eq. 3-5); both shares 1 is plain fine-tuning.

    Raises:
        ValueError: a share is not in 0 < share <= 1.
    """

    sample_frac: float = 0.5
    """m: share of a batch's samples that count, the hardest ones."""
    token_frac: float = 0.6
    """n: share of a hard sample's answer tokens that count, the hardest ones."""

    def __post_init__(self) -> None:
        if not (0 < self.sample_frac <= 1 and 0 < self.token_frac <= 1):
            raise ValueError("sample_frac and token_frac must be in 0 < share <= 1")


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """Progressive release of the student (Eq. 6).

    Raises:
        ValueError: a number is out of its range.
    """

    alpha0: float = 1.0
    """Weight of the teacher's term at step 0, >= 0; 0 trains without a teacher."""
    gamma: float = 0.999
    """Decay per optimizer step, not per micro-batch; 0 < gamma <= 1."""
    half_life_steps: float | None = None
    """Steps in which the weight halves; where given, gamma follows from it."""
    min_alpha: float = 0.01
    """Below this weight the teacher is not asked any more."""
    temperature: float = 2.0
    """Of the softened distributions, > 0."""

    def __post_init__(self) -> None:
        self.schedule()
        if not self.temperature > 0 or self.min_alpha < 0:
            raise ValueError("temperature must be > 0 and min_alpha >= 0")

    def schedule(self) -> ProgressiveRelease:
        """The schedule these numbers describe."""
        if self.half_life_steps is None:
            return ProgressiveRelease(self.alpha0, self.gamma)
        return ProgressiveRelease.from_half_life(self.alpha0, self.half_life_steps)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run of ``python -m clkd_core.distill``.

    Raises:
        ValueError: a number is out of its range.
    """

    out: Path = Path("runs/train")
    """Folder of the run; ``student/`` and ``teacher/`` in it are checkpoints."""
    seed: int = 1
    """Weights, order of the samples and augmentation follow from it."""
    device: str = "auto"
    """``auto`` takes CUDA where there is one; or a torch device."""
    cpu_parts: int = 2
    """Parts of a batch that a CPU computes at the same time, one thread or more each."""
    bf16: bool = True
    """Compute in bfloat16 under autocast; weights stay float32."""
    vocab_size: int = 4096
    """Most pieces the tokenizer learns; small corpora give fewer."""
    questions_per_sample: int = 3
    """Driving questions asked after the plan, drawn anew at every look."""
    log_every_steps: int = 20
    """Steps between two lines of metrics.jsonl and of the log."""
    save_every_steps: int = 200
    """Steps between two resumable states; 0 writes none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: LlamaVlmConfig = field(default_factory=LlamaVlmConfig)
    """The teacher's architecture; the student follows from it."""
    teacher: CourseConfig = field(default_factory=CourseConfig)
    """The teacher's course, on regular samples only."""
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: CourseConfig = field(default_factory=CourseConfig)
    """The student's course, on all samples."""
    h2g: H2gConfig = field(default_factory=H2gConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)

    def __post_init__(self) -> None:
        if self.cpu_parts < 1:
            raise ValueError(f"cpu_parts is {self.cpu_parts}, expected >= 1")
        if self.log_every_steps < 1 or self.save_every_steps < 0 or self.questions_per_sample < 0:
            raise ValueError("log_every_steps must be >= 1, save_every_steps and questions >= 0")
        if self.model.moe is not None:
            raise ValueError("model.moe is given, expected null: the teacher is dense")
