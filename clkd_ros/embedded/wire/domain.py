"""Which DDS domain is joined and who is looked for: ROS 2's environment variables as Cyclone XML.

``ROS_DOMAIN_ID``, ``ROS_AUTOMATIC_DISCOVERY_RANGE``, ``ROS_STATIC_PEERS`` and
``ROS_LOCALHOST_ONLY`` mean what they mean to ROS 2 on Cyclone DDS, with one exception: where
nothing is set, this host is not left. A value that ROS 2 does not know is refused, not guessed.
"""

import ipaddress
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from clkd_core.errors import ConfigError

MAX_DOMAIN_ID = 232
"""Higher ones have no UDP port (DDS Interoperability Wire Protocol, port mapping)."""

DISCOVERY_RANGES = ("OFF", "LOCALHOST", "SUBNET", "SYSTEM_DEFAULT")

MAX_PARTICIPANTS = 32
"""Processes that are looked for on one host, ROS 2's own number for Cyclone DDS."""

_TUNING = (
    "<MaxMessageSize>65500B</MaxMessageSize><FragmentSize>65000B</FragmentSize>",
    '<Internal><SocketReceiveBufferSize min="default" max="32MB"/>'
    "<Watermarks><WhcHigh>64MB</WhcHigh></Watermarks></Internal>",
)
"""Six raw 1600x900 images at 12 Hz: half lost with Cyclone's defaults, none with these, given a
kernel that lets a socket receive so much (receive_buffer.py)."""

_LOOPBACK = '<Interfaces><NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces>'

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """Who may be found."""

    range: str
    """One of :data:`DISCOVERY_RANGES`."""
    static_peers: tuple[str, ...] = ()
    """Hosts that are asked in any case."""

    @property
    def leaves_host(self) -> bool:
        """False when everybody to be found is on this host."""
        return self.range in ("SUBNET", "SYSTEM_DEFAULT") or any(
            not _is_loopback(peer) for peer in self.static_peers
        )


def domain_id_from(environment: Mapping[str, str]) -> int:
    """``ROS_DOMAIN_ID``, 0 when unset.

    Raises:
        ConfigError: it is no number in 0..232.
    """
    text = environment.get("ROS_DOMAIN_ID", "") or "0"
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MAX_DOMAIN_ID:
        raise ConfigError(f"ROS_DOMAIN_ID is {text!r}, expected 0..{MAX_DOMAIN_ID}")
    return int(text)


def discovery_from(environment: Mapping[str, str]) -> Discovery:
    """Who may be found, by ROS 2's order of precedence.

    ``ROS_LOCALHOST_ONLY=1`` wins and puts range and peers out of force. Else the range counts,
    and the peers with it where it is SUBNET or LOCALHOST. Where there is no range,
    ``ROS_LOCALHOST_ONLY=0`` asks for the network, SUBNET; with nothing set it is LOCALHOST,
    where ROS 2 has SUBNET: a demo does not speak to a network unasked.

    Raises:
        ConfigError: a variable has a value that ROS 2 does not know.
    """
    localhost_only = _choice(environment, "ROS_LOCALHOST_ONLY", ("0", "1"))
    chosen = _choice(environment, "ROS_AUTOMATIC_DISCOVERY_RANGE", DISCOVERY_RANGES)
    peers = _static_peers_from(environment)
    if localhost_only == "1":
        _note_ignored(peers, "ROS_LOCALHOST_ONLY is 1")
        return Discovery(range="LOCALHOST")
    chosen = chosen or ("SUBNET" if localhost_only == "0" else "LOCALHOST")
    if chosen in ("OFF", "SYSTEM_DEFAULT"):
        _note_ignored(peers, f"ROS_AUTOMATIC_DISCOVERY_RANGE is {chosen}")
        return Discovery(range=chosen)
    return Discovery(range=chosen, static_peers=peers)


def domain_config(discovery: Discovery, *, process_id: int | None = None) -> str:
    """Cyclone's XML for what may be found.

    Args:
        discovery: see :func:`discovery_from`.
        process_id: tells processes with range OFF apart; our own when None.
    """
    sizes, internal = _TUNING
    general = sizes
    if not discovery.leaves_host:
        general = f"{_LOOPBACK}{general}"
    if discovery.range in ("OFF", "LOCALHOST"):
        general = f"<AllowMulticast>false</AllowMulticast>{general}"
    found = _discovery_xml(discovery, os.getpid() if process_id is None else process_id)
    return (
        f"<CycloneDDS><Domain><General>{general}</General>{found}{internal}</Domain></CycloneDDS>"
    )


def tuning_config() -> str:
    """The part for big images alone, as ``CYCLONEDDS_URI`` takes it: for ROS 2 on Cyclone DDS."""
    sizes, internal = _TUNING
    return f"<CycloneDDS><Domain><General>{sizes}</General>{internal}</Domain></CycloneDDS>"


def _discovery_xml(discovery: Discovery, process_id: int) -> str:
    if discovery.range == "SYSTEM_DEFAULT":
        return ""
    if discovery.range == "OFF":  # only who has the same tag is found, and nobody else has it
        tag = f"<Tag>ros_discovery_off_{process_id}</Tag>"
        return f"<Discovery><ParticipantIndex>none</ParticipantIndex>{tag}</Discovery>"
    peers = discovery.static_peers
    if discovery.range == "LOCALHOST":
        peers = ("127.0.0.1", *peers)
    listed = "".join(f'<Peer address="{peer}"/>' for peer in peers)
    return (
        "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
        f"<MaxAutoParticipantIndex>{MAX_PARTICIPANTS}</MaxAutoParticipantIndex>"
        f"<Peers>{listed}</Peers></Discovery>"
    )


def _choice(environment: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """The variable's value, empty when it is unset."""
    found = environment.get(name, "")
    if found and found not in allowed:
        raise ConfigError(f"{name} is {found!r}, expected one of {', '.join(allowed)}")
    return found


def _static_peers_from(environment: Mapping[str, str]) -> tuple[str, ...]:
    text = environment.get("ROS_STATIC_PEERS", "")
    peers = tuple(peer.strip() for peer in text.split(";") if peer.strip())
    for peer in peers:
        if not _is_address(peer) and not _HOST_NAME.fullmatch(peer):
            raise ConfigError(
                f"ROS_STATIC_PEERS is {text!r}, expected addresses or host names with ';' between"
            )
    return peers


def _note_ignored(peers: tuple[str, ...], why: str) -> None:
    if peers:
        _log.warning("ROS_STATIC_PEERS (%s) is not used: %s", ", ".join(peers), why)


def _is_address(peer: str) -> bool:
    try:
        ipaddress.IPv4Address(peer)
    except ValueError:
        return False
    return True


def _is_loopback(peer: str) -> bool:
    return peer == "localhost" or (_is_address(peer) and ipaddress.IPv4Address(peer).is_loopback)
