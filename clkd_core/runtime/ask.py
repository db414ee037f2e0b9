"""``clkd ask IMAGE... "QUESTION"``: what a student says about pictures of your own."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from clkd_core.errors import ConfigError, DataError
from clkd_core.files import shipped_student
from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

_NOW_NS = 1
"""Files have no capture time; all views of one question were taken at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd ask``."""
    add = parser.add_argument
    add_frame_arguments(parser)
    add("question", help="in plain words")
    add("--checkpoint", type=Path, help="folder of a student; the shipped one when not given")
    add("--max-new-tokens", type=int, default=32, help="of the answer (default %(default)d)")
    add("--device", default="auto", help="auto, cpu or cuda[:N]")
    add("--threads", type=int, help="of the model; default all cores")


def add_frame_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`build_frame` takes."""
    views = ", ".join(CAMERAS)
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help=f"JPEG or PNG, in order {views}"
    )
    parser.add_argument("--speed", type=float, metavar="MPS", help="of the vehicle")
    parser.add_argument(
        "--command", choices=[command.value for command in RouteCommand], help="of the route"
    )


def run(args: argparse.Namespace) -> int:
    """Print answer, decision and latency; 0."""
    frame = build_frame(args.images, speed_mps=args.speed, command=args.command)
    from clkd_core.runtime.engine import Engine  # torch takes seconds: wrong words come first

    engine = Engine.from_checkpoint(
        args.checkpoint or shipped_student(), device=args.device, threads=args.threads
    )
    engine.warm_up()
    decision = engine.decide(frame)
    engine.generate(frame, args.question, max_new_tokens=1)  # loads what writes
    start_s = time.perf_counter()
    answer = engine.generate(frame, args.question, max_new_tokens=args.max_new_tokens)
    answer_ms = (time.perf_counter() - start_s) * 1e3
    likely = float(decision.probabilities[decision.action.index])
    print(f"answer:   {answer}")
    print(f"decision: {decision.action.text} (probability {likely:.2f})")
    if decision.degraded:
        print(f"degraded: {'; '.join(decision.degraded)}")
    print(
        f"latency:  decision {decision.inference_ms:.1f} ms, answer {answer_ms:.1f} ms, "
        f"decoding included, {engine.device}, {engine.backend}"
    )
    return 0


def build_frame(
    images: Sequence[Path], *, speed_mps: float | None = None, command: str | None = None
) -> SurroundFrame:
    """A frame from image files, in the order of ``CAMERAS``; those left out are masked.

    Raises:
        ConfigError: there are more images than cameras.
        DataError: a file cannot be read.
        FrameError: the speed is NaN or infinite.
    """
    if len(images) > len(CAMERAS):
        raise ConfigError(f"{len(images)} images were given, expected at most {len(CAMERAS)}")
    return SurroundFrame(
        stamp_ns=_NOW_NS,
        images={
            camera: CameraImage(stamp_ns=_NOW_NS, encoded=_read(path))
            for camera, path in zip(CAMERAS, images, strict=False)
        },
        ego=None if speed_mps is None else EgoState(stamp_ns=_NOW_NS, speed_mps=speed_mps),
        command=None if command is None else RouteCommand(command),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise DataError(f"image {path} cannot be read: {err.strerror or err}") from err
