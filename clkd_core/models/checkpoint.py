"""A model as a folder: weights, architecture, tokenizer and a manifest of their hashes.

``model.safetensors``, ``config.json``, ``tokenizer.json``, ``manifest.json``; nothing is pickled.
The folder is written beside its place and renamed, so what stands there is always whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clkd_core.config import config_to_dict
from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.files import replace_folder
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint_files import (
    CONFIG,
    FORMAT_VERSION,
    MANIFEST,
    TOKENIZER,
    WEIGHTS,
    check_manifest,
    read_json,
    read_text,
    write_manifest,
)
from clkd_core.models.families import build_vlm
from clkd_core.models.hub import download
from clkd_core.models.tokenizer import TextTokenizer


def save_checkpoint(
    folder: Path,
    model: VlmBase,
    *,
    extra_files: Mapping[str, str] | None = None,
    note: Mapping[str, Any] | None = None,
) -> None:
    """Write a model; a checkpoint that stood at ``folder`` is replaced as a whole.

    Args:
        folder: the checkpoint's folder.
        model: any device; saved in its dtype.
        extra_files: text by file name, kept beside the model and hashed with it.
        note: JSON values about where the weights come from, kept in ``config.json``.

    Raises:
        DataError: the folder cannot be written.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "architecture": config_to_dict(model.config),
        "image": {"height_px": model.image_size[0], "width_px": model.image_size[1]},
        "note": dict(note or {}),
    }
    with replace_folder(folder) as temporary:
        save_file(unique_state(model), temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        (temporary / TOKENIZER).write_text(model.tokenizer.to_json(), encoding="utf-8")
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        write_manifest(temporary)


def load_vlm(folder: Path, device: str | torch.device = "cpu") -> VlmBase:
    """Read a model of whatever family back, in evaluation mode.

    Raises:
        CheckpointError: the folder or a file is missing, a hash differs, the format version,
            family or architecture is not ours, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    check_manifest(folder)
    config = read_json(folder / CONFIG)
    _check_format(config, folder)
    tokenizer = TextTokenizer.from_json(read_text(folder / TOKENIZER), source=folder / TOKENIZER)
    try:
        model = build_vlm(config["architecture"], tokenizer, source=str(folder / CONFIG))
    except (ConfigError, TypeError, ValueError, KeyError) as err:
        raise CheckpointError(f"{folder / CONFIG}: {err}") from err
    load_weights(model, folder / WEIGHTS)
    return model.eval().to(device)


def find_checkpoint(source: str | Path) -> Path:
    """The folder of a checkpoint: itself, or the local copy of a model on the hub.

    Args:
        source: a folder, or, as text that names nothing here, a Hugging Face id.

    Raises:
        CheckpointError: no folder, and the hub has no such model or cannot be reached.
    """
    if Path(source).exists() or isinstance(source, Path):
        return Path(source)
    return download(source, [WEIGHTS, CONFIG, TOKENIZER, MANIFEST])


def unique_keys(model: nn.Module) -> list[str]:
    """Keys of the model's state; of tied weights only the first."""
    seen: set[tuple[int, torch.Size]] = set()
    keys: list[str] = []
    for key, value in model.state_dict().items():
        identity = (value.data_ptr(), value.shape)
        if identity not in seen or value.numel() == 0:
            keys.append(key)
        seen.add(identity)
    return keys


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors, contiguous and on the CPU; of tied weights only the first."""
    state = model.state_dict()
    return {key: state[key].detach().cpu().contiguous() for key in unique_keys(model)}


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file that :func:`unique_state` gave.

    Raises:
        CheckpointError: unreadable, or a key is missing, extra or of another shape; all are named.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{path} is no safetensors file: {str(err)[:80]}") from err
    wanted = unique_state(model)
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (
            f"; and {len(problems) - 8} more" if problems[8:] else ""
        )
        raise CheckpointError(f"{path} does not fit its architecture: {shown}")
    model.load_state_dict(state, strict=False)  # a tied twin is not in the file


def _check_format(config: Mapping[str, Any], folder: Path) -> None:
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / CONFIG}: format_version is {version!r}, expected {FORMAT_VERSION}"
        )
