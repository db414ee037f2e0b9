"""The files of a checkpoint and their hashes: what can be checked without loading a weight.

Imports no torch.
"""

import json
from pathlib import Path
from typing import Any

from clkd_core.errors import CheckpointError, DataError
from clkd_core.files import sha256_of

FORMAT_VERSION = 1
WEIGHTS, CONFIG, TOKENIZER, MANIFEST = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "manifest.json",
)


def write_manifest(folder: Path) -> None:
    """Write ``manifest.json`` with the SHA-256 of every file in ``folder``."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    hashes = {path.name: sha256_of(path) for path in files}
    text = json.dumps({"format_version": FORMAT_VERSION, "sha256": hashes}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Compare every file with the hash in ``manifest.json``.

    Raises:
        CheckpointError: the folder, the manifest or a file is missing, or a hash differs.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder, expected a checkpoint")
    hashes = read_json(folder / MANIFEST).get("sha256")
    if not isinstance(hashes, dict) or not {WEIGHTS, CONFIG} <= set(hashes):
        raise CheckpointError(f"{folder / MANIFEST} lists no {WEIGHTS} and {CONFIG}")
    for name, wanted in hashes.items():
        try:
            came = sha256_of(folder / Path(name).name)
        except DataError as err:
            raise CheckpointError(f"{folder}: {name} is missing, its manifest lists it") from err
        if came != wanted:
            raise CheckpointError(
                f"{folder / name} is damaged: its sha256 is {came[:12]}..., "
                f"expected {str(wanted)[:12]}..."
            )


def read_text(path: Path) -> str:
    """A file of a checkpoint; CheckpointError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise CheckpointError(f"{path} cannot be read: {err}") from err


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; CheckpointError where it is none."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} is not JSON: {err}") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object")
    return value
