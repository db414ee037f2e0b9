"""What a field of a message accepts: the rules of rclpy's generated classes.

rclpy checks a value when it is set (always on Humble, on Jazzy where ``ROS_PYTHON_CHECK_FIELDS``
is 1) and otherwise lets the process abort when the message is sent. Here it is always checked.
"""

import array
import math
import sys
from collections import UserList, UserString
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

INTEGER_RANGE = {
    f"{sign}int{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("u", "")
    for bits in (8, 16, 32, 64)
} | {"char": (0, 255)}

_FLOAT_LIMIT = {"float32": 3.402823466e38, "float64": sys.float_info.max}
_DTYPES = {"bool": "?", "byte": "i1", "char": "u1"}
_ROS_NAMES = {
    "bool": "boolean",
    "byte": "octet",
    "char": "uint8",
    "float32": "float",
    "float64": "double",
}


class Octet(bytes):
    """A ``byte`` field: one byte of ``bytes`` as in rclpy, a signed number to the serializer."""

    def __index__(self) -> int:
        return int.from_bytes(self, "little", signed=True)


class Numbers(np.ndarray):
    """(N,) numbers of a sequence field, where rclpy has an ``array.array``.

    What is read from one message can be set in another; any other numpy array is refused, as
    rclpy does. Those of a received message are read-only.
    """


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Field:
    """What one field accepts and starts as."""

    type_name: str
    """As rclpy's ``get_fields_and_field_types`` gives it."""
    default: Callable[[], Any]
    checked: Callable[[Any, str], Any]
    """(value, place) -> what is kept; AssertionError names the place."""
    constructed: Callable[[Any, str], Any] | None = None
    """Likewise for a value given to the constructor, where rclpy converts; None: ``checked``."""
    read: Callable[[Any], Any] = _unchanged
    """What the deserializer made -> what is kept."""


def refuse(where: str, value: Any, wanted: str) -> NoReturn:
    """Raise rclpy's kind of error.

    Raises:
        AssertionError: always.
    """
    raise AssertionError(
        f"{where} is {repr(value)[:60]} ({type(value).__name__}), expected {wanted}"
    )


def scalar_field(kind: str, bound: int = 0) -> Field:
    """A field of a basic type; ``bound`` is the longest string, 0 for any length."""
    if kind == "string":
        name = f"string<{bound}>" if bound else "string"
        return Field(name, str, lambda value, where: _checked_string(value, where, bound))
    if kind == "byte":
        return Field("octet", lambda: Octet(b"\0"), _checked_octet)
    name = _ROS_NAMES.get(kind, kind)
    default: Callable[[], Any] = {"b": bool, "f": float}.get(kind[0], int)
    return Field(name, default, lambda value, where: _checked_number(value, where, kind))


def numbers_field(kind: str, length: int | None, bound: int = 0) -> Field:
    """An array of ``length`` numbers, or a sequence of at most ``bound`` (0: any) when None."""
    dtype = np.dtype(_DTYPES.get(kind, kind))
    name = _ROS_NAMES.get(kind, kind)

    def sized(value: Any, where: str) -> Any:
        if (length is not None and len(value) != length) or (bound and len(value) > bound):
            refuse(where, value, type_name)
        return value

    def checked(value: Any, where: str) -> Any:
        if isinstance(value, np.ndarray):
            own = length is not None or isinstance(value, Numbers)
            if not own or value.dtype != dtype or value.ndim != 1:
                refuse(where, value, type_name)
            return sized(value, where)
        return sized(_numbers(value, where, kind, dtype), where)

    def constructed(value: Any, where: str) -> Any:
        if not isinstance(value, np.ndarray):
            return checked(value, where)
        return sized(_cast(value, where, dtype).view(Numbers), where)

    if length is None:
        type_name = f"sequence<{name}, {bound}>" if bound else f"sequence<{name}>"
        return Field(
            type_name,
            lambda: np.zeros(0, dtype).view(Numbers),
            checked,
            constructed,
            lambda value: value.view(Numbers),
        )
    type_name = f"{name}[{length}]"
    return Field(type_name, lambda: np.zeros(length, dtype), checked, constructed, np.array)


