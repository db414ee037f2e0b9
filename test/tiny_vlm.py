"""The smallest real model of each kind, and a driving set of coloured squares to train it on."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from clkd_core.data.keyframes import Keyframe, QuestionAnswer
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.prompts import (
    PREAMBLE,
    VIEW_NAMES,
    answer_text,
    plan_question,
    turn_text,
)
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, LlamaVlmConfig
from clkd_core.models.t5_vlm import T5LanguageConfig, T5Vlm, T5VlmConfig
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand, Trajectory

SQUARES_VERSION = "v1.0-squares"
_FUTURES_M = {
    "go": [(3.0 * i, 0.0) for i in range(1, 7)],
    "stop": [(0.1 * i, 0.0) for i in range(1, 7)],
    "left": [(2.0 * i, 1.5 * i) for i in range(1, 7)],
}
_COLOURS_BGR = {"go": (0, 200, 0), "stop": (0, 0, 230), "left": (220, 120, 0)}


def tiny_config(**changes: object) -> LlamaVlmConfig:
    """A teacher with about 20k parameters."""
    values: dict[str, object] = {
        "vision": TwoScaleConfig(
            height_px=36,
            width_px=64,
            stem_width=8,
            channels=(8, 8, 8, 16),
            side_channels=(8, 8, 8),
            blocks=(2, 2, 2, 2),
        ),
        "tokens_per_view": 2,
        "language": LanguageConfig(hidden_size=16, layers=4, heads=2, ffn_size=24, init_std=0.2),
    }
    return LlamaVlmConfig(**{**values, **changes})  # type: ignore[arg-type]


def tiny_tokenizer() -> TextTokenizer:
    """Knows the prompts and little else."""
    texts = [PREAMBLE, *VIEW_NAMES.values(), *(answer_text(action) for action in META_ACTIONS)]
    for speed in range(16):
        ego = EgoState(stamp_ns=0, speed_mps=float(speed))
        texts += [plan_question(ego, command) for command in (None, *RouteCommand)]
    texts += [turn_text("Is the light red?"), " Yes.", " No."]
    return train_tokenizer(texts * 2, vocab_size=512)


def tiny_model(*, seed: int = 0, **changes: object) -> LlamaVlm:
    """A tiny teacher with fresh weights, in evaluation mode."""
    torch.manual_seed(seed)
    return LlamaVlm(tiny_config(**changes), tiny_tokenizer()).eval()


def tiny_t5_config(**changes: object) -> T5VlmConfig:
    """A teacher of the T5 family with as many parameters."""
    values: dict[str, object] = {
        "vision": tiny_config().vision,
        "tokens_per_view": 2,
        "language": tiny_t5_language(),
    }
    return T5VlmConfig(**{**values, **changes})  # type: ignore[arg-type]


def tiny_t5_language(**changes: object) -> T5LanguageConfig:
    """Four blocks each."""
    values: dict[str, object] = {
        "hidden_size": 16,
        "key_size": 6,
        "ffn_size": 24,
        "layers": 4,
        "decoder_layers": 4,
        "heads": 2,
    }
    return T5LanguageConfig(**{**values, **changes})  # type: ignore[arg-type]


def tiny_t5_model(*, seed: int = 0, **changes: object) -> T5Vlm:
    """A tiny teacher of the T5 family with fresh weights, in evaluation mode."""
    torch.manual_seed(seed)
    return T5Vlm(tiny_t5_config(**changes), tiny_tokenizer()).eval()


def tiny_views(batch: int = 2, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, 3, 36, 64) uint8 noise and (B, C) bool, all present."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(CAMERAS), 3, 36, 64)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return views, torch.ones(batch, len(CAMERAS), dtype=torch.bool)


def write_squares(root: Path, *, train: int = 24, val: int = 6) -> None:
    """A driving set in which the colour of a square ahead says what to do; every sixth is fog."""
    (root / SQUARES_VERSION).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(train + val):
        keyframe = _square_keyframe(root, number, rng)
        split = "train" if number < train else "val"
        lines.append(json.dumps(keyframe_to_json(keyframe, split=split, root=root)))
    (root / SQUARES_VERSION / SIDECAR).write_text("\n".join(lines) + "\n")


def _square_keyframe(root: Path, number: int, rng: np.random.Generator) -> Keyframe:
    name = list(_FUTURES_M)[number % len(_FUTURES_M)]
    future = Trajectory(xy_m=np.asarray(_FUTURES_M[name], np.float32))
    stamp_ns = number * 500_000_000
    return Keyframe(
        sample_token=f"token-{number:03d}",
        scene=f"scene-{number // 4}",
        case_name="fog" if number % 6 == 5 else "regular",
        stamp_ns=stamp_ns,
        image_paths={camera: _draw_view(root, camera, number, name, rng) for camera in CAMERAS},
        image_stamps_ns=dict.fromkeys(CAMERAS, stamp_ns),
        ego=EgoState(stamp_ns=stamp_ns, speed_mps=float(rng.uniform(0.0, 8.0))),
        command=RouteCommand.STRAIGHT,
        future=future,
        action=meta_action_from_future(lidar_from_ego(future.xy_m)),
        agents=(),
        questions=(
            QuestionAnswer(kind="perception", question="Is the light red?", answer="No."),
            QuestionAnswer(kind="planning", question="What is to the left?", answer="A square."),
        ),
    )


def _draw_view(root: Path, camera: str, number: int, name: str, rng: np.random.Generator) -> Path:
    image = rng.integers(90, 130, (36, 64, 3)).astype(np.uint8)
    if camera == "CAM_FRONT":
        image[10:26, 20:44] = _COLOURS_BGR[name]
    path = root / f"{camera}-{number:03d}.png"
    assert cv2.imwrite(str(path), image)
    return path
