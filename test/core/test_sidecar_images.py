"""The image files of a set: all missing ones named at once, or left out and counted."""

import logging
from pathlib import Path

import pytest
from keyframe_makers import VERSION, records, tokens

from clkd_core.data.sidecar import SIDECAR, Keyframes, load_keyframes, write_sidecar
from clkd_core.data.sidecar_images import (
    SHOWN,
    describe_missing,
    leave_out_missing,
    list_image_files,
    refuse_missing,
    stat_image_files,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

COUNT = 14


@pytest.fixture
def keyframes(tmp_path: Path) -> Keyframes:
    """Two images each, of keyframe i: i bytes more than ten."""
    found = records(tmp_path, COUNT)
    for number, record in enumerate(found):
        for camera in record["images"]:
            path = tmp_path / f"{number:02}-{camera}.jpg"
            path.write_bytes(bytes(10 + number))
            record["images"][camera] = path.name
    write_sidecar(tmp_path / VERSION / SIDECAR, found)
    return load_keyframes(tmp_path, VERSION, "train")


def test_lazy_and_listed_keyframes_have_the_same_files(keyframes: Keyframes) -> None:
    names = list_image_files(keyframes)
    assert names == list_image_files(list(keyframes))
    assert [len(row) for row in names] == [len(CAMERAS)] * COUNT
    assert [bool(name) for name in names[0]] == [True, True, False, False, False, False]


def test_sizes_and_times_are_those_of_the_files(keyframes: Keyframes) -> None:
    files = stat_image_files(list_image_files(keyframes))
    assert files.sizes[:, 0].tolist() == [10 + i for i in range(COUNT)]
    assert not files.sizes[:, 2:].any()
    stat = keyframes[3].image_paths["CAM_FRONT_LEFT"].stat()
    assert files.mtimes_ns[3, 1] == stat.st_mtime_ns
    assert files.count == 2 * COUNT and files.missing == []
    refuse_missing(files)


def test_many_files_are_asked_for_in_the_right_order(tmp_path: Path) -> None:
    names = [[""] * len(CAMERAS) for _ in range(400)]  # more than are asked for at once
    for number in range(0, 400, 7):
        path = tmp_path / str(number)
        path.write_bytes(bytes(number + 1))
        names[number][number % 6] = str(path)
    sizes = stat_image_files(names).sizes
    assert {(i, j): int(sizes[i, j]) for i, j in zip(*sizes.nonzero(), strict=True)} == {
        (n, n % 6): n + 1 for n in range(0, 400, 7)
    }


def test_missing_and_empty_files_are_named_and_counted(keyframes: Keyframes) -> None:
    for number in range(SHOWN + 2):
        keyframes[number].image_paths["CAM_FRONT"].unlink()
    keyframes[13].image_paths["CAM_FRONT_LEFT"].write_bytes(b"")
    files = stat_image_files(list_image_files(keyframes))
    with pytest.raises(DataError) as caught:
        refuse_missing(files)
    said = str(caught.value)
    assert said.startswith("13 of 28 image files are missing or empty: ")
    assert said.count("CAM_FRONT.jpg") == SHOWN and "and 3 more" in said
    assert files.missing[-1] == str(keyframes[13].image_paths["CAM_FRONT_LEFT"])
    assert "more" not in describe_missing(stat_image_files(list_image_files(keyframes[:9])))


@pytest.mark.parametrize("lazy", [True, False])
def test_missing_images_are_left_out_and_counted(
    keyframes: Keyframes, lazy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given = keyframes if lazy else list(keyframes)
    keyframes[0].image_paths["CAM_FRONT"].unlink()
    for path in keyframes[1].image_paths.values():
        path.unlink()
    with caplog.at_level(logging.WARNING):
        left = leave_out_missing(given)
    assert isinstance(left, Keyframes) == lazy
    assert tokens(left) == tokens(keyframes)[:1] + tokens(keyframes)[2:]
    assert list(left[0].image_paths) == ["CAM_FRONT_LEFT"]
    assert list(left[1].image_paths) == ["CAM_FRONT", "CAM_FRONT_LEFT"]
    assert "3 of 28 image files" in caplog.text and "1 of 14 keyframes" in caplog.text
    refuse_missing(stat_image_files(list_image_files(left)))


def test_whole_set_stays_as_it_is(keyframes: Keyframes) -> None:
    assert leave_out_missing(keyframes) is keyframes


def test_set_without_any_image_is_refused(keyframes: Keyframes) -> None:
    for keyframe in keyframes:
        for path in keyframe.image_paths.values():
            path.unlink()
    with pytest.raises(DataError, match="no keyframe has an image: 28 of 28"):
        leave_out_missing(keyframes)


def test_name_that_no_file_can_have_is_missing() -> None:
    files = stat_image_files([["a\0b", "x" * 5000, "", "", "", ""]])
    assert len(files.missing) == 2
