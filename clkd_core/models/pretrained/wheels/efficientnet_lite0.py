"""EfficientNet-Lite0 with ImageNet weights, as a model of timm.

The wheel's file names its tensors after another implementation, in the same order as timm does.
timm has the network twice: with TensorFlow's padding (``tf_efficientnet_lite0``) and with the same
padding on both sides (``efficientnet_lite0``). The weights fit either and are right in one: which,
logits recorded from the original implementation decide. Pixels go in as RGB scaled to -1..1, as
timm's ``pretrained_cfg`` of the ``tf_`` model says.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from clkd_core.errors import CheckpointError, DataError
from clkd_core.models.pretrained.wheels.fetch import RECORD, load_record

NAME = "efficientnet-lite0"
WEIGHTS = "model.safetensors"

Padding = Literal["same", "symmetric"]
"""``same``: TensorFlow's, one more zero after than before where the sum is odd."""

TIMM_MODELS: Mapping[Padding, str] = {
    "same": "tf_efficientnet_lite0",
    "symmetric": "efficientnet_lite0",
}

BATCH_NORM_EPS = 1e-3
"""Of the original network; timm's ``efficientnet_lite0`` has 1e-5 unless told otherwise."""

RECORDED_CLASSES = range(0, 1000, 50)
# fmt: off
RECORDED_LOGITS = (
    -0.1941, 0.1416, 0.8566, -1.3334, 0.4380, -1.0811, 0.3997, -0.4417, -0.5320, -0.0641,
    0.4201, -1.3212, 2.5171, 2.0876, -1.1271, -0.0507, 1.9751, -1.1592, 0.2179, 0.6381,
)
# fmt: on
"""Logits of every 50th class for :func:`build_test_picture`, from the implementation that the
weights were converted for: PyPI's ``efficientnet_lite_pytorch`` 0.1.0, torch 2.14 on a CPU."""

MAX_GAP = 1e-3
"""Largest difference of logits that still counts as equal: 4 recorded decimals plus float32's
order of summation (4e-6 seen); the wrong padding is off by more than 1."""


def load_efficientnet_lite0(folder: Path) -> nn.Module:
    """timm's model with the fetched weights and their padding, in evaluation mode on the CPU.

    Maps (B, 3, H, W) RGB in -1..1 to (B, 1000) logits of ImageNet's classes.

    Args:
        folder: what ``clkd fetch efficientnet-lite0`` wrote.

    Raises:
        CheckpointError: the folder is missing, damaged or of something else.
    """
    said = load_record(NAME, folder).get("padding")
    padding = next((known for known in TIMM_MODELS if known == said), None)
    if padding is None:
        raise CheckpointError(
            f"{folder / RECORD}: padding is {said!r}, expected one of {', '.join(TIMM_MODELS)}"
        )
    try:
        return _build(padding, load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as err:
        raise CheckpointError(f"{folder / WEIGHTS} is not the network's: {err}") from err


def convert_checkpoint(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Write the wheel's file under timm's names, after a check of the logits it gives.

    Args:
        checkpoint: the PyTorch file of the wheel; read as tensors only, nothing is unpickled.
        out: the safetensors file to write.

    Returns:
        ``padding``, ``timm_model``, ``float_tensors`` and, by padding, ``max_logit_gap``.

    Raises:
        DataError: unreadable, not this network's tensors, or its logits fit neither padding.
    """
    original = _load_tensors(checkpoint)
    state = map_to_timm(original, build_timm("same").state_dict())
    gaps: dict[Padding, float] = {
        padding: compute_logit_gap(_build(padding, state)) for padding in TIMM_MODELS
    }
    padding = choose_padding(gaps)
    out.write_bytes(save(state))  # save_file would let nobody but the user read it
    return {
        "padding": padding,
        "timm_model": TIMM_MODELS[padding],
        "float_tensors": sum(value.is_floating_point() for value in state.values()),
        "max_logit_gap": gaps,
    }


def build_timm(padding: Padding) -> nn.Module:
    """timm's variant of that padding with fresh weights, in evaluation mode."""
    model: nn.Module = timm.create_model(
        TIMM_MODELS[padding], pretrained=False, bn_eps=BATCH_NORM_EPS
    )
    return model.eval()


def map_to_timm(original: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to timm's names by their order, every pair checked.

    A pair has the same shape, the same dtype and the same role: both names end alike
    (``running_mean`` and the like) and are both of a batch norm or both not.

    Args:
        original: the wheel's tensors in the file's order.
        like: ``state_dict`` of timm's model.

    Raises:
        DataError: the counts differ, or a pair does; names the first.
    """
    if len(original) != len(like):
        raise DataError(f"the weights have {len(original)} tensors, expected {len(like)} as timm")
    for (name, value), (timm_name, wanted) in zip(original.items(), like.items(), strict=True):
        if _role(name, value) != _role(timm_name, wanted):
            raise DataError(
                f"{name} is {_role(name, value)}, expected {_role(timm_name, wanted)} "
                f"as timm's {timm_name}"
            )
    return dict(zip(like, original.values(), strict=True))


def build_test_picture() -> Tensor:
    """(1, 3, 224, 224) float32 in -1..1: rings around a corner, shifted between the colours.

    Whole 128ths, so that every machine has the same bits.
    """
    row, column = torch.arange(224).view(-1, 1), torch.arange(224).view(1, -1)
    shift = 85 * torch.arange(3).view(3, 1, 1)
    rings = (row * row // 16 + column * column // 16 + shift) % 256
    return (rings.float() / 128 - 1).unsqueeze(0)


@torch.inference_mode()
def compute_logit_gap(model: nn.Module) -> float:
    """Largest absolute difference between the model's logits and the recorded ones."""
    logits: Tensor = model(build_test_picture())[0, list(RECORDED_CLASSES)]
    return float((logits - torch.tensor(RECORDED_LOGITS)).abs().max())


def choose_padding(gaps: Mapping[Padding, float]) -> Padding:
    """The padding whose logits are the recorded ones.

    Raises:
        DataError: that is true of none or of several.
    """
    fitting = [padding for padding, gap in gaps.items() if gap <= MAX_GAP]
    if len(fitting) != 1:
        listed = ", ".join(f"{gap:.3g} with {padding} padding" for padding, gap in gaps.items())
        raise DataError(
            f"logits differ from the original network's by {listed}; "
            f"expected exactly one <= {MAX_GAP}"
        )
    return fitting[0]


def _load_tensors(checkpoint: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as err:
        raise DataError(f"{checkpoint} is no PyTorch file of plain tensors: {err}") from err
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise DataError(f"{checkpoint} holds no dictionary of tensors")
    return {str(name): value.contiguous() for name, value in loaded.items()}


def _role(name: str, value: Tensor) -> tuple[str, str, tuple[int, ...], str]:
    layer, _, role = name.rpartition(".")
    kind = "batch norm" if layer.rpartition(".")[2].strip("_").startswith("bn") else "layer"
    return kind, role, tuple(value.shape), str(value.dtype)


def _build(padding: Padding, state: Mapping[str, Tensor]) -> nn.Module:
    model = build_timm(padding)
    model.load_state_dict(state)
    return model
