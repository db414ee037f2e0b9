"""The disk cache: what was put comes back, and a file that is not ours is refused."""

import logging
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clkd_core.distill.frozen.cache import ArrayCache
from clkd_core.errors import DataError


def entry(value: float, size: int = 1000) -> dict[str, Tensor]:
    return {"x": torch.full((size,), value), "n": torch.tensor(int(value))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.cache"


def test_what_was_put_comes_back_in_the_order_of_the_keys_also_after_reopening(path: Path) -> None:
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1), ("a", "2"): entry(2), ("b", "1"): entry(3)})
    with ArrayCache(path, "f") as cache:
        keys = [("b", "1"), ("a", "9"), ("a", "1"), ("b", "1")]
        found = cache.get_many(keys)
        assert len(cache) == 3
        assert cache.missing(keys) == [("a", "9")]
    values = [None if one is None else one["x"][0].item() for one in found]
    assert values == [3.0, None, 1.0, 3.0]


@pytest.mark.parametrize(
    "array",
    [
        torch.randn(3, 4).bfloat16(),
        torch.randn(2, 3, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.tensor(7),
        torch.zeros(0, 5, dtype=torch.int32),
        torch.randn(4, 6).t()[::2],
        torch.randn(1, 4).expand(3, 4),
        torch.randn(3, requires_grad=True),
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1],
        np.asfortranarray(np.ones((2, 3), np.float32)),
        np.float32(3.0) * np.ones(()),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{tuple(array.shape)}",
)
def test_arrays_of_any_kind_come_back_as_plain_tensors(
    path: Path, array: Tensor | np.ndarray
) -> None:
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): {"x": array, "same": array}})
        (found,) = cache.get_many([("a", "1")])
    assert found is not None
    expected = array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
    for name in ("x", "same"):
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
        assert not found[name].requires_grad


def test_an_entry_is_replaced_whole(path: Path) -> None:
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1)})
        cache.put_many({("a", "1"): {"y": torch.zeros(2)}})
        (found,) = cache.get_many([("a", "1")])
        assert found is not None
        assert set(found) == {"y"}
        assert len(cache) == 1


@pytest.mark.parametrize("bad", [[1.0, 2.0], np.array(["a"]), np.array([None])])
def test_what_is_no_array_is_refused_and_nothing_of_the_batch_is_written(
    path: Path, bad: object
) -> None:
    with ArrayCache(path, "f") as cache:
        with pytest.raises(ValueError, match=r"^x "):
            cache.put_many({("a", "1"): entry(1), ("a", "2"): {"x": bad}})  # type: ignore[dict-item]
        assert len(cache) == 0


def test_size_counts_the_log_too_and_closing_leaves_one_file(path: Path) -> None:
    with ArrayCache(path, "f") as cache:
        empty = cache.size_bytes
        cache.put_many({("a", "1"): entry(1, size=50_000)})
        assert cache.size_bytes >= empty + 200_000
    assert os.listdir(path.parent) == [path.name]


# ---- whose content it is -------------------------------------------------------------------


def test_a_file_with_another_fingerprint_is_refused(path: Path) -> None:
    with ArrayCache(path, "teacher-1") as cache:
        cache.put_many({("a", "1"): entry(1)})
    with pytest.raises(DataError, match=r"labels\.cache holds .* teacher-1, expected teacher-2"):
        ArrayCache(path, "teacher-2")
    with ArrayCache(path, "teacher-1") as cache:
        assert len(cache) == 1


def test_start_anew_empties_it_with_a_log_line_and_gives_the_space_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ArrayCache(path, "teacher-1") as cache:
        cache.put_many({("a", str(i)): entry(i, size=50_000) for i in range(20)})
    full = path.stat().st_size
    with caplog.at_level(logging.INFO), ArrayCache(path, "teacher-2", start_anew=True) as cache:
        assert len(cache) == 0
    assert caplog.messages == [f"{path} held what belongs to teacher-1: started anew"]
    assert path.stat().st_size < full / 10
    with ArrayCache(path, "teacher-2", start_anew=True) as cache:
        cache.put_many({("a", "1"): entry(1)})
    with ArrayCache(path, "teacher-2", start_anew=True) as cache:  # nothing to start anew
        assert len(cache) == 1


