"""What ``--ros-args`` can say: parameters, parameter files, remappings, log level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from clkd_core.errors import ConfigError


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
    """(pattern of full node names, flat parameters), later ones win."""
    log_level: str | None = None

    def node_name(self, default: str) -> str:
        """``__node:=name``, else the default."""
        return self._special("__node", default, default)

    def namespace(self, default: str, node_name: str) -> str:
        """``__ns:=/name``, else the default."""
        return self._special("__ns", default, node_name)

    def _special(self, key: str, default: str, node_name: str) -> str:
        for remap in self.remaps:
            if remap.source == key and remap.node in (None, node_name):
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
        for pattern, values in self.overrides:
            if _matches(pattern, full_node_name):
                found |= values
        return found


def _matches(pattern: str, full_name: str) -> bool:
    if pattern == "/**":
        return True
    absolute = pattern if pattern.startswith("/") else f"/{pattern}"
    return fnmatchcase(full_name, absolute.replace("/**", "*"))


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
    if token in ("--enable-rosout-logs", "--disable-rosout-logs", "--disable-stdout-logs"):
        return
    if not pending:
        raise ConfigError(f"argument {token!r} needs a value")
    value = pending.pop(0)
    if token in ("-r", "--remap"):
        parsed.remaps.append(_remap_from(value))
    elif token in ("-p", "--param"):
        name, _, text = value.partition(":=")
        if not name or not text:
            raise ConfigError(f"parameter is {value!r}, expected name:=value")
        node, _, key = name.rpartition(":")
        parsed.overrides.append((node or "/**", {key: yaml.safe_load(text)}))
    elif token == "--params-file":
        parsed.overrides.extend(load_parameter_file(Path(value)))
    elif token == "--log-level":
        parsed.log_level = value.rpartition(":=")[2]
    else:
        raise ConfigError(f"unknown ROS argument {token!r}, expected -r, -p, --params-file, ...")


def _remap_from(text: str) -> Remap:
    source, separator, target = text.partition(":=")
    if not separator or not source or not target:
        raise ConfigError(f"remapping is {text!r}, expected from:=to")
    node, _, name = source.rpartition(":")
    return Remap(node or None, name, target)


def load_parameter_file(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a ROS 2 parameter file: (pattern of node names, flat parameters) in its order.

    Raises:
        ConfigError: the file is missing, no YAML, or lacks ``ros__parameters``.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as err:
        raise ConfigError(f"parameter file {path} cannot be read: {err}") from err
    if not isinstance(document, dict):
        raise ConfigError(f"parameter file {path} is empty, expected node names at the top")
    found: list[tuple[str, dict[str, Any]]] = []
    for node, body in document.items():
        if not isinstance(body, dict) or not isinstance(body.get("ros__parameters"), dict):
            raise ConfigError(f"parameter file {path}: {node!r} lacks 'ros__parameters'")
        found.append((str(node), flatten(body["ros__parameters"])))
    return found


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{a.b: 1}``, the way ROS 2 names nested parameters."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
