"""Message classes for the embedded middleware: like rclpy's, over the type store of ``rosbags``.

rosbags' own classes have no default constructor and accept anything. These are built like
rclpy's generated ones: every field has a default, an unknown field is an AttributeError, a value
of the wrong type is refused when it is set and not when it is sent. Sequences and arrays of
numbers are numpy arrays when read, whatever they were set from.
"""

import array
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clkd_core.data.bags.ros_types import PACKAGE, find_msg_folder
from clkd_core.errors import DataError

_INTEGER_RANGE = {
    f"{sign}int{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("u", "")
    for bits in (8, 16, 32, 64)
} | {"char": (0, 255)}

_DTYPES = {"bool": "?", "byte": "i1", "char": "u1"}


class Octet(bytes):
    """A ``byte`` field: one byte of ``bytes`` as in rclpy, a signed number to the serializer."""

    def __index__(self) -> int:
        return int.from_bytes(self, "little", signed=True)


class Message:
    """Base of every generated class; ``FIELDS`` lists the fields in their order on the wire."""

    __slots__ = ()
    __msgtype__ = ""
    FIELDS: dict[str, "_Field"] = {}  # noqa: RUF012 - replaced in each generated class
    OCTETS: tuple[int, ...] = ()

    def __init__(self, *values: Any, **fields: Any) -> None:
        """Positional values come from the deserializer and are trusted; keywords are checked."""
        put = object.__setattr__
        if values:
            for name, value in zip(self.FIELDS, values, strict=True):
                put(self, name, value)
            for index in self.OCTETS:
                octet = int(values[index]) & 0xFF
                put(self, tuple(self.FIELDS)[index], Octet((octet,)))
            return
        for name, field in self.FIELDS.items():
            if name not in fields:
                put(self, name, field.default())
        for name, value in fields.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self.FIELDS.get(name)
        if field is None:
            raise AttributeError(f"{self.__msgtype__} has no field {name!r}")
        object.__setattr__(self, name, field.checked(value, f"{self.__msgtype__}.{name}"))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self.FIELDS)

    __hash__ = None  # type: ignore[assignment] - mutable, as in rclpy

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.FIELDS)
        return f"{self.__msgtype__}({inside})"

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Field names with a readable type, in wire order."""
        return {name: field.type_name for name, field in cls.FIELDS.items()}


class _Field:
    """What one field accepts and starts as."""

    def __init__(
        self, type_name: str, default: Callable[[], Any], checked: Callable[[Any, str], Any]
    ) -> None:
        self.type_name = type_name
        self.default = default
        self.checked = checked


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)


def _refuse(where: str, value: Any, wanted: str) -> None:
    shown = repr(value)[:60]
    raise AssertionError(f"{where} is {shown} ({type(value).__name__}), expected {wanted}")


def _scalar_field(kind: str) -> _Field:
    if kind == "string":
        return _Field(kind, str, _instance_check(str, "a str"))
    if kind == "bool":
        return _Field(kind, bool, _instance_check(bool, "a bool"))
    if kind == "byte":
        return _Field(kind, lambda: Octet(b"\0"), _checked_octet)
    if kind.startswith("float"):
        return _Field(kind, float, _instance_check(float, "a float"))
    low, high = _INTEGER_RANGE[kind]

    def checked(value: Any, where: str) -> int:
        if not isinstance(value, int) or not low <= value <= high:
            _refuse(where, value, f"an int in {low}..{high}")
        return int(value)

    return _Field(kind, int, checked)


def _instance_check(wanted: type, text: str) -> Callable[[Any, str], Any]:
    def checked(value: Any, where: str) -> Any:
        if not isinstance(value, wanted):
            _refuse(where, value, text)
        return value

    return checked


def _checked_octet(value: Any, where: str) -> Octet:
    if not isinstance(value, bytes) or len(value) != 1:
        _refuse(where, value, "one byte of bytes")
    # Python 3.10 takes what has __index__ for a length: Octet(Octet(b"\0")) would be empty.
    return value if isinstance(value, Octet) else Octet(value)


def _numbers_field(kind: str, length: int | None) -> _Field:
    dtype = np.dtype(_DTYPES.get(kind, kind))
    type_name = f"{kind}[{length or ''}]"

    def checked(value: Any, where: str) -> np.ndarray:
        if isinstance(value, bytes | bytearray | memoryview | array.array):
            numbers = np.frombuffer(value, dtype=dtype)
        elif isinstance(value, str):
            _refuse(where, value, type_name)
        else:
            numbers = np.ascontiguousarray(value, dtype=dtype)
        if numbers.ndim != 1 or (length is not None and len(numbers) != length):
            _refuse(where, numbers.shape, f"the shape of {type_name}")
        return numbers

    return _Field(type_name, lambda: np.zeros(length or 0, dtype), checked)


def _list_field(element: _Field, length: int | None) -> _Field:
    type_name = f"{element.type_name}[{length or ''}]"

    def checked(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) != (length or len(value)):
            _refuse(where, value, f"a list for {type_name}")
        return [element.checked(item, f"{where}[{i}]") for i, item in enumerate(value)]

    return _Field(type_name, lambda: [element.default() for _ in range(length or 0)], checked)


def _build_field(classes: dict[str, type[Message]], description: Any) -> _Field:
    node, detail = description
    if node == Nodetype.BASE:
        return _scalar_field(detail[0])
    if node == Nodetype.NAME:

        def nested(value: Any, where: str) -> Message:
            if not isinstance(value, classes[detail]):
                _refuse(where, value, detail)
            return value

        return _Field(detail, lambda: classes[detail](), nested)
    element, bound = detail
    length = bound if node == Nodetype.ARRAY else None
    if element[0] == Nodetype.BASE and element[1][0] != "string":
        return _numbers_field(element[1][0], length)
    return _list_field(_build_field(classes, element), length)


def _build_class(classes: dict[str, type[Message]], name: str, definition: Any) -> type[Message]:
    constants, fields = definition
    built = {field: _build_field(classes, description) for field, description in fields}
    body: dict[str, Any] = {
        constant: Octet(bytes((value & 0xFF,))) if kind == "byte" else value
        for constant, kind, value in constants
    }
    body |= {
        "__slots__": tuple(built),
        "__msgtype__": name,
        "__doc__": f"Message {name}.",
        "FIELDS": built,
        "OCTETS": tuple(i for i, f in enumerate(built.values()) if f.type_name == "byte"),
    }
    return type(name.rsplit("/", 1)[-1], (Message,), body)


@cache
def type_store() -> Typestore:
    """ROS 2 Jazzy's types and our own, deserializing into the classes of this module."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(find_msg_folder().glob("*.msg")):
        name = f"{PACKAGE}/msg/{path.stem}"
        store.register(get_types_from_msg(path.read_text(encoding="utf-8"), name))
    classes: dict[str, type[Message]] = {}
    for name, definition in store.fielddefs.items():
        classes[name] = _build_class(classes, name, definition)
    store.types.update(classes)  # type: ignore[arg-type] - rosbags only calls them
    return store


