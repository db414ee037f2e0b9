"""What the latency benchmark times: our engine, and what a user would run instead.

Weights are random where no checkpoint is given: time does not depend on them, except that text
generation is made to go on to the token count stated.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from clkd_core.data.prompts import PREAMBLE, plan_question
from clkd_core.models.halving import halve
from clkd_core.models.llama_vlm import LlamaVlm, LlamaVlmConfig
from clkd_core.models.moe import MoeConfig
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vlm import count_parameters
from clkd_core.runtime.engine import Engine
from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

FULL_SIZE_HW = (900, 1600)
"""nuScenes' images."""
JPEG_QUALITY = 80
ANSWER_TOKENS = 6
"""Tokens of ``KEEP, STRAIGHT`` and its like with T5's pieces."""
TEXT_TOKENS = 20
"""Tokens of an answer in a short sentence."""

_IMAGENET_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_IMAGENET_STD = np.array([58.395, 57.12, 57.375], np.float32)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to answer a frame."""

    name: str
    what: str
    """One line for the table's reader."""
    answer: Callable[[SurroundFrame], object]
    """Encoded bytes in, answer on the host."""
    total_parameters: int
    active_parameters: int
    every: int = 1
    """Takes part in every so many rounds; slow ones in few."""

    def time_ms(self, frame: SurroundFrame) -> float:
        """One answer, on the benchmark's one clock."""
        start_ns = time.perf_counter_ns()
        self.answer(frame)
        return (time.perf_counter_ns() - start_ns) / 1e6


def build_engine(checkpoint: Path | None, *, device: str, threads: int | None) -> Engine:
    """The checkpoint's engine, or the default architecture's student with random weights.

    Raises:
        CheckpointError: the folder is no checkpoint.
        ConfigError: the device is not there.
    """
    if checkpoint is not None:
        return Engine.from_checkpoint(checkpoint, device=device, threads=threads)
    from clkd_core.runtime.engine import choose_device

    chosen = choose_device(device)
    torch.manual_seed(0)
    texts = [PREAMBLE, *(plan_question(None, command) for command in RouteCommand)]
    teacher = LlamaVlm(LlamaVlmConfig(), train_tokenizer(texts, vocab_size=512))
    student = halve(teacher, "every_other", MoeConfig())
    return Engine(student.eval().to(chosen), device=chosen, threads=threads)


def build_contenders(engine: Engine, *, with_t5: bool, every: int) -> list[Contender]:
    """Our engine, the same model answering in text, and the T5 track's plain student.

    Args:
        engine: ours.
        with_t5: build Swin-T + half T5-small too.
        every: the slow ones take part in every so many rounds.
    """
    model = engine.model
    assert isinstance(model, nn.Module)
    total, active = count_parameters(model)
    ours = Contender(
        name="ours, one pass",
        what="20 answers scored in one forward pass",
        answer=engine.decide,
        total_parameters=total,
        active_parameters=active,
    )
    text = Contender(
        name=f"ours, greedy text ({TEXT_TOKENS} tokens)",
        what="the same model and decoding of images, generating token by token",
        answer=lambda frame: _generate_exactly(engine, frame, TEXT_TOKENS),
        total_parameters=total,
        active_parameters=active,
    )
    if not with_t5:
        return [ours, text]
    return [ours, text, _build_swin_t5(engine.device, every)]


def _generate_exactly(engine: Engine, frame: SurroundFrame, tokens: int) -> str:
    """Text of so many tokens: the end token is out of reach while it runs."""
    tokenizer = engine.model.tokenizer
    end_id, tokenizer.end_id = tokenizer.end_id, -1
    try:
        question = plan_question(frame.ego, frame.command)
        return engine.generate(frame, question, max_new_tokens=tokens)
    finally:
        tokenizer.end_id = end_id


class SwinT5(nn.Module):
    """The paper's T5 track as a user would write it: six 224 x 224 views, plain ``generate``."""

    SIDE_PX = 224

    def __init__(self) -> None:
        super().__init__()
        import timm
        from transformers import T5Config, T5ForConditionalGeneration

        # Any: the two libraries' types do not describe what they return.
        self.vision: Any = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
        build_config: Any = T5Config
        config = build_config(
            d_model=512,
            d_kv=64,
            d_ff=2048,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=8,
            vocab_size=32128,
            decoder_start_token_id=0,
        )
        self.language: Any = T5ForConditionalGeneration(config)
        self.adapter = nn.Linear(768, config.d_model)

    @torch.inference_mode()
    def forward(self, views: Tensor, question_ids: Tensor) -> Tensor:
        """(6, 3, 224, 224) float32 normalised and (1, L) ids to (1, answer) ids."""
        maps = self.vision.forward_features(views)  # (6, 7, 7, 768)
        tokens = self.adapter(maps.flatten(0, 2))[None]
        embedded = self.language.get_input_embeddings()(question_ids)
        answer: Tensor = self.language.generate(
            inputs_embeds=torch.cat([tokens, embedded], dim=1),
            max_new_tokens=ANSWER_TOKENS,
            min_new_tokens=ANSWER_TOKENS,
            do_sample=False,
        )
        return answer


def _build_swin_t5(device: torch.device, every: int) -> Contender:
    torch.manual_seed(0)
    model = SwinT5().eval().to(device)
    total, active = count_parameters(model)
    question = torch.randint(10, 32000, (1, 40), device=device)

    def answer(frame: SurroundFrame) -> Tensor:
        views = np.stack([_plain_decode(frame.images[camera]) for camera in CAMERAS])
        return torch.as_tensor(model(torch.from_numpy(views).to(device), question)).cpu()

    return Contender(
        name=f"Swin-T + half T5-small ({ANSWER_TOKENS} tokens)",
        what="the paper's T5 student, dense, random weights, plain transformers generate",
        answer=answer,
        total_parameters=total,
        active_parameters=active,
        every=every,
    )


def _plain_decode(image: CameraImage) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Full-size decode, resize and normalise: (3, 224, 224) float32, no tricks."""
    assert image.encoded is not None
    bgr = cv2.imdecode(np.frombuffer(image.encoded, np.uint8), cv2.IMREAD_COLOR)
    side = SwinT5.SIDE_PX
    rgb = cv2.cvtColor(cv2.resize(bgr, (side, side)), cv2.COLOR_BGR2RGB)
    normalised = (rgb.astype(np.float32) - _IMAGENET_MEAN) / _IMAGENET_STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def make_frames(count: int, *, seed: int = 0) -> list[SurroundFrame]:
    """Frames of six 1600 x 900 JPEGs that are about as hard to decode as camera images.

    Smooth shapes with fine noise; some 150 to 250 kB each, as in nuScenes.
    """
    rng = np.random.default_rng(seed)
    return [
        SurroundFrame(
            stamp_ns=number + 1,
            images={
                camera: CameraImage(stamp_ns=number + 1, encoded=_made_up_jpeg(rng))
                for camera in CAMERAS
            },
            ego=EgoState(stamp_ns=number + 1, speed_mps=float(rng.uniform(0, 15))),
            command=list(RouteCommand)[number % len(RouteCommand)],
        )
        for number in range(count)
    ]


def _made_up_jpeg(rng: np.random.Generator) -> bytes:
    height, width = FULL_SIZE_HW
    coarse = cv2.resize(rng.integers(0, 256, (9, 16, 3), np.uint8), (width, height))
    fine = cv2.resize(rng.integers(0, 256, (225, 400, 3), np.uint8), (width, height))
    image = cv2.addWeighted(coarse, 0.75, fine, 0.25, 0)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done  # a made-up image of fixed shape always encodes
    return encoded.tobytes()
