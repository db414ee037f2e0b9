"""Write a decision as ONNX: a folder for computers without torch, checked against the model.

`clkd export DIR` takes the shipped student, `--checkpoint` another; `clkd export run DIR` decides
with it, and so does every command and node that is given the folder for a checkpoint.
"""

import argparse
from pathlib import Path

import numpy as np

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.files import shipped_student
from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

TOLERANCE = 1e-2
"""How far a log-probability may be from the model's."""

_CHECKED_FRAMES = 8


class ExportError(ClkdError):
    """The graphs do not compute what the model computes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd export``."""
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--checkpoint", type=Path, help="folder; the shipped student if not given")


def run(args: argparse.Namespace) -> int:
    """Export, compare, print; 0."""
    checkpoint = args.checkpoint or shipped_student()
    if args.out.exists() and not (args.out / "artefact.json").is_file():
        raise ConfigError(f"{args.out} is there and no exported decision, expected a new folder")
    from clkd_core.models.checkpoint import load_vlm  # torch takes seconds
    from clkd_core.runtime.exporting.model import export_model

    model = load_vlm(checkpoint)
    export_model(model, args.out, note={"checkpoint": checkpoint.name})
    size_mb = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    print(f"wrote {args.out}: {size_mb:.1f} MB")
    for name, gap in compare_scores(checkpoint, args.out).items():
        print(f"{name}: log-probabilities within {gap:.1e} of the model's in float32")
        if not gap <= TOLERANCE:
            raise ExportError(f"{name} is {gap:.1e} off, expected at most {TOLERANCE:g}")
    print(f"try it: clkd export run {args.out} IMAGE...")
    return 0


def compare_scores(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Greatest gap of any log-probability to torch's in float32, by what computed it.

    Noise in place of images, every route command, some speeds, some views missing.
    """
    from clkd_core.models.checkpoint import load_vlm
    from clkd_core.runtime.backends.artefact import load_artefact
    from clkd_core.runtime.backends.on_onnxruntime import OnnxRuntimeBackend
    from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
    from clkd_core.runtime.backends.protocol import Backend
    from clkd_core.runtime.engine import Engine

    exact = Engine.on_torch(load_vlm(checkpoint), bf16=False)
    artefact = load_artefact(folder)
    others: list[Backend] = [OpenVinoBackend(artefact, bf16=False)]
    try:
        others.append(OnnxRuntimeBackend(artefact, provider="cpu"))
    except ConfigError as err:
        print(f"not compared: {err}")
    frames = list(make_noise_frames(_CHECKED_FRAMES))
    wanted = [exact.decide(frame) for frame in frames]
    gaps: dict[str, float] = {}
    for backend in others:
        engine = Engine(backend)
        gaps[engine.backend] = max(
            float(np.abs(np.log(engine.decide(f).probabilities) - np.log(w.probabilities)).max())
            for f, w in zip(frames, wanted, strict=True)
        )
    return gaps


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
            for camera in CAMERAS[number % 2 :]
        }
        ego = EgoState(stamp_ns=number + 1, speed_mps=9.0 * number) if number % 3 else None
        command = [None, *RouteCommand][number % 6]
        frames.append(SurroundFrame(stamp_ns=number + 1, images=images, ego=ego, command=command))
    return frames
