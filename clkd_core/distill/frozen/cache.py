"""Arrays kept on disk between steps and runs: a teacher's labels, features of a frozen network.

Format, version 1: an SQLite database in WAL mode with ``application_id`` 0x434C4B44 ("CLKD") and
``user_version`` 1. Table ``meta(name, value)`` holds one row ``fingerprint``: what the content
depends on. Table ``arrays(kind, key, crc32, content)`` holds one row per entry: ``content`` is a
safetensors file, that is a JSON header with names, types and shapes and then the raw values, and
``crc32`` is zlib's of it. Nothing is ever unpickled.

A put is one transaction: after SIGKILL at any moment either all or none of it is there. A power
cut may lose the last puts but leaves the file whole. Several processes may read and write one
file at once. It must lie on a local disk: WAL needs memory shared between its users.
"""

import logging
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clkd_core.errors import DataError

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Kind of the entry, "labels" say, and its name within the kind."""

Arrays = Mapping[str, Tensor | NDArray[Any]]
"""One entry: its arrays by name."""

_APPLICATION_ID = 0x434C4B44
_FORMAT_VERSION = 1
_PAGE_BYTES = 16384
"""Entries of 64 KiB read 1.6 times as fast as with SQLite's 4096; longer pages waste more."""
_BUSY_S = 60.0
"""How long one process waits while another one writes."""

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE arrays (kind TEXT NOT NULL, key TEXT NOT NULL, crc32 INTEGER NOT NULL, "
    "content BLOB NOT NULL, PRIMARY KEY (kind, key))",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_FORMAT_VERSION}",
)


