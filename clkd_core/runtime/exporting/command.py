"""Write a decision as ONNX: a folder for computers without torch, checked against the model.

`clkd export DIR` takes the shipped student, `--checkpoint` another; `clkd export run DIR` decides
with it, and so does every command and node that is given the folder for a checkpoint.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import replace_folder, shipped_student
from clkd_core.runtime.backends.artefact import is_artefact
from clkd_core.runtime.backends.protocol import Backend
from clkd_core.types import (
    CAMERAS,
    CameraImage,
    Decision,
    EgoState,
    RouteCommand,
    SurroundFrame,
)

if TYPE_CHECKING:
    from clkd_core.runtime.engine import Engine

TOLERANCE = 1e-2
"""How far a log-probability may be from the model's where both are computed in float32."""

_CHECKED_FRAMES = 8


class ExportError(ClkdError):
    """The graphs do not compute what the model computes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd export``."""
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--checkpoint", type=Path, help="folder; the shipped student if not given")


def run(args: argparse.Namespace) -> int:
    """Export, compare, put in place, print; 0."""
    checkpoint, out = args.checkpoint or shipped_student(), args.out
    if out.exists() and not is_artefact(out):
        raise ConfigError(f"{out} is there and no exported decision, expected a new folder")
    if is_artefact(checkpoint):
        raise ConfigError(f"{checkpoint} is an exported decision, expected a checkpoint")
    from clkd_core.models.checkpoint import load_vlm  # torch takes seconds
    from clkd_core.runtime.exporting.model import export_model

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as room:
        made = Path(room) / "made"
        export_model(load_vlm(checkpoint), made, note={"checkpoint": checkpoint.name})
        gaps = compare_scores(checkpoint, made)
        for gap in gaps:
            print(gap.describe())
        check_gaps(gaps)
        with replace_folder(out) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
    size_mb = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"wrote {out}: {size_mb:.1f} MB; try it: clkd export run {out} IMAGE...")
    return 0


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far one backend is from the model in torch's float32."""

    backend: str
    exact: bool
    """It computes in float32, too: then ``TOLERANCE`` holds."""
    log_prob: float
    """Greatest difference of a log-probability."""
    same: int
    """Frames decided the same."""
    frames: int

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.backend}: log-probabilities within {self.log_prob:.1e} of the model's in "
            f"float32, {self.same} of {self.frames} decisions the same"
        )


def check_gaps(gaps: Sequence[Gap]) -> None:
    """Raise ExportError where what should be exact is not; NaN never is."""
    for gap in gaps:
        if gap.exact and not gap.log_prob <= TOLERANCE:
            raise ExportError(
                f"{gap.backend} is {gap.log_prob:.1e} off, expected at most {TOLERANCE:g}: "
                "nothing was written"
            )


def compare_scores(checkpoint: Path, folder: Path) -> list[Gap]:
    """Each backend that can run the folder beside torch in float32, and the engine's own choice.

    Noise in place of images, every route command, some speeds, each view missing once.
    """
    from clkd_core.models.checkpoint import load_vlm
    from clkd_core.runtime.backends.artefact import load_artefact
    from clkd_core.runtime.backends.on_onnxruntime import OnnxRuntimeBackend
    from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
    from clkd_core.runtime.engine import Engine

    frames = make_noise_frames(_CHECKED_FRAMES)
    exact = Engine.on_torch(load_vlm(checkpoint), bf16=False)
    wanted = [exact.decide(frame) for frame in frames]
    artefact = load_artefact(folder)
    backends: dict[str, Backend] = {"exact": OpenVinoBackend(artefact, bf16=False)}
    chosen = OpenVinoBackend(artefact)
    if chosen.name != backends["exact"].name:
        backends["chosen"] = chosen
    try:
        backends["exact too"] = OnnxRuntimeBackend(artefact, provider="cpu")
    except ConfigError as err:
        print(f"not compared: {err}")
    return [
        _compare(Engine(backend), frames, wanted, exact=backend is not chosen)
        for backend in backends.values()
    ]


def _compare(
    engine: "Engine", frames: Sequence[SurroundFrame], wanted: Sequence[Decision], *, exact: bool
) -> Gap:
    came = [engine.decide(frame) for frame in frames]
    pairs = list(zip(came, wanted, strict=True))
    gaps = [np.abs(np.log(one.probabilities) - np.log(two.probabilities)) for one, two in pairs]
    return Gap(
        backend=engine.backend,
        exact=exact,
        log_prob=float(np.max(gaps)),
        same=sum(one.action == two.action for one, two in pairs),
        frames=len(frames),
    )


def make_noise_frames(count: int) -> list[SurroundFrame]:
    """Frames on which scores differ: patches of random colours, some without a view."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        images = {
            camera: CameraImage(
                stamp_ns=number + 1,
                pixels=np.kron(
                    rng.integers(0, 256, (9, 16, 3), np.uint8), np.ones((50, 50, 1))
                ).astype(np.uint8),
            )
            for place, camera in enumerate(CAMERAS)
            if place != number % 7
        }
        ego = EgoState(stamp_ns=number + 1, speed_mps=9.0 * number) if number % 3 else None
        command = [None, *RouteCommand][number % 6]
        frames.append(SurroundFrame(stamp_ns=number + 1, images=images, ego=ego, command=command))
    return frames
