"""Which of our files a command is made of: followed through its import statements."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from clkd_core.files import sha256_of

PACKAGES = ("clkd_core", "clkd_ros")


def hash_sources(root: Path, module: str | None = None) -> str:
    """One hash over the code of a module and all of ours that it imports, however late.

    Args:
        root: folder of the packages.
        module: dotted name to start from; None takes every file.
    """
    every = {_module_name(root, file): file for file in _python_files(root)}
    files = every.values() if module is None else _closure(every, module)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _python_files(root: Path) -> Iterator[Path]:
    for package in PACKAGES:
        yield from (root / package).rglob("*.py")


def _module_name(root: Path, file: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _closure(every: dict[str, Path], module: str) -> set[Path]:
    """Files of the module and of everything it imports, also inside functions."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in every:
            continue
        seen.add(name)
        waiting.extend(_imported(every[name]))
    return {every[name] for name in seen}


def _imported(file: Path) -> Iterator[str]:
    """Dotted names that may be modules; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
