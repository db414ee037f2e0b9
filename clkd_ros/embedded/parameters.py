"""Node parameters as in rclpy: declared, typed, ranged, overridden at start, checked when set."""

import array
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any

from clkd_ros.embedded.wire.message_types import message_class

ParameterDescriptor = message_class("rcl_interfaces/msg/ParameterDescriptor")
FloatingPointRange = message_class("rcl_interfaces/msg/FloatingPointRange")
IntegerRange = message_class("rcl_interfaces/msg/IntegerRange")
SetParametersResult = message_class("rcl_interfaces/msg/SetParametersResult")
ParameterValue = message_class("rcl_interfaces/msg/ParameterValue")


class ParameterException(Exception):  # noqa: N818 - rclpy's name
    """Base of the parameter errors, as in rclpy."""


class ParameterNotDeclaredException(ParameterException):
    """A parameter was read or set before it was declared."""


class ParameterAlreadyDeclaredException(ParameterException):
    """A parameter was declared twice."""


class ParameterUninitializedException(ParameterException):
    """A parameter declared by type only has no value yet."""


class InvalidParameterTypeException(ParameterException):
    """The value given has another type than declared."""


class InvalidParameterValueException(ParameterException):
    """The value given is out of range or was refused by the node."""


class ParameterType(IntEnum):
    """rcl_interfaces/ParameterType."""

    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9


_SCALARS = {
    bool: ParameterType.BOOL,
    int: ParameterType.INTEGER,
    float: ParameterType.DOUBLE,
    str: ParameterType.STRING,
}
_ARRAYS = {
    bool: ParameterType.BOOL_ARRAY,
    int: ParameterType.INTEGER_ARRAY,
    float: ParameterType.DOUBLE_ARRAY,
    str: ParameterType.STRING_ARRAY,
    bytes: ParameterType.BYTE_ARRAY,
}


class Parameter:
    """A name with a typed value.

    Raises:
        TypeError: the value is of no type a ROS parameter can have.
    """

    Type = ParameterType

    def __init__(self, name: str, type_: ParameterType | None = None, value: Any = None) -> None:
        self.name = name
        self.value = list(value) if isinstance(value, tuple | array.array) else value
        self.type_ = _type_of(self.value) if type_ is None else type_

    def get_parameter_value(self) -> Any:
        """As rcl_interfaces/ParameterValue."""
        message = ParameterValue(type=int(self.type_))
        if self.type_ != ParameterType.NOT_SET:
            setattr(message, f"{self.type_.name.lower()}_value", self.value)
        return message

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, {self.type_.name}, {self.value!r})"


def _type_of(value: Any) -> ParameterType:
    if value is None:
        return ParameterType.NOT_SET
    if type(value) in _SCALARS:
        return _SCALARS[type(value)]
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if not kinds:
            return ParameterType.BYTE_ARRAY  # rclpy's choice for []
        if len(kinds) == 1 and kinds <= set(_ARRAYS):
            return _ARRAYS[kinds.pop()]
    raise TypeError(f"parameter value is {value!r}, expected bool, int, float, str or a list")


