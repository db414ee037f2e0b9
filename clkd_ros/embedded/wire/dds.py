"""ROS 2 topics on Eclipse Cyclone DDS: names, the participant, raw CDR writers and readers.

Cyclone's Python serializer is too slow for images, so every topic is declared with a stand-in
type that has the right DDS name and one octet, and carries CDR bytes that we make ourselves.
Peers match by type name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cyclonedds.core import DDSException, InstanceState, ReadCondition, SampleState, ViewState
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import uint8
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

from clkd_core.errors import ConfigError
from clkd_ros.embedded.wire.domain import discovery_from, domain_config, domain_id_from
from clkd_ros.embedded.wire.message_types import type_store
from clkd_ros.embedded.wire.node_info import gid_bytes_from
from clkd_ros.embedded.wire.qos import POLICY_NAMES, QoSProfile, dds_qos
from clkd_ros.embedded.wire.untyped import hide_type_information


def dds_topic_name(topic: str) -> str:
    """``/a/b`` is ``rt/a/b`` on DDS."""
    return f"rt{topic}"


def dds_type_name(type_name: str) -> str:
    """``sensor_msgs/msg/Image`` is ``sensor_msgs::msg::dds_::Image_`` on DDS."""
    package, kind, name = type_name.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def ros_topic_name(dds_name: str) -> str | None:
    """Inverse of :func:`dds_topic_name`; None for a topic that is not a ROS topic."""
    return dds_name[2:] if dds_name.startswith("rt/") else None


def ros_type_name(dds_name: str) -> str:
    """Inverse of :func:`dds_type_name`; other names come back unchanged."""
    return dds_name.replace("::dds_::", "/").replace("::", "/").removesuffix("_")


class Payload:
    """CDR bytes as they are on the wire."""

    __slots__ = ("raw", "sample_info")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.sample_info: Any = None


@cache
def _stand_in(dds_name: str) -> type[IdlStruct]:
    @dataclass
    class StandIn(IdlStruct, typename=dds_name):  # type: ignore[call-arg, misc]
        octet: uint8 = 0  # type: ignore[valid-type]

        def serialize(self, *_: Any, **__: Any) -> bytes:  # type: ignore[override]
            return self.payload  # type: ignore[attr-defined, no-any-return]

        @classmethod
        def deserialize(cls, data: bytes, *_: Any, **__: Any) -> Payload:  # type: ignore[override]
            return Payload(data)

        @classmethod
        def deserialize_key(cls, *_: Any, **__: Any) -> None:  # type: ignore[override]
            return None

    return StandIn


class Wire:
    """One DDS participant on one domain; everything of a process hangs on it.

    Raises:
        ConfigError: an environment variable has a value that ROS 2 does not know, or Cyclone
            refused the domain, e.g. because all participant slots are taken.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.domain_id = domain_id_from(environment)
        self.discovery = discovery_from(environment)
        self.gid_bytes = gid_bytes_from(environment)
        config = domain_config(self.discovery)
        if environment.get("CYCLONEDDS_URI"):
            config = f"{config},{environment['CYCLONEDDS_URI']}"  # the user's word comes last
        try:
            self._domain: Domain | None = Domain(self.domain_id, config)
            self.participant: DomainParticipant | None = DomainParticipant(
                self.domain_id, Qos(Policy.Userdata(b"enclave=/;"))
            )
        except DDSException as err:
            raise ConfigError(f"DDS domain {self.domain_id} cannot be joined: {err}") from err
        self._topics: dict[tuple[str, str], Topic] = {}

    def topic(self, dds_name: str, dds_type: str) -> Topic:
        """The participant's topic of that name and type, created once."""
        key = (dds_name, dds_type)
        if key not in self._topics:
            qos = Qos(Policy.DataRepresentation(use_cdrv0_representation=True))
            made = Topic(self.participant, dds_name, _stand_in(dds_type), qos=qos)
            hide_type_information(made)
            self._topics[key] = made
        return self._topics[key]

    def close(self) -> None:
        """Leave the domain; readers and writers must be closed before."""
        self._topics.clear()
        self.participant = None
        self._domain = None


