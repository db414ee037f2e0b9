"""Kinds of bags that others record: quality of service, compression, several files, own types."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_listener import START_NS, Listener, listening, play
from fakes import wait_until
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from clkd_core.data.bags import topics
from clkd_ros import middleware
from clkd_ros.bag_play import PlayConfig, play_bag
from clkd_ros.messages import String
from clkd_ros.middleware import DurabilityPolicy, QoSProfile, ReliabilityPolicy

QOS = Qos(
    history=QosHistory.KEEP_LAST,
    depth=10,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=QosTime(0, 0),
    lifespan=QosTime(0, 0),
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=QosTime(0, 0),
    avoid_ros_namespace_conventions=False,
)


def write_strings(
    path: Path,
    topic: str,
    *,
    offered: Sequence[Qos] = (QOS,),
    compression: CompressionMode = CompressionMode.NONE,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    start_ns: int = START_NS,
    step_ns: int = 50_000_000,
) -> Path:
    """``0`` to ``4`` as a recorder of somebody else's may have written them."""
    store, writer = (
        get_typestore(Stores.ROS2_JAZZY),
        Writer(path, version=8, storage_plugin=plugin),
    )
    if compression != CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            topic, topics.STRING, typestore=store, offered_qos_profiles=list(offered)
        )
        for number in range(5):
            text = store.types[topics.STRING](data=str(number))
            data = store.serialize_cdr(text, topics.STRING)
            writer.write(connection, start_ns + number * step_ns, data)
    return path


def yaml_of(bag: Path) -> Any:
    return yaml.safe_load((bag / "metadata.yaml").read_text())


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listening(monkeypatch) as made:
        yield made


def test_topic_recorded_as_best_effort_is_played_as_such(
    listener: Listener, tmp_path: Path
) -> None:
    offered = QOS._replace(reliability=QosReliability.BEST_EFFORT)
    bag = write_strings(tmp_path / "bag", "/sensor", offered=[offered])
    heard: dict[str, list[str]] = {"best_effort": [], "reliable": []}
    for policy in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE):
        into = heard[policy.name.lower()]
        qos = QoSProfile(depth=10, reliability=policy)
        listener.node.create_subscription(
            String, "/sensor", lambda m, i=into: i.append(m.data), qos
        )
    play(bag)
    wait_until(lambda: len(heard["best_effort"]) == 5, "5 messages")
    assert heard["reliable"] == []


def test_latched_messages_of_several_publishers_all_reach_a_late_subscriber(
    listener: Listener, tmp_path: Path
) -> None:
    """As /tf_static of many nodes: each latched one message on the same topic."""
    latched = QOS._replace(durability=QosDurability.TRANSIENT_LOCAL, depth=1)
    bag = write_strings(tmp_path / "bag", "/static", offered=[latched] * 5, step_ns=100_000_000)
    player = threading.Thread(target=lambda: play_bag(bag, PlayConfig(loop=True)))
    player.start()
    wait_until(lambda: listener.node.count_publishers("/static") == 1, "the player")
    time.sleep(0.6)  # all five have been sent
    late: list[str] = []
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    listener.node.create_subscription(String, "/static", lambda m: late.append(m.data), qos)
    wait_until(lambda: set(late) >= set("01234"), "the messages of all five")
    middleware.shutdown()
    player.join(timeout=5.0)


@pytest.mark.parametrize(
    ("mode", "plugin"),
    [  # sqlite3 has no compression of its own
        (CompressionMode.FILE, StoragePlugin.MCAP),
        (CompressionMode.FILE, StoragePlugin.SQLITE3),
        (CompressionMode.MESSAGE, StoragePlugin.MCAP),
        (CompressionMode.MESSAGE, StoragePlugin.SQLITE3),
        (CompressionMode.STORAGE, StoragePlugin.MCAP),
    ],
)
def test_compressed_bag_is_played(
    listener: Listener, tmp_path: Path, mode: CompressionMode, plugin: StoragePlugin
) -> None:
    bag = write_strings(tmp_path / "bag", "/chat", compression=mode, plugin=plugin)
    play(bag)
    wait_until(lambda: listener.words == list("01234"), "5 messages")


def test_bag_in_several_files_is_played_as_one(listener: Listener, tmp_path: Path) -> None:
    write_strings(tmp_path / "one", "/chat")
    write_strings(tmp_path / "two", "/chat", start_ns=START_NS + 10 * 50_000_000)
    first, second = (yaml_of(tmp_path / name) for name in ("one", "two"))
    whole, more = (each["rosbag2_bagfile_information"] for each in (first, second))
    (tmp_path / "two" / "two.mcap").rename(tmp_path / "one" / "two.mcap")
    for key in ("relative_file_paths", "files"):
        whole[key] += more[key]
    whole["message_count"] += more["message_count"]
    whole["topics_with_message_count"][0]["message_count"] += more["message_count"]
    whole["duration"]["nanoseconds"] = 14 * 50_000_000
    (tmp_path / "one" / "metadata.yaml").write_text(yaml.safe_dump(first))
    assert play(tmp_path / "one").published == 10
    wait_until(lambda: listener.words == list("0123401234"), "10 messages")


@pytest.mark.skipif(middleware.which() == "rclpy", reason="rclpy needs the type's package")
def test_type_that_only_the_bag_knows_is_played(listener: Listener, tmp_path: Path) -> None:
    from clkd_ros.embedded.wire.message_types import opaque_class

    name = "somebody_msgs/msg/Thing"
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("string words\nfloat64[3] place", name))
    with Writer(tmp_path / "bag", version=8) as writer:
        connection = writer.add_connection("/thing", name, typestore=store)
        thing = store.types[name](words="hm", place=np.arange(3.0))
        data = bytes(store.serialize_cdr(thing, name))
        for number in range(3):
            writer.write(connection, START_NS + number * 50_000_000, data)
    got: list[bytes] = []
    kind = opaque_class(name)
    listener.node.create_subscription(kind, "/thing", got.append, 10, raw=True)
    assert play(tmp_path / "bag").published == 3
    wait_until(lambda: len(got) == 3, "3 messages")
    assert got == [data.ljust((len(data) + 3) & ~3, b"\0")] * 3
    assert ("/thing", [name]) in listener.node.get_topic_names_and_types()


def test_bag_of_one_moment_loops_without_a_flood(listener: Listener, tmp_path: Path) -> None:
    bag = write_strings(tmp_path / "bag", "/chat", step_ns=0)
    player = threading.Thread(target=lambda: play(bag, loop=True))
    player.start()
    wait_until(lambda: len(listener.chat) >= 15, "three rounds")
    middleware.shutdown()
    player.join(timeout=5.0)
    assert listener.chat[14][1] - listener.chat[0][1] > 0.06


def test_bag_without_a_message_ends_though_it_loops(listener: Listener, tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=8) as writer:
        writer.add_connection("/chat", topics.STRING, typestore=get_typestore(Stores.ROS2_JAZZY))
    result = play_bag(tmp_path / "bag", PlayConfig(loop=True))
    assert (result.published, result.finished) == (0, True)
