"""Telling ROS 2 which nodes there are: both lengths of the Gid, and what is no such message."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from embedded_graph import DOMAINS
from fakes import wait_until
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from rosbags.typesys import Stores, get_typestore

from clkd_core.errors import DataError
from clkd_ros.embedded.wire.dds import RawReader, RawWriter, Wire, dds_type_name
from clkd_ros.embedded.wire.graph import Graph
from clkd_ros.embedded.wire.node_info import (
    TYPE_NAME,
    NodeInfo,
    decode_infos,
    encode_infos,
    gid_bytes_from,
)
from clkd_ros.embedded.wire.qos import DurabilityPolicy, QoSProfile

GUIDS = [bytes(range(n, n + 16)) for n in range(4)]
NODES = [
    NodeInfo("/", "vlm", (GUIDS[1], GUIDS[2]), (GUIDS[3],)),
    NodeInfo("/car", "planner"),
]
STORES = {16: Stores.ROS2_JAZZY, 24: Stores.ROS2_HUMBLE}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPIC = ("ros_discovery_info", dds_type_name(TYPE_NAME))


@pytest.mark.parametrize(
    ("distro", "length"),
    [("humble", 24), ("galactic", 24), ("iron", 16), ("jazzy", 16), ("rolling", 16), ("", 16)],
)
def test_gid_has_the_length_of_the_distribution(distro: str, length: int) -> None:
    assert gid_bytes_from({"ROS_DISTRO": distro}) == length
    assert gid_bytes_from({}) == 16


@pytest.mark.parametrize("length", [16, 24])
def test_message_is_what_that_ros_2_defines(length: int) -> None:
    raw = encode_infos(GUIDS[0], NODES, gid_bytes=length)
    theirs: Any = get_typestore(STORES[length]).deserialize_cdr(raw, TYPE_NAME)
    assert bytes(theirs.gid.data) == GUIDS[0] + bytes(length - 16)
    vlm, planner = theirs.node_entities_info_seq
    assert (vlm.node_namespace, vlm.node_name) == ("/", "vlm")
    assert (planner.node_namespace, planner.node_name) == ("/car", "planner")
    assert [bytes(gid.data)[:16] for gid in vlm.reader_gid_seq] == GUIDS[1:3]
    assert [bytes(gid.data)[:16] for gid in vlm.writer_gid_seq] == GUIDS[3:]
    assert len(planner.reader_gid_seq) + len(planner.writer_gid_seq) == 0


@pytest.mark.parametrize("length", [16, 24])
def test_both_lengths_are_understood(length: int) -> None:
    assert decode_infos(encode_infos(GUIDS[0], NODES, gid_bytes=length)) == (GUIDS[0], NODES)
    assert decode_infos(encode_infos(GUIDS[0], [], gid_bytes=length)) == (GUIDS[0], [])
    assert [node.full_name for node in NODES] == ["/vlm", "/car/planner"]


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda raw: b"\0\1\0\0" + raw))
def test_bytes_that_are_no_such_message_are_refused_by_name(raw: bytes) -> None:
    try:
        guid, nodes = decode_infos(raw)
    except DataError as err:
        assert TYPE_NAME in str(err)
    else:
        assert len(guid) == 16 and all(isinstance(node, NodeInfo) for node in nodes)


@pytest.fixture
def humble(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A participant that speaks to Humble."""
    number = str(next(DOMAINS) % 100)
    wire = Wire({**os.environ, "ROS_DOMAIN_ID": number, "ROS_DISTRO": "humble"})
    yield wire
    wire.close()


def test_humbles_length_is_spoken_where_ros_distro_says_so(humble: Wire) -> None:
    graph, reader = Graph(humble), RawReader(humble, *TOPIC, LATCHED)
    graph.announce([])
    taken: list[bytes] = []
    wait_until(lambda: taken.extend(filter(None, [reader.take()])) or bool(taken), "a message")
    assert len(taken[0][0]) == 4 + 24 + 4  # header, Gid, no nodes
    reader.close()
    graph.close()


def test_damaged_message_is_logged_and_the_other_nodes_are_seen(
    humble: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    graph, writer = Graph(humble), RawWriter(humble, *TOPIC, LATCHED)
    graph.nodes()  # begins to listen
    assert humble.participant is not None
    own = bytes(humble.participant.get_guid().bytes)
    wait_until(lambda: writer.matched == 1, "a match")
    writer.write(b"\0\1\0\0" + b"\xff" * 40)
    wait_until(lambda: graph.nodes() == [] and "ros_discovery_info" in caplog.text, "a warning")
    writer.write(encode_infos(own, NODES, gid_bytes=16))
    wait_until(lambda: graph.nodes() == ["/car/planner", "/vlm"], "both names")
    writer.close()
    graph.close()
