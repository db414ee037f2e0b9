"""All knobs of a training run: data, teacher, student, losses and the two courses."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clkd_core.distill.schedule import ProgressiveRelease
from clkd_core.distill.terms import LossTerm
from clkd_core.models.base import VlmConfig
from clkd_core.models.llama_vlm import LlamaVlmConfig
from clkd_core.models.moe import MoeConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which keyframes; those of ``train`` are learnt, those of ``val``, where written, judged.

    Raises:
        ValueError: a number is out of its range.
    """

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
    skip_missing: bool = False
    """Go on without the views whose image files are missing; else they are named and the run ends
    before it has begun."""
    looks: int | None = None
    """Different looks per sample: how it is varied and what is asked; null: never the same
    again. A number lets results of frozen networks be kept on disk (section ``cache``)."""

    def __post_init__(self) -> None:
        if self.looks is not None and self.looks < 1:
            raise ValueError(f"looks is {self.looks}, expected >= 1 or null")


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
    """Optimizer steps, where ``epochs`` is null."""
    epochs: float | None = None
    """Passes over the stage's samples; the steps then follow from their number."""
    batch_size: int = 32
    """Samples per optimizer step, of all processes together."""
    accumulate: int = 1
    """Micro-steps whose gradients make one optimizer step; hard samples are chosen in each."""
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
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}, expected > 0 or null")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, expected a divisor of batch_size "
                f"{self.batch_size}"
            )

    @property
    def micro_batch(self) -> int:
        """Samples per micro-step, of all processes together."""
        return self.batch_size // self.accumulate

    def count_steps(self, samples: int) -> int:
        """Optimizer steps of the course on a set of so many samples."""
        if self.epochs is None:
            return self.steps
        return max(1, math.ceil(self.epochs * samples / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How the student is cut from its teacher.

    Raises:
        ValueError: min_blocks is not positive.
    """

    keep: Literal["every_other", "first", "last"] | tuple[int, ...] = "every_other"
    """Blocks that stay of every stack; a list names them."""
    min_blocks: int = 1
    """Blocks that stay of a stack whose half would be fewer: 2 keeps Swin's pairs of windows and
    shifted windows whole, and gives the sizes that the paper prints for its T5 track."""
    moe: MoeConfig | None = field(default_factory=MoeConfig)
    """Its experts; null: a dense student."""

    def __post_init__(self) -> None:
        if self.min_blocks < 1:
            raise ValueError(f"min_blocks is {self.min_blocks}, expected >= 1")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adaptation of the language model (Hu et al. 2021), through peft.

    Raises:
        ValueError: a number is out of its range.
    """

    rank: int = 16
    alpha: int = 32
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    """Names of the linear layers that are adapted; null: the attention's four projections."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError("rank must be >= 1, alpha > 0 and dropout in 0 <= share < 1")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What training changes; the paper freezes vision and text embedding and adapts the language
    model by LoRA. Adapters between them, experts and routers always learn."""

    vision: bool = True
    """The vision tower learns."""
    text_embedding: bool = True
    """The language model's embedding learns, and with it an output layer tied to it."""
    lora: LoraConfig | None = None
    """Null: all of the language model learns."""


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the teacher's weights come from; what is null starts fresh.

    A source is a local file or folder, or else the id of a model on the Hugging Face hub.
    """

    vlm: str | None = None
    """A whole model in Senna's or LLaVA-1.5's layout."""
    language: str | None = None
    """LLaMA, T5, or a folder that ``clkd fetch smollm2`` made; brings its tokenizer along."""
    vision: str | None = None
    """CLIP; for a tower of timm the id of its weights or a safetensors file with its keys."""
    tokenizer: str | None = None
    """Null: that of ``vlm`` or ``language``, or one trained on the texts at hand."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What frozen networks said, kept on disk; needs ``data.looks``.

    Raises:
        ValueError: a number is out of its range.
    """

    teacher_top_k: int | None = None
    """Keep the teacher's k most probable tokens and the mass of the rest; null: ask it again."""
    features: bool = False
    """Keep the features of a frozen vision tower."""
    folder: Path | None = None
    """Where; null: ``cache`` in the run's folder, which goes when the run ends. Runs with the
    same teacher, data and seed may share one."""

    def __post_init__(self) -> None:
        if self.teacher_top_k is not None and self.teacher_top_k < 1:
            raise ValueError(f"teacher_top_k is {self.teacher_top_k}, expected >= 1 or null")


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
    keep_states: int = 1
    """Resumable states of a stage that stay, the newest ones."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    checkpoint_blocks: bool = False
    """Compute the language model's blocks again in the backward pass: less memory, more time."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer over the processes (torch's ``fully_shard``)."""
    tensorboard: bool = True
    """Write the metrics as TensorBoard events, too."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    init: InitConfig = field(default_factory=InitConfig)
    model: VlmConfig = field(default_factory=LlamaVlmConfig)
    """The teacher's architecture, ``family`` says which kind; the student follows from it."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    teacher: CourseConfig | None = field(default_factory=CourseConfig)
    """The teacher's course; null: it is not trained here, but lies in ``teacher_dir`` or is what
    ``init`` loads."""
    teacher_data: Literal["regular", "merged"] = "regular"
    """Samples the teacher learns from: regular ones (the paper's row #1) or all."""
    teacher_dir: Path | None = None
    """The teacher's checkpoint; null: ``teacher`` in the run's folder. One that another run with
    the same teacher put there is taken as it is."""
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: CourseConfig | None = field(default_factory=CourseConfig)
    """The student's course, on all samples; null: the teacher is all that is wanted."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    h2g: H2gConfig = field(default_factory=H2gConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    extra_terms: tuple[LossTerm, ...] = ()
    """Further terms of the student's loss, each a section with its ``kind``."""

    def __post_init__(self) -> None:
        if self.cpu_parts < 1:
            raise ValueError(f"cpu_parts is {self.cpu_parts}, expected >= 1")
        if self.log_every_steps < 1 or self.save_every_steps < 0 or self.questions_per_sample < 0:
            raise ValueError("log_every_steps must be >= 1, save_every_steps and questions >= 0")
        if self.model.moe is not None and self.distill is not None:
            raise ValueError("model.moe is given, expected null: a student's teacher is dense")
        if self.keep_states < 1:
            raise ValueError(f"keep_states is {self.keep_states}, expected >= 1")
        if self.teacher is None and self.distill is None:
            raise ValueError("teacher and distill are both null, expected something to train")
        if (self.cache.features or self.cache.teacher_top_k) and self.data.looks is None:
            raise ValueError("cache needs data.looks: a look that never returns cannot be kept")
        if self.cache.features and self.tune.vision:
            raise ValueError("cache.features needs tune.vision: false, only frozen features last")
        if self.fsdp and (self.cache.features or self.cache.teacher_top_k):
            raise ValueError("fsdp and cache are both wanted, expected one of them")

    @property
    def teacher_folder(self) -> Path:
        """The teacher's checkpoint."""
        return self.teacher_dir or self.out / "teacher"

    @property
    def cache_folder(self) -> Path:
        """What frozen networks said."""
        return self.cache.folder or self.out / "cache"
