"""ROS 2's environment variables: which domain, and who is found."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from hypothesis import given
from hypothesis import strategies as st

from clkd_core.errors import ConfigError
from clkd_ros.embedded.wire.domain import (
    DISCOVERY_RANGES,
    Discovery,
    discovery_from,
    domain_config,
    domain_id_from,
    tuning_config,
)
from clkd_ros.launcher import child_environment

RANGE, LOCAL, PEERS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS"


@pytest.mark.parametrize(("text", "number"), [("", 0), ("0", 0), ("42", 42), ("232", 232)])
def test_domain_id_is_read(text: str, number: int) -> None:
    assert domain_id_from({"ROS_DOMAIN_ID": text}) == number
    assert domain_id_from({}) == 0


@pytest.mark.parametrize("value", ["-1", "233", "abc", "1.5", " 1", "٣", "9" * 5000])
def test_domain_id_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"ROS_DOMAIN_ID is .* expected 0\.\.232"):
        domain_id_from({"ROS_DOMAIN_ID": value})


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Discovery(range="LOCALHOST")),
        ({RANGE: "", LOCAL: ""}, Discovery(range="LOCALHOST")),
        ({RANGE: "SUBNET"}, Discovery(range="SUBNET")),
        ({RANGE: "OFF"}, Discovery(range="OFF")),
        ({RANGE: "SYSTEM_DEFAULT"}, Discovery(range="SYSTEM_DEFAULT")),
        ({RANGE: "SUBNET", LOCAL: "1", PEERS: "10.0.0.1"}, Discovery(range="LOCALHOST")),
        ({RANGE: "OFF", LOCAL: "1"}, Discovery(range="LOCALHOST")),
        ({LOCAL: "0"}, Discovery(range="SUBNET")),
        ({LOCAL: "0", RANGE: "OFF"}, Discovery(range="OFF")),
        ({LOCAL: "0", RANGE: "LOCALHOST"}, Discovery(range="LOCALHOST")),
        (
            {RANGE: "SUBNET", PEERS: "10.0.0.1;;car-2.lan; 10.0.0.3 ;"},
            Discovery(range="SUBNET", static_peers=("10.0.0.1", "car-2.lan", "10.0.0.3")),
        ),
        ({PEERS: "10.0.0.1"}, Discovery(range="LOCALHOST", static_peers=("10.0.0.1",))),
        ({RANGE: "OFF", PEERS: "10.0.0.1"}, Discovery(range="OFF")),
        ({RANGE: "SYSTEM_DEFAULT", PEERS: "10.0.0.1"}, Discovery(range="SYSTEM_DEFAULT")),
    ],
)
def test_variables_take_precedence_as_in_ros_2(
    environment: dict[str, str], expected: Discovery
) -> None:
    assert discovery_from(environment) == expected


def test_peers_that_are_not_used_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    discovery_from({LOCAL: "1", PEERS: "10.0.0.1"})
    discovery_from({RANGE: "OFF", PEERS: "10.0.0.2"})
    assert "10.0.0.1" in caplog.text and "ROS_LOCALHOST_ONLY is 1" in caplog.text
    assert "10.0.0.2" in caplog.text and f"{RANGE} is OFF" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (RANGE, "EVERYWHERE", "OFF, LOCALHOST, SUBNET, SYSTEM_DEFAULT"),
        (RANGE, "localhost", "LOCALHOST"),
        (LOCAL, "yes", "0, 1"),
        (LOCAL, "2", "0, 1"),
        (PEERS, "10.0.0.1,10.0.0.2", "';' between"),
        (PEERS, '"/><Peer address="x', "';' between"),
        (PEERS, "a b", "';' between"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(name: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        discovery_from({name: value})
    assert name in str(caught.value) and repr(value) in str(caught.value)
    assert allowed in str(caught.value)


@given(st.sampled_from([RANGE, LOCAL, PEERS, "ROS_DOMAIN_ID"]), st.text(max_size=30))
def test_any_value_is_refused_or_makes_a_configuration(name: str, value: str) -> None:
    try:
        discovery, number = discovery_from({name: value}), domain_id_from({name: value})
    except ConfigError as err:
        assert name in str(err)
        return
    ElementTree.fromstring(domain_config(discovery))
    assert 0 <= number <= 232


def settings(discovery: Discovery) -> dict[str, Any]:
    """What the produced configuration says about discovery."""
    root = ElementTree.fromstring(domain_config(discovery, process_id=77))
    return {
        "interfaces": [e.get("address") for e in root.iter("NetworkInterface")],
        "multicast": root.findtext(".//AllowMulticast"),
        "peers": [e.get("address") for e in root.iter("Peer")],
        "index": root.findtext(".//ParticipantIndex"),
        "tag": root.findtext(".//Tag"),
    }


def test_configuration_of_each_range() -> None:
    nothing = {"interfaces": [], "multicast": None, "peers": [], "index": None, "tag": None}
    assert settings(Discovery(range="SYSTEM_DEFAULT")) == nothing
    assert settings(Discovery(range="SUBNET")) == nothing | {"index": "auto"}
    assert settings(Discovery(range="LOCALHOST")) == nothing | {
        "interfaces": ["127.0.0.1"],
        "multicast": "false",
        "peers": ["127.0.0.1"],
        "index": "auto",
    }
    assert settings(Discovery(range="OFF")) == nothing | {
        "interfaces": ["127.0.0.1"],
        "multicast": "false",
        "index": "none",
        "tag": "ros_discovery_off_77",
    }


def test_peers_on_this_host_do_not_open_the_network_and_others_do() -> None:
    here = settings(Discovery(range="LOCALHOST", static_peers=("localhost", "127.0.0.2")))
    assert here["interfaces"] == ["127.0.0.1"]
    assert here["peers"] == ["127.0.0.1", "localhost", "127.0.0.2"]
    there = settings(Discovery(range="LOCALHOST", static_peers=("10.0.0.1",)))
    assert there["interfaces"] == []
    assert (there["peers"], there["multicast"]) == (["127.0.0.1", "10.0.0.1"], "false")


@pytest.mark.parametrize("chosen", DISCOVERY_RANGES)
def test_every_range_has_the_tuning_for_big_images(chosen: str) -> None:
    root = ElementTree.fromstring(domain_config(Discovery(range=chosen)))
    receive = root.find(".//SocketReceiveBufferSize")
    assert receive is not None and receive.get("max") == "32MB"
    assert root.findtext(".//MaxMessageSize") == "65500B"


# A node that says its name on its own topic and prints whom it hears; ends when it has heard
# somebody or when the time is over. One that has heard goes on a little, to be heard.
END = """
import sys, time
from clkd_ros.embedded import context
from clkd_ros.embedded.executor import SingleThreadedExecutor
from clkd_ros.embedded.node import Node
from clkd_ros.embedded.wire.message_types import message_class