def message_class(type_name: str) -> type[Message]:
    """The class of ``package/msg/Name``.

    Raises:
        DataError: ROS 2 Jazzy's common interfaces and our own package have no such type.
    """
    found = type_store().types.get(type_name)
    if found is None:
        raise DataError(
            f"message type {type_name!r} is unknown, expected like 'std_msgs/msg/String'"
        )
    return found  # type: ignore[return-value] - replaced by ours in type_store()


def opaque_class(type_name: str) -> type[Message]:
    """A class that only names its type, for publishing bytes that are serialized already."""
    body = {"__slots__": (), "__msgtype__": type_name, "FIELDS": {}}
    return type(type_name.rsplit("/", 1)[-1], (Message,), body)


def serialize(message: Message) -> bytes:
    """Little-endian CDR (XCDR1) with its four-byte header."""
    return bytes(type_store().serialize_cdr(message, message.__msgtype__))


def deserialize(raw: bytes, message_type: type[Message]) -> Message:
    """Inverse of :func:`serialize`.

    Raises:
        DataError: the bytes are not CDR of this type.
    """
    try:
        return type_store().deserialize_cdr(raw, message_type.__msgtype__)  # type: ignore[return-value]
    except (SerdeError, IndexError, MemoryError) as err:
        raise DataError(f"{len(raw)} bytes are no {message_type.__msgtype__}: {err}") from err
