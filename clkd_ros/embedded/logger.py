"""rclpy's logger on stderr: same line, same keywords, one clock."""

import sys
import time
from enum import IntEnum
from types import FrameType


class LoggingSeverity(IntEnum):
    """rclpy's levels."""

    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


class _Settings:
    """What ``--log-level`` set for the whole process."""

    default = LoggingSeverity.INFO


def set_default_level(text: str) -> None:
    """``--log-level``; unknown words leave it as it is."""
    known = LoggingSeverity.__members__.get(text.upper())
    _Settings.default = known or _Settings.default


class Logger:
    """Writes ``[INFO] [seconds] [name]: text`` lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._level: LoggingSeverity | None = None
        self._last_s: dict[tuple[str, int], float] = {}

    def set_level(self, level: LoggingSeverity) -> None:
        """Lines below it are not written."""
        self._level = level

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
        if severity < (self._level or _Settings.default):
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
