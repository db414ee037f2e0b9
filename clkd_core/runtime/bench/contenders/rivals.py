"""What a user would run instead, with random weights, generating text by transformers."""

from dataclasses import replace

import torch

from clkd_core.models.t5_vlm import T5VlmConfig
from clkd_core.runtime.bench.contenders.plain import PlainVlm
from clkd_core.runtime.bench.contenders.spec import Setting
from clkd_core.runtime.bench.contenders.students import build_random, read_preset
from clkd_core.runtime.devices import set_torch_threads

EM_VLM4AD = "paper/table1-em-vlm4ad-base"
SENNA = "paper/table3-senna"
SWIN_T5 = "train/t5-small"


def build_plain(config_file: str, dtype: str, tokens: int, setting: Setting) -> PlainVlm:
    """An architecture of ``config``, used the plain way.

    Args:
        config_file: its path below ``config``, without the ending.
        dtype: torch's name of the weights' number format.
        tokens: length of its answers.
        setting: of the run.

    Raises:
        NoRoomError: it does not fit.
        ConfigError: the device is not there.
    """
    config = read_preset(config_file)
    set_torch_threads(setting.threads)
    model = build_random(
        config.model, setting, vocab_size=config.vocab_size, dtype=getattr(torch, dtype)
    )
    return PlainVlm(model, tokens=tokens)


def build_swin_t5(tokens: int, setting: Setting) -> PlainVlm:
    """The paper's T5 track as a user would write it: all of Swin-T, half of T5-small.

    Raises:
        ConfigError: the device is not there.
    """
    config = read_preset(SWIN_T5)
    assert isinstance(config.model, T5VlmConfig)
    half = {stack.name: stack.blocks // 2 for stack in config.model.language_stacks()}
    blocks = {stack.name: stack.blocks for stack in config.model.stacks()} | half
    plain = replace(config.model.with_blocks(blocks), scene_norm=False, slot_embedding=False)
    set_torch_threads(setting.threads)
    model = build_random(plain, setting, vocab_size=config.vocab_size, dtype=torch.float32)
    return PlainVlm(model, tokens=tokens)
