"""The disk cache among processes: killed, together, forked, out of space and rights."""

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clkd_core.distill.frozen.cache import ArrayCache
from clkd_core.errors import DataError

NOBODY = 65534


def entry(value: float, size: int = 1000) -> dict[str, Tensor]:
    return {"x": torch.full((size,), value), "n": torch.tensor(int(value))}


def start_child(work: Callable[[], None]) -> int:
    """Fork; the child ends with status 0 when ``work`` returns and 1 when it raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)  # the parent's OpenMP threads do not live on in a fork
        work()
        status = 0
    finally:
        os._exit(status)


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def message_of(work: Callable[[], object]) -> str:
    """What a DataError says in a child whose limits or rights ``work`` may change."""
    with tempfile.TemporaryFile("w+") as said:

        def report() -> None:
            try:
                work()
            except DataError as err:
                os.write(said.fileno(), str(err).encode())

        assert exit_status(start_child(report)) == 0
        said.seek(0)
        return said.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.cache"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_writer_killed_at_any_moment_leaves_whole_puts_only(path: Path) -> None:
    def write_for_ever() -> None:
        with ArrayCache(path, "f") as cache:
            for i in range(1_000_000):
                cache.put_many({(str(i), str(j)): entry(i, size=20_000) for j in range(4)})

    for delay_s in (0.0, 0.003, 0.01, 0.03, 0.1, 0.2):
        pid = start_child(write_for_ever)
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
        assert exit_status(pid) == -signal.SIGKILL
        with ArrayCache(path, "f") as cache:
            puts, rest = divmod(len(cache), 4)
            assert rest == 0
            found = cache.get_many([(str(i), str(j)) for i in range(puts) for j in range(4)])
            assert all(one is not None and one["x"][0] == one["n"] for one in found)
    assert puts > 0


def test_processes_that_make_and_fill_one_file_at_once_lose_nothing(path: Path) -> None:
    def write(process: int) -> None:
        with ArrayCache(path, "f") as cache:
            for i in range(30):
                cache.put_many({(str(process), str(i)): entry(i), ("all", str(i)): entry(i)})
                assert cache.get_many([("all", str(i))]) != [None]

    pids = [start_child(lambda process=process: write(process)) for process in range(4)]  # type: ignore[misc]
    assert [exit_status(pid) for pid in pids] == [0] * 4
    with ArrayCache(path, "f") as cache:
        assert len(cache) == 4 * 30 + 30


def test_threads_share_one_cache(path: Path) -> None:
    failures: list[BaseException] = []

    def use(cache: ArrayCache, thread: int) -> None:
        try:
            for i in range(30):
                cache.put_many({(str(thread), str(i)): entry(i)})
                (found,) = cache.get_many([(str(thread), str(i))])
                assert found is not None
                assert found["n"] == i
        except BaseException as err:
            failures.append(err)

    with ArrayCache(path, "f") as cache:
        threads = [threading.Thread(target=use, args=(cache, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(cache) == 4 * 30


def test_processes_that_open_a_new_file_in_the_same_instant_all_get_it(tmp_path: Path) -> None:
    def open_at(path: Path, start_s: float) -> None:
        while time.monotonic() < start_s:
            pass
        ArrayCache(path, "f").close()

    for trial in range(10):
        start_s, path = time.monotonic() + 0.03, tmp_path / str(trial)
        pids = [start_child(lambda: open_at(path, start_s)) for _ in range(8)]  # noqa: B023
        assert [exit_status(pid) for pid in pids] == [0] * 8


def test_a_fork_may_go_on_with_its_parents_cache_after_the_parent_closed_it(path: Path) -> None:
    closed_read, closed_write = os.pipe()
    cache = ArrayCache(path, "f")
    cache.put_many({("a", "parent"): entry(1)})

    def go_on() -> None:
        os.read(closed_read, 1)
        assert cache.get_many([("a", "parent")]) != [None]
        cache.put_many({("a", "child"): entry(2)})  # and ends without closing, as workers do

    pid = start_child(go_on)
    cache.put_many({("a", "meanwhile"): entry(3)})
    cache.close()
    os.write(closed_write, b"x")
    assert exit_status(pid) == 0
    with ArrayCache(path, "f") as cache:
        assert cache.missing([("a", "parent"), ("a", "child"), ("a", "meanwhile")]) == []


def test_a_fork_while_another_thread_writes_finds_the_cache_usable(path: Path) -> None:
    done = threading.Event()
    with ArrayCache(path, "f") as cache:

        def write() -> None:
            while not done.is_set():
                cache.put_many({("a", "1"): entry(1, size=100_000)})

        def use() -> None:
            signal.alarm(10)  # a lock taken at the fork is never given back
            cache.put_many({("a", "2"): entry(2)})

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert [exit_status(start_child(use)) for _ in range(8)] == [0] * 8
        finally:
            done.set()
            writer.join()


def test_a_full_disk_is_one_line_and_harms_nothing(path: Path) -> None:
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1)})

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with ArrayCache(path, "f") as cache:
            cache.put_many({("b", str(i)): entry(i, size=50_000) for i in range(9)})

    message = message_of(fill)
    assert message.startswith(f"cannot write {path}: ")
    assert "\n" not in message
    with ArrayCache(path, "f") as cache:
        assert len(cache) == 1
        cache.put_many({("a", "2"): entry(2)})


def drop_rights() -> None:
    if os.geteuid() == 0:  # to whom nothing is read-only
        os.setuid(NOBODY)


def test_a_read_only_folder_can_be_read_from_and_says_so_when_written_to(
    open_folder: Path,
) -> None:
    path = open_folder / "labels.cache"
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1)})
    path.chmod(0o444)
    open_folder.chmod(0o555)

    def write() -> None:
        drop_rights()
        with ArrayCache(path, "f") as cache:
            cache.put_many({("a", "2"): entry(2)})

    def make() -> None:
        drop_rights()
        ArrayCache(open_folder / "new", "f")

    def read() -> None:
        drop_rights()
        with ArrayCache(path, "f", read_only=True) as cache:
            assert cache.get_many([("a", "1")]) != [None]

    try:
        assert message_of(read) == ""
        assert message_of(write).startswith("cannot ")
        assert str(path) in message_of(write)
        assert (
            message_of(make) == f"cannot open {open_folder / 'new'}: unable to open database file"
        )
    finally:
        open_folder.chmod(0o755)


def test_a_read_only_copy_of_an_unfinished_cache_is_refused_not_read_without_its_log(
    path: Path, open_folder: Path
) -> None:
    copy = open_folder / "labels.cache"
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1)})
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    open_folder.chmod(0o555)

    def read() -> None:
        drop_rights()
        ArrayCache(copy, "f", read_only=True)

    try:
        assert message_of(read).startswith(f"{copy} was not closed by its last writer")
    finally:
        open_folder.chmod(0o755)
