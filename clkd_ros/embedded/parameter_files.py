"""Parameter values and files as ROS 2 reads them, which is not quite as YAML reads them.

The rules are those of ROS 2's ``rcl_yaml_param_parser``: plain words become bool, integer (C's
``strtoll`` with base 0), float (``strtod``) or else text, so ``1e-3`` is a number, ``y`` is true
and a date is text; lists hold one type; there are no aliases. Node names may be nested, patterns
may hold ``*`` (one level) and ``**`` (any number of levels).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from clkd_core.errors import ConfigError

PARAMETERS_KEY = "ros__parameters"

_STRING_TAG = "tag:yaml.org,2002:str"
_MAX_DEPTH = 32
_LEAST_NORMAL = 2.0**-1022
_INT64 = range(-(2**63), 2**63)
_TRUE = frozenset("Y y yes Yes YES true True TRUE on On ON".split())
_FALSE = frozenset("N n no No NO false False FALSE off Off OFF".split())
_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))")
_FLOAT = re.compile(
    r"\s*[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?"
    r"|inf|infinity|nan)",
    re.IGNORECASE,
)
_HEX_FLOAT = re.compile(
    r"\s*[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
)
_DOTTED = {f"{sign}.{word}" for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")} | {
    ".nan",
    ".NaN",
    ".NAN",
}


def parse_parameter_value(text: str) -> Any:
    """The value of ``-p name:=text``: bool, int, float, str or a list of one of these.

    An empty list has no type and unsets the parameter, as in ROS 2: None.

    Raises:
        ConfigError: it is no YAML, empty, a mapping, or a list of lists or of several types.
    """
    what = f"parameter value {text[:60]!r}"
    node = _compose(text, what)
    if node is None:
        raise ConfigError(f"{what} is empty, expected a value")
    return _value(node, what)


def load_parameter_file(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a ROS 2 parameter file.

    Returns:
        (pattern of node names, flat parameters) in the file's order.

    Raises:
        ConfigError: the file is missing or no parameter file; names the place.
    """
    what = f"parameter file {path}"
    try:
        root = _compose(path.read_text(encoding="utf-8"), what)
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{what} cannot be read: {err}") from err
    if root is None:  # empty, or comments only: says nothing
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{what} is no mapping, expected node names at the top")
    return list(_sections(root, "", what))


def name_matches(pattern: str, full_name: str) -> bool:
    """Whether a pattern (``/**``, ``/car/*``, ``car/planner``) means a node ``/car/planner``."""
    absolute = pattern if pattern.startswith("/") else f"/{pattern}"
    pieces = re.split(r"(/\*\*|/\*)", absolute)
    known = {"/**": r"(?:/\w+)*", "/*": r"/\w+"}
    expression = "".join(known.get(piece, re.escape(piece)) for piece in pieces)
    return re.fullmatch(expression, full_name, re.ASCII) is not None


class _Loader(yaml.BaseLoader):
    """Composes nodes only: builds no objects, and tells a written tag from none."""

    DEFAULT_SCALAR_TAG = ""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias, which ROS 2 does not take")
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]


def _compose(text: str, what: str) -> Any:
    try:
        return yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        problem = " ".join(str(err).split()) or type(err).__name__
        raise ConfigError(f"{what} is no YAML: {problem}") from err


def _sections(
    node: yaml.MappingNode, prefix: str, what: str, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every ``ros__parameters`` below a node name or a namespace."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{what}: names are nested more than {_MAX_DEPTH} deep")
    for key, value in node.value:
        name = _key(key, what)
        if name == PARAMETERS_KEY:
            if not prefix:
                raise ConfigError(f"{what}: {PARAMETERS_KEY!r} lacks a node name above it")
            yield prefix, _flatten(value, "", f"{what}: {prefix!r}")
        elif isinstance(value, yaml.MappingNode):
            yield from _sections(value, f"{prefix}/{name}" if prefix else name, what, depth + 1)
        else:
            raise ConfigError(f"{what}: {name!r} lacks {PARAMETERS_KEY!r}")


def _flatten(node: yaml.Node, prefix: str, what: str, depth: int = 0) -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{a.b: 1}``, the way ROS 2 names nested parameters."""
    if not isinstance(node, yaml.MappingNode) or depth > _MAX_DEPTH:
        raise ConfigError(f"{what}: {prefix or PARAMETERS_KEY!r} is no mapping of parameters")
    flat: dict[str, Any] = {}
    for key, value in node.value:
        name = f"{prefix}{_key(key, what)}"
        if isinstance(value, yaml.MappingNode):
            flat |= _flatten(value, f"{name}.", what, depth + 1)
        else:
            flat[name] = _value(value, f"{what}: {name!r}")
    return flat


def _key(node: yaml.Node, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise ConfigError(f"{what}: a key in line {node.start_mark.line + 1} is no name")
    return str(node.value)


def _value(node: yaml.Node, what: str) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, what)
    if not isinstance(node, yaml.SequenceNode):
        raise ConfigError(f"{what} is a mapping, expected a value or a list")
    if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        raise ConfigError(f"{what} is a list of lists, expected one of plain values")
    found = [_scalar(item, what) for item in node.value]
    if not found:
        return None
    if len({type(item) for item in found}) > 1:
        raise ConfigError(f"{what} is {found}, expected a list of one type")
    return found


def _scalar(node: yaml.ScalarNode, what: str) -> Any:
    text = str(node.value)
    if node.style in ("'", '"') or node.tag == _STRING_TAG:
        return text
    if not text:
        raise ConfigError(f"{what} has no value")
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    return _number(text)


def _number(text: str) -> int | float | str:
    """An int where C's ``strtoll`` takes all of the text, a float where ``strtod`` does, or it."""
    number = _integer(text)
    if number is not None and number in _INT64:
        return number
    if text in _DOTTED:
        return float(text.replace(".", ""))
    if _HEX_FLOAT.fullmatch(text):
        return float.fromhex(text)
    if not _FLOAT.fullmatch(text):
        return text
    value = float(text)
    named = "n" in text.lower()  # inf and nan, as words
    out_of_range = math.isinf(value) or (abs(value) < _LEAST_NORMAL and _has_digits(text))
    return text if out_of_range and not named else value


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    digits = (
        int(hexadecimal, 16) if hexadecimal else int(decimal or octal or "0", 10 if decimal else 8)
    )
    return -digits if sign == "-" else digits


def _has_digits(text: str) -> bool:
    """Whether the number as written is not zero."""
    return any(digit in "123456789" for digit in text.lower().partition("e")[0])


def merge_sections(
    sections: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[str, dict[str, Any]]:
    """By pattern, in the order of each pattern's first appearance, as ROS 2 keeps them.

    So a later value for ``/**`` does not win over an earlier one for the node's own name, unless
    the name came first.
    """
    merged: dict[str, dict[str, Any]] = {}
    for pattern, values in sections:
        merged.setdefault(pattern, {}).update(values)
    return merged
