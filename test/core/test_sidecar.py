"""Sets of keyframes: opened lazily, read from anywhere, written whole or not at all."""

import json
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyframe_makers import VERSION, full_keyframe, records, tokens, write_lines

from clkd_core.data import sidecar as sidecar_module
from clkd_core.data.sidecar import (
    SIDECAR,
    Keyframes,
    action_indices,
    corner_flags,
    keyframe_to_json,
    load_keyframes,
    question_counts,
    subset_of,
    write_sidecar,
)
from clkd_core.data.sidecar_index import index_path
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, META_ACTIONS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve keyframes to train on, three to judge on."""
    write_sidecar(tmp_path / VERSION / SIDECAR, records(tmp_path, 15, val_from=12))
    return tmp_path


@pytest.fixture
def keyframes(root: Path) -> Keyframes:
    return load_keyframes(root, VERSION, "train")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where records are parsed from, in the order of time."""
    found: list[str] = []
    real = sidecar_module.parse_record

    def parse(line: bytes, where: str) -> dict[str, Any]:
        found.append(where.rpartition(":")[2])
        return real(line, where)

    monkeypatch.setattr(sidecar_module, "parse_record", parse)
    return found


def test_splits_are_opened_in_the_order_of_the_file(root: Path) -> None:
    assert tokens(load_keyframes(root, VERSION, "train")) == [f"token-{i}" for i in range(12)]
    assert tokens(load_keyframes(root, VERSION, "val")) == ["token-12", "token-13", "token-14"]


def test_nothing_is_parsed_until_it_is_asked_for(root: Path, parsed: list[str]) -> None:
    keyframes = load_keyframes(root, VERSION, "train")
    some = keyframes.subset([9, 2])[::-1][:1]
    assert len(keyframes) == 12 and len(some) == 1
    assert len(keyframes.action_indices) == len(keyframes.is_corner) == len(keyframes.scenes) == 12
    assert len(keyframes.image_files()) == 12
    assert action_indices(keyframes).shape == corner_flags(keyframes).shape == (12,)
    assert parsed == []
    assert some[0].sample_token == "token-2"
    assert parsed == ["3"]


def test_small_set_is_parsed_once_and_a_large_one_not_kept(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframes = load_keyframes(root, VERSION, "train")
    assert tokens(keyframes) == tokens(keyframes)
    assert len(parsed) == 12
    monkeypatch.setattr(sidecar_module, "_PARSED_BYTES", 1)
    keyframes = load_keyframes(root, VERSION, "train")
    assert tokens(keyframes) == tokens(keyframes)
    assert len(parsed) == 12 + 24


def test_columns_say_what_the_records_do(keyframes: Keyframes) -> None:
    whole = list(keyframes)
    assert keyframes.action_indices.tolist() == [k.action.index for k in whole if k.action]
    assert keyframes.is_corner.tolist() == [k.is_corner for k in whole]
    assert keyframes.scenes == [k.scene for k in whole]
    assert keyframes.question_counts.tolist() == [1] * 12
    assert question_counts(whole).tolist() == [len(k.questions) for k in whole]
    assert keyframes.stamps_ns.tolist() == [k.stamp_ns for k in whole]
    assert {META_ACTIONS[i].text for i in keyframes.action_indices} == {
        "KEEP, STRAIGHT",
        "STOP, STRAIGHT",
        "KEEP, LEFT_TURN",
    }
    for files, keyframe in zip(keyframes.image_files(), whole, strict=True):
        assert files == [str(keyframe.image_paths.get(camera, "")) for camera in CAMERAS]
    assert action_indices(whole).tolist() == keyframes.action_indices.tolist()
    assert corner_flags(whole).tolist() == keyframes.is_corner.tolist()


def test_keyframe_without_a_label_has_action_minus_one(tmp_path: Path) -> None:
    record = {**records(tmp_path, 1)[0], "future": None, "action": None}
    write_lines(tmp_path, [record])
    keyframes = load_keyframes(tmp_path, VERSION, "train")
    assert keyframes.action_indices.tolist() == action_indices(list(keyframes)).tolist() == [-1]


def test_indices_slices_and_subsets_choose_as_lists_do(keyframes: Keyframes) -> None:
    names = tokens(keyframes)
    for cut in (slice(2, 9, 3), slice(None, None, -1), slice(20, 30), slice(-3, None)):
        assert tokens(keyframes[cut]) == names[cut]
        assert isinstance(keyframes[cut], Keyframes)
    assert keyframes[-1].sample_token == keyframes[np.int64(11)].sample_token == names[-1]
    assert tokens(keyframes.subset([5, 5, 0])) == [names[5], names[5], names[0]]
    assert tokens(keyframes.subset([5, 3]).subset([1])) == [names[3]]
    assert len(keyframes.subset([])) == 0 and list(keyframes.subset([])) == []
    assert tokens(subset_of(keyframes, np.array([1]))) == tokens(subset_of(list(keyframes), [1]))
    for wrong in (12, -13):
        with pytest.raises(IndexError):
            keyframes[wrong]
    with pytest.raises(TypeError):
        keyframes["first"]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="indices are bool"):
        keyframes.subset(keyframes.is_corner)


