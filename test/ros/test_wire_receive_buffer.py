"""A kernel that lets sockets receive too little is told of, once, by the node that needs more."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from embedded_graph import DOMAINS, EmbeddedGraph

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_ros.embedded.wire import receive_buffer
from clkd_ros.embedded.wire.message_types import message_class
from clkd_ros.embedded.wire.qos import qos_profile_sensor_data
from clkd_ros.embedded.wire.receive_buffer import describe_shortage, receive_limit_bytes

COMPRESSED, RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"


@pytest.fixture
def set_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A file that stands for the kernel's."""
    path = tmp_path / "rmem_max"
    path.write_text("212992\n")
    monkeypatch.setattr(receive_buffer, "_LIMIT_FILE", path)
    yield path


def test_limit_of_this_machine_can_be_read() -> None:
    limit = receive_limit_bytes()
    assert limit is None or limit > 1000


@pytest.mark.parametrize(
    ("limit", "short_of"),
    [("212992", [COMPRESSED, RAW]), ("4194304", [RAW]), ("33554432", []), ("many", [])],
)
def test_each_type_has_its_need(set_limit: Path, limit: str, short_of: list[str]) -> None:
    set_limit.write_text(limit)
    types = (COMPRESSED, RAW, "std_msgs/msg/String")
    assert [name for name in types if describe_shortage(name)] == short_of


def test_missing_file_says_nothing(set_limit: Path) -> None:
    set_limit.unlink()
    assert receive_limit_bytes() is None
    assert describe_shortage(RAW) is None


def test_node_with_six_cameras_says_it_once(
    set_limit: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS) % 100))
    graph = EmbeddedGraph()
    graph.start()
    node, image = graph.node(), message_class(COMPRESSED)
    node.create_publisher(image, "/out", 5)
    assert "rmem_max" not in capfd.readouterr().err
    for number in range(6):
        node.create_subscription(image, f"/camera_{number}", print, qos_profile_sensor_data)
    said = capfd.readouterr().err
    graph.end()
    assert said.count("net.core.rmem_max is 212992 bytes, expected at least 1048576") == 1
    assert "sysctl -w net.core.rmem_max=33554432" in said