String = message_class("std_msgs/msg/String")
own, other, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
context.init(args=[])
node, heard = Node(own), []
publisher = node.create_publisher(String, f"/{own}", 10)
node.create_subscription(String, f"/{other}", lambda msg: heard.append(msg.data), 10)
node.create_timer(0.05, lambda: publisher.publish(String(data=own)))
executor = SingleThreadedExecutor()
executor.add_node(node)
until_s = time.monotonic() + seconds
while time.monotonic() < until_s:
    executor.spin_once(timeout_sec=0.1)
    if heard:
        until_s = min(until_s, time.monotonic() + 0.5)
        heard = heard[:1]
sys.stdout.write(f"heard {heard[0] if heard else 'nobody'}\\n")  # at once: two share a pipe
context.shutdown()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "end.py"
    path.write_text(textwrap.dedent(END))
    return path


def environment(words: dict[str, str]) -> dict[str, str]:
    """Ours without what a test sets, with its own."""
    kept = {name: value for name, value in child_environment().items() if "ROS_" not in name}
    return {**kept, "ROS_DOMAIN_ID": "71", **words}


@pytest.mark.parametrize(
    ("left", "right", "hear"),
    [
        ({}, {}, True),
        ({}, {RANGE: "LOCALHOST"}, True),
        ({}, {LOCAL: "1", RANGE: "OFF"}, True),
        ({}, {"ROS_DOMAIN_ID": "72"}, False),
        ({}, {RANGE: "OFF"}, False),
        ({RANGE: "OFF"}, {RANGE: "OFF"}, False),
    ],
)
def test_two_processes_hear_each_other_where_domain_and_range_allow(
    program: Path, left: dict[str, str], right: dict[str, str], hear: bool
) -> None:
    seconds = "20" if hear else "1.2"
    ends = [
        subprocess.Popen(
            [sys.executable, program, *names, seconds],
            env=environment(words),
            stdout=subprocess.PIPE,
            text=True,
        )
        for names, words in ((("left", "right"), left), (("right", "left"), right))
    ]
    said = [end.communicate(timeout=40)[0] for end in ends]
    assert said == (["heard right\n", "heard left\n"] if hear else ["heard nobody\n"] * 2)


