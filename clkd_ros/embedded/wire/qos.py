"""Quality of service with rclpy's names, and what it is in DDS."""

from dataclasses import dataclass
from enum import IntEnum

from cyclonedds.qos import Policy, Qos
from cyclonedds.util import duration

BLOCKING_LIMIT_MS = 100
"""How long a reliable write may wait for a slow reader before the message is given up."""


class ReliabilityPolicy(IntEnum):
    """Whether a lost message is sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2


class DurabilityPolicy(IntEnum):
    """Whether a late subscriber gets what was published before (a latched topic)."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2


class HistoryPolicy(IntEnum):
    """How many messages wait for a reader."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2


@dataclass(kw_only=True)
class QoSProfile:
    """rclpy's QoSProfile as far as our nodes and bags use it."""

    depth: int = 10
    """Messages kept per endpoint, where history is KEEP_LAST."""
    reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
    history: HistoryPolicy = HistoryPolicy.KEEP_LAST

    @property
    def reliable(self) -> bool:
        """True unless best effort was asked for."""
        return self.reliability != ReliabilityPolicy.BEST_EFFORT

    @property
    def latched(self) -> bool:
        """True when late subscribers get old messages."""
        return self.durability == DurabilityPolicy.TRANSIENT_LOCAL

    def __str__(self) -> str:
        latched = ", transient local" if self.latched else ""
        return f"{'reliable' if self.reliable else 'best effort'}{latched}, depth {self.depth}"


qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""As in ROS 2: best effort, volatile, the last five."""


def profile_from(qos: "QoSProfile | int") -> QoSProfile:
    """An int is the depth of an otherwise default profile, as in rclpy."""
    return QoSProfile(depth=qos) if isinstance(qos, int) else qos


def dds_qos(profile: QoSProfile, *, user_data: bytes = b"") -> Qos:
    """The same profile as DDS policies, for a topic, a reader or a writer.

    A latched writer needs a DurabilityService, or Cyclone keeps one message only.
    """
    policies = [
        Policy.DataRepresentation(use_cdrv0_representation=True),
        Policy.WriterDataLifecycle(autodispose=False),
        Policy.Reliability.Reliable(duration(milliseconds=BLOCKING_LIMIT_MS))
        if profile.reliable
        else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if profile.latched else Policy.Durability.Volatile,
        Policy.History.KeepAll
        if profile.history == HistoryPolicy.KEEP_ALL
        else Policy.History.KeepLast(max(1, profile.depth)),
    ]
    if profile.latched:
        policies.append(_durability_service(profile))
    if user_data:
        policies.append(Policy.Userdata(user_data))
    return Qos(*policies)


def _durability_service(profile: QoSProfile) -> Policy.DurabilityService:
    history = Policy.History.KeepLast(max(1, profile.depth))
    if profile.history == HistoryPolicy.KEEP_ALL:
        history = Policy.History.KeepAll
    return Policy.DurabilityService(
        cleanup_delay=0,
        history=history,
        max_samples=-1,
        max_instances=-1,
        max_samples_per_instance=-1,
    )


POLICY_NAMES = {2: "durability", 4: "deadline", 8: "liveliness", 11: "reliability", 13: "history"}
"""Cyclone's policy numbers that a mismatch can be about."""
