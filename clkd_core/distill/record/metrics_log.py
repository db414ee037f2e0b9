"""A run's numbers step by step: ``metrics.jsonl``, and the same as TensorBoard events."""

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"


class MetricsLog:
    """Appends to ``metrics.jsonl``: one object a line, flushed at once.

    Every line also goes to event files in ``tensorboard/`` beside it, where a run is watched
    while it trains: numbers under ``<stage>/<name>``, a list's under ``<stage>/<name>/0`` and so
    on; what is null or not finite is left out.
    """

    def __init__(
        self, path: Path, *, resume_at: Mapping[str, int] | None, tensorboard: bool = True
    ) -> None:
        """Start a new file, or keep the lines before the step that each stage resumes at.

        Args:
            path: the file; its folder is made where it is missing.
            resume_at: first step to come by stage; a stage that is not in it keeps nothing.
                None starts anew.
            tensorboard: write event files, too.

        Raises:
            DataError: the file or its folder cannot be written.
        """
        self.path = path
        self._closed = False
        kept: list[dict[str, Any]] = []
        if resume_at is not None and path.is_file():
            lines = read_metrics(path)
            kept = [line for line in lines if line["step"] < resume_at.get(line["stage"], 0)]
        write_text_atomic(path, "".join(_json_line(line) for line in kept))
        self._events = _Events(path.parent / EVENTS_FOLDER, kept) if tensorboard else None

    @classmethod
    def silent(cls) -> "MetricsLog":
        """A log that takes every line and writes none: for all processes but the first."""
        return _SilentLog()

    def write(self, values: Mapping[str, Any]) -> None:
        """Add one line; numbers that are not finite become null, which JSON can hold.

        Args:
            values: ``stage`` and ``step`` among them.

        Raises:
            DataError: the disk is full or the folder has gone.
            ValueError: the log is closed.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed, expected an open log")
        with _write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_json_line(values))
        if self._events is not None:
            self._events.write(values)

    def close(self) -> None:
        """Close the event file and end its thread; a second call does nothing.

        Raises:
            DataError: the event file cannot be written to its end.
        """
        self._closed = True
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _SilentLog(MetricsLog):
    def __init__(self) -> None:
        self.path = Path(os.devnull)

    def write(self, values: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``; one cut off by a kill is left out.

    Raises:
        DataError: the file is missing or no UTF-8 text.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"cannot read {path}: {err}") from err
    lines = []
    for text in texts:
        line = _parse_line(text)
        if line is None:
            log.warning("%s: a line was cut off and is left out", path)
        else:
            lines.append(line)
    return lines


class _Events:
    """TensorBoard's event files of one run.

    A run that resumes writes its files again from the lines that were kept, so that both always
    say the same. ``purge_step`` alone would not do: it counts for the folder as a whole, and the
    student's steps begin at 0 like the teacher's, whose later ones it would hide. It is 0 here
    and tells a TensorBoard that is looking on to forget what it has read. The earlier files are
    emptied: one that looks on would be stuck at a file that has gone.
    """

    def __init__(self, folder: Path, kept: Sequence[Mapping[str, Any]]) -> None:
        # Loads torch, which readers of metrics.jsonl do without.
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with _write_errors(folder):
            for old in folder.glob("events.out.tfevents.*"):
                if old.stat().st_size:
                    old.write_bytes(b"")
                else:
                    old.unlink()
            self._writer = SummaryWriter(str(folder), purge_step=0)
            for line in kept:
                self._add(line)
            self._writer.flush()

    def write(self, values: Mapping[str, Any]) -> None:
        # At once, not after two minutes: a kill then loses nothing, and who looks on sees it.
        with _write_errors(self._folder):
            self._add(values)
            self._writer.flush()

    def close(self) -> None:
        with _write_errors(self._folder):
            self._writer.close()

    def _add(self, values: Mapping[str, Any]) -> None:
        for tag, value in _scalars(values):
            self._writer.add_scalar(tag, value, values["step"])


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DataError(f"cannot write {path}: {err.strerror or err}") from err


def _scalars(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, number) of all finite numbers of a line, those in lists included."""
    for name, value in values.items():
        if name in ("stage", "step"):
            continue
        tag = f"{values['stage']}/{name}"
        items = enumerate(value) if isinstance(value, list | tuple) else ()
        numbers = [(tag, value), *((f"{tag}/{index}", item) for index, item in items)]
        yield from ((tag, float(number)) for tag, number in numbers if is_number(number))


def is_number(value: Any) -> bool:
    """Whether a value of a metrics line is a number that a float can hold, hence no NaN."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _parse_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    stage, step = line.get("stage"), line.get("step")
    whole = isinstance(stage, str) and isinstance(step, int) and is_number(step)
    return line if whole else None


def _json_line(values: Mapping[str, Any]) -> str:
    return json.dumps({key: _finite(value) for key, value in values.items()}) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