# Two network namespaces with a cable between them: two hosts, as far as DDS can tell.
HOSTS = """
set -e
ip link set lo up
unshare --net sleep 60 & other=$!
trap "kill $other" EXIT
for _ in 1 2 3 4 5 6 7 8 9 10; do
  ip link add left type veth peer name right 2>/dev/null || true
  ip link set right netns $other 2>/dev/null && break || sleep 0.1
done
ip addr add 10.77.0.1/24 dev left
ip link set left up
nsenter --target $other --net sh -c \\
  "ip link set lo up; ip addr add 10.77.0.2/24 dev right; ip link set right up"
env $LEFT "$PYTHON" $PROGRAM left right $SECONDS_LONG & one=$!
nsenter --target $other --net env $RIGHT "$PYTHON" $PROGRAM right left $SECONDS_LONG
wait $one
"""


def can_make_hosts() -> bool:
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    words = ["unshare", "--map-root-user", "--net", "ip", "link", "add", "left", "type", "veth"]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "right", "hear"),
    [
        (f"{RANGE}=SUBNET", f"{RANGE}=SUBNET", True),
        (f"{LOCAL}=0", f"{RANGE}=SYSTEM_DEFAULT", True),
        (f"{PEERS}=10.77.0.2", f"{PEERS}=10.77.0.1", True),
        ("ROS_DOMAIN_ID=71", f"{RANGE}=SUBNET {PEERS}=10.77.0.1", False),
        (f"{RANGE}=OFF", f"{RANGE}=SUBNET {PEERS}=10.77.0.1", False),
    ],
)
def test_this_host_is_left_only_when_asked(
    program: Path, left: str, right: str, hear: bool
) -> None:
    if not can_make_hosts():
        pytest.skip("no network namespaces: needs unshare, nsenter, ip and leave to use them")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "bash", "-c", HOSTS],
        env=environment({})
        | {"LEFT": left, "RIGHT": right, "PYTHON": sys.executable, "PROGRAM": str(program)}
        | {"SECONDS_LONG": "20" if hear else "2.5"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    heard = sorted(line for line in done.stdout.splitlines() if line.startswith("heard"))
    wanted = ["heard left", "heard right"] if hear else ["heard nobody"] * 2
    assert heard == wanted, done.stderr


def test_page_has_the_tuning_word_for_word_and_every_variable(root: Path) -> None:
    page = (root / "docs" / "embedded.md").read_text()
    assert f"export CYCLONEDDS_URI='{tuning_config()}'" in page
    for name in (RANGE, LOCAL, PEERS, "ROS_DOMAIN_ID", "ROS_DISTRO", "CYCLONEDDS_URI"):
        assert f"| `{name}` |" in page
    assert all(f"`{chosen}`" in page for chosen in DISCOVERY_RANGES)
