"""Models with random weights: students of the presets, and other architectures of ``config``."""

from dataclasses import replace

import torch

from clkd_core.config import load_config
from clkd_core.distill.config import TrainConfig
from clkd_core.distill.feed.samples import tokenizer_texts
from clkd_core.files import shared_folder
from clkd_core.models.base import VlmBase, VlmConfig
from clkd_core.models.families import build_from_config
from clkd_core.models.halving import halved_config
from clkd_core.models.tokenizer import TextTokenizer, train_tokenizer
from clkd_core.models.vlm import count_parameters
from clkd_core.runtime.bench.contenders.one_pass import OnePass
from clkd_core.runtime.bench.contenders.room import check_room
from clkd_core.runtime.bench.contenders.spec import Setting
from clkd_core.runtime.devices import choose_device
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.exporting.cache import MAX_WEIGHT_BYTES

EXPORTED_BYTES = 16
"""Of memory that one parameter takes on a CPU while the engine makes its own form of a model:
peaks of 1065, 1933, 2448 and 4550 MiB were measured with 2, 64, 92 and 236 M parameters."""
CAPTURED_BYTES = 2
"""Of GPU memory that one parameter takes beside itself: the engine's copy in bfloat16."""


def build_student(preset: str, setting: Setting) -> OnePass:
    """The preset's student with random weights, ready to decide.

    Args:
        preset: name of a file in ``config/train``.
        setting: of the run.

    Raises:
        NoRoomError: it does not fit.
        ConfigError: the device is not there, or the preset says something impossible.
    """
    architecture, vocab_size = read_student(preset)
    return _build_one_pass(architecture, setting, vocab_size=vocab_size)


def read_student(preset: str) -> tuple[VlmConfig, int]:
    """Architecture of a preset's student, and the most pieces of its tokenizer."""
    config = read_preset(f"train/{preset}")
    rule, least, moe = config.student.keep, config.student.min_blocks, config.student.moe
    architecture = replace(halved_config(config.model, rule, least=least), moe=moe)
    return architecture, config.vocab_size


def build_best(config_file: str, setting: Setting, *, on_torch: bool = False) -> OnePass:
    """Another one's architecture with all that our engine does for ours.

    Args:
        config_file: its path below ``config``, without the ending.
        setting: of the run.
        on_torch: torch computes, in bfloat16 where the device has it, instead of our backend.

    Raises:
        NoRoomError: it does not fit.
        ConfigError: the device is not there.
    """
    config = read_preset(config_file)
    return _build_one_pass(config.model, setting, vocab_size=config.vocab_size, on_torch=on_torch)


def _build_one_pass(
    architecture: VlmConfig, setting: Setting, *, vocab_size: int, on_torch: bool = False
) -> OnePass:
    """As a checkpoint of it would run: one too large to be exported stays with torch on a CPU."""
    device, tokenizer = choose_device(setting.device), _train_tokenizer(vocab_size)
    skeleton = _build_skeleton(architecture, tokenizer)
    large = count_parameters(skeleton)[0] * torch.float32.itemsize > MAX_WEIGHT_BYTES
    dtype = torch.bfloat16 if large else torch.float32
    if device.type == "cuda":
        bytes_each = dtype.itemsize + CAPTURED_BYTES
    else:
        bytes_each = dtype.itemsize if large else EXPORTED_BYTES
    check_room(skeleton, device, bytes_each=bytes_each)
    model = _build_on(device, dtype, architecture, tokenizer)
    if on_torch or (large and device.type == "cpu"):
        engine = Engine.on_torch(model, device=device, threads=setting.threads)
    else:
        engine = Engine.from_model(model, device=str(device), threads=setting.threads)
    return OnePass(engine, lambda: model, checkpoint=None)


def read_preset(name: str) -> TrainConfig:
    """One of our training configs, by its path below ``config`` without the ending."""
    return load_config(TrainConfig, shared_folder("config") / f"{name}.yaml")


def build_random(
    architecture: VlmConfig, setting: Setting, *, vocab_size: int, dtype: torch.dtype
) -> VlmBase:
    """A model with random weights in evaluation mode: time does not depend on what they are.

    Args:
        architecture: of any family.
        setting: of the run.
        vocab_size: most pieces of its tokenizer.
        dtype: of its weights.

    Raises:
        NoRoomError: it does not fit.
        ConfigError: the device is not there.
    """
    device, tokenizer = choose_device(setting.device), _train_tokenizer(vocab_size)
    skeleton = _build_skeleton(architecture, tokenizer)
    check_room(skeleton, device, bytes_each=dtype.itemsize)
    return _build_on(device, dtype, architecture, tokenizer)


def _train_tokenizer(vocab_size: int) -> TextTokenizer:
    return train_tokenizer(tokenizer_texts([]), vocab_size=vocab_size)


def _build_skeleton(architecture: VlmConfig, tokenizer: TextTokenizer) -> VlmBase:
    with torch.device("meta"):
        return build_from_config(architecture, tokenizer)


def _build_on(
    device: torch.device, dtype: torch.dtype, architecture: VlmConfig, tokenizer: TextTokenizer
) -> VlmBase:
    """Where and in what it stays: a detour over float32 would need twice the memory."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with device:
            return build_from_config(architecture, tokenizer).eval()
    finally:
        torch.set_default_dtype(before)