def test_views_that_are_left_out_are_not_in_the_keyframe(keyframes: Keyframes) -> None:
    views = np.ones((12, len(CAMERAS)), np.bool_)
    views[0, 0] = views[1] = False
    left = keyframes.with_views(views)
    assert tokens(left) == tokens(keyframes)[:1] + tokens(keyframes)[2:]
    first = left[0]
    assert list(first.image_paths) == list(first.image_stamps_ns) == ["CAM_FRONT_LEFT"]
    assert first.stamp_ns == first.image_stamps_ns["CAM_FRONT_LEFT"]
    assert first.region is None and first.questions == ()  # they were about CAM_FRONT
    assert left[1].region is not None and list(left[1].image_paths) == list(CAMERAS[:2])
    assert left.image_files()[0][0] == "" and left.image_files()[1][0] != ""
    assert tokens(left.subset([2, 0])) == [left[2].sample_token, left[0].sample_token]
    again = left.with_views(np.ones((11, len(CAMERAS)), np.bool_))
    assert list(again[0].image_paths) == ["CAM_FRONT_LEFT"]


def test_threads_read_what_one_does(keyframes: Keyframes, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tokens(keyframes)
    monkeypatch.setattr(sidecar_module, "_PARSED_BYTES", 1)  # so that each of them really reads
    fresh = load_keyframes(keyframes.file.root, VERSION, "train")
    order = np.random.default_rng(0).integers(12, size=600).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: fresh[i].sample_token, order)) == [wanted[i] for i in order]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_set_they_are_sent(keyframes: Keyframes, start: str) -> None:
    keyframes[0]
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        parts = [keyframes.subset(range(i, 12, 3)) for i in range(3)]
        assert list(pool.map(tokens, parts)) == [tokens(part) for part in parts]


