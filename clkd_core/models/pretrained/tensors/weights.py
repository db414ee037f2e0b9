"""Released weights, on a disk or the Hugging Face hub: one lazy mapping for all formats.

safetensors and PyTorch files, whole or in shards that an index names, and GGUF. They come from
strangers: no pickle is executed, and no index leads out of its folder.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clkd_core.errors import CheckpointError
from clkd_core.models.hub import download
from clkd_core.models.pretrained.tensors.gguf_file import GgufFile, read_gguf_config
from clkd_core.models.pretrained.tensors.tensor_files import (
    SafetensorsFile,
    TensorFile,
    TensorInfo,
    TorchFile,
    first_line,
)

CONFIG = "config.json"

_INDEX = ".index.json"
_NAMES = (
    "model.safetensors",
    f"model.safetensors{_INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{_INDEX}",
)
"""What a folder may hold its weights in; the first one that exists is read."""

_SAFETENSORS = ["model.safetensors", "model-*.safetensors", f"model.safetensors{_INDEX}"]
_TORCH = ["pytorch_model.bin", "pytorch_model-*.bin", f"pytorch_model.bin{_INDEX}"]


class WeightFiles(Mapping[str, Tensor]):
    """All tensors of a released model under the names they were released with.

    ``[key]`` reads one tensor and keeps nothing; iterating goes file by file. A tensor may be a
    view of its file: copy it, never write to it.
    """

    def __init__(self, source: str, owners: Mapping[str, TensorFile]) -> None:
        """Join files that were opened.

        Args:
            source: names the whole in errors.
            owners: the file of every tensor; tensors of one file follow each other.
        """
        self.source = source
        self._owners = dict(owners)

    def __getitem__(self, key: str) -> Tensor:
        return self._owners[key].read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, key: object) -> bool:  # Mapping's would read the tensor
        return key in self._owners

    def info(self, key: str) -> TensorInfo:
        """Shape and dtype of a tensor, which is not read for it."""
        return self._owners[key].infos[key]


def open_weights(source: str | Path) -> WeightFiles:
    """Open a released model; only names, shapes and dtypes are read yet.

    Args:
        source: a folder (``model.safetensors``, ``pytorch_model.bin``, either in shards with an
            index, or one GGUF file), one such file, or, if a string that names nothing here,
            the id of a model on the Hugging Face hub, such as ``lmsys/vicuna-7b-v1.5``, whose
            safetensors are preferred.

    Raises:
        CheckpointError: there is no such file, folder or model, or the hub cannot be reached; a
            file is damaged, or holds anything but tensors; an index names a file outside its
            folder, one that is missing, or a tensor that its file lacks.
    """
    path = Path(source)
    if not path.exists():
        path = download(source, [CONFIG, *_SAFETENSORS])
        if not any((path / name).exists() for name in _NAMES):
            path = download(source, [CONFIG, *_TORCH])
    owners = _open_folder(path) if path.is_dir() else _open_path(path)
    _check_names(owners, path)
    return WeightFiles(str(source), owners)


def read_model_config(source: str | Path) -> dict[str, Any]:
    """The facts about the architecture that were released with the weights.

    Args:
        source: as for :func:`open_weights`; ``config.json`` stands in the folder or beside the
            file. A GGUF file without one gives the same facts itself.

    Raises:
        CheckpointError: there is none, it is no JSON object, or the hub cannot be reached.
    """
    path = Path(source)
    if not path.exists():
        path = download(source, [CONFIG])
    folder = path if path.is_dir() else path.parent
    if (folder / CONFIG).is_file():
        return _read_object(folder / CONFIG)
    gguf = path if path.suffix == ".gguf" else _find_gguf(folder)
    if gguf is None:
        raise CheckpointError(f"{folder} holds no {CONFIG}")
    return read_gguf_config(gguf)


def _open_folder(folder: Path) -> dict[str, TensorFile]:
    for name in _NAMES:
        if (folder / name).is_file():
            return _open_path(folder / name)
    gguf = _find_gguf(folder)
    if gguf is None:
        wanted = ", ".join(_NAMES)
        raise CheckpointError(f"{folder} holds no weights, expected one of {wanted}, *.gguf")
    return _open_path(gguf)


def _find_gguf(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise CheckpointError(f"{folder} holds {names}; name the one that is meant")
    return found[0] if found else None


def _open_path(path: Path) -> dict[str, TensorFile]:
    if path.name.endswith(_INDEX):
        return _open_shards(path)
    file = _open_file(path)
    return dict.fromkeys(file.infos, file)


def _open_file(path: Path) -> TensorFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return TorchFile(path)
    if path.suffix == ".gguf":
        return GgufFile(path)
    raise CheckpointError(f"{path} is no .safetensors, .bin, .pt, .pth or .gguf file")


def _open_shards(index: Path) -> dict[str, TensorFile]:
    weight_map = _read_weight_map(index)
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names {', '.join(missing)}, which is not there")
    shards = {name: _open_file(index.parent / name) for name in names}
    lost = [f"{key} ({name})" for key, name in weight_map.items() if key not in shards[name].infos]
    if lost:
        raise CheckpointError(f"{index} lists what its shards lack: {', '.join(lost)}")
    return _find_owners(weight_map, shards, index)


def _find_owners(
    weight_map: Mapping[str, str], shards: Mapping[str, TensorFile], index: Path
) -> dict[str, TensorFile]:
    """Every tensor's shard as the index says; one that it leaves out is found in its shard."""
    owners: dict[str, TensorFile] = {}
    for name, shard in shards.items():
        for key in shard.infos:
            if weight_map.get(key, name) != name:
                continue
            if key in owners:
                files = f"{owners[key].path.name} or {name}"
                raise CheckpointError(f"{index} does not say whether {key} is in {files}")
            owners[key] = shard
    return owners


def _check_names(names: Iterable[str], path: Path) -> None:
    """A name may stand in any message; one that breaks its line comes from a damaged file."""
    for name in names:
        if not name.isprintable():
            raise CheckpointError(f"{path} names a tensor {name!r}, expected printable text")


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, expected a file for every tensor")
    _check_names(weight_map, index)
    for name in weight_map.values():
        if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise CheckpointError(f"{index} names the shard {name!r}, expected a file beside it")
    return weight_map


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} is no readable JSON: {first_line(err)}") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object")
    return value
