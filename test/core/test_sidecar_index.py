"""The index beside a sidecar: built once, true as long as the sidecar is the same."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keyframe_makers import VERSION, records, tokens, write_lines

from clkd_core.data import sidecar_index
from clkd_core.data.sidecar import load_keyframes
from clkd_core.data.sidecar_index import MAX_RECORD_BYTES, build_index, index_path, load_index
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_lines(tmp_path, records(tmp_path, 6, val_from=4))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Sidecars that were indexed, in the order of time."""
    found: list[Path] = []
    real = build_index

    def build(sidecar: Path, **words: Any) -> Any:
        found.append(sidecar)
        return real(sidecar, **words)

    monkeypatch.setattr(sidecar_index, "build_index", build)
    return found


def columns(index: Any) -> dict[str, list[Any]]:
    return {name: getattr(index, name).tolist() for name in index.__dataclass_fields__}


def test_index_is_built_once_and_then_read(path: Path, built: list[Path]) -> None:
    first, again = load_index(path), load_index(path)
    assert built == [path]
    assert columns(first) == columns(again)
    assert first.scene_names == ("scene-0", "scene-1")


def test_starts_and_images_are_those_of_the_lines(path: Path) -> None:
    index = load_index(path)
    content = path.read_bytes()
    assert index.size_bytes == len(content)
    for i, line in enumerate(content.splitlines(keepends=True)):
        assert content[index.starts[i] : index.starts[i + 1]] == line
        images = json.loads(line)["images"]
        assert index.image_names(i) == [images.get(camera, "") for camera in CAMERAS]


def test_changed_sidecar_is_indexed_again(path: Path, built: list[Path]) -> None:
    load_index(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], ""]))
    assert len(load_index(path)) == 5
    stat = path.stat()
    swapped = [*lines[1::-1], *lines[2:-1], ""]  # same size
    path.write_text("\n".join(swapped))
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns + 1))
    assert load_index(path).stamps_ns[0] == 1001
    assert len(built) == 3


def test_change_in_the_middle_is_seen_by_its_time(tmp_path: Path, built: list[Path]) -> None:
    found = records(tmp_path, 11)
    for record in found:
        record["questions"] = [["planning", "What now?", "Wait. " * 10_000]]
    path = write_lines(tmp_path, found)
    load_index(path)
    lines = path.read_text().splitlines()
    assert len(lines[2]) == len(lines[8]) > 60_000
    lines[2], lines[8] = lines[8], lines[2]
    before = path.stat()
    path.write_text("\n".join([*lines, ""]))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert load_index(path).stamps_ns[2] == 1008
    assert len(built) == 2


def test_change_that_kept_size_and_time_is_seen_at_the_ends(path: Path, built: list[Path]) -> None:
    load_index(path)
    stat, lines = path.stat(), path.read_text().splitlines()
    path.write_text("\n".join([*lines[1::-1], *lines[2:], ""]))
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert load_index(path).stamps_ns[0] == 1001
    assert len(built) == 2


def test_same_records_give_the_same_bytes_whenever_they_were_written(tmp_path: Path) -> None:
    kept = []
    for name in ("a", "b"):
        sidecar = write_lines(tmp_path / name, records(tmp_path / name, 4))
        os.utime(sidecar, (ord(name), ord(name)))
        load_index(sidecar)
        kept.append(index_path(sidecar).read_bytes())
    assert kept[0] == kept[1]


def test_moved_set_keeps_its_index(path: Path, tmp_path: Path, built: list[Path]) -> None:
    load_index(path)
    os.rename(path.parent, tmp_path / "elsewhere")
    load_index(tmp_path / "elsewhere" / path.name)
    assert built == [path]


