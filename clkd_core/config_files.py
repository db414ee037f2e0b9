"""YAML files of configs: safe, strict about double keys, and able to build on one another."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clkd_core.errors import ConfigError

_BASE = "base"
_TAGS = ("kind", "family")
"""Keys by which a section tells which of several it is."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, but ``1e-4`` is a number and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if isinstance(key_node, yaml.ScalarNode):
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def parse_yaml(text: str) -> Any:
    """Plain values only.

    Raises:
        yaml.YAMLError: it is no YAML, or a key is given twice.
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def config_files(path: Path) -> tuple[Path, ...]:
    """The file and those it is based on, nearest first.

    Raises:
        ConfigError: one of them cannot be read, or they go in a circle.
    """
    files = [path]
    while (base := _read_yaml(files[-1]).get(_BASE)) is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{files[-1]}: {_BASE!r} is {describe_value(base)}, expected a path")
        files.append(files[-1].parent / base)
        if files[-1].resolve() in [file.resolve() for file in files[:-1]]:
            raise ConfigError(f"{path}: its bases go in a circle through {files[-1]}")
    return tuple(files)


def read_config_file(path: Path) -> dict[str, Any]:
    """A file's values over those of the files it is based on.

    Raises:
        ConfigError: one of them cannot be read, or they go in a circle.
    """
    merged: dict[str, Any] = {}
    for file in reversed(config_files(path)):
        own = _read_yaml(file)
        own.pop(_BASE, None)
        merged = _merged(merged, own)
    return merged


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``, sections by key; a section of another kind has nothing of it."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            other = any(tag in value and value[tag] != below.get(tag, value[tag]) for tag in _TAGS)
            merged[key] = dict(value) if other else _merged(below, value)
        else:
            merged[key] = value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise ConfigError(f"{path}: no such file, expected a YAML file") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {err}") from err
    try:
        data = parse_yaml(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(err).split())}") from err
    except RecursionError as err:
        raise ConfigError(f"{path}: not YAML we read: nested too deeply") from err
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {describe_value(data)}, expected keys with values")
    return data


def describe_value(value: Any) -> str:
    """What came, in a user's words."""
    if isinstance(value, Mapping):
        return "a section"
    text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else repr(value)
    return "null" if value is None else str(text)[:80]
