"""A JSON list of objects too long for memory, read one object at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from clkd_core.errors import DataError

_CHUNK = 1 << 20
_LONGEST_SIGN = 16
"""Letters of the longest thing that is complete or wrong: a pair of ``\\uXXXX``."""


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file ``[{...}, {...}]``; little more than one is held at a time.

    Raises:
        DataError: the file cannot be read as UTF-8, is another JSON value or none at all, ends
            early, or goes on after the list; says after how many objects.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Objects(path, file).read()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read: {err}") from err


class _Objects:
    """A window on the text that moves on from object to object."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._at, self._count = "", 0, 0
        self._decoder = json.JSONDecoder()

    def read(self) -> Iterator[dict[str, Any]]:
        if self._next_sign() != "[":
            raise self._refused("expected a list, which begins with '['")
        self._at += 1
        if self._next_sign() == "]":
            self._finish()
            return
        while True:
            yield self._object()
            self._count += 1
            sign = self._next_sign()
            if sign not in (",", "]"):
                raise self._refused("expected ',' or ']'" if sign else "the file is truncated")
            if sign == "]":
                self._finish()
                return
            self._at += 1

    def _object(self) -> dict[str, Any]:
        if self._next_sign() != "{":
            raise self._refused("expected an object, which begins with '{'")
        while True:
            try:
                fields, self._at = self._decoder.raw_decode(self._text, self._at)
                return dict(fields)
            except RecursionError as err:
                raise self._refused("an object is nested too deeply") from err
            except ValueError as err:
                if not (self._may_go_on(err) and self._more()):
                    what = getattr(err, "msg", err)  # without places, which are the window's
                    why = f"no JSON, or the file is truncated: {what}"
                    raise self._refused(why) from err

    def _may_go_on(self, err: ValueError) -> bool:
        """Whether more text may mend it: an open string, or something cut at the window's end."""
        if not isinstance(err, json.JSONDecodeError):
            return False
        return err.msg.startswith("Unterminated") or err.pos > len(self._text) - _LONGEST_SIGN

    def _next_sign(self) -> str:
        """The next character that is no white space, not passed over; empty at the end."""
        while True:
            rest = len(self._text) - self._at
            while rest and self._text[self._at] in " \t\r\n":
                self._at += 1
                rest -= 1
            if rest:
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Drop what was read and read as much again as is left, so that the work stays linear."""
        rest = self._text[self._at :]
        fresh = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + fresh, 0
        return bool(fresh)

    def _finish(self) -> None:
        self._at += 1
        if self._next_sign():
            raise self._refused("the file goes on after the list")

    def _refused(self, why: str) -> DataError:
        return DataError(f"{self._path}: after {self._count} records: {why}")
