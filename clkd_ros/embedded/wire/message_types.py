"""Message classes for the embedded middleware: like rclpy's, over the type store of ``rosbags``.

rosbags' own classes have no default constructor and accept anything. These are built like
rclpy's generated ones: every field has a default, an unknown field is an AttributeError, a value
of the wrong type is refused when it is set and not when it is sent. Sequences and arrays of
numbers are numpy arrays when read, whatever they were set from.
"""

from functools import cache
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clkd_core.data.bags.ros_types import PACKAGE, find_msg_folder
from clkd_core.errors import DataError
from clkd_ros.embedded.wire.fields import (
    Field,
    Octet,
    list_field,
    message_field,
    numbers_field,
    scalar_field,
)


class Message:
    """Base of every generated class; ``FIELDS`` lists the fields in their order on the wire."""

    __slots__ = ()
    __msgtype__ = ""
    FIELDS: dict[str, Field] = {}  # noqa: RUF012 - replaced in each generated class
    OCTETS: tuple[int, ...] = ()

    def __init__(self, *values: Any, **fields: Any) -> None:
        """Positional values come from the deserializer and are trusted; keywords are checked."""
        put = object.__setattr__
        if values:
            for (name, field), value in zip(self.FIELDS.items(), values, strict=True):
                put(self, name, field.read(value))
            for index in self.OCTETS:
                octet = int(values[index]) & 0xFF
                put(self, tuple(self.FIELDS)[index], Octet((octet,)))
            return
        for name, field in self.FIELDS.items():
            if name not in fields:
                put(self, name, field.default())
        for name, value in fields.items():
            convert = field.constructed if (field := self.FIELDS.get(name)) else None
            place = f"{self.__msgtype__}.{name}"
            setattr(self, name, convert(value, place) if convert else value)

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
        """Field names with their types in rclpy's words, in wire order."""
        return {name: field.type_name for name, field in cls.FIELDS.items()}


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return bool(np.array_equal(left, right))
    return bool(left == right)


def _build_field(classes: dict[str, type[Message]], description: Any) -> Field:
    node, detail = description
    if node == Nodetype.BASE:
        return scalar_field(*detail)
    if node == Nodetype.NAME:
        return message_field(detail, lambda: classes[detail])
    element, size = detail
    length, bound = (size, 0) if node == Nodetype.ARRAY else (None, size)
    if element[0] == Nodetype.BASE and element[1][0] != "string":
        return numbers_field(element[1][0], length, bound)
    return list_field(_build_field(classes, element), length, bound)


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
        "OCTETS": tuple(i for i, f in enumerate(built.values()) if f.type_name == "octet"),
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
        return type_store().deserialize_cdr(memoryview(raw), message_type.__msgtype__)  # type: ignore[return-value]
    except (SerdeError, IndexError, MemoryError) as err:
        raise DataError(f"{len(raw)} bytes are no {message_type.__msgtype__}: {err}") from err
