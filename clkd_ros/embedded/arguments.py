"""What ``--ros-args`` can say: parameters, parameter files, remappings, log level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clkd_core.errors import ConfigError
from clkd_ros.embedded.logger import LoggingSeverity
from clkd_ros.embedded.parameter_files import (
    load_parameter_file,
    merge_sections,
    name_matches,
    parse_parameter_value,
)


def expand_name(name: str, node_name: str, namespace: str) -> str:
    """A topic or node name made absolute: ``~/x`` is private to the node, ``x`` to its namespace.

    Raises:
        ConfigError: the name is empty or has characters ROS 2 does not allow.
    """
    base = namespace.rstrip("/")
    if name.startswith("~"):
        full = f"{base}/{node_name}{name[1:]}"
    elif name.startswith("/"):
        full = name
    else:
        full = f"{base}/{name}"
    parts = full.split("/")[1:]
    if not all(part.isidentifier() and part.isascii() for part in parts):
        raise ConfigError(
            f"topic name {name!r} is {full!r} in full, expected like '/camera/image'"
        )
    return full


@dataclass(frozen=True)
class Remap:
    """One ``[node:]from:=to``."""

    node: str | None
    """Only for the node of that name; None for all."""
    source: str
    target: str


@dataclass
class RosArguments:
    """The parsed part of a command line between ``--ros-args`` and ``--``."""

    remaps: list[Remap] = field(default_factory=list)
    overrides: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(pattern of full node names, flat parameters); see :func:`merge_sections`."""
    log_levels: dict[str, LoggingSeverity] = field(default_factory=dict)
    """By logger; the empty name stands for all others."""
    log_flags: dict[str, bool] = field(default_factory=dict)
    """``stdout-logs`` and its like -> whether they were enabled or disabled."""

    def node_name(self, default: str) -> str:
        """``__node:=name``, else the default; ``DEFAULT:__node:=name`` means that node alone."""
        return self._special(("__node", "__name"), default, default)

    def namespace(self, default: str, node_name: str) -> str:
        """``__ns:=/name``, else the default."""
        return self._special(("__ns",), default, node_name)

    def _special(self, keys: tuple[str, ...], default: str, node_name: str) -> str:
        for remap in self.remaps:
            if remap.source in keys and remap.node in (None, node_name):
                return remap.target
        return default

    def remapped(self, name: str, node_name: str, namespace: str) -> str:
        """The absolute topic name after the first remapping that matches."""
        full = expand_name(name, node_name, namespace)
        for remap in self.remaps:
            if remap.source.startswith("__") or remap.node not in (None, node_name):
                continue
            if expand_name(remap.source, node_name, namespace) == full:
                return expand_name(remap.target, node_name, namespace)
        return full

    def parameters_of(self, full_node_name: str) -> dict[str, Any]:
        """All overrides meant for a node such as ``/planner``."""
        found: dict[str, Any] = {}
        for pattern, values in merge_sections(self.overrides).items():
            if name_matches(pattern, full_node_name):
                found |= values
        return found


def parse_arguments(arguments: Sequence[str]) -> tuple[RosArguments, list[str]]:
    """Split a command line into ROS arguments and the rest.

    Raises:
        ConfigError: an argument is unknown or malformed, a file is missing or no parameter file.
    """
    parsed, rest, inside = RosArguments(), [], False
    pending = list(arguments)
    while pending:
        token = pending.pop(0)
        if token == "--ros-args":
            inside = True
        elif token == "--" and inside:
            inside = False
        elif not inside:
            rest.append(token)
        else:
            _take_one(parsed, token, pending)
    return parsed, rest


def _take_one(parsed: RosArguments, token: str, pending: list[str]) -> None:
    if token in _LOG_FLAGS:
        parsed.log_flags[token.removeprefix("--").partition("-")[2]] = token.startswith("--enable")
        return
    if token not in _TAKERS:
        raise ConfigError(f"unknown ROS argument {token!r}, expected one of {sorted(_TAKERS)}")
    if not pending:
        raise ConfigError(f"argument {token!r} needs a value")
    _TAKERS[token](parsed, pending.pop(0))


def _take_remap(parsed: RosArguments, text: str) -> None:
    parsed.remaps.append(_remap_from(text))


def _take_parameter(parsed: RosArguments, text: str) -> None:
    full, separator, value = text.partition(":=")
    node, name = _split_node(full)
    if not separator or not name:
        raise ConfigError(f"parameter is {text!r}, expected [node:]name:=value")
    parsed.overrides.append((node or "/**", {name: parse_parameter_value(value)}))


def _take_parameter_file(parsed: RosArguments, text: str) -> None:
    parsed.overrides.extend(load_parameter_file(Path(text)))


def _take_log_level(parsed: RosArguments, text: str) -> None:
    logger, separator, level = text.rpartition(":=")
    if bool(separator) != bool(logger) or level.upper() not in LoggingSeverity.__members__:
        words = ", ".join(LoggingSeverity.__members__).lower()
        raise ConfigError(f"log level is {text!r}, expected [logger:=]level with one of {words}")
    parsed.log_levels[logger] = LoggingSeverity[level.upper()]


_TAKERS: dict[str, Callable[[RosArguments, str], None]] = {
    "-r": _take_remap,
    "--remap": _take_remap,
    "-p": _take_parameter,
    "--param": _take_parameter,
    "--params-file": _take_parameter_file,
    "--log-level": _take_log_level,
}

_LOG_FLAGS = frozenset(
    f"--{switch}-{where}-logs"
    for switch in ("enable", "disable")
    for where in ("rosout", "stdout", "external-lib")
)
"""Only the console's are ours to switch: there is no ``/rosout`` and no other logging library."""


def _remap_from(text: str) -> Remap:
    source, separator, target = text.partition(":=")
    node, name = _split_node(source)
    if not separator or not name or not target:
        raise ConfigError(f"remapping is {text!r}, expected [node:]from:=to")
    return Remap(node, name, target)


def _split_node(text: str) -> tuple[str | None, str]:
    """``node:rest``; the node's name has no namespace, as in ROS 2."""
    node, colon, rest = text.rpartition(":")
    if colon and not (node.isidentifier() and node.isascii()):
        raise ConfigError(f"node name in {text!r} is {node!r}, expected one without '/'")
    return node or None, rest
