"""clkd_core.files: nothing half-written stands in place of something good."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from clkd_core.errors import DataError
from clkd_core.files import replace_folder, sha256_of, write_text_atomic


def test_write_text_atomic_makes_folders_and_leaves_only_the_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a" / "b.txt", "äö")
    write_text_atomic(tmp_path / "a" / "b.txt", "new")
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_write_text_atomic_names_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/x"):
        write_text_atomic(tmp_path / "file" / "x", "")


def test_replace_folder_puts_the_new_one_in_place_of_the_old(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with replace_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_replace_folder_keeps_the_old_one_when_building_fails(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / "out") == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_replace_folder_refuses_to_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out is a file"), replace_folder(tmp_path / "out"):
        pass


def run_killed(code: str, folder: Path) -> None:
    """Run ``code`` in a process that SIGKILLs itself at ``die()``."""
    head = f"""
        import os, pathlib, signal
        from clkd_core import files
        out = pathlib.Path({str(folder / "out")!r})
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    program = textwrap.dedent(head) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    run_killed("with files.replace_folder(out) as folder: die()", tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    with replace_folder(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_set_aside_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("good")
    run_killed(
        """
        rename = os.rename
        with files.replace_folder(out):
            os.rename = lambda a, b: die() if pathlib.Path(b) == out else rename(a, b)
        """,
        tmp_path,
    )
    with pytest.raises(ValueError, match="stop"), replace_folder(tmp_path / "out"):
        raise ValueError("stop")
    assert (tmp_path / "out" / "old").read_text() == "good"


def test_sha256_of_agrees_with_hashlib_and_names_a_missing_file(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 7)
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match="none: No such file"):
        sha256_of(tmp_path / "none")
