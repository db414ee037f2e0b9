"""The message that tells ROS 2 which nodes a process has, in both of its lengths.

``rmw_dds_common/msg/ParticipantEntitiesInfo`` on the topic ``ros_discovery_info`` names every
node with the endpoints it owns. An endpoint's Gid has 16 bytes since ROS 2 Iron; Humble's has 24,
of which the last 8 are zero. DDS cannot tell the two apart: the type's name is the same.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clkd_core.errors import DataError

GUID_BYTES = 16
GID_BYTES_BY_DISTRO = {"foxy": 24, "galactic": 24, "humble": 24}
"""By ``ROS_DISTRO``; the others speak ``GUID_BYTES``."""

TYPE_NAME = "rmw_dds_common/msg/ParticipantEntitiesInfo"

_DEFINITIONS = {
    "rmw_dds_common/msg/Gid": "uint8[{gid_bytes}] data",
    "rmw_dds_common/msg/NodeEntitiesInfo": (
        "string<=256 node_namespace\nstring<=256 node_name\n"
        "Gid[] reader_gid_seq\nGid[] writer_gid_seq"
    ),
    TYPE_NAME: "Gid gid\nNodeEntitiesInfo[] node_entities_info_seq",
}


@dataclass(frozen=True)
class NodeInfo:
    """One node of a process."""

    namespace: str
    name: str
    reader_guids: tuple[bytes, ...] = ()
    """16 bytes each."""
    writer_guids: tuple[bytes, ...] = ()

    @property
    def full_name(self) -> str:
        """Namespace and name."""
        return f"{self.namespace.rstrip('/')}/{self.name}"


def gid_bytes_from(environment: Mapping[str, str]) -> int:
    """What is spoken: 16, or 24 where ``ROS_DISTRO`` names Humble or something older."""
    return GID_BYTES_BY_DISTRO.get(environment.get("ROS_DISTRO", ""), GUID_BYTES)


def encode_infos(participant: bytes, nodes: Iterable[NodeInfo], *, gid_bytes: int) -> bytes:
    """The message as CDR.

    Args:
        participant: guid of the process's DDS participant, 16 bytes.
        nodes: all of its nodes.
        gid_bytes: 16 or 24.
    """
    store = _store(gid_bytes)

    def gid(guid: bytes) -> Any:
        padded = guid.ljust(gid_bytes, b"\0")
        return _make(store, "Gid", data=np.frombuffer(padded, np.uint8))

    infos = [
        _make(
            store,
            "NodeEntitiesInfo",
            node_namespace=node.namespace,
            node_name=node.name,
            reader_gid_seq=[gid(guid) for guid in node.reader_guids],
            writer_gid_seq=[gid(guid) for guid in node.writer_guids],
        )
        for node in nodes
    ]
    message = _make(
        store, "ParticipantEntitiesInfo", gid=gid(participant), node_entities_info_seq=infos
    )
    return bytes(store.serialize_cdr(message, TYPE_NAME))


def decode_infos(raw: bytes) -> tuple[bytes, list[NodeInfo]]:
    """(guid of the participant, its nodes) of a message of either length.

    Raises:
        DataError: it is of neither.
    """
    for gid_bytes in (GUID_BYTES, *set(GID_BYTES_BY_DISTRO.values())):
        try:
            message: Any = _store(gid_bytes).deserialize_cdr(raw, TYPE_NAME)
        except (SerdeError, IndexError, MemoryError, OverflowError):
            continue
        return _guid(message.gid), [_node_info(node) for node in message.node_entities_info_seq]
    raise DataError(f"{len(raw)} bytes are no {TYPE_NAME} with Gids of 16 or 24 bytes")


def _node_info(node: Any) -> NodeInfo:
    return NodeInfo(
        node.node_namespace,
        node.node_name,
        tuple(_guid(gid) for gid in node.reader_gid_seq),
        tuple(_guid(gid) for gid in node.writer_gid_seq),
    )


def _guid(gid: Any) -> bytes:
    return bytes(gid.data[:GUID_BYTES])


def _make(store: Typestore, kind: str, **fields: Any) -> Any:
    return store.types[f"rmw_dds_common/msg/{kind}"](**fields)


@cache
def _store(gid_bytes: int) -> Typestore:
    store = get_typestore(Stores.EMPTY)
    for name, text in _DEFINITIONS.items():
        store.register(get_types_from_msg(text.format(gid_bytes=gid_bytes), name))
    return store
