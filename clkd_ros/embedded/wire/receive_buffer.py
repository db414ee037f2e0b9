"""What the kernel lets a socket keep until it is read: too little loses camera images silently.

Measured with six cameras that send at once, best effort, 12 Hz: with 208 KiB, which kernels before
6.16 have as their limit, half of the 150 kB JPEGs are lost; with 512 KiB none. Of raw 1600 x 900
images 4 MiB lost 1 in 4320, 32 MiB none.
"""

from pathlib import Path

RECEIVE_BYTES = 32 * 2**20
"""What our configuration of Cyclone asks for; the kernel gives less when its limit is lower."""

_ENOUGH_BYTES = {
    "sensor_msgs/msg/CompressedImage": 2**20,
    "sensor_msgs/msg/Image": RECEIVE_BYTES,
}
"""By message type; others are small."""

_LIMIT_FILE = Path("/proc/sys/net/core/rmem_max")


def receive_limit_bytes() -> int | None:
    """The kernel's limit per socket; None where it cannot be read."""
    try:
        return int(_LIMIT_FILE.read_text())
    except (OSError, ValueError):
        return None


def describe_shortage(type_name: str) -> str | None:
    """What to do when messages of this type need a larger limit; None when all is well."""
    limit, enough = receive_limit_bytes(), _ENOUGH_BYTES.get(type_name, 0)
    if limit is None or limit >= enough:
        return None
    return (
        f"net.core.rmem_max is {limit} bytes, expected at least {enough} for six cameras of "
        f"{type_name}: images that come at once may be lost; "
        f"`sudo sysctl -w net.core.rmem_max={RECEIVE_BYTES}` helps"
    )
