"""Writing that never leaves half a file or half a folder in place of something good."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clkd_core.errors import DataError

_CHUNK_BYTES = 1 << 20


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that ``path`` holds either its old content or all of the new one.

    Raises:
        DataError: the folder cannot be written.
    """
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Like :func:`write_text_atomic`, for bytes. Missing parent folders are made.

    Raises:
        DataError: the folder cannot be written.
    """
    temporary = _sibling(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as err:
        raise DataError(f"cannot write {path}: {err.strerror or err}") from err
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; renamed over it on success, removed on failure.

    A folder that stood at ``path`` goes only after the new one is complete. What an earlier
    process that was killed left behind is removed on entry.

    Raises:
        DataError: ``path`` is a file, or its parent cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file, expected a folder or nothing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(prefix=_leftover_prefix(path, "part"), dir=path.parent))
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock other users out of the result
    except OSError as err:
        raise DataError(f"cannot write {path}: {err.strerror or err}") from err
    try:
        yield temporary
        _rename_over(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as err:
        raise DataError(f"cannot read {path}: {err.strerror or err}") from err
    return digest.hexdigest()


def _sibling(path: Path) -> Path:
    """A name for temporary content in the same folder, hence on the same file system."""
    return path.parent / f".{path.name}.{os.getpid()}.part"


def _leftover_prefix(path: Path, kind: str) -> str:
    return f".{path.name}.{kind}-{os.getpid()}-"


def _remove_leftovers(path: Path) -> None:
    """Clear up after processes that were killed; a good folder they had set aside comes back."""
    for kind in ("old", "part"):
        for folder in path.parent.glob(f".{path.name}.{kind}-*-*"):
            pid = folder.name.removeprefix(f".{path.name}.{kind}-").split("-")[0]
            if not pid.isdigit() or Path(f"/proc/{pid}").exists():
                continue
            aside = folder / path.name
            if kind == "old" and aside.is_dir() and not path.exists():
                os.rename(aside, path)
            shutil.rmtree(folder, ignore_errors=True)


def _rename_over(new: Path, path: Path) -> None:
    """Move ``new`` to ``path``; a folder there is set aside first and removed last."""
    try:
        if not path.exists():
            os.rename(new, path)
            return
        aside = Path(tempfile.mkdtemp(prefix=_leftover_prefix(path, "old"), dir=path.parent))
        os.rename(path, aside / path.name)
        os.rename(new, path)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as err:
        raise DataError(f"cannot replace {path}: {err.strerror or err}") from err


def shared_folder(name: str) -> Path:
    """Where ``msg``, ``config``, ``launch`` or ``weights`` lies: installed, or in the checkout.

    Raises:
        DataError: neither has it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "share" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise DataError(f"no folder {name!r} in {package / 'share'} or {package.parent}")


def shipped_student() -> Path:
    """Folder of the student and planner that come with the package.

    Raises:
        DataError: they were not installed.
    """
    return shared_folder("weights") / "nano"
