"""What decides the results of an evaluation; how many workers share the tasks does not."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.files import sha256_of
from clkd_core.models.checkpoint_files import MANIFEST
from clkd_core.models.planner_checkpoint import FOLDER as PLANNER_FOLDER


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How every task is judged.

    Raises:
        ConfigError: a value is out of its range.
    """

    checkpoint: Path
    """Folder of the student or teacher."""
    identity: str
    """From :func:`checkpoint_identity`; another content of the folder is another checkpoint."""
    device: str = "cpu"
    """``auto``, ``cpu`` or ``cuda[:N]``, as the worker sees it."""
    threads: int = 1
    """Of torch in one worker: the order in which numbers are added depends on it."""
    seed: int = 0
    """Of the choice of questions and of the bootstrap."""
    planner: bool = False
    """Let the planner in the checkpoint plan the same frames."""
    timed: bool = False
    """Measure inference_ms; without it nothing in the results depends on a clock."""
    limit_questions: int | None = None
    """Ask at most so many questions about a keyframe, drawn by the seed; None: all."""
    max_new_tokens: int = 128
    """Longest answer."""

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("seed", 0), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.limit_questions is not None and self.limit_questions < 0:
            raise ConfigError(f"limit_questions is {self.limit_questions}, expected at least 0")


def checkpoint_identity(folder: Path, *, planner: bool) -> str:
    """A hash that changes with every file of a checkpoint, and of its planner where that is used.

    Manifests hold the hashes of the files, and loading compares them.

    Raises:
        CheckpointError: there is no checkpoint.
        ConfigError: there is no planner in it.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST}, expected the folder of a checkpoint")
    digest = hashlib.sha256(sha256_of(folder / MANIFEST).encode())
    if planner:
        manifest = folder / PLANNER_FOLDER / MANIFEST
        if not manifest.is_file():
            raise ConfigError(
                f"--planner: {folder} has no {PLANNER_FOLDER}/; `clkd train-planner` makes one"
            )
        digest.update(sha256_of(manifest).encode())
    return digest.hexdigest()
