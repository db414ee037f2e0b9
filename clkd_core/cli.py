"""``clkd VERB``: find the verb, parse its words, call it, turn failures into one line.

Verbs come from the entry-point group ``clkd.verbs``; a name with a dot is a nested verb
(``bag.play`` is ``clkd bag play``). A verb is a module, or ``module:object``, with
``add_arguments(parser)`` and ``run(args) -> int``; it is imported only when it is the one asked
for. A module that serves several verbs finds the asked one in ``parser.get_default("verb")`` and
``args.verb``.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from clkd_core.errors import ClkdError, ConfigError
from clkd_core.process import leave

EXIT_EXPECTED_FAILURE = 2
EXIT_INTERRUPTED = 130

_UNWIND_S = 3.0

_GROUP = re.compile(r'^\[project\.entry-points\."(?P<group>[\w.]+)"\]$')
_ENTRY = re.compile(r'^"?(?P<name>[\w.-]+)"? = "(?P<target>[\w.:]+)"$')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code as :func:`run_guarded`, 1 being a verb's own verdict."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: _run_verb(words, find_entries("clkd.verbs")))


def script() -> NoReturn:
    """What the ``clkd`` script does: :func:`main`, and after Ctrl-C straight out."""
    end_process(main())


def end_process(code: int) -> NoReturn:
    """Exit with ``code``; when interrupted, without waiting for torch and its threads."""
    if code == EXIT_INTERRUPTED:
        leave(code)
    sys.exit(code)


def run_guarded(call: Callable[[], int]) -> int:
    """Call and return its exit code; no traceback of an expected failure gets out.

    2 stands for a failure that the user can repair, printed on one line; 130 for an interruption,
    by Ctrl-C or SIGTERM. Sets up logging and signals of the process.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for ours in ("clkd_core", "clkd_ros"):
        logging.getLogger(ours).setLevel(logging.INFO)
    _unwind_once_on_signals()
    try:
        return call()
    except ClkdError as err:
        print(f"clkd: error: {err}", file=sys.stderr)
        return EXIT_EXPECTED_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `clkd ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def find_entries(group: str) -> dict[str, str]:
    """What is registered under an entry-point group: name -> ``module`` or ``module:object``.

    Installed packages are asked first; in a source checkout or a colcon workspace our own
    ``pyproject.toml`` is read too and wins, so that pip needs to install nothing and nothing can
    be out of date.
    """
    installed = importlib.metadata.entry_points(group=group)
    return {entry.name: entry.value for entry in installed} | _checkout_entries(group)


def load_entry(target: str) -> Any:
    """Import ``module`` or ``module:object``.

    Raises:
        ConfigError: a Python module that it needs is missing; names it.
    """
    module, _, name = target.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise ConfigError(
            f"{target} needs the Python module {err.name!r}, which is not installed"
        ) from err
    return getattr(found, name) if name else found


def _unwind_once_on_signals() -> None:
    """Let SIGTERM unwind like Ctrl-C, and let nobody's second press disturb the unwinding.

    Temporary files go and children are ended on the way out; a press after ``_UNWIND_S`` counts
    again, should the unwinding itself hang.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    last_s = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > _UNWIND_S:
            last_s = time.monotonic()
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)


def _checkout_entries(group: str) -> dict[str, str]:
    """The table of ``pyproject.toml``, line by line: tomllib came with Python 3.11 only.

    It lies beside the package in a checkout, inside it where colcon installed a copy.
    """
    package = Path(__file__).resolve().parent
    places = (package.parent / "pyproject.toml", package / "share" / "pyproject.toml")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    entries, inside = {}, False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            header = _GROUP.match(line)
            inside = header is not None and header["group"] == group
        elif inside and (entry := _ENTRY.match(line)):
            entries[entry["name"]] = entry["target"]
    return entries


def _run_verb(words: Sequence[str], verbs: Mapping[str, str]) -> int:
    name, rest = _split_verb(words, verbs)
    if name is None:
        return _without_verb(words, verbs)
    entry = load_entry(verbs[name])
    parser = argparse.ArgumentParser(
        prog="clkd " + name.replace(".", " "),
        description=entry.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_nested_help(name, verbs),
    )
    parser.set_defaults(verb=name)
    entry.add_arguments(parser)
    code: int = entry.run(parser.parse_args(rest))
    return code


def _split_verb(
    words: Sequence[str], verbs: Mapping[str, str]
) -> tuple[str | None, Sequence[str]]:
    """The longest registered verb that the words begin with, and the words after it."""
    for count in (2, 1):
        name = ".".join(words[:count])
        if len(words) >= count and name in verbs:
            return name, words[count:]
    return None, words


def _without_verb(words: Sequence[str], verbs: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="clkd",
        usage="clkd VERB [...]",
        description="Distil a driving vision-language model, run it as ROS 2 nodes, score it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="verbs (`clkd VERB --help` says more):\n" + _list_verbs(verbs),
    )
    parser.add_argument("--version", action="version", version=f"clkd {_version()}")
    if words and not words[0].startswith("-"):
        _refuse(parser, words[0], verbs)
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return EXIT_EXPECTED_FAILURE


def _refuse(parser: argparse.ArgumentParser, word: str, verbs: Mapping[str, str]) -> NoReturn:
    import difflib

    names = sorted({name.partition(".")[0] for name in verbs})
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
    parser.exit(EXIT_EXPECTED_FAILURE, f"clkd: error: unknown verb {word!r}, {hint}\n")


def _list_verbs(verbs: Mapping[str, str]) -> str:
    rows = [(name.replace(".", " "), _first_line(module)) for name, module in verbs.items()]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {help_line}" for name, help_line in sorted(rows))


def _nested_help(name: str, verbs: Mapping[str, str]) -> str | None:
    nested = {key: module for key, module in verbs.items() if key.startswith(name + ".")}
    return "also:\n" + _list_verbs(nested) if nested else None


def _first_line(target: str) -> str:
    """First line of a module's or its object's docstring, read without importing it."""
    import ast

    module, _, name = target.partition(":")
    root, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, *inner).with_suffix(".py")
        if file.is_file():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            named = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
            return (ast.get_docstring(named[0] if named else tree) or "").partition("\n")[0]
    return "(not installed)"


def _version() -> str:
    try:
        return importlib.metadata.version("clkd-drive")
    except importlib.metadata.PackageNotFoundError:
        return "from a source checkout"


if __name__ == "__main__":
    script()
