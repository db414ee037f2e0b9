"""Programs of other makers on the same wire: Cyclone DDS in C, Fast DDS in C++."""

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_graph import DOMAINS, EmbeddedGraph
from fakes import wait_until

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_ros.embedded.wire.message_types import message_class
from clkd_ros.embedded.wire.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

String = message_class("std_msgs/msg/String")
CompressedImage = message_class("sensor_msgs/msg/CompressedImage")

SOURCES = Path(__file__).parent / "foreign"
LOOPBACK = (
    "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast>"
    '<Interfaces><NetworkInterface address="127.0.0.1"/></Interfaces></General>'
    "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
    '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
)


def build_cyclone_peer(folder: Path) -> Path:
    """The C program; the types' code comes from the IDL file."""
    need(["idlc", "gcc"], "/usr/include/dds/dds.h", "gcc cyclonedds-dev cyclonedds-tools")
    program = folder / "cyclone_peer"
    run_in(folder, "idlc", SOURCES / "ros_messages.idl")
    sources = (SOURCES / "cyclone_peer.c", folder / "ros_messages.c")
    run_in(folder, "gcc", "-O1", "-I", folder, *sources, "-lddsc", "-o", program)
    return program


def build_fast_peer(folder: Path) -> Path:
    """The C++ program."""
    need(["g++"], "/usr/include/fastdds/dds/topic/TopicDataType.hpp", "g++ libfastrtps-dev")
    program = folder / "fast_peer"
    source = SOURCES / "fast_peer.cpp"
    run_in(folder, "g++", "-std=c++14", source, "-lfastrtps", "-lfastcdr", "-o", program)
    return program


def need(programs: list[str], header: str, packages: str) -> None:
    """Skip, and say what to install, where a compiler or a library is missing."""
    if not all(map(shutil.which, programs)) or not Path(header).is_file():
        pytest.skip(f"compiler or DDS library missing: apt-get install {packages}")


def run_in(folder: Path, *command: Any) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{words}: {done.stderr}"


# A volatile reader of Cyclone's drops what comes before the writer's first heartbeat.
KEPT = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "cyclonedds": build_cyclone_peer,
    "fastdds": build_fast_peer,
}


@pytest.fixture(
    scope="module",
    params=["cyclonedds", pytest.param("fastdds", marks=pytest.mark.slow)],  # C++ compiles slowly
)
def program(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Path]:
    """(vendor, program that mirrors /to_peer/* on /from_peer/*), compiled once."""
    return request.param, BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


class Peer:
    """The running program."""

    def __init__(self, vendor: str, path: Path) -> None:
        self.vendor = vendor
        self.process = subprocess.Popen(
            [str(path), os.environ["ROS_DOMAIN_ID"]],
            env={**os.environ, "CYCLONEDDS_URI": LOOPBACK},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(iter(self.process.stdout.readline, ""))

    def end(self) -> tuple[int, list[str]]:
        """Close its input; exit code and what it said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=10.0)
        self._listener.join(timeout=5.0)
        return code, self.said


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedGraph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS) % 100))
    made = EmbeddedGraph()
    made.start()
    yield made
    made.end()


@pytest.fixture
def peer(graph: EmbeddedGraph, program: tuple[str, Path]) -> Iterator[Peer]:
    made = Peer(*program)
    yield made
    assert made.end() == (0, ["connected\n"])


class Talk:
    """A topic to the peer and one back."""

    def __init__(self, graph: EmbeddedGraph, message: Any, name: str, qos: Any = KEPT) -> None:
        self.got: list[Any] = []
        self.node = node = graph.node("talker")
        self.out = node.create_publisher(message, f"/to_peer/{name}", 10)
        back = f"/from_peer/{name}"
        self.back = node.create_subscription(message, back, self.got.append, qos)
        graph.serve(node)

    def wait_until_connected(self, peer: Peer) -> None:
        """Both directions, as both sides see it."""
        wait_until(lambda: self.out.get_subscription_count() == 1, "the peer's reader")
        wait_until(lambda: self.back.get_publisher_count() == 1, "the peer's writer")
        wait_until(lambda: bool(peer.said), "the peer to see us")


def test_text_goes_there_and_comes_back(graph: EmbeddedGraph, peer: Peer) -> None:
    talk = Talk(graph, String, "text")
    talk.wait_until_connected(peer)
    words = ["", "turn left", "größer als 1 m, 点"]
    for text in words:
        talk.out.publish(String(data=text))
    wait_until(lambda: len(talk.got) == len(words), "the answers")
    assert [msg.data for msg in talk.got] == [f"{peer.vendor}: {text}" for text in words]


def test_image_of_150_kb_comes_back_with_every_byte(graph: EmbeddedGraph, peer: Peer) -> None:
    talk = Talk(graph, CompressedImage, "image")
    talk.wait_until_connected(peer)
    lengths = (150_000, 150_001, 150_003, 1, 0)  # padding at the end of the payload differs
    sent = [numbered_image(number, length) for number, length in enumerate(lengths)]
    for image in sent:
        talk.out.publish(image)
    wait_until(lambda: len(talk.got) == len(sent), "the mirrored images")
    for image, mirrored in zip(sent, talk.got, strict=True):
        assert mirrored.header == image.header
        assert mirrored.format == "jpeg"
        assert bytes(mirrored.data) == bytes(image.data)[::-1]


def test_kept_answers_reach_a_late_subscription(graph: EmbeddedGraph, peer: Peer) -> None:
    talk = Talk(graph, String, "text")
    talk.wait_until_connected(peer)
    for number in range(12):
        talk.out.publish(String(data=str(number)))
        wait_until(lambda n=number: len(talk.got) == n + 1, "the answer")  # type: ignore[misc]
    late: list[str] = []
    talk.node.create_subscription(String, "/from_peer/text", lambda m: late.append(m.data), KEPT)
    wait_until(lambda: len(late) == 10, "the last 10 answers")
    assert late == [f"{peer.vendor}: {number}" for number in range(2, 12)]


def test_best_effort_subscription_hears_a_peer_that_starts_later(
    graph: EmbeddedGraph, program: tuple[str, Path]
) -> None:
    """As our nodes listen to cameras."""
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    talk = Talk(graph, String, "text", sensor)
    peer = Peer(*program)
    talk.wait_until_connected(peer)
    talk.out.publish(String(data="hm"))
    wait_until(lambda: [msg.data for msg in talk.got] == [f"{peer.vendor}: hm"], "the answer")
    assert peer.end() == (0, ["connected\n"])
    wait_until(lambda: talk.back.get_publisher_count() == 0, "the peer to be gone")


def numbered_image(number: int, length: int) -> Any:
    """Each differs; its bytes are not the same read backwards or without a fragment."""
    data = bytes(itertools.islice(itertools.cycle(range(251)), length))
    image = CompressedImage(format="jpeg", data=data)
    image.header.stamp.sec, image.header.stamp.nanosec = 1_700_000_000, 999_999_000 + number
    image.header.frame_id = "cam_front"[: number + 1]
    return image
