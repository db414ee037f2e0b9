"""Which student a node runs, and on what."""

import re
from dataclasses import dataclass, field

from clkd_core.errors import ConfigError
from clkd_core.files import shipped_student
from clkd_ros.inputs import InputConfig
from clkd_ros.params import RANGE

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class FrameNodeConfig(InputConfig):
    """Parameters of a node with a model; read when it is configured.

    Raises:
        ConfigError: the device is none.
    """

    checkpoint: str = field(default_factory=lambda: str(shipped_student()))
    """Folder of the distilled student, its planner inside; the shipped one when not given."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    threads: int = field(default=1, metadata={RANGE: (0, 256)})
    """CPU threads of the model; 0: all cores, as decoding always takes."""

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device is {self.device!r}, expected auto, cpu, cuda or cuda:N")
