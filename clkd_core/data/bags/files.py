"""ROS 2 bags on disk: written whole or not at all, read in the order of time.

MCAP by default, sqlite3 on request, with message definitions embedded; metadata version 8,
because Humble may refuse 9. Latched topics are recorded as latched.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from clkd_core.data.bags import topics
from clkd_core.data.bags.ros_types import FORMER_DEFINITIONS, PACKAGE, load_typestore
from clkd_core.errors import DataError
from clkd_core.files import replace_folder
from clkd_core.types import CAMERAS

METADATA = "metadata.yaml"
"""The file that makes a folder a bag; ROS 2 writes it last."""

Storage = Literal["mcap", "sqlite3"]

_FOREVER = QosTime(2147483647, 4294967295)
_VERSION: Literal[8] = 8

LATCHED_TOPICS = frozenset(
    {topics.TF_STATIC, topics.ROUTE_COMMAND}
    | {topics.camera_info_topic(camera) for camera in CAMERAS}
)
"""Topics whose last message a late subscriber still gets (transient local)."""


def _qos(topic: str) -> Qos:
    latched = topic in LATCHED_TOPICS
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


class BagWriter:
    """Takes messages for an open bag; made by :func:`write_bag`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._store = load_typestore()
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        """Messages written, by topic."""

    def write(self, topic: str, msgtype: str, log_ns: int, msg: Any) -> None:
        """Append one message; a topic is declared with its first one.

        Args:
            topic: absolute name.
            msgtype: such as ``std_msgs/msg/String``.
            log_ns: when it was seen; players send it at this time.
            msg: instance of the type's class from clkd_core.data.bags.ros_types.
        """
        self.write_serialized(log_ns, topic, msgtype, self._store.serialize_cdr(msg, msgtype))

    def write_serialized(
        self, log_ns: int, topic: str, msgtype: str, data: bytes | memoryview
    ) -> None:
        """Append one message that is CDR already; see :meth:`write`."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=[_qos(topic)]
            )
            self.counts[topic] = 0
        self._writer.write(self._connections[topic], log_ns, data)
        self.counts[topic] += 1


@contextmanager
def write_bag(path: Path, *, storage: Storage = "mcap") -> Iterator[BagWriter]:
    """Write a bag beside ``path`` and put it there when all went well.

    Raises:
        DataError: ``path`` holds something that is no bag, or cannot be written.
    """
    _refuse_foreign(path)
    with replace_folder(path) as temporary:
        inner = temporary / path.name  # the writer names its file after its folder
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        try:
            with Writer(inner, version=_VERSION, storage_plugin=plugin) as writer:
                yield BagWriter(writer)
            for file in inner.iterdir():
                os.rename(file, temporary / file.name)
            inner.rmdir()
        except OSError as err:
            raise DataError(f"{path}: bag cannot be written: {err.strerror or err}") from err


def _refuse_foreign(path: Path) -> None:
    """A wrong OUT must not cost anybody a folder of something else."""
    if path.is_dir() and any(path.iterdir()) and not (path / METADATA).is_file():
        raise DataError(f"{path} holds files and is no bag; expected a bag or nothing there")


class BagReader:
    """An open bag; made by :func:`open_bag`."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path = path
        self._reader = reader
        self._store = load_typestore()

    @property
    def types(self) -> dict[str, str]:
        """Message type by topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    @property
    def counts(self) -> dict[str, int]:
        """Number of messages by topic."""
        counts: dict[str, int] = {}
        for connection in self._reader.connections:
            counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
        return counts

    @property
    def duration_s(self) -> float:
        """From the first message to the last."""
        return float(self._reader.duration) * 1e-9

    def qos_profiles(self, topic: str) -> list[Qos]:
        """What the topic's publishers offered when it was recorded."""
        return [
            profile
            for connection in self._reader.connections
            if connection.topic == topic and isinstance(connection.ext, ConnectionExtRosbag2)
            for profile in connection.ext.offered_qos_profiles
        ]

    def raw_messages(
        self, wanted: Collection[str] | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, log time [ns], CDR bytes) in the order of log time.

        Raises:
            DataError: the bag ends early, is damaged, or holds fewer messages than it says.
        """
        connections = [
            connection
            for connection in self._reader.connections
            if wanted is None or connection.topic in wanted
        ]
        if not connections:
            return
        missing = sum(connection.msgcount for connection in connections)
        with _bag_errors(self.path):
            for connection, log_ns, data in self._reader.messages(connections):
                missing -= 1
                yield connection.topic, connection.msgtype, log_ns, data
            if missing > 0:
                raise ValueError(f"{missing} messages are missing")

    def messages(self, wanted: Collection[str] | None = None) -> Iterator[tuple[str, int, Any]]:
        """(topic, log time [ns], message) in the order of log time.

        Raises:
            DataError: the bag ends early, is damaged, or a message does not fit its type.
        """
        for topic, msgtype, log_ns, data in self.raw_messages(wanted):
            try:
                message = self._store.deserialize_cdr(data, msgtype)
            except Exception as err:  # rosbags lets struct, index and assertion errors through
                raise DataError(
                    f"{self.path}: a message on {topic} is not a {msgtype}: {_one_line(err)}"
                ) from err
            yield topic, log_ns, message

    def check_types(self, wanted: dict[str, tuple[str, ...]]) -> None:
        """See that topics which are there have the types that are wanted.

        Raises:
            DataError: a topic has another type, or our message had another definition.
        """
        for connection in self._reader.connections:
            allowed = wanted.get(connection.topic)
            if allowed is None:
                continue
            if connection.msgtype not in allowed:
                raise DataError(
                    f"{self.path}: {connection.topic} is a {connection.msgtype}, "
                    f"expected {' or '.join(allowed)}"
                )
            ours = connection.msgtype.startswith(PACKAGE + "/")
            if ours and connection.digest not in self._known_digests(connection.msgtype):
                raise DataError(
                    f"{self.path}: {connection.msgtype} on {connection.topic} has another "
                    f"definition ({connection.digest[:16]}...), expected that of msg/"
                )

    def _known_digests(self, msgtype: str) -> set[str]:
        """Of our message: the present definition, earlier ones of the same layout, or none."""
        former = FORMER_DEFINITIONS.get(msgtype, frozenset())
        return {"", self._store.hash_rihs01(msgtype), *former}


def find_bags(path: Path) -> list[Path]:
    """The bag itself, or the bags in a folder of bags, by name.

    Raises:
        DataError: there is none; see :func:`open_bag`.
    """
    if path.is_dir() and not (path / METADATA).is_file():
        inside = sorted(file.parent for file in path.glob(f"*/{METADATA}"))
        if inside:
            return inside
    with open_bag(path):
        return [path]


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a bag folder, or a single ``.mcap`` or ``.db3`` file.

    Raises:
        DataError: missing, no bag, cut off, or of a kind that cannot be read.
    """
    if not path.exists():
        raise DataError(f"bag {path} does not exist, expected a folder with {METADATA}")
    if path.is_dir() and not (path / METADATA).is_file():
        raise DataError(
            f"{path} has no {METADATA}: no bag, or its recording was cut off "
            "(`ros2 bag reindex` restores it)"
        )
    with _bag_errors(path):
        reader = Reader(path)
        reader.open()
    try:
        yield BagReader(path, reader)
    finally:
        reader.close()


@contextmanager
def _bag_errors(path: Path) -> Iterator[None]:
    """Turn whatever ``rosbags`` meets in a damaged file into one line that names the bag."""
    try:
        yield
    except DataError:
        raise
    except Exception as err:
        raise DataError(
            f"bag {path} is damaged or cut off ({_one_line(err)}), expected a whole ROS 2 bag"
        ) from err


def _one_line(err: Exception) -> str:
    text = " ".join(str(err).split())[:160].rstrip(".")
    return text or type(err).__name__
