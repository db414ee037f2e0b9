"""Topics that keep quiet about the structure of their type, as ROS 2's own on Cyclone DDS.

Cyclone's Python binding publishes an XTypes description of every topic's type. Ours would
describe the stand-in, not the message: peers that compare descriptions refuse it, and Cyclone
DDS 0.10 crashes over it. Without one, peers match by the type's name.

The binding has no switch for it, so the C library's table of a type's operations is replaced by
a copy that lacks the one that hands the description out; C code treats that entry as optional
(``struct ddsi_sertype_ops`` in Cyclone's public header ``dds/ddsi/ddsi_sertype.h``, the same in
11.0.0 and 11.0.1).
"""

import ctypes
from typing import Any

from cyclonedds.internal import DDS

_OPERATIONS = 14
_TYPE_INFO = 10
"""Its place in the table: version, arg, free, three about samples, equal, hash, type_id, ..."""

_Table = ctypes.c_void_p * _OPERATIONS

_tables: dict[int, Any] = {}
"""Address of an original table -> our copy; C keeps the address, so none is ever dropped."""


def hide_type_information(topic: Any) -> None:
    """Let the readers and writers that are made of a topic from now on not describe their type.

    Args:
        topic: a ``cyclonedds.topic.Topic``.

    Raises:
        RuntimeError: the C library does not hand out the topic's type.
    """
    sertype = ctypes.POINTER(ctypes.c_void_p)()
    get = DDS._dll_handle.dds_get_entity_sertype
    code = get(ctypes.c_int32(topic._ref), ctypes.byref(sertype))
    if code != 0 or not sertype or sertype[0] is None:
        raise RuntimeError(f"dds_get_entity_sertype returned {code}, expected 0 and a type")
    original = sertype[0]
    if original in {ctypes.addressof(table) for table in _tables.values()}:
        return  # shared with an earlier topic of the same type
    if original not in _tables:
        table = _Table.from_buffer_copy(_Table.from_address(original))
        table[_TYPE_INFO] = None
        _tables[original] = table
    sertype[0] = ctypes.addressof(_tables[original])
