"""Which backend? Times all that could be, and shows what fewer bits cost in macro-F1.

`clkd bench backends --out FILE` runs torch, ONNX Runtime and OpenVINO in float32, bfloat16 and
int8 interleaved in one run, decoding left out; with `--bag` each also answers its labelled
keyframes. The engine uses one of them (docs/experiments.md says which, and why). With `--device
cuda`: torch, captured graphs, and captured graphs that torch.compile fused before; vision is then
the time to hand it over, and only both together are what they take.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.data.prompts import plan_question
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import shipped_student, write_text_atomic
from clkd_core.progress import progress
from clkd_core.runtime.backends.artefact import DECISION, VISION, Artefact, load_artefact
from clkd_core.runtime.backends.protocol import Backend
from clkd_core.runtime.bench import contest
from clkd_core.types import SurroundFrame

if TYPE_CHECKING:
    from clkd_core.models.base import VlmBase

FORMAT_VERSION = 1
_PACKAGES = ("torch", "onnxruntime", "openvino", "nncf")
CALIBRATION_FRAMES = 64
"""Keyframes that int8 learns its ranges from; of the same bag, which is in its favour."""

Build = Callable[[], Backend]
Inputs = list[dict[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class BackendRow:
    """One backend's figures."""

    name: str
    vision_p50_ms: float
    decision_p50_ms: float
    both_p50_ms: float
    both_p99_ms: float
    macro_f1: float | None
    """Of the labelled keyframes; None without a bag."""
    same_as_float32_frac: float | None
    """Share of keyframes decided as torch does in float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bench backends``."""
    add = parser.add_argument
    add("--out", type=Path, required=True, help="JSON file")
    add("--checkpoint", type=Path, help="folder of a student; the shipped one when not given")
    add("--preset", help="instead: a preset of config/train with random weights")
    add("--bag", type=Path, help="labelled keyframes to answer, and to calibrate int8 on")
    add("--rounds", type=int, default=200, help="timed answers of each, default %(default)s")
    add("--threads", type=int, help="of each; default all cores")
    add("--device", default="cpu", help="cpu or cuda[:N]; default %(default)s")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the file; 0."""
    if args.rounds < 1:
        raise ConfigError(f"rounds is {args.rounds}, expected at least 1")
    if args.preset and (args.checkpoint or args.bag):
        raise ConfigError("--preset has random weights: expected neither --checkpoint nor --bag")
    from clkd_core.report.provenance import describe_device
    from clkd_core.runtime.bench.frames import make_frames

    frames = make_frames(4) if args.bag is None else _keyframes(args.bag)
    with tempfile.TemporaryDirectory() as folder:
        some = frames[:: -(-len(frames) // CALIBRATION_FRAMES)]
        builds = list_backends(args, Path(folder), some)
        rows = measure(builds, frames, rounds=args.rounds, bag=args.bag)
    result = {
        "format_version": FORMAT_VERSION,
        "device": describe_device(args.device),
        "threads": args.threads,
        "student": args.preset or str(args.checkpoint or "weights/nano"),
        "bag": None if args.bag is None else args.bag.name,
        "rounds": args.rounds,
        "versions": {name: version(name) for name in _PACKAGES if find_spec(name)},
        "backends": [asdict(row) for row in rows],
    }
    write_text_atomic(args.out, json.dumps(result, indent=1) + "\n")
    for line in format_table(rows, str(result["device"])):
        print(line)
    print(f"wrote {args.out}")
    return 0


def list_backends(
    args: argparse.Namespace, folder: Path, calibration: Sequence[SurroundFrame]
) -> dict[str, Build]:
    """How to make each backend that is installed; says what the others want.

    Args:
        args: as declared here.
        folder: for what is exported and quantised.
        calibration: frames that int8 learns its ranges from.
    """
    from clkd_core.models.checkpoint import load_vlm
    from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
    from clkd_core.runtime.backends.on_torch import TorchBackend
    from clkd_core.runtime.devices import choose_device, set_torch_threads
    from clkd_core.runtime.exporting.model import export_model

    set_torch_threads(args.threads)
    model = (
        build_random_student(args.preset)
        if args.preset
        else load_vlm(args.checkpoint or shipped_student())
    )
    if args.device != "cpu":
        return _on_cuda(model.to(choose_device(args.device)), args.device)
    export_model(model, folder / "float32")
    artefact = load_artefact(folder / "float32")
    builds: dict[str, Build] = {
        "torch float32": lambda: TorchBackend(model, "cpu", bf16=False),
        "torch bfloat16": lambda: TorchBackend(model, "cpu", bf16=True),
        "OpenVINO float32": lambda: OpenVinoBackend(artefact, threads=args.threads, bf16=False),
        "OpenVINO bfloat16": lambda: OpenVinoBackend(artefact, threads=args.threads, bf16=True),
    }
    fed = _calibration_inputs(artefact, calibration)
    if find_spec("onnxruntime") is None:
        print("ONNX Runtime left out: pip install onnxruntime")
    else:
        builds |= _with_onnxruntime(artefact, folder / "int8", fed, args.threads)
    if find_spec("nncf") is None:
        print("OpenVINO int8 left out: pip install nncf")
    else:
        builds["OpenVINO int8"] = lambda: OpenVinoBackend(
            artefact, threads=args.threads, bf16=False, change=lambda n, g: _by_nncf(n, g, fed[n])
        )
    return builds


def _on_cuda(model: "VlmBase", device: str) -> dict[str, Build]:
    from clkd_core.runtime.backends.cuda_graph import CudaGraphBackend
    from clkd_core.runtime.backends.on_torch import TorchBackend

    return {
        "torch float32": lambda: TorchBackend(model, device, bf16=False),
        "torch bfloat16": lambda: TorchBackend(model, device, bf16=True),
        "CUDA graph": lambda: CudaGraphBackend(model, device),
        "CUDA graph, compiled": lambda: CudaGraphBackend(model, device, compiled=True),
    }


def build_random_student(preset: str) -> "VlmBase":
    """The student of a preset of config/train with random weights, in float32 on the CPU."""
    import torch

    from clkd_core.runtime.bench.contenders.spec import Setting
    from clkd_core.runtime.bench.contenders.students import build_random, read_student

    architecture, vocab_size = read_student(preset)
    setting = Setting(device="cpu", threads=None, checkpoint=None)
    return build_random(architecture, setting, vocab_size=vocab_size, dtype=torch.float32)


def _calibration_inputs(
    artefact: Artefact, frames: Sequence[SurroundFrame]
) -> Mapping[str, Inputs]:
    """What each graph is fed for these frames, by its file's name."""
    from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
    from clkd_core.runtime.decode import decode_frame

    exact = OpenVinoBackend(artefact, bf16=False)
    fed: dict[str, Inputs] = {VISION: [], DECISION: []}
    for frame in frames:
        seen = decode_frame(frame, artefact.image_size)
        there = {"present": seen.present[None]}
        features = exact.encode(seen.views, seen.present)
        ids = artefact.question_ids(plan_question(frame.ego, frame.command))
        fed[VISION].append({"views": seen.views[None], **there})
        fed[DECISION].append({"features": features, **there, "question_ids": ids})
    return fed