def list_field(element: Field, length: int | None, bound: int = 0) -> Field:
    """A list of texts or messages; arguments as of :func:`numbers_field`."""

    def checked(value: Any, where: str) -> list[Any]:
        fits = _is_sequence(value) and (length is None or len(value) == length)
        if not fits or (bound and len(value) > bound):
            refuse(where, value, type_name)
        return [element.checked(item, f"{where}[{i}]") for i, item in enumerate(value)]

    if length is None:
        of = element.type_name
        type_name = f"sequence<{of}, {bound}>" if bound else f"sequence<{of}>"
    else:
        type_name = f"{element.type_name}[{length}]"
    return Field(type_name, lambda: [element.default() for _ in range(length or 0)], checked)


def message_field(type_name: str, find_class: Callable[[], type[Any]]) -> Field:
    """A message inside a message; the class may not be known yet."""

    def checked(value: Any, where: str) -> Any:
        if not isinstance(value, find_class()):
            refuse(where, value, type_name)
        return value

    return Field(type_name.replace("/msg/", "/"), lambda: find_class()(), checked)


def _checked_string(value: Any, where: str, bound: int) -> str:
    if not isinstance(value, str) or (bound and len(value) > bound):
        refuse(where, value, f"a str of at most {bound} characters" if bound else "a str")
    return value


def _checked_octet(value: Any, where: str) -> Octet:
    if not isinstance(value, bytes) or len(value) != 1:
        refuse(where, value, "one byte of bytes")
    # Python 3.10 takes what has __index__ for a length: Octet(Octet(b"\0")) would be empty.
    return value if isinstance(value, Octet) else Octet(value)


def _checked_number(value: Any, where: str, kind: str) -> Any:
    if kind == "bool":
        if not isinstance(value, bool):
            refuse(where, value, "a bool")
    elif kind in _FLOAT_LIMIT:
        if not isinstance(value, float) or _is_too_large(value, kind):
            refuse(where, value, f"a float in the range of {kind}")
    else:
        low, high = INTEGER_RANGE[kind]
        if not isinstance(value, int) or not low <= value <= high:
            refuse(where, value, f"an int in {low}..{high}")
        return int(value)  # not True, which rclpy takes
    return value


def _is_too_large(value: float, kind: str) -> bool:
    return abs(value) > _FLOAT_LIMIT[kind] and not math.isinf(value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence | Set | UserList) and not isinstance(value, str | UserString)


def _numbers(value: Any, where: str, kind: str, dtype: "np.dtype[Any]") -> Any:
    """(N,) of what is no numpy array: bytes, an ``array.array`` of this type, or any sequence."""
    if isinstance(value, bytes | bytearray | memoryview) and dtype == np.uint8:
        if isinstance(value, memoryview) and (value.format != "B" or value.ndim != 1):
            refuse(where, value, f"bytes or a sequence of {kind}")
        return np.frombuffer(value, np.uint8).view(Numbers)
    if isinstance(value, array.array):
        if value.typecode == "u" or np.dtype(value.typecode) != dtype:
            refuse(where, value, f"an array.array of {kind}")
        return np.frombuffer(value, dtype).view(Numbers)
    if not _is_sequence(value):
        refuse(where, value, f"a sequence of {kind}")
    check = _checked_octet if kind == "byte" else None
    items = [
        int(check(item, where).__index__()) if check else _checked_number(item, where, kind)
        for item in value
    ]
    return np.array(items, dtype).view(Numbers)


def _cast(value: Any, where: str, dtype: "np.dtype[Any]") -> Any:
    """A copy of a numpy array in the field's type, where rclpy's constructors convert."""
    exact = value.dtype.kind in "iub" and dtype.kind in "iub?"
    if value.ndim != 1 or not (exact or (value.dtype.kind in "fiu" and dtype.kind == "f")):
        refuse(where, value, f"(N,) {dtype}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, as in rclpy
        cast = value.astype(dtype)
    if exact and not np.array_equal(cast, value):
        refuse(where, value, f"(N,) in the range of {dtype}")
    return cast