class RawWriter:
    """Publishes CDR bytes."""

    def __init__(self, wire: Wire, dds_name: str, dds_type: str, profile: QoSProfile) -> None:
        topic = wire.topic(dds_name, dds_type)
        self._writer: Any = DataWriter(wire.participant, topic, _endpoint_qos(profile, dds_type))
        self._sample = _stand_in(dds_type)
        self._mismatches = 0

    def write(self, raw: bytes) -> bool:
        """Send; False when a reliable reader blocked it for too long and it was given up."""
        sample = self._sample()
        sample.payload = raw  # type: ignore[attr-defined]
        try:
            self._writer.write(sample)
        except DDSException as err:
            if err.code == DDSException.DDS_RETCODE_TIMEOUT:
                return False
            raise
        return True

    @property
    def matched(self) -> int:
        """Readers connected now."""
        return int(self._writer.get_publication_matched_status().current_count)

    @property
    def guid(self) -> bytes:
        """16 bytes that identify this endpoint on the network."""
        return bytes(self._writer.get_guid().bytes)

    def wait_for_acknowledged(self, timeout_ns: int) -> bool:
        """True when every reliable reader has everything."""
        try:
            return bool(self._writer.wait_for_acks(timeout_ns))
        except (DDSException, AttributeError):  # cyclonedds 11.0.1 misnames its own exception
            return False

    def new_mismatch(self) -> str | None:
        """Name of the policy that kept a reader away since the last call."""
        status = self._writer.get_offered_incompatible_qos_status()
        known, self._mismatches = self._mismatches, status.total_count
        return _policy_name(status) if status.total_count > known else None

    def close(self) -> None:
        """Withdraw from the network."""
        self._writer = None


class RawReader:
    """Receives CDR bytes; ``condition`` triggers a wait set while messages wait."""

    def __init__(self, wire: Wire, dds_name: str, dds_type: str, profile: QoSProfile) -> None:
        topic = wire.topic(dds_name, dds_type)
        self._reader: Any = DataReader(wire.participant, topic, _endpoint_qos(profile, dds_type))
        state = ViewState.Any | SampleState.NotRead | InstanceState.Any
        self.condition: Any = ReadCondition(self._reader, state)
        self._mismatches = 0

    def take(self) -> tuple[bytes, int] | None:
        """The next message and its source stamp [ns since the epoch], or None."""
        while taken := self._reader.take(1):
            if not isinstance(taken[0], InvalidSample):
                return taken[0].raw, int(taken[0].sample_info.source_timestamp)
        return None

    @property
    def matched(self) -> int:
        """Writers connected now."""
        return int(self._reader.get_subscription_matched_status().current_count)

    @property
    def guid(self) -> bytes:
        """16 bytes that identify this endpoint on the network."""
        return bytes(self._reader.get_guid().bytes)

    def new_mismatch(self) -> str | None:
        """Name of the policy that kept a writer away since the last call."""
        status = self._reader.get_requested_incompatible_qos_status()
        known, self._mismatches = self._mismatches, status.total_count
        return _policy_name(status) if status.total_count > known else None

    def close(self) -> None:
        """Withdraw from the network."""
        self.condition = None
        self._reader = None


def _endpoint_qos(profile: QoSProfile, dds_type: str) -> Qos:
    return dds_qos(profile, user_data=_type_hash(dds_type))


@cache
def _type_hash(dds_type: str) -> bytes:
    """How ROS 2 names a version of a type (REP 2016); without it, it warns of each endpoint."""
    try:
        return f"typehash={type_store().hash_rihs01(ros_type_name(dds_type))};".encode()
    except KeyError:
        return b""  # a type that only its bag knows


def _policy_name(status: Any) -> str:
    return POLICY_NAMES.get(status.last_policy_id, f"policy {status.last_policy_id}")
