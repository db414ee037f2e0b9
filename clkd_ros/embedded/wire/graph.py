"""What is on the network: topics, types, nodes; and telling ROS 2 about our own nodes.

ROS 2 finds nodes through the topic ``ros_discovery_info``: one latched message per participant
lists its nodes with their endpoints. Spoken are Gids of 16 bytes, as since Iron, or Humble's 24
with ``ROS_DISTRO=humble``; both are understood. Who speaks the other one sees our topics and
their data, but not our nodes' names.
"""

import logging
import threading
from typing import Any

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState

from clkd_core.errors import DataError
from clkd_ros.embedded.wire.dds import (
    RawReader,
    RawWriter,
    Wire,
    dds_type_name,
    ros_topic_name,
    ros_type_name,
)
from clkd_ros.embedded.wire.node_info import TYPE_NAME, NodeInfo, decode_infos, encode_infos
from clkd_ros.embedded.wire.qos import DurabilityPolicy, QoSProfile

_INFO_TOPIC = "ros_discovery_info"
_MANY = 10_000

_log = logging.getLogger(__name__)


class Graph:
    """Reads discovery as Cyclone keeps it; readers are made on first use."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._readers: dict[bool, Any] = {}
        self._info_reader: RawReader | None = None
        self._info_writer: RawWriter | None = None
        self._participant_reader: Any = None
        self._participants: set[bytes] = set()
        self._nodes_by_participant: dict[bytes, list[str]] = {}
        self._endpoints: dict[bool, dict[Any, tuple[str, str]]] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def endpoints(self, *, publishers: bool) -> list[tuple[str, str]]:
        """(topic, type) of every ROS publisher, or of every ROS subscriber, on the network."""
        with self._lock:
            return self._endpoints_now(publishers)

    def _endpoints_now(self, publishers: bool) -> list[tuple[str, str]]:
        builtin = BuiltinTopicDcpsPublication if publishers else BuiltinTopicDcpsSubscription
        if publishers not in self._readers:
            self._readers[publishers] = BuiltinDataReader(self._wire.participant, builtin)
        known = self._endpoints.setdefault(publishers, {})
        for sample in self._readers[publishers].take(_MANY):  # only what changed: this is slow
            topic = ros_topic_name(sample.topic_name or "")
            if sample.sample_info.instance_state != InstanceState.Alive:
                known.pop(sample.key, None)
            elif topic:
                known[sample.key] = (topic, ros_type_name(sample.type_name))
        return list(known.values())

    def count(self, topic: str, *, publishers: bool) -> int:
        """Publishers or subscribers of one topic."""
        return sum(name == topic for name, _ in self.endpoints(publishers=publishers))

    def topics(self) -> list[tuple[str, list[str]]]:
        """Every topic with its types, by name."""
        types: dict[str, set[str]] = {}
        for publishers in (True, False):
            for topic, type_name in self.endpoints(publishers=publishers):
                types.setdefault(topic, set()).add(type_name)
        return [(topic, sorted(found)) for topic, found in sorted(types.items())]

    def new_conflicts(self) -> list[tuple[str, list[str]]]:
        """Topics with more than one type, each told once; DDS accepts that and connects nobody."""
        found = [(topic, types) for topic, types in self.topics() if len(types) > 1]
        new = [entry for entry in found if entry[0] not in self._told]
        self._told |= {topic for topic, _ in new}
        return new

    def nodes(self) -> list[str]:
        """Full names of all nodes that announced themselves."""
        with self._lock:
            self._take_infos()
            alive = self._alive_participants()
            known = self._nodes_by_participant
            self._nodes_by_participant = {key: known[key] for key in known.keys() & alive}
            named = self._nodes_by_participant.values()
            return sorted(name for names in named for name in names)

    def _alive_participants(self) -> set[bytes]:
        if self._participant_reader is None:
            self._participant_reader = BuiltinDataReader(
                self._wire.participant, BuiltinTopicDcpsParticipant
            )
        for sample in self._participant_reader.take(_MANY):
            if sample.sample_info.instance_state == InstanceState.Alive:
                self._participants.add(sample.key.bytes)
            else:
                self._participants.discard(sample.key.bytes)
        return self._participants

    def _take_infos(self) -> None:
        if self._info_reader is None:
            self._info_reader = RawReader(self._wire, *_info_names(), _INFO_QOS)
        while taken := self._info_reader.take():
            try:
                participant, nodes = decode_infos(taken[0])
            except DataError as err:
                _log.warning("%s: %s", _INFO_TOPIC, err)
                continue
            self._nodes_by_participant[participant] = [node.full_name for node in nodes]

    def announce(self, nodes: list[Any]) -> None:
        """Tell everybody which nodes this process has and which endpoints are whose."""
        if self._info_writer is None:
            self._info_writer = RawWriter(self._wire, *_info_names(), _INFO_QOS)
        participant: Any = self._wire.participant
        guid = bytes(participant.get_guid().bytes)
        infos = [_node_info(node) for node in nodes]
        self._info_writer.write(encode_infos(guid, infos, gid_bytes=self._wire.gid_bytes))

    def close(self) -> None:
        """Let go of the network."""
        self._readers.clear()
        for endpoint in (self._info_reader, self._info_writer):
            if endpoint is not None:
                endpoint.close()
        self._info_reader = self._info_writer = self._participant_reader = None


_INFO_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def _info_names() -> tuple[str, str]:
    return _INFO_TOPIC, dds_type_name(TYPE_NAME)


def _node_info(node: Any) -> NodeInfo:
    return NodeInfo(
        node.get_namespace(),
        node.get_name(),
        tuple(found.guid for found in node.subscriptions if found.guid),
        tuple(found.guid for found in node.publishers if found.guid),
    )