def test_where_it_cannot_be_kept_the_index_serves_this_process(
    path: Path, built: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    index_path(path).mkdir()  # for the administrator no folder is read-only
    with caplog.at_level(logging.WARNING):
        assert len(load_index(path)) == 6
    assert "serves this process only" in caplog.text
    load_index(path)
    assert len(built) == 2
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_index_that_nobody_could_keep_is_sent_along(path: Path, built: list[Path]) -> None:
    import pickle

    index_path(path).mkdir()
    keyframes = load_keyframes(path.parents[1], VERSION, "val")
    built.clear()
    assert tokens(pickle.loads(pickle.dumps(keyframes))) == ["token-4", "token-5"]
    assert built == []


def damaged(content: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"hello",
        "flipped": content[:400] + bytes([content[400] ^ 255]) + content[401:],
    }[how]


@pytest.mark.parametrize("how", ["empty", "truncated", "text", "flipped"])
def test_damaged_index_is_built_again(path: Path, built: list[Path], how: str) -> None:
    whole = columns(load_index(path))
    kept = index_path(path)
    stat = path.stat()
    kept.write_bytes(damaged(kept.read_bytes(), how))
    os.utime(kept, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert columns(load_index(path)) == whole
    assert len(built) == 2


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("splits", np.full(6, 2, np.int8)),
        ("splits", np.zeros(5, np.int8)),
        ("actions", np.full(6, 20, np.int8)),
        ("actions", np.zeros(6, np.float64)),
        ("scene_numbers", np.full(6, 2, np.int32)),
        ("scene_numbers", np.full(6, -1, np.int32)),
        ("starts", np.arange(7, 0, -1)),
        ("image_ends", np.full(36, 10**9)),
        ("scene_text", np.frombuffer(b"[1, 2", np.uint8)),
        ("edge", np.zeros(2, np.int64)),
    ],
)
def test_index_that_would_lead_outside_of_the_file_is_built_again(
    path: Path, built: list[Path], column: str, values: Any
) -> None:
    whole = columns(load_index(path))
    kept, stat = index_path(path), path.stat()
    with np.load(kept) as arrays:
        changed = {**arrays, column: values}
    with kept.open("wb") as file:
        np.savez(file, **changed)
    os.utime(kept, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert columns(load_index(path)) == whole
    assert len(built) == 2


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_index(path)
    assert not index_path(path).exists()


def test_truncated_sidecar_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path, records(tmp_path, 2))
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, r"jsonl:2: ends within a line, the file is truncated")
    path.write_bytes(path.read_bytes()[:-1] + b"}")
    refused(path, "truncated")


def test_line_that_is_no_json_is_numbered(tmp_path: Path) -> None:
    refused(write_lines(tmp_path, [*records(tmp_path, 1), "{"]), r"jsonl:2: not JSON")
    refused(write_lines(tmp_path, [*records(tmp_path, 1), ""]), r"jsonl:2: not JSON")


def test_sample_token_may_come_once(tmp_path: Path) -> None:
    lines = records(tmp_path, 4)
    lines[3]["sample_token"] = lines[1]["sample_token"]
    refused(write_lines(tmp_path, lines), r"jsonl:4: sample token 'token-1' is that of line 2")
    lines[3]["split"] = "val"
    refused(write_lines(tmp_path, lines), "is that of line 2")


def test_label_that_does_not_follow_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    lines = records(tmp_path, 3)
    lines[2]["action"] = "STOP, STRAIGHT"
    refused(write_lines(tmp_path, lines), r"jsonl:3: action is 'STOP, STRAIGHT', its future says")


@pytest.mark.parametrize("split", ["test", None, 3, ["train"]])
def test_split_must_be_one_of_two(tmp_path: Path, split: Any) -> None:
    lines = [{**records(tmp_path, 1)[0], "split": split}]
    refused(write_lines(tmp_path, lines), r"jsonl:1: split is .*, expected one of")


def test_endless_line_is_not_read_into_memory(tmp_path: Path) -> None:
    path = write_lines(tmp_path, records(tmp_path, 1))
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.truncate(path.stat().st_size + MAX_RECORD_BYTES + 2)  # a hole: takes no disk
    refused(path, r"jsonl:2: longer than \d+ bytes")


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path / VERSION / "nothing.jsonl", "no such file, expected a set of keyframes")
    (tmp_path / "folder.jsonl").mkdir()
    refused(tmp_path / "folder.jsonl", "cannot be read")


def test_empty_sidecar_has_an_empty_index(tmp_path: Path, built: list[Path]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    assert len(load_index(path)) == len(load_index(path)) == 0
    assert len(built) == 1


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.integers(0, 2000), st.booleans())
def test_any_bytes_are_an_index_or_a_data_error(
    tmp_path: Path, noise: bytes, place: int, replaces: bool
) -> None:
    path = write_lines(tmp_path, records(tmp_path, 2))
    content = path.read_bytes()
    path.write_bytes(content[:place] + noise + content[place + replaces * len(noise) :])
    try:
        index = build_index(path)
    except DataError:
        return
    assert index.size_bytes == path.stat().st_size
    assert len(index) == path.read_bytes().count(b"\n")


def test_large_set_opens_at_once(tmp_path: Path) -> None:
    """4,000 keyframes of 17 MB; the time does not grow with them, only with the columns."""
    agent = {"category": "vehicle.car", "size_m": [4, 2], "poses": [[1.25, 2.5, 0.125]] * 7}
    record = {**records(tmp_path, 1)[0], "agents": [agent] * 20}
    lines = [json.dumps({**record, "sample_token": str(i)}) for i in range(4000)]
    path = write_lines(tmp_path, lines)
    begin_s = time.monotonic()
    load_index(path)
    built_s = time.monotonic() - begin_s
    begin_s = time.monotonic()
    keyframes = load_keyframes(tmp_path, VERSION, "train")
    assert len(keyframes[3999].agents) == 20
    assert time.monotonic() - begin_s < min(0.2, built_s / 5)