class ArrayCache:
    """A file of named arrays per key; threads may share one, and a fork may happen meanwhile.

    A file with another fingerprint holds the results of something else and is refused, or emptied
    where ``start_anew`` says so; whoever still uses it with the old one gets an error from then
    on, never the new content. A file that is no such cache, or damaged, is always refused.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        *,
        start_anew: bool = False,
        read_only: bool = False,
    ) -> None:
        """Open the file, or make it and its folder.

        Args:
            path: of the database; SQLite keeps ``-wal`` and ``-shm`` beside it while it is open.
            fingerprint: what the content depends on, such as a hash of weights and settings.
            start_anew: empty a file with another fingerprint, with a line in the log.
            read_only: never write; the file must exist, and its folder may be read-only too.

        Raises:
            DataError: the file is damaged, foreign, of another version or fingerprint, missing
                (``read_only``), or cannot be opened.
            ValueError: start_anew and read_only exclude each other, or fingerprint is empty.
        """
        if start_anew and read_only:
            raise ValueError("start_anew is True, expected False for a read_only cache")
        if not fingerprint:
            raise ValueError("fingerprint is empty, expected what the content depends on")
        self.path = path
        self.fingerprint = fingerprint
        self.read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        _caches.add(self)
        try:
            if not read_only:
                self._enter()
                self._make_or_empty(start_anew)
            with self._reading():
                pass  # looks at the fingerprint
        except BaseException:
            self.close()
            raise

    def get_many(self, keys: Iterable[Key]) -> list[dict[str, Tensor] | None]:
        """Entries in the order of the keys, None where there is none; tensors on the CPU.

        Raises:
            DataError: the file cannot be read, is damaged, or has been started anew.
        """
        wanted = list(keys)
        query = "SELECT crc32, content FROM arrays WHERE kind = ? AND key = ?"
        with self._reading() as connection:
            rows = [connection.execute(query, key).fetchone() for key in wanted]
        return [
            None if row is None else self._unpacked(key, *row)
            for key, row in zip(wanted, rows, strict=True)
        ]

    def put_many(self, entries: Mapping[Key, Arrays]) -> None:
        """Write entries, all or none; one that is there already is replaced.

        Raises:
            DataError: the file cannot be written (disk full, say), is damaged, or has been
                started anew.
            ValueError: the cache is read_only, or an entry holds what is no array.
        """
        if self.read_only:
            raise ValueError(f"{self.path} is open read_only, expected a cache to write to")
        rows = [(*key, *_packed(arrays)) for key, arrays in entries.items()]
        with self._transaction("write", "BEGIN IMMEDIATE") as connection:
            self._check_fingerprint(connection)
            connection.executemany("INSERT OR REPLACE INTO arrays VALUES (?, ?, ?, ?)", rows)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys that have no entry, in their order, without reading content.

        Raises:
            DataError: the file cannot be read, is damaged, or has been started anew.
        """
        wanted = list(keys)
        query = "SELECT 1 FROM arrays WHERE kind = ? AND key = ?"
        with self._reading() as connection:
            return [key for key in wanted if connection.execute(query, key).fetchone() is None]

    def __len__(self) -> int:
        """Number of entries of all kinds."""
        with self._reading() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM arrays").fetchone()[0])

    @property
    def size_bytes(self) -> int:
        """What the file and its write-ahead log take on disk."""
        size = 0
        for path in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def close(self) -> None:
        """Let go of the file; closing twice is fine, using it afterwards is not."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def __enter__(self) -> "ArrayCache":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connected(self) -> sqlite3.Connection:
        """The connection, made anew after a fork; call with the lock held."""
        if self._closed:
            raise ValueError(f"{self.path} is closed, expected an open cache")
        if self._connection is None:
            if self.read_only:
                self._connection = _connect_to_read(self.path)
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = _connect(self.path, "mode=rwc")
                self._connection.execute("PRAGMA synchronous = NORMAL")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _enter(self) -> None:
        """Set what is settled before the first table; a foreign file stays as it is."""
        with self._lock, self._reported("open"):
            connection = self._connected()
            if _is_empty(connection):
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            else:
                self._check_format(connection)
            _enter_wal(connection, self.path)

    def _make_or_empty(self, start_anew: bool) -> None:
        with self._transaction("write", "BEGIN IMMEDIATE") as connection:
            if _is_empty(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                self._set_fingerprint(connection)
            found = self._found_fingerprint(connection)
            if found == self.fingerprint or not start_anew:
                return
            connection.execute("DELETE FROM arrays")
            self._set_fingerprint(connection)
        log.info("%s held what belongs to %s: started anew", self.path, found)
        # Where another user reads, the file keeps its length and its space is used again.
        with self._lock, suppress(sqlite3.OperationalError):
            self._connected().execute("VACUUM")

    def _set_fingerprint(self, connection: sqlite3.Connection) -> None:
        values = ("fingerprint", self.fingerprint)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)

    def _found_fingerprint(self, connection: sqlite3.Connection) -> str:
        self._check_format(connection)
        row = connection.execute("SELECT value FROM meta WHERE name = 'fingerprint'").fetchone()
        if row is None:
            raise DataError(f"{self.path} is damaged: it has no fingerprint")
        return str(row[0])

    def _check_format(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise DataError(f"{self.path} is not an array cache, expected one or no file")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != _FORMAT_VERSION:
            raise DataError(
                f"{self.path} is an array cache of version {version}, expected {_FORMAT_VERSION}"
            )

    def _check_fingerprint(self, connection: sqlite3.Connection) -> None:
        found = self._found_fingerprint(connection)
        if found != self.fingerprint:
            raise DataError(
                f"{self.path} holds what belongs to {found}, expected {self.fingerprint}"
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("read", "BEGIN") as connection:
            self._check_fingerprint(connection)
            yield connection

    @contextmanager
    def _transaction(self, doing: str, begin: str) -> Iterator[sqlite3.Connection]:
        """One consistent look or change; what fails inside leaves nothing behind."""
        with self._lock, self._reported(doing):
            connection = self._connected()
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as err:
            reason = getattr(err, "strerror", None) or err
            raise DataError(f"cannot {doing} {self.path}: {reason}") from err

    def _unpacked(self, key: Key, crc32: int, content: bytes) -> dict[str, Tensor]:
        try:
            if zlib.crc32(content) != crc32:
                raise ValueError("its checksum is wrong")
            return load(content)
        except (ValueError, TypeError, SafetensorError) as err:
            raise DataError(f"{self.path} is damaged at {'/'.join(key)}: {err}") from err


def _packed(arrays: Arrays) -> tuple[int, bytes]:
    """Checksum and safetensors bytes."""
    content = save({name: _plain_tensor(name, array) for name, array in arrays.items()})
    return zlib.crc32(content), content


def _plain_tensor(name: str, array: object) -> Tensor:
    """A copy, for arrays may be views of one another, strided, read-only or on a GPU."""
    try:
        is_numpy = isinstance(array, np.ndarray | np.generic)
        tensor = torch.from_numpy(np.array(array)) if is_numpy else array
    except TypeError as err:
        raise ValueError(f"{name} cannot be kept: {err}") from err
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is {type(array).__name__}, expected a tensor or numpy array")
    return tensor.detach().to("cpu", copy=True).contiguous()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,  # transactions are begun by name
        check_same_thread=False,  # the lock sees to it
    )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """In a folder that we cannot write SQLite lacks its shared memory, and needs none at rest."""
    if not path.exists():
        raise DataError(f"{path} is missing, expected an array cache")
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        return connection
    except sqlite3.OperationalError:
        connection.close()
        if os.access(path.parent, os.W_OK):
            raise
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size:
        raise DataError(f"{path} was not closed by its last writer: open it once for writing")
    return _connect(path, "immutable=1")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]


def _enter_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Several may try at once on a new file, and SQLite does not wait in this one case."""
    deadline_s = time.monotonic() + _BUSY_S
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as err:
            if "locked" not in str(err) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise DataError(f"{path} cannot be shared where it is (no WAL), expected a local disk")


_caches: "weakref.WeakSet[ArrayCache]" = weakref.WeakSet()
_forking: list[ArrayCache] = []


def _before_fork() -> None:
    """SQLite's locks do not survive a fork, in neither process: let go, connect again later."""
    for cache in list(_caches):
        cache._lock.acquire()
        _forking.append(cache)
        cache._disconnect()


def _after_fork() -> None:
    while _forking:
        _forking.pop()._lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
