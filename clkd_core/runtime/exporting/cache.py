"""The artefact of a checkpoint, made once for a user and found again by the checkpoint's hash."""

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.files import sha256_of
from clkd_core.models.checkpoint_files import MANIFEST, check_manifest
from clkd_core.runtime.backends.artefact import Artefact, load_artefact

_log = logging.getLogger(__name__)

MAX_WEIGHT_BYTES = 4 << 30
"""Checkpoints larger than this stay with torch on a CPU: tracing and compiling holds a model
several times."""

KEPT_UNUSED_S = 30 * 24 * 3600.0
_EXPORTERS = ("torch", "transformers", "onnx", "onnxscript")


def cached_artefact(checkpoint: Path) -> Artefact | None:
    """The artefact of a checkpoint, exported now where that was not done before.

    Of several processes that start at once one exports and the others wait for it.

    Returns:
        None where the checkpoint is too large to be exported.

    Raises:
        CheckpointError: the folder is no whole checkpoint of ours.
        ConfigError: it has to be exported and the exporter's packages are not installed.
        DataError: there is no place to write to that nobody else writes to.
    """
    check_manifest(checkpoint)
    if sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) > MAX_WEIGHT_BYTES:
        return None
    room = cache_folder()
    folder = room / f"{sha256_of(checkpoint / MANIFEST)[:24]}-{_code_digest()}"
    with (room / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            _check_ours(folder)
        with suppress(CheckpointError):
            found = load_artefact(folder)
            os.utime(folder)
            return found
        _log.info("%s is made ready for this machine's CPU: once, some seconds", checkpoint)
        start_s = time.monotonic()
        _export(checkpoint, folder)
        folder.chmod(0o700)
        _log.info("%s took %.1f s to be made ready", checkpoint, time.monotonic() - start_s)
        _forget_unused(room)
        return load_artefact(folder)


def cache_folder() -> Path:
    """Where artefacts are kept: ``$CLKD_CACHE``, else the user's cache, else temporary files.

    Raises:
        DataError: it is somebody else's, or somebody else may write there: whoever can would
            decide in our place.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(os.environ.get("CLKD_CACHE") or Path(home) / "clkd") / "engines"
    try:
        return _own_folder(folder)
    except OSError as err:
        reason = str(err.strerror or err)
    fallback = Path(tempfile.gettempdir()) / f"clkd-engines-{os.getuid()}"
    _log.warning("%s: %s; engines are kept in %s until the next boot", folder, reason, fallback)
    try:
        return _own_folder(fallback)
    except OSError as err:
        raise DataError(f"{fallback} cannot be used: {err.strerror or err}") from err


def _own_folder(folder: Path) -> Path:
    """The folder, made where it is missing, writable by its owner only."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    _check_ours(folder)
    with tempfile.TemporaryFile(dir=folder):  # may we?
        return folder


def _check_ours(folder: Path) -> None:
    found = folder.lstat()
    trusted = found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o022
    if not (stat.S_ISDIR(found.st_mode) and trusted):
        raise DataError(
            f"{folder} is {stat.filemode(found.st_mode)} of user {found.st_uid}, expected a "
            f"folder that only user {os.getuid()} writes to: mend it, or set CLKD_CACHE"
        )


def _forget_unused(room: Path) -> None:
    """Remove what was not loaded for long: every version of our code exports anew."""
    for folder in room.iterdir():
        with suppress(OSError):
            unused_s = time.time() - folder.stat().st_mtime
            if folder.is_dir() and unused_s > KEPT_UNUSED_S:
                shutil.rmtree(folder)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of what a graph follows from beside the weights: our modules, and who exports them."""
    try:
        digest = hashlib.sha256(" ".join(map(version, _EXPORTERS)).encode())
    except PackageNotFoundError as err:
        raise ConfigError(
            f"a checkpoint needs {err.name}, which is not installed: give the engine what "
            "`clkd export` wrote elsewhere, or install it"
        ) from err
    core = Path(__file__).parents[2]
    modules = ["types.py", "data/prompts.py", "runtime/backends/graphs.py"]
    files = [*(core / name for name in modules), Path(__file__).with_name("model.py")]
    for file in [*files, *sorted((core / "models").rglob("*.py"))]:
        digest.update(f"{file.relative_to(core)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:12]


def _export(checkpoint: Path, folder: Path) -> None:
    from clkd_core.models.checkpoint import load_vlm  # torch, only where it is needed
    from clkd_core.runtime.exporting.model import export_model

    export_model(load_vlm(checkpoint), folder, note={"checkpoint": str(checkpoint.name)})
