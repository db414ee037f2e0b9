"""ROS parameters filled from, and checked by, the dataclass that owns the knobs."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from clkd_core.config import config_from_dict
from clkd_core.errors import ConfigError
from clkd_ros.middleware import (
    FloatingPointRange,
    IntegerRange,
    Node,
    Parameter,
    ParameterDescriptor,
    SetParametersResult,
)

T = TypeVar("T")

_JUDGED: "WeakSet[Any]" = WeakSet()
"""Nodes whose run-time changes are judged already."""

RANGE = "range"
"""Metadata key of a field: (lowest, highest) value, both allowed."""


@dataclasses.dataclass(frozen=True)
class _Knob:
    """One field of the (nested) dataclass and its parameter's name."""

    name: str
    """With dots between the sections, as in the ROS parameter file."""
    default: Any
    descriptor: ParameterDescriptor


def declare_params(
    node: Node, config_class: type[T], *, fixed: Callable[[], bool] = lambda: False
) -> T:
    """Declare every field of a config dataclass as a parameter and read the values.

    Descriptions are the docstrings behind the fields; ranges are the fields' ``RANGE`` metadata.
    A parameter that is declared already is only read, so a node can be configured again.
    From then on the node refuses run-time changes that the dataclass would refuse, and any while
    ``fixed()``: the values were read already, and a change would be said to be done that is not.

    Raises:
        ConfigError: names every parameter that is of another type or out of range.
    """
    source = f"parameters of {node.get_name()}"
    knobs = list(_knobs(config_class))
    new = [knob for knob in knobs if not node.has_parameter(knob.name)]
    problems: list[str] = []
    for knob in new:
        try:
            node.declare_parameter(knob.name, knob.default, knob.descriptor)
        except Exception as err:  # rclpy has one class per kind of fault, all meaning this
            problems.append(f"{source}: {knob.name!r}: {err}")
    if node not in _JUDGED:  # also one that is refused below: it may be repaired and configured
        _JUDGED.add(node)
        node.add_on_set_parameters_callback(
            lambda changed: _judge(node, config_class, changed, fixed())
        )
    if problems:
        raise ConfigError("\n".join(problems))
    values = {knob.name: node.get_parameter(knob.name).value for knob in knobs}
    return config_from_dict(config_class, _nested(values), source=source)


def _judge(
    node: Node, config_class: type[Any], changed: Sequence[Parameter], fixed: bool
) -> SetParametersResult:
    """Would the dataclass accept the values with these changes, and would they be read?"""
    names = [knob.name for knob in _knobs(config_class)]
    late = [parameter.name for parameter in changed if parameter.name in names]
    if fixed and late:
        reason = f"{', '.join(late)}: read when {node.get_name()} is configured; clean it up first"
        return SetParametersResult(successful=False, reason=reason)
    values = {name: node.get_parameter(name).value for name in names if node.has_parameter(name)}
    values |= {parameter.name: parameter.value for parameter in changed if parameter.name in names}
    try:
        config_from_dict(config_class, _nested(values), source=f"parameters of {node.get_name()}")
    except ConfigError as err:
        return SetParametersResult(successful=False, reason=str(err))
    return SetParametersResult(successful=True)


def _knobs(config_class: type[Any], prefix: str = "") -> Iterator[_Knob]:
    hints = typing.get_type_hints(config_class)
    descriptions = read_descriptions(config_class)
    for field in dataclasses.fields(config_class):
        kind, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            yield from _knobs(typing.cast(type[Any], kind), name + ".")
            continue
        yield _Knob(name, _plain_default(field), _descriptor(field, descriptions))


def _plain_default(field: "dataclasses.Field[Any]") -> Any:
    """The default as a type that ROS parameters have."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = field.default
    if default is dataclasses.MISSING or default is None:
        raise TypeError(f"field {field.name} needs a default that is not None to be a parameter")
    if isinstance(default, Path):
        return str(default)
    return list(default) if isinstance(default, tuple) else default


def _descriptor(
    field: "dataclasses.Field[Any]", descriptions: dict[str, str]
) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=descriptions.get(field.name, ""))
    if RANGE in field.metadata:
        low, high = field.metadata[RANGE]
        if isinstance(field.default, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            ]
    return descriptor


def read_descriptions(config_class: type[Any]) -> dict[str, str]:
    """The docstring behind each field, on one line, base classes included."""
    found: dict[str, str] = {}
    for cls in reversed(config_class.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                text = _docstring(below)
                if text:
                    found[line.target.id] = " ".join(text.split())
    return found


def _docstring(line: ast.stmt) -> str:
    if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
        return str(line.value.value)
    return ""


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """``{"sync.x": 1}`` as ``{"sync": {"x": 1}}``."""
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *sections, leaf = dotted.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[leaf] = value if not hasattr(value, "tolist") else value.tolist()
    return nested
