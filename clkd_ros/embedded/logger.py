"""rclpy's logger on stderr: same line, same keywords, one clock."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import FrameType


class LoggingSeverity(IntEnum):
    """rclpy's levels."""

    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


@dataclass
class _Settings:
    """What the command line set for the whole process."""

    default: LoggingSeverity = LoggingSeverity.INFO
    by_logger: dict[str, LoggingSeverity] = field(default_factory=dict)
    console: bool = True


_settings = _Settings()


def configure(levels: Mapping[str, LoggingSeverity], *, console: bool = True) -> None:
    """Apply ``--log-level`` and ``--disable-stdout-logs``; what is not named is as it was built.

    Args:
        levels: by logger's name, the empty name for all others.
        console: whether lines are written at all.
    """
    _settings.by_logger = {name: level for name, level in levels.items() if name}
    _settings.default = levels.get("", LoggingSeverity.INFO)
    _settings.console = console


def _configured_level(name: str) -> LoggingSeverity:
    """A logger's level, else that of its nearest ancestor, else the default."""
    while name:
        if name in _settings.by_logger:
            return _settings.by_logger[name]
        name = name.rpartition(".")[0]
    return _settings.default


class Logger:
    """Writes ``[INFO] [seconds] [name]: text`` lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._level: LoggingSeverity | None = None
        self._last_s: dict[tuple[str, int], float] = {}

    def set_level(self, level: LoggingSeverity) -> None:
        """Lines below it are not written."""
        self._level = level

    def get_effective_level(self) -> LoggingSeverity:
        """The level from which lines are written."""
        return self._level or _configured_level(self.name)

    def is_enabled_for(self, severity: LoggingSeverity) -> bool:
        """True when a line of this severity is written."""
        return severity >= self.get_effective_level()

    def get_child(self, name: str) -> "Logger":
        """A logger named ``parent.name``."""
        return Logger(f"{self.name}.{name}")

    def debug(self, message: str, **keywords: float) -> bool:
        """Write at DEBUG."""
        return self._log(LoggingSeverity.DEBUG, message, **keywords)

    def info(self, message: str, **keywords: float) -> bool:
        """Write at INFO."""
        return self._log(LoggingSeverity.INFO, message, **keywords)

    def warning(self, message: str, **keywords: float) -> bool:
        """Write at WARN."""
        return self._log(LoggingSeverity.WARN, message, **keywords)

    warn = warning

    def error(self, message: str, **keywords: float) -> bool:
        """Write at ERROR."""
        return self._log(LoggingSeverity.ERROR, message, **keywords)

    def fatal(self, message: str, **keywords: float) -> bool:
        """Write at FATAL."""
        return self._log(LoggingSeverity.FATAL, message, **keywords)

    def _log(
        self,
        severity: LoggingSeverity,
        message: str,
        *,
        throttle_duration_sec: float = 0.0,
        once: bool = False,
    ) -> bool:
        """True when the line was written; throttling is per calling line, as in rclpy."""
        if not self.is_enabled_for(severity) or not _settings.console:
            return False
        if once or throttle_duration_sec > 0:
            caller: FrameType = sys._getframe(2)
            place = (caller.f_code.co_filename, caller.f_lineno)
            wait_s = float("inf") if once else throttle_duration_sec
            last_s, now_s = self._last_s.get(place), time.monotonic()
            if last_s is not None and now_s - last_s < wait_s:
                return False
            self._last_s[place] = now_s
        line = f"[{severity.name}] [{time.time():.9f}] [{self.name}]: {message}\n"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError):  # the reader of our stderr is gone; never a node's end
            return False
        return True


def get_logger(name: str) -> Logger:
    """A logger of that name."""
    return Logger(name)