def _with_onnxruntime(
    artefact: Artefact, folder: Path, fed: Mapping[str, Inputs], threads: int | None
) -> dict[str, Build]:
    from clkd_core.runtime.backends.on_onnxruntime import OnnxRuntimeBackend

    _quantise_by_onnxruntime(artefact, folder, fed)
    int8 = Artefact(folder, artefact.image_size, artefact.question_tokens, artefact.tokenizer)
    return {
        "ONNX Runtime float32": lambda: OnnxRuntimeBackend(
            artefact, provider="cpu", threads=threads
        ),
        "ONNX Runtime int8": lambda: OnnxRuntimeBackend(int8, provider="cpu", threads=threads),
    }


def _quantise_by_onnxruntime(artefact: Artefact, folder: Path, fed: Mapping[str, Inputs]) -> None:
    """Vision with ranges learnt from frames, the decision with ranges found as it runs."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._left = iter(fed[VISION])

        def get_next(self) -> Any:
            return next(self._left, None)

    folder.mkdir()
    with _errors_alone():  # it advises of its own tools, once per call
        quantize_static(
            artefact.folder / VISION,
            folder / VISION,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantize_dynamic(
            artefact.folder / DECISION,
            folder / DECISION,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Let the root logger pass nothing less; as it was afterwards."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _by_nncf(name: str, graph: Any, fed: Inputs) -> Any:
    """A graph of OpenVINO in int8, ranges learnt from frames."""
    import nncf

    kind = nncf.ModelType.TRANSFORMER if name == DECISION else None
    return nncf.quantize(graph, nncf.Dataset(fed), model_type=kind, subset_size=len(fed))


def measure(
    builds: Mapping[str, Build],
    frames: Sequence[SurroundFrame],
    *,
    rounds: int,
    bag: Path | None,
    seed: int = 0,
) -> list[BackendRow]:
    """One row per backend; all meet the same frames and the same weather of the machine.

    They share this process: each round draws their order anew by ``seed``, and the machine rests
    before each, so that none always runs beside the threads that the same other one left waiting.
    """
    from clkd_core.runtime.decode import decode_frame

    backends = {name: build() for name, build in builds.items()}
    size = next(iter(backends.values())).image_size
    seen = [decode_frame(frame, size) for frame in frames[:8]]
    questions = [plan_question(frame.ego, frame.command) for frame in frames[:8]]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in backends}
    rng, names = np.random.default_rng(seed), list(backends)
    for number in progress(range(-3, rounds), desc="backends", unit="rounds"):
        views, present, _ = seen[number % len(seen)]
        for name in (names[index] for index in rng.permutation(len(names))):
            time.sleep(contest.SETTLE_S)
            start = time.perf_counter()
            features = backends[name].encode(views, present)
            middle = time.perf_counter()
            backends[name].log_probs(features, present, questions[number % len(seen)])
            if number >= 0:
                times[name].append((middle - start, time.perf_counter() - middle))
    scores = dict.fromkeys(backends, (None, None)) if bag is None else _answer(backends, bag)
    return [_row(name, times[name], *scores[name]) for name in backends]


def _row(
    name: str, times: Sequence[tuple[float, float]], macro_f1: float | None, same: float | None
) -> BackendRow:
    both = np.asarray(times) * 1e3
    p50, p99 = np.percentile(both.sum(axis=1), (50, 99))
    vision, decision = np.median(both, axis=0)
    return BackendRow(
        name=name,
        vision_p50_ms=float(vision),
        decision_p50_ms=float(decision),
        both_p50_ms=float(p50),
        both_p99_ms=float(p99),
        macro_f1=macro_f1,
        same_as_float32_frac=same,
    )


def _answer(
    backends: Mapping[str, Backend], bag: Path
) -> dict[str, tuple[float | None, float | None]]:
    from clkd_core.metrics.decisions.meta_action import score_actions
    from clkd_core.runtime.bag_run import ReplayConfig, replay_bag
    from clkd_core.runtime.engine import Engine

    config = ReplayConfig(keyframes_only=True)
    found: dict[str, tuple[float | None, float | None]] = {}
    exact: list[Any] = []
    for name, backend in backends.items():
        rows = list(replay_bag(bag, Engine(backend), config=config))
        shown = [row for row in rows if row.label is not None]
        answers = [row.answer for row in shown]
        exact = exact or answers
        scores = score_actions([row.label for row in shown if row.label is not None], answers)
        same = float(np.mean([a == b for a, b in zip(answers, exact, strict=True)]))
        found[name] = (scores.macro_f1.value, same)
    return found


def _keyframes(bag: Path) -> list[SurroundFrame]:
    from clkd_core.runtime.bag_run import ReplayConfig, read_asked_frames

    asked = read_asked_frames(bag, config=ReplayConfig(keyframes_only=True))
    frames = [one.frame for one in asked if one.frame is not None and one.row.label is not None]
    if not frames:
        raise DataError(f"{bag} has no labelled keyframe")
    return frames


def format_table(rows: Sequence[BackendRow], device: str) -> list[str]:
    """Lines for a terminal; ratios to the first row."""
    width = max(len(row.name) for row in rows)
    head = f"{'':{width}} {'vision ms':>9} {'decision':>9} {'both p50':>9} {'p99':>8} {'ratio':>6}"
    lines = [f"device: {device}", f"{head} {'macro-F1':>9} {'as float32':>10}"]
    for row in rows:
        ratio = row.both_p50_ms / rows[0].both_p50_ms
        f1 = "-" if row.macro_f1 is None else f"{row.macro_f1:.3f}"
        same = "-" if row.same_as_float32_frac is None else f"{row.same_as_float32_frac:.1%}"
        lines.append(
            f"{row.name:{width}} {row.vision_p50_ms:9.2f} {row.decision_p50_ms:9.2f} "
            f"{row.both_p50_ms:9.2f} {row.both_p99_ms:8.2f} {ratio:6.2f} {f1:>9} {same:>10}"
        )
    return lines
