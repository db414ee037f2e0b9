"""clkd_core.runtime.engine: legal decisions, honest clocks, named faults."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import jpeg_bytes
from torch import Tensor

from clkd_core.errors import CheckpointError, ConfigError, FrameError
from clkd_core.models.checkpoint import load_vlm, save_checkpoint
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.runtime.devices import choose_device
from clkd_core.runtime.engine import Engine
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    EgoState,
    RouteCommand,
    SurroundFrame,
)


class ScriptedVlm:
    """Honours DrivingVlm as far as a decision goes; answers from the brightness of the views."""

    image_size = (18, 32)

    def __init__(self, log_probs: Tensor | None = None) -> None:
        self.log_probs = log_probs
        self.questions: list[str] = []
        self.seen: list[tuple[Tensor, Tensor]] = []

    def encode_views(self, views: Tensor, present: Tensor) -> Tensor:
        self.seen.append((views, present))
        means = views.float().mean((2, 3, 4))
        return (means * present)[:, :, None, None]

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        return features[..., 0]

    def answer_log_probs(self, scene: Tensor, questions: Sequence[str]) -> Tensor:
        self.questions += questions
        if self.log_probs is not None:
            return self.log_probs[None]
        favourite = int(scene.max() / 10) % len(META_ACTIONS)
        scores = torch.zeros(1, len(META_ACTIONS))
        scores[0, favourite] = 3.0
        return torch.log_softmax(scores, dim=1)


def frame_of(value: int = 120, cameras: Sequence[str] = CAMERAS) -> SurroundFrame:
    image = CameraImage(stamp_ns=9, encoded=jpeg_bytes(value=value))
    return SurroundFrame(
        stamp_ns=9,
        images={camera: image for camera in cameras},
        ego=EgoState(stamp_ns=9, speed_mps=4.0),
        command=RouteCommand.LEFT,
    )


def test_decision_is_the_most_probable_action_and_sums_to_one() -> None:
    decision = Engine.on_torch(ScriptedVlm()).decide(frame_of(120))  # type: ignore[arg-type]
    assert decision.action == META_ACTIONS[12]
    assert decision.probabilities.shape == (20,)
    assert decision.probabilities.dtype == np.float32
    assert math.isclose(decision.probabilities.sum(), 1.0, rel_tol=1e-5)
    assert decision.stamp_ns == 9 and decision.degraded == () and not decision.stale


def test_question_holds_speed_and_route() -> None:
    vlm = ScriptedVlm()
    Engine.on_torch(vlm).decide(frame_of())  # type: ignore[arg-type]
    assert "4 m/s" in vlm.questions[0] and "turn left" in vlm.questions[0]


def test_latency_covers_decoding_and_model() -> None:
    class SlowVlm(ScriptedVlm):
        def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
            time.sleep(0.02)
            return super().scene_tokens(features, present)

    start_s = time.perf_counter()
    decision = Engine.on_torch(SlowVlm()).decide(frame_of())  # type: ignore[arg-type]
    assert 20.0 <= decision.inference_ms <= (time.perf_counter() - start_s) * 1e3


def test_missing_and_broken_inputs_are_masked_and_named() -> None:
    vlm = ScriptedVlm()
    frame = frame_of(cameras=["CAM_FRONT", "CAM_BACK"])
    images = {**frame.images, "CAM_BACK": CameraImage(stamp_ns=9, encoded=b"junk")}
    decision = Engine.on_torch(vlm).decide(  # type: ignore[arg-type]
        replace(frame, images=images, ego=None, command=None)
    )
    assert vlm.seen[0][1].tolist() == [[True] + [False] * 5]
    said = "; ".join(decision.degraded)
    for words in (
        "no image from CAM_FRONT_LEFT",
        "no odometry",
        "no route command",
        "CAM_BACK: 4",
    ):
        assert words in said


def test_blank_shows_black_images_and_keeps_which_views_are_there() -> None:
    vlm = ScriptedVlm()
    Engine.on_torch(vlm).decide(frame_of(cameras=CAMERAS[:4]), blank=True)  # type: ignore[arg-type]
    views, present = vlm.seen[0]
    assert views.max() == 0 and present.tolist() == [[True] * 4 + [False] * 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    log_probs = torch.log_softmax(torch.zeros(20), 0)
    log_probs[7] = bad
    with pytest.raises(FrameError, match=r"scores of frame 9 .* expected 20 finite"):
        Engine.on_torch(ScriptedVlm(log_probs)).decide(frame_of())  # type: ignore[arg-type]


def test_frame_without_a_usable_view_is_refused() -> None:
    with pytest.raises(FrameError, match="no usable image"):
        Engine.on_torch(ScriptedVlm()).decide(frame_of(cameras=[]))  # type: ignore[arg-type]


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="'toaster', expected auto, cpu or cuda"):
        choose_device("toaster")
    with pytest.raises(ConfigError, match="GPUs are here"):
        choose_device("cuda:99")
    with pytest.raises(ConfigError, match="threads is 0"):
        Engine.on_torch(ScriptedVlm(), threads=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano student with random weights."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["go straight turn left right m/s route Plan"], vocab_size=300)
    config = LlamaVlmConfig(
        vision=TwoScaleConfig(channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), stem_width=8),
        language=LanguageConfig(hidden_size=32, layers=1, heads=2, ffn_size=32),
    )
    folder = tmp_path_factory.mktemp("student") / "student"
    save_checkpoint(folder, LlamaVlm(config, tokenizer))
    return folder


def test_checkpoint_answers_the_same_frame_the_same_way(checkpoint: Path) -> None:
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    engine.warm_up()
    first, second = engine.decide(frame_of(90)), engine.decide(frame_of(90))
    other = Engine.from_checkpoint(checkpoint, device="cpu").decide(frame_of(90))
    assert first.action == second.action == other.action
    assert np.array_equal(first.probabilities, second.probabilities)
    assert np.array_equal(first.probabilities, other.probabilities)
    assert isinstance(engine.generate(frame_of(), "Is it raining?", max_new_tokens=2), str)


def test_bfloat16_decides_nearly_as_float32(checkpoint: Path) -> None:
    exact, rounded = (Engine.on_torch(load_vlm(checkpoint), bf16=bf16) for bf16 in (False, True))
    difference = exact.decide(frame_of()).probabilities - rounded.decide(frame_of()).probabilities
    assert np.abs(difference).max() < 0.01


def test_encoded_frame_is_what_the_planner_reads(checkpoint: Path) -> None:
    images = {
        "CAM_FRONT": CameraImage(stamp_ns=9, encoded=jpeg_bytes()),
        "CAM_BACK": CameraImage(stamp_ns=9, encoded=b"junk"),
    }
    encoded = Engine.from_checkpoint(checkpoint, device="cpu").encode(
        replace(frame_of(), images=images, ego=None)
    )
    assert encoded.features.shape[:2] == (1, 6) and encoded.features.ndim == 4
    assert encoded.present.tolist() == [True] + [False] * 5
    assert np.abs(encoded.features[0, 1:]).max() == 0
    (failure,) = encoded.failures  # and nothing of what the frame lacks beside
    assert failure.startswith("CAM_BACK: 4 bytes")


def test_features_at_hand_give_the_same_decision_for_every_frame_with_these_images(
    checkpoint: Path,
) -> None:
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    encoded = engine.encode(replace(frame_of(), ego=None, command=None, faults=("a fault",)))
    for frame in (frame_of(), replace(frame_of(), command=RouteCommand.RIGHT, ego=None)):
        shared, whole = engine.decide_from_features(frame, encoded), engine.decide(frame)
        assert np.array_equal(shared.probabilities, whole.probabilities)
        assert shared.degraded == whole.degraded == frame.degraded_reasons


def test_latency_of_a_decision_from_features_counts_from_where_it_is_told(
    checkpoint: Path,
) -> None:
    engine = Engine.from_checkpoint(checkpoint, device="cpu")
    encoded = engine.encode(frame_of())
    start_s = time.perf_counter() - 5.0
    told = engine.decide_from_features(frame_of(), encoded, start_s=start_s)
    assert 5000.0 <= told.inference_ms < 5000.0 + 4000.0
    assert engine.decide_from_features(frame_of(), encoded).inference_ms < 4000.0


@pytest.mark.parametrize(
    ("device", "cuda_version", "line"),
    [
        ("auto", "13.0", "no CUDA device: {} runs on the CPU, 1 thread, OpenVINO "),
        ("auto", None, "torch without CUDA: {} runs on the CPU, 1 thread, OpenVINO "),
        ("cpu", "13.0", "{} runs on the CPU, 1 thread, OpenVINO "),
    ],
)
def test_where_a_checkpoint_runs_is_said_once_and_the_cpu_aloud(
    checkpoint: Path,
    threads_kept: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    cuda_version: str | None,
    line: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda_version)
    Engine.from_checkpoint(checkpoint, device="cpu")  # exported by now, which is said once
    caplog.clear()
    with caplog.at_level("INFO"):
        Engine.from_checkpoint(checkpoint, device=device, threads=1).warm_up()
    (message,) = caplog.messages
    assert message.startswith(line.format(checkpoint))


@pytest.fixture
def threads_kept() -> Iterator[None]:
    """Torch's number of threads as it was, whatever an engine sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path / "nothing")):
        Engine.from_checkpoint(tmp_path / "nothing", device="cpu")