def test_forked_process_reads_on_at_the_same_time(keyframes: Keyframes) -> None:
    """Parent and child share the open file and must not share a place in it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, json.dumps([keyframes[i % 12].stamp_ns for i in range(300)]).encode())
        os._exit(0)
    ours = [keyframes[i % 12].stamp_ns for i in range(300)]
    with os.fdopen(read_end) as file:
        os.close(write_end)
        theirs = json.load(file)
    assert os.waitpid(child, 0)[1] == 0
    assert ours == theirs == [1000 + i % 12 for i in range(300)]


def test_sending_a_set_sends_no_records(keyframes: Keyframes) -> None:
    sent = pickle.dumps(keyframes.subset([3]))
    assert len(sent) < 1500
    back = pickle.loads(sent)
    assert tokens(back) == ["token-3"]
    assert pickle.loads(pickle.dumps(keyframes[:2])).file is back.file  # opened once a process


@pytest.mark.parametrize("keeps_size", [True, False])
def test_set_that_changed_on_the_way_is_refused(
    root: Path, keyframes: Keyframes, keeps_size: bool
) -> None:
    sent = pickle.dumps(keyframes)
    found = records(root, 15, val_from=12)
    found = [found[6], *found[1:6], found[0], *found[7:]] if keeps_size else found[:-1]
    write_sidecar(root / VERSION / SIDECAR, found)
    with pytest.raises(DataError, match="is not the set that was sent here"):
        pickle.loads(sent)


def test_open_set_goes_on_with_the_file_it_opened(root: Path, keyframes: Keyframes) -> None:
    write_sidecar(root / VERSION / SIDECAR, records(root, 3)[::-1])
    assert tokens(keyframes) == [f"token-{i}" for i in range(12)]
    assert tokens(load_keyframes(root, VERSION, "train")) == ["token-2", "token-1", "token-0"]


def swapped(lines: list[bytes], i: int, j: int) -> list[bytes]:
    lines = list(lines)
    lines[i], lines[j] = lines[j], lines[i]
    return lines


@pytest.mark.parametrize("how", ["shorter", "other lines", "lines as long as they were"])
def test_set_that_was_written_over_is_refused(root: Path, keyframes: Keyframes, how: str) -> None:
    path = root / VERSION / SIDECAR
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines[0]) == len(lines[6]) != len(lines[1])
    changed = {
        "shorter": lines[:-1],
        "other lines": swapped(lines, 0, 1),
        "lines as long as they were": swapped(lines, 0, 6),
    }
    with path.open("r+b") as file:
        file.write(b"".join(changed[how]))
        file.truncate()
    with pytest.raises(DataError, match=r"open (it|the set) again"):
        keyframes[0]


def test_open_sets_give_their_files_back(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        keyframes = load_keyframes(root, VERSION, "train")
        keyframes[0]
    del keyframes
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_missing_set_and_empty_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_keyframes(tmp_path, VERSION, "train")
    write_lines(tmp_path, records(tmp_path, 1))
    with pytest.raises(DataError, match="no keyframe of split 'val'"):
        load_keyframes(tmp_path, VERSION, "val")
    with pytest.raises(DataError, match="split is 'test'"):
        load_keyframes(tmp_path, VERSION, "test")


def test_written_set_opens_without_being_indexed_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the index was built again")

    monkeypatch.setattr("clkd_core.data.sidecar_index.build_index", never)
    assert len(load_keyframes(root, VERSION, "train")) == 12
    assert sorted(path.name for path in (root / VERSION).iterdir()) == [
        index_path(Path(SIDECAR)).name,
        SIDECAR,
    ]


def test_set_with_a_bad_record_is_not_written(root: Path) -> None:
    path = root / VERSION / SIDECAR
    before = path.read_bytes()
    bad = {**records(root, 3)[2], "action": "STOP, LEFT_TURN"}
    with pytest.raises(DataError, match=rf"{SIDECAR}:3: action is 'STOP, LEFT_TURN'"):
        write_sidecar(path, [*records(root, 2), bad])
    assert path.read_bytes() == before
    assert len(load_keyframes(root, VERSION, "train")) == 12
    assert not [p for p in (root / VERSION).iterdir() if p.name.startswith(".")]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_sidecar(tmp_path / "file" / VERSION / SIDECAR, [])


def test_writing_takes_the_records_one_at_a_time(tmp_path: Path) -> None:
    keyframe = full_keyframe(tmp_path)
    path = tmp_path / VERSION / SIDECAR

    def lazily() -> Any:
        for number in range(3):
            record = keyframe_to_json(keyframe, split="train", root=tmp_path)
            yield {**record, "sample_token": str(number)}

    assert write_sidecar(path, lazily()) == 3
    assert tokens(load_keyframes(tmp_path, VERSION, "train")) == ["0", "1", "2"]
