"""clkd_core.runtime.backends: whatever computes, the same 20 scores."""

import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from shared_engines import (
    FAMILIES,
    a_decision,
    a_frame,
    same_decision,
    same_plan,
    tiny_planner,
    tiny_student,
)

from clkd_core.data.prompts import plan_question
from clkd_core.errors import CheckpointError, ConfigError, FrameError
from clkd_core.models.base import VlmBase
from clkd_core.runtime.backends.artefact import Artefact, load_artefact
from clkd_core.runtime.backends.cuda_graph import CudaGraphBackend, to_bfloat16
from clkd_core.runtime.backends.graphs import count_question_tokens
from clkd_core.runtime.backends.on_onnxruntime import OnnxRuntimeBackend
from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
from clkd_core.runtime.backends.on_torch import TorchBackend
from clkd_core.runtime.backends.protocol import Backend
from clkd_core.runtime.decode import decode_frame
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.exporting.model import export_model
from clkd_core.runtime.planning import PlannerEngine
from clkd_core.runtime.shared import SharedEngine
from clkd_core.types import CAMERAS, EgoState, RouteCommand, SurroundFrame

Pair = tuple[VlmBase, Artefact]
BUILD: dict[str, Callable[[Artefact], Backend]] = {
    "OpenVINO": lambda artefact: OpenVinoBackend(artefact, threads=1, bf16=False),
    "ONNX Runtime": lambda artefact: OnnxRuntimeBackend(artefact, provider="cpu", threads=1),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A tiny student of each family with experts, and what is exported of it."""
    model = tiny_student(request.param)
    folder = tmp_path_factory.mktemp("artefact") / "tiny"
    export_model(model, folder)
    return model, load_artefact(folder)


def some_frames() -> list[SurroundFrame]:
    """All shapes of a frame: with and without odometry, route and some of the views."""
    whole = a_frame(3)
    fast = EgoState(stamp_ns=4, speed_mps=999.0)
    front = {camera: whole.images[camera] for camera in CAMERAS[:1]}
    return [
        whole,
        a_frame(4, ego=None, command=None),
        a_frame(5, ego=fast, command=RouteCommand.STRAIGHT_RIGHT),
        a_frame(6, images=front),
    ]


def exhaustive_log_probs(model: VlmBase, frame: SurroundFrame) -> np.ndarray:
    """(A,) in float32 from 20 answers scored one after the other as training scores them."""
    from clkd_core.data.prompts import answer_text
    from clkd_core.types import META_ACTIONS

    seen = decode_frame(frame, model.image_size)
    views, present = torch.from_numpy(seen.views)[None], torch.from_numpy(seen.present)[None]
    question, totals = plan_question(frame.ego, frame.command), []
    with torch.no_grad():
        scene = model.scene_tokens(model.encode_views(views, present), present)
        for action in META_ACTIONS:
            text = model.pack([[(question, answer_text(action))]])
            log_probs = torch.log_softmax(model.answer_logits(scene, text).float(), dim=-1)
            each = log_probs.gather(2, text.targets[..., None])[0, :, 0]
            totals.append(each[: len(model.tokenizer.encode(answer_text(action)))].sum())
    return np.asarray(torch.log_softmax(torch.stack(totals), dim=0).numpy())


@pytest.mark.parametrize("name", [*BUILD, "torch"])
def test_one_pass_equals_exhaustive_scoring_in_float32(pair: Pair, name: str) -> None:
    model, artefact = pair
    backend: Backend = (
        TorchBackend(model, "cpu", bf16=False) if name == "torch" else BUILD[name](artefact)
    )
    for frame in some_frames():
        decision = Engine(backend, threads=1).decide(frame)
        wanted = exhaustive_log_probs(model, frame)
        assert np.abs(np.log(decision.probabilities) - wanted).max() < 1e-4


@pytest.mark.parametrize("name", BUILD)
def test_features_can_be_kept_and_decided_on_later(pair: Pair, name: str) -> None:
    engine = Engine(BUILD[name](pair[1]), threads=1)
    frames = some_frames()
    encoded = [engine.encode(frame) for frame in frames]
    for frame, kept in zip(frames, encoded, strict=True):
        later, whole = engine.decide_from_features(frame, kept), engine.decide(frame)
        assert np.array_equal(later.probabilities, whole.probabilities)
        assert kept.tensors()[0].shape[:2] == (1, len(CAMERAS))


def test_bfloat16_weights_decide_nearly_as_float32(pair: Pair) -> None:
    exact = Engine.on_torch(pair[0], bf16=False)
    copied = Engine.on_torch(to_bfloat16(pair[0]), bf16=False)
    assert next(pair[0].parameters()).dtype == torch.float32
    for frame in some_frames():
        gap = exact.decide(frame).probabilities - copied.decide(frame).probabilities
        assert np.abs(gap).max() < 0.05
    assert isinstance(copied.generate(a_frame(), "Is it raining?", max_new_tokens=3), str)


def test_rounded_openvino_decides_nearly_as_exact(pair: Pair) -> None:
    exact, rounded = (Engine(OpenVinoBackend(pair[1], bf16=bf16)) for bf16 in (False, True))
    assert (exact.backend, rounded.backend) == ("OpenVINO float32", "OpenVINO bfloat16")
    for frame in some_frames():
        gap = exact.decide(frame).probabilities - rounded.decide(frame).probabilities
        assert np.abs(gap).max() < 0.05


def test_there_is_room_for_every_question_a_frame_leads_to(pair: Pair) -> None:
    artefact = pair[1]
    longest = count_question_tokens(artefact.tokenizer)
    assert artefact.question_tokens == longest
    for speed_mps in (-5.0, 0.0, 9.6, 59.6, 1e30):
        question = plan_question(
            EgoState(stamp_ns=0, speed_mps=speed_mps), RouteCommand.STRAIGHT_RIGHT
        )
        assert artefact.question_ids(question).shape == (1, longest)
    with pytest.raises(FrameError, match=rf"tokens, expected at most {longest}"):
        artefact.question_ids("Is it raining? " * 40)


def test_text_is_written_from_the_features_of_whatever_computes(pair: Pair) -> None:
    model, artefact = pair
    backend = OpenVinoBackend(artefact, bf16=False)
    engine = Engine(backend, load_model=lambda: model)
    exact = Engine.on_torch(model, bf16=False)
    question = "Is the light red?"
    said = engine.generate(a_frame(), question, max_new_tokens=5)
    assert said == exact.generate(a_frame(), question, max_new_tokens=5)
    with pytest.raises(ConfigError, match="expected the checkpoint it was made from"):
        Engine(backend).generate(a_frame(), question)


def test_scores_that_are_no_numbers_are_refused_whatever_computes(tmp_path: Path) -> None:
    model = tiny_student("llama")
    with torch.no_grad():
        model.scene_norm.weight.fill_(float("nan"))
    export_model(model, tmp_path / "nan")
    for build in BUILD.values():
        with pytest.raises(FrameError, match=r"scores of frame 1 .* expected 20 finite"):
            Engine(build(load_artefact(tmp_path / "nan"))).decide(a_frame())


def test_what_is_no_graph_is_said_to_be_none(pair: Pair, tmp_path: Path) -> None:
    artefact = pair[1]
    for name in ("vision.onnx", "decision.onnx"):
        (tmp_path / name).write_bytes(b"no graph")
    broken = Artefact(tmp_path, artefact.image_size, 9, artefact.tokenizer)
    for build in BUILD.values():
        with pytest.raises(CheckpointError, match=r"vision\.onnx cannot be"):
            build(broken)


def test_a_provider_that_is_not_there_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigError, match=r"'tensorrt', expected auto or one of .*cpu"):
        OnnxRuntimeBackend(pair[1], provider="tensorrt")
    assert OnnxRuntimeBackend(pair[1]).name == "ONNX Runtime cpu"


def test_a_decision_on_a_cpu_needs_no_torch(pair: Pair) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from clkd_core.runtime.engine import Engine, made_up_frames\n"
        f"engine = Engine.from_checkpoint(Path({str(pair[1].folder)!r}), device='cpu')\n"
        "print(engine.decide(next(made_up_frames())).action.text)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "," in done.stdout


def test_a_model_that_was_just_trained_can_be_copied(pair: Pair) -> None:
    model = tiny_student("llama")
    seen = decode_frame(a_frame(), model.image_size)
    views, present = torch.from_numpy(seen.views)[None], torch.from_numpy(seen.present)[None]
    scene = model.scene_tokens(model.encode_views(views, present), present)
    model.answer_logits(scene, model.pack([[("Red?", " No.")]])).sum().backward()
    assert next(to_bfloat16(model).parameters()).dtype == torch.bfloat16


def decide_and_plan_at_once(shared: SharedEngine, model: VlmBase, alone: Engine) -> None:
    """Two threads on one engine give what each alone gives."""
    frames = [a_frame(stamp_ns) for stamp_ns in range(1, 13)]
    planner = PlannerEngine(tiny_planner(model).to(alone.device), alone)
    wanted = [(alone.decide(frame), planner.plan(frame, a_decision())) for frame in frames]
    decider, fast = shared.decider(), shared.planner()
    with ThreadPoolExecutor(2) as pool:
        decisions = pool.map(decider.decide, frames)
        plans = pool.map(lambda frame: fast.plan(frame, a_decision()), frames)
        came = list(zip(decisions, plans, strict=True))
    assert all(
        same_decision(one, other) for (one, _), (other, _) in zip(came, wanted, strict=True)
    )
    assert all(same_plan(one, other) for (_, one), (_, other) in zip(came, wanted, strict=True))


def test_two_threads_share_an_exported_engine(pair: Pair) -> None:
    model, artefact = pair
    engines = [Engine(OpenVinoBackend(artefact, threads=1), threads=1) for _ in range(2)]
    shared = SharedEngine(engines[0], tiny_planner(model))
    decide_and_plan_at_once(shared, model, engines[1])


@pytest.mark.gpu
def test_two_threads_share_captured_graphs() -> None:
    model = tiny_student("llama").cuda()
    engines = [Engine(CudaGraphBackend(model, "cuda")) for _ in range(2)]
    shared = SharedEngine(engines[0], tiny_planner(model).cuda())
    decide_and_plan_at_once(shared, model, engines[1])


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_ten_thousand_frames_take_no_more_memory(pair: Pair) -> None:
    engine = Engine(OpenVinoBackend(pair[1], threads=1), threads=1)
    frames = [a_frame(stamp_ns) for stamp_ns in range(1, 5)]
    process = psutil.Process()

    def answer(count: int) -> int:
        for number in range(count):
            engine.decide(frames[number % len(frames)])
        gc.collect()
        return int(process.memory_info().rss)

    before = answer(1000)
    grown_mib = (answer(9000) - before) / 2**20
    assert grown_mib < 4.0  # pages of the allocator, not a byte per frame


@pytest.mark.gpu
def test_cuda_graph_decides_as_the_model_it_was_captured_from() -> None:
    for family in FAMILIES:
        model = tiny_student(family).cuda()
        backend = CudaGraphBackend(model, "cuda")
        graph, plain = (
            Engine(backend),
            Engine.on_torch(to_bfloat16(model), device="cuda", bf16=False),
        )
        for frame in islice(some_frames() * 2, 8):
            shared = graph.decide_from_features(frame, graph.encode(frame))
            whole, wanted = graph.decide(frame), plain.decide(frame)
            assert np.allclose(whole.probabilities, wanted.probabilities, atol=1e-3)
            assert np.allclose(shared.probabilities, wanted.probabilities, atol=1e-3)
