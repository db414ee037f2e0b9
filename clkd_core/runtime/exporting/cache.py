"""The artefact of a checkpoint, made once for a user and found again by the checkpoint's hash."""

import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from clkd_core.errors import CheckpointError, DataError
from clkd_core.files import sha256_of
from clkd_core.models.checkpoint_files import MANIFEST, check_manifest
from clkd_core.runtime.backends.artefact import Artefact, load_artefact

_log = logging.getLogger(__name__)

MAX_WEIGHT_BYTES = 4 << 30
"""Checkpoints larger than this stay with torch on a CPU: tracing and compiling holds a model
several times."""


def cached_artefact(checkpoint: Path) -> Artefact | None:
    """The artefact of a checkpoint, exported now where that was not done before.

    Returns:
        None where the checkpoint is too large to be exported.

    Raises:
        CheckpointError: the folder is no whole checkpoint of ours.
        ConfigError: it has to be exported and the exporter's packages are not installed.
        DataError: there is no place to write to.
    """
    check_manifest(checkpoint)
    if sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) > MAX_WEIGHT_BYTES:
        return None
    folder = cache_folder() / f"{sha256_of(checkpoint / MANIFEST)[:24]}-{_code_digest()}"
    with suppress(CheckpointError):
        return load_artefact(folder)
    _log.info("%s is made ready for this machine's CPU: once, some seconds", checkpoint)
    start_s = time.monotonic()
    _export(checkpoint, folder)
    _log.info("%s took %.1f s to be made ready", checkpoint, time.monotonic() - start_s)
    return load_artefact(folder)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of what an artefact follows from beside the weights: our modules that compute it."""
    exporting = Path(__file__).parent
    digest = hashlib.sha256(version("torch").encode())
    runtime = exporting.parent
    for room in (exporting, runtime / "backends", runtime.parent / "models"):
        for file in sorted(room.rglob("*.py")):
            digest.update(f"{file.relative_to(room)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:12]


def cache_folder() -> Path:
    """Where artefacts are kept: ``$CLKD_CACHE``, else the user's cache, else temporary files."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get("CLKD_CACHE") or Path(home) / "clkd") / "engines"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        reason = "not writable"
    except OSError as err:
        reason = str(err.strerror or err)
    fallback = Path(tempfile.gettempdir()) / f"clkd-engines-{os.getuid()}"
    _log.warning("%s: %s; engines are kept in %s until the next boot", folder, reason, fallback)
    fallback.mkdir(mode=0o700, exist_ok=True)
    if fallback.stat().st_uid != os.getuid():
        raise DataError(
            f"{fallback} belongs to somebody else: set CLKD_CACHE to a folder of yours"
        )
    return fallback


def _export(checkpoint: Path, folder: Path) -> None:
    from clkd_core.models.checkpoint import load_vlm  # torch, only where it is needed
    from clkd_core.runtime.exporting.model import export_model

    export_model(load_vlm(checkpoint), folder, note={"checkpoint": str(checkpoint.name)})