class ParameterTable:
    """The parameters of one node."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        self._overrides = overrides
        self._values: dict[str, Parameter] = {}
        self._descriptors: dict[str, Any] = {}
        self._callbacks: list[Callable[[list[Parameter]], Any]] = []

    def declare(
        self, name: str, value: Any, descriptor: Any, ignore_override: bool = False
    ) -> Parameter:
        """Declare one, with its override if there is one; type, range and callbacks must agree."""
        if name in self._values:
            raise ParameterAlreadyDeclaredException(f"parameter {name!r} is declared already")
        descriptor = ParameterDescriptor() if descriptor is None else descriptor
        by_type = isinstance(value, ParameterType)
        default = Parameter(name) if by_type else Parameter(name, value=value)
        wanted = value if by_type else default.type_
        descriptor.name, descriptor.type = name, int(wanted)
        given = default
        if name in self._overrides and not ignore_override:
            given = Parameter(name, value=self._overrides[name])
        self._check_type(given, descriptor)
        problem = _range_problem(given, descriptor) or self._refusal([given])
        if problem:
            raise InvalidParameterValueException(problem)
        self._values[name], self._descriptors[name] = given, descriptor
        return given

    def get(self, name: str) -> Parameter:
        """A declared parameter.

        Raises:
            ParameterNotDeclaredException: it is not.
        """
        if name not in self._values:
            raise ParameterNotDeclaredException(f"parameter {name!r} is not declared")
        return self._values[name]

    def has(self, name: str) -> bool:
        """True when declared."""
        return name in self._values

    def names(self) -> list[str]:
        """All declared names."""
        return list(self._values)

    def descriptor(self, name: str) -> Any:
        """The rcl_interfaces/ParameterDescriptor of a declared parameter."""
        self.get(name)
        return self._descriptors[name]

    def by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Declared parameters below ``prefix.``, keyed by the rest of their name."""
        dotted = f"{prefix}." if prefix else ""
        return {
            name[len(dotted) :]: value
            for name, value in self._values.items()
            if name.startswith(dotted)
        }

    def set_each(self, parameters: Iterable[Parameter]) -> list[Any]:
        """Set one after the other; each gets its own result."""
        return [self.set_together([parameter]) for parameter in parameters]

    def set_together(self, parameters: Sequence[Parameter]) -> Any:
        """Set all or none."""
        for parameter in parameters:
            self.get(parameter.name)
        problem = self._problem(parameters)
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        self._values |= {parameter.name: parameter for parameter in parameters}
        return SetParametersResult(successful=True)

    def add_callback(self, callback: Callable[[list[Parameter]], Any]) -> None:
        """Ask ``callback`` before any value changes; the newest is asked first."""
        self._callbacks.insert(0, callback)

    def remove_callback(self, callback: Callable[[list[Parameter]], Any]) -> None:
        """Stop asking it."""
        self._callbacks.remove(callback)

    def _problem(self, parameters: Sequence[Parameter]) -> str:
        for parameter in parameters:
            descriptor = self._descriptors[parameter.name]
            if descriptor.read_only:
                return f"parameter {parameter.name!r} is read-only"
            try:
                self._check_type(parameter, descriptor)
            except InvalidParameterTypeException as err:
                return str(err)
            if problem := _range_problem(parameter, descriptor):
                return problem
        return self._refusal(list(parameters))

    def _refusal(self, parameters: list[Parameter]) -> str:
        for callback in self._callbacks:
            result = callback(parameters)
            if not result.successful:
                return result.reason or f"{parameters[0].name!r} was refused by the node"
        return ""

    @staticmethod
    def _check_type(parameter: Parameter, descriptor: Any) -> None:
        wanted = ParameterType(descriptor.type)
        free = descriptor.dynamic_typing or wanted == ParameterType.NOT_SET
        if not free and parameter.type_ not in (wanted, ParameterType.NOT_SET):
            raise InvalidParameterTypeException(
                f"parameter {parameter.name!r} is {parameter.value!r} ({parameter.type_.name}), "
                f"expected {wanted.name}"
            )


def _range_problem(parameter: Parameter, descriptor: Any) -> str:
    """Empty when the value lies in the descriptor's range and on its steps."""
    if parameter.type_ == ParameterType.DOUBLE and descriptor.floating_point_range:
        bounds = descriptor.floating_point_range[0]
    elif parameter.type_ == ParameterType.INTEGER and descriptor.integer_range:
        bounds = descriptor.integer_range[0]
    else:
        return ""
    low, high, step, value = bounds.from_value, bounds.to_value, bounds.step, parameter.value
    inside = low <= value <= high
    if inside and (step == 0 or value == high):
        return ""
    steps = (value - low) / step if step else 0.0
    if inside and abs(steps - round(steps)) < 1e-9 * max(1.0, abs(steps)):
        return ""
    by_step = f" in steps of {step}" if step else ""
    return f"parameter {parameter.name!r} is {value}, expected {low}..{high}{by_step}"
