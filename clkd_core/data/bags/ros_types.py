"""ROS 2 message types without ROS 2: Jazzy's standard ones and our own, through ``rosbags``."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from clkd_core.errors import DataError

PACKAGE = "clkd_ros"
"""ROS package of our messages."""

NS_PER_S = 1_000_000_000

FORMER_DEFINITIONS: Mapping[str, frozenset[str]] = {
    "clkd_ros/msg/MetaAction": frozenset(
        {"RIHS01_e0cc43646ebe94065bc3554d343fe4ff81a2f16d587c898cdf81478e5690cd11"}
    ),
    "clkd_ros/msg/PlannedTrajectory": frozenset(
        {"RIHS01_a12ebf2f45ff70b4ad79b5073ebbd7a4ceded40f2b660acfce254ea660ce42df"}
    ),
}
"""Hashes of earlier definitions whose messages are the same bytes, field by field.

PlannedTrajectory had ``bool with_decision`` where it has ``uint8 mode`` now. MetaAction had no
``bool late``; it stands where CDR had a padding byte before the next string. On a label none of
these means anything, so bags recorded with the earlier ones are read as they are.
"""


@lru_cache(maxsize=1)
def load_typestore() -> Typestore:
    """Jazzy's types with ours added; made once per process.

    Raises:
        DataError: our message definitions are not where an installation or a checkout has them.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    ours: dict[str, Any] = {}
    for path in sorted(find_msg_folder().glob("*.msg")):
        ours.update(get_types_from_msg(path.read_text("utf-8"), f"{PACKAGE}/msg/{path.stem}"))
    store.register(ours)
    return store


def find_msg_folder() -> Path:
    """Folder of our ``*.msg`` files: of the checkout, the wheel, or the colcon install.

    Raises:
        DataError: none of them has it; names the places.
    """
    package = Path(__file__).resolve().parents[2]
    places = [package.parent / "msg", package / "share" / "msg"]
    places += [parent / "share" / PACKAGE / "msg" for parent in package.parents]
    for place in places:
        if (place / "MetaAction.msg").is_file():
            return place
    raise DataError(f"message definitions not found, expected MetaAction.msg in {places[0]}")


def message_class(name: str) -> Any:
    """The dataclass of a type such as ``std_msgs/msg/String``; all its fields must be given."""
    return load_typestore().types[name]


def stamp_to_msg(stamp_ns: int) -> Any:
    """builtin_interfaces/Time of nanoseconds since the epoch."""
    sec, nanosec = divmod(stamp_ns, NS_PER_S)
    return message_class("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)


def stamp_from_msg(stamp: Any) -> int:
    """Nanoseconds since the epoch of a builtin_interfaces/Time."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def header_to_msg(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    return message_class("std_msgs/msg/Header")(stamp=stamp_to_msg(stamp_ns), frame_id=frame_id)
