"""Files with tensors in them, opened without reading a tensor; nothing in them is executed."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clkd_core.errors import CheckpointError

_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of a tensor that was not read."""

    shape: tuple[int, ...]
    dtype: str
    """As torch names it, such as ``bfloat16``; of what is no float the name the file uses."""


class TensorFile(Protocol):
    """One file."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor by its name."""

    def read(self, key: str) -> Tensor:
        """One tensor on the CPU; it may be a view of the file, so copy it and never write to it.

        Raises:
            KeyError: the file has no such tensor.
            CheckpointError: the file cannot be read any more.
        """


class SafetensorsFile:
    """A :class:`TensorFile` of safetensors, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            CheckpointError: unreadable, cut off, or no safetensors at all.
        """
        self.path = path
        try:
            self._file = cast(Any, safe_open(path, framework="pt"))
            names: list[str] = self._file.keys()
            self.infos = {key: self._info(key) for key in names}
        except (OSError, SafetensorError) as err:
            raise CheckpointError(f"{path} is no safetensors file: {first_line(err)}") from err

    def _info(self, key: str) -> TensorInfo:
        header = self._file.get_slice(key)
        dtype = header.get_dtype()
        return TensorInfo(tuple(header.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype))

    def read(self, key: str) -> Tensor:
        """One tensor; see :class:`TensorFile`."""
        if key not in self.infos:
            raise KeyError(key)
        try:
            tensor: Tensor = self._file.get_tensor(key)
        except (OSError, SafetensorError) as err:
            raise CheckpointError(f"{self.path}: {key} is unreadable: {first_line(err)}") from err
        return tensor


class TorchFile:
    """A :class:`TensorFile` written by ``torch.save``.

    Mapped into memory, except in the format before torch 1.6, which must be read as a whole.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            CheckpointError: unreadable, cut off, or it holds anything but tensors by name.
        """
        self.path = path
        self._tensors = _checked_tensors(_load(path), path)
        self.infos = {
            key: TensorInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for key, tensor in self._tensors.items()
        }

    def read(self, key: str) -> Tensor:
        """One tensor; see :class:`TensorFile`."""
        return self._tensors[key]


def first_line(err: Exception) -> str:
    """What an error of another library says, short enough for a line of ours."""
    lines = str(err).strip().splitlines()
    return lines[0][:160] if lines else type(err).__name__


def _load(path: Path) -> object:
    try:
        mapped = zipfile.is_zipfile(path)  # the format of torch 1.6 and later
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as err:  # a damaged pickle fails in whatever its bytes happen to call for
        wanted = re.search(r"GLOBAL (\S+)", str(err))
        reason = f"it wants to import {wanted[1]}" if wanted else first_line(err)
        raise CheckpointError(f"{path} is no PyTorch file of tensors alone: {reason}") from err


def _checked_tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, expected a dict of tensors by name"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds a {type(value).__name__} under {key!r}, expected tensors by name"
            )
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise CheckpointError(f"{path}: {key!r} is no plain tensor with values of its own")
    return dict(state)
