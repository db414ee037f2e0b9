"""Decide with what `clkd export` wrote, by ONNX Runtime: TensorRT or CUDA where it has them.

`clkd export run DIR IMAGE...` needs no torch; `python -m clkd_core.runtime.exporting.run` is the
same where only the package's files were copied.
"""

import argparse
import statistics
import sys
from pathlib import Path

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.runtime.ask import add_frame_arguments, build_frame
from clkd_core.runtime.backends.artefact import load_artefact
from clkd_core.runtime.backends.on_onnxruntime import PROVIDERS, OnnxRuntimeBackend
from clkd_core.runtime.engine import Engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd export run``."""
    parser.add_argument("artefact", type=Path, metavar="DIR", help="what `clkd export` wrote")
    add_frame_arguments(parser)
    parser.add_argument("--provider", default="auto", choices=["auto", *PROVIDERS])
    parser.add_argument("--threads", type=int, help="on the CPU and of decoding; default all")
    parser.add_argument(
        "--repeat", type=int, default=20, help="timed answers, default %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Print decision and latency; 0."""
    if args.repeat < 1:
        raise ConfigError(f"repeat is {args.repeat}, expected at least 1")
    frame = build_frame(args.images, speed_mps=args.speed, command=args.command)
    artefact = load_artefact(args.artefact)
    backend = OnnxRuntimeBackend(artefact, provider=args.provider, threads=args.threads)
    engine = Engine(backend, threads=args.threads)
    engine.warm_up()
    decisions = [engine.decide(frame) for _ in range(args.repeat)]
    times_ms = [decision.inference_ms for decision in decisions]
    decision = decisions[-1]
    likely = float(decision.probabilities[decision.action.index])
    print(f"decision: {decision.action.text} (probability {likely:.2f})")
    if decision.degraded:
        print(f"degraded: {'; '.join(decision.degraded)}")
    print(
        f"latency:  median {statistics.median(times_ms):.1f} ms, longest {max(times_ms):.1f} ms "
        f"of {len(times_ms)}, decoding included, {engine.backend}"
    )
    return 0


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    add_arguments(words)
    try:
        code = run(words.parse_args())
    except ClkdError as err:
        print(f"{words.prog}: {err}", file=sys.stderr)
        code = 2
    raise SystemExit(code)