def test_whoever_still_uses_the_old_content_is_never_given_the_new(path: Path) -> None:
    with ArrayCache(path, "old") as old:
        old.put_many({("a", "1"): entry(1)})
        with ArrayCache(path, "new", start_anew=True) as new:
            new.put_many({("a", "1"): entry(2)})
            for use in (lambda: old.get_many([("a", "1")]), lambda: old.put_many({}), old.__len__):
                with pytest.raises(DataError, match="belongs to new, expected old"):
                    use()


# ---- what is no cache, or no longer one ----------------------------------------------------


@pytest.mark.parametrize("start_anew", [False, True])
def test_a_foreign_file_is_refused_and_left_as_it_is(path: Path, start_anew: bool) -> None:
    path.write_text("some notes, not a database\n" * 500)
    with pytest.raises(DataError, match=r"cannot open .*labels\.cache: file is not a database"):
        ArrayCache(path, "f", start_anew=start_anew)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE arrays (mine)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"labels\.cache is not an array cache"):
        ArrayCache(path, "f", start_anew=start_anew)
    assert path.read_bytes() == before


def test_a_cache_of_another_version_is_refused(path: Path) -> None:
    ArrayCache(path, "f").close()
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(DataError, match="array cache of version 2, expected 1"):
        ArrayCache(path, "f")


def test_a_changed_byte_is_noticed_and_the_entry_named(path: Path) -> None:
    with ArrayCache(path, "f") as cache:
        cache.put_many({("a", "1"): entry(1), ("a", "2"): {"x": torch.full((99,), 1234.5)}})
    content = path.read_bytes()
    at = content.index(np.float32(1234.5).tobytes() * 3)
    path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    with ArrayCache(path, "f") as cache:
        assert cache.get_many([("a", "1")]) != [None]
        with pytest.raises(DataError, match=r"labels\.cache is damaged at a/2: its checksum"):
            cache.get_many([("a", "2")])


@pytest.mark.parametrize("keep_frac", [0.0001, 0.3, 0.9])
def test_a_file_cut_short_is_refused(path: Path, keep_frac: float) -> None:
    keys = [("a", str(i)) for i in range(50)]
    with ArrayCache(path, "f") as cache:
        cache.put_many({key: entry(1, size=5000) for key in keys})
    os.truncate(path, max(60, int(path.stat().st_size * keep_frac)))
    with pytest.raises(DataError, match=r"labels\.cache"), ArrayCache(path, "f") as cache:
        cache.get_many(keys)


# ---- how it is opened and closed ------------------------------------------------------------


def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^cannot open .*file/x: (Not a directory|File exists)$"):
        ArrayCache(tmp_path / "file" / "x", "f")
    with pytest.raises(DataError, match=r": unable to open database file$"):
        ArrayCache(tmp_path, "f")


def test_read_only_sees_what_a_writer_adds_and_never_writes(path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.cache is missing, expected an array cache"):
        ArrayCache(path, "f", read_only=True)
    assert os.listdir(path.parent) == []
    with ArrayCache(path, "f") as writer, ArrayCache(path, "f", read_only=True) as reader:
        assert reader.get_many([("a", "1")]) == [None]
        writer.put_many({("a", "1"): entry(1)})
        assert reader.get_many([("a", "1")]) != [None]
        with pytest.raises(ValueError, match="open read_only"):
            reader.put_many({("a", "2"): entry(2)})
        with pytest.raises(DataError, match="belongs to f, expected g"):
            ArrayCache(path, "g", read_only=True)


def test_a_closed_cache_says_so(path: Path) -> None:
    cache = ArrayCache(path, "f")
    cache.close()
    cache.close()
    with pytest.raises(ValueError, match="is closed"):
        cache.get_many([("a", "1")])


def test_arguments_that_contradict_each_other_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="start_anew is True, expected False for a read_only"):
        ArrayCache(path, "f", start_anew=True, read_only=True)
    with pytest.raises(ValueError, match="fingerprint is empty"):
        ArrayCache(path, "")
